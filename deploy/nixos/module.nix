# services.headscale-watchdog for NixOS: docs/deploying.md says how to use it. The unit is that of deploy/systemd.
{ config, lib, pkgs, ... }:

let
  cfg = config.services.headscale-watchdog;
  yaml = pkgs.formats.yaml { };
  settingsFile = yaml.generate "watchdog.yaml" cfg.settings;
in
{
  options.services.headscale-watchdog = {
    enable = lib.mkEnableOption "headscale-watchdog, a proxy in front of Headscale that ends dead connections";

    archive = lib.mkOption {
      type = lib.types.path;
      example = lib.literalExpression "./headscale-watchdog-0.2.0-linux-amd64.tar.gz";
      description = "The archive for this machine's processor that `npm run package` makes.";
    };

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { inherit (cfg) archive; };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { inherit (cfg) archive; }";
      description = "The program. By default it is what `archive` contains, run by the Node of nixpkgs.";
    };

    settings = lib.mkOption {
      type = lib.types.submodule { freeformType = yaml.type; };
      default = { };
      example = lib.literalExpression ''{ upstream = "http://127.0.0.1:8082"; listen = "0.0.0.0:8080"; }'';
      description = ''
        The settings file, every key of docs/configuration.md. A change is applied to the running watchdog. The settings that
        need a restart are listed there. Do not write secrets here, because everybody can read the Nix store: name files.
      '';
    };

    listenStreams = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ "0.0.0.0:8080" ];
      description = "One address for each `listen` of the settings, in the same order. systemd keeps these open during a restart.";
    };

    noiseKeyFile = lib.mkOption {
      type = lib.types.str;
      default = "/var/lib/headscale/noise_private.key";
      description = "Headscale's `noise.private_key_path`. systemd reads it as root and shows it only to this unit.";
    };

    credentials = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      default = { };
      example = { "api.key" = "/run/secrets/headscale-api-key"; };
      description = "More files that only this unit may read. The settings find them below /run/credentials/headscale-watchdog.service.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."headscale-watchdog/watchdog.yaml".source = settingsFile;

    systemd.sockets.headscale-watchdog = {
      description = "headscale-watchdog's sockets";
      wantedBy = [ "sockets.target" ];
      inherit (cfg) listenStreams;
      socketConfig.Backlog = 4096;
    };

    systemd.services.headscale-watchdog = {
      description = "headscale-watchdog";
      wantedBy = [ "multi-user.target" ];
      after = [ "network-online.target" "headscale.service" ];
      wants = [ "network-online.target" ];
      reloadTriggers = [ settingsFile ];
      # It is tried again until it starts: the Noise key may not be there before Headscale has started for the first time.
      unitConfig.StartLimitIntervalSec = 0;
      serviceConfig = {
        Type = "notify";
        NotifyAccess = "main";
        ExecStart = "${lib.getExe cfg.package} serve --config /etc/headscale-watchdog/watchdog.yaml --noise-key %d/noise_private.key";
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        # systemd does not wait for a main process that it has not started, as after a hand-over.
        ExecStop = "-${pkgs.runtimeShell} -c 'kill -TERM $MAINPID; while kill -0 $MAINPID 2>/dev/null; do ${pkgs.coreutils}/bin/sleep 0.2; done'";
        WatchdogSec = "30s";
        Restart = "always";
        RestartSec = "1s";
        LimitNOFILE = 65536;
        LimitCORE = 0;
        LoadCredential = [ "noise_private.key:${cfg.noiseKeyFile}" ]
          ++ lib.mapAttrsToList (name: file: "${name}:${file}") cfg.credentials;

        DynamicUser = true;
        StateDirectory = "headscale-watchdog";
        StateDirectoryMode = "0700";
        UMask = "0077";
        AmbientCapabilities = "CAP_NET_BIND_SERVICE";
        CapabilityBoundingSet = "CAP_NET_BIND_SERVICE";
        NoNewPrivileges = true;
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        PrivateDevices = true;
        PrivateIPC = true;
        ProtectProc = "invisible";
        ProcSubset = "pid";
        ProtectClock = true;
        ProtectHostname = true;
        ProtectControlGroups = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        RemoveIPC = true;
        RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_UNIX" "AF_NETLINK" ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        LockPersonality = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [ "@system-service" "~@privileged @resources" ];
        SystemCallErrorNumber = "EPERM";
        MemoryDenyWriteExecute = false;
      };
    };
  };
}
