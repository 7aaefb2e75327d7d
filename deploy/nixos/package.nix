# The program from the archive of `npm run package`, run by the Node of nixpkgs.
{ stdenv, lib, autoPatchelfHook, makeWrapper, nodejs, archive }:

stdenv.mkDerivation {
  pname = "headscale-watchdog";
  version = "0.2.0";
  src = archive;
  # koffi's binary is linked for other distributions.
  nativeBuildInputs = [ autoPatchelfHook makeWrapper ];
  buildInputs = [ stdenv.cc.cc.lib ];
  dontBuild = true;
  installPhase = ''
    runHook preInstall
    rm -r lib/headscale-watchdog/bin
    mkdir -p $out/lib
    cp -r lib/headscale-watchdog $out/lib/
    cp -r share $out/
    makeWrapper ${lib.getExe nodejs} $out/bin/headscale-watchdog \
      --add-flags $out/lib/headscale-watchdog/dist/bundle/cli.js
    runHook postInstall
  '';
  meta = {
    description = "A proxy in front of Headscale that ends dead connections";
    license = lib.licenses.bsd3;
    platforms = [ "x86_64-linux" "aarch64-linux" ];
    mainProgram = "headscale-watchdog";
  };
}
