import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Cleanup, debianRoot, type Ran, run, type ServerNetwork, until } from './machines.ts';

/** systemd, what our package depends on, and what our documentation uses. */
const PACKAGES = [
  'acl',
  'dbus',
  'iproute2',
  'libatomic1',
  'libstdc++6',
  'systemd',
  'systemd-sysv',
  'init-system-helpers',
];

/** A Debian system that systemd has booted, in the network of a test. */
export class DebianMachine {
  readonly root: string;
  readonly #leader: number;

  private constructor(root: string, leader: number) {
    this.root = root;
    this.#leader = leader;
  }

  static async boot(suite: string, network: ServerNetwork, cleanup: Cleanup): Promise<DebianMachine> {
    const root = join(cleanup.folder(), suite);
    await debianRoot(suite, root, PACKAGES);
    const child = spawn(
      'systemd-nspawn',
      [
        ...['--quiet', '--register=no', '--keep-unit', '--boot', '--console=pipe', '--link-journal=no', '-D', root],
        `--network-namespace-path=/run/netns/${network.namespace}`,
        // For init: newer releases want to be told that cgroups of the first version are fine.
        'SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1',
      ],
      { stdio: ['ignore', 'ignore', 'ignore'] },
    );
    const ended = once(child, 'exit');
    const leader = await until('the machine has a first process', async () => firstChildOf(child.pid ?? 0));
    cleanup.defer(async () => {
      // nspawn ends with its first process, and that one ends all others.
      if (child.exitCode === null) process.kill(leader, 'SIGKILL');
      await ended;
    });
    const machine = new DebianMachine(root, leader);
    await until('the machine has booted', async () => {
      const { stdout } = await machine.run('sh', '-c', 'systemctl is-system-running || true');
      return /running|degraded/.test(stdout);
    });
    return machine;
  }

  /** @throws Error with what the program said, if it fails. */
  run(...command: readonly string[]): Promise<Ran> {
    const target = [
      'nsenter',
      `--target=${this.#leader}`,
      '--mount',
      '--uts',
      '--ipc',
      '--net',
      '--pid',
      '--root',
      '--wd',
    ];
    return run([
      ...target,
      'env',
      '-i',
      'PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      'LC_ALL=C.UTF-8',
      ...command,
    ]);
  }

  /** @returns a property of a unit. */
  async property(unit: string, name: string): Promise<string> {
    return (await this.run('systemctl', 'show', '--property', name, '--value', unit)).stdout.trim();
  }

  async journal(unit: string): Promise<string> {
    return (await this.run('journalctl', '--unit', unit, '--output', 'cat', '--no-pager')).stdout;
  }
}

function firstChildOf(pid: number): number | undefined {
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const parent = /^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${entry}/status`, 'utf8'))?.[1];
      if (Number(parent) === pid) return Number(entry);
    } catch {
      // It has ended.
    }
  }
  return undefined;
}
