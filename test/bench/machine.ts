import { execFileSync } from 'node:child_process';
import { arch, cpus, release, totalmem } from 'node:os';

/** What was measured where, in a line. */
export function machineOf(): string {
  const [processor] = cpus();
  const versions = [
    `Node ${process.versions.node}`,
    versionOf('nginx', '-v'),
    versionOf('haproxy', '-v'),
    versionOf('caddy', 'version'),
  ];
  const memory = `${Math.round(totalmem() / 2 ** 30)} GiB`;
  return `${cpus().length} × ${processor?.model ?? arch()}, ${memory}, Linux ${release()}; ${versions.join(', ')}; load, upstream and proxy share the cores`;
}

/** The first number in what it says of itself, which nginx says on standard error. */
function versionOf(program: string, ...args: readonly string[]): string {
  const said = execFileSync('sh', ['-c', '"$0" "$@" 2>&1', program, ...args], { encoding: 'utf8' });
  return `${program} ${/\d+\.\d+(\.\d+)?/.exec(said)?.[0] ?? 'of an unknown version'}`;
}
