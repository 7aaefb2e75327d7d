import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

const execute = promisify(execFile);
export const PROJECT = join(import.meta.dirname, '..', '..', '..');
/** Built by `npm run e2e`. */
export const PROGRAMS = join(PROJECT, 'test', 'e2e', '.bin');

export interface Ran {
  readonly stdout: string;
  readonly stderr: string;
}

/** @throws Error with what the program said. */
export async function run(command: readonly string[], env: NodeJS.ProcessEnv = {}, cwd = PROJECT): Promise<Ran> {
  const [program = '', ...args] = command;
  try {
    return await execute(program, args, { cwd, env: { ...process.env, ...env }, maxBuffer: 64 << 20 });
  } catch (error) {
    const { stdout = '', stderr = '' } = error as Partial<Ran>;
    throw new Error(`${command.join(' ')}\n${stdout.slice(-4000)}\n${stderr.slice(-4000)}`, { cause: error });
  }
}

export async function until<T>(
  what: string,
  ask: () => Promise<T | undefined | false>,
  timeoutMs = 60_000,
): Promise<T> {
  const end = performance.now() + timeoutMs;
  for (let last: unknown; ; ) {
    try {
      const found = await ask();
      if (found !== undefined && found !== false) return found;
    } catch (error) {
      last = error;
    }
    if (performance.now() > end) throw new Error(`${what}: not within ${timeoutMs} ms`, { cause: last });
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
}

/** What a test must undo, the last first. */
export class Cleanup {
  readonly #steps: (() => unknown)[] = [];

  defer(step: () => unknown): void {
    this.#steps.push(step);
  }

  folder(): string {
    const path = mkdtempSync(join(tmpdir(), 'hsw-deploy-'));
    this.defer(async () => {
      // What containers have left mounted, the innermost first.
      const mounted = readFileSync('/proc/mounts', 'utf8').matchAll(/^\S+ (\S+) /gm);
      const below = [...mounted].map(([, at = '']) => at).filter((at) => at.startsWith(`${path}/`));
      for (const at of below.reverse()) await run(['umount', '--lazy', at]);
      rmSync(path, { recursive: true, force: true });
    });
    return path;
  }

  async run(): Promise<void> {
    for (const step of this.#steps.splice(0).reverse()) {
      try {
        await step();
      } catch (error) {
        // The others are undone all the same.
        console.error(error);
      }
    }
  }
}

/**
 * Makes a Debian system: a folder, or a `.tar`. With the variable DEBIAN_ROOTS, a folder, what was made once is kept there and
 * used again.
 *
 * @param arch another processor, as Debian names it: the packages are unpacked only, because their scripts cannot run.
 */
export async function debianRoot(
  suite: string,
  target: string,
  packages: readonly string[],
  arch?: string,
): Promise<void> {
  const script = join(import.meta.dirname, 'debian-root');
  const { DEBIAN_ROOTS: kept } = process.env;
  const other = arch === undefined ? [] : [arch];
  const name = `${[suite, ...other, packages.join('+')].join('-')}.tar`;
  const tar = kept === undefined ? `${target}.made.tar` : join(kept, name);
  if (!existsSync(tar)) await run([script, suite, tar, packages.join(','), ...other]);
  if (target.endsWith('.tar')) cpSync(tar, target);
  else {
    mkdirSync(target, { recursive: true });
    await run(['tar', '--extract', '--numeric-owner', '--directory', target, '--file', tar]);
  }
  if (kept === undefined) rmSync(tar);
}

export const SERVER_NAME = 'headscale.test';
const SUBNET = '10.201.7';
/** Of the machine with the server, for clients outside. */
export const SERVER_ADDRESS = `${SUBNET}.1`;
const SWITCH = 'clients';

/** A machine's network of its own, with the clients on a switch of it. Nothing leads further. */
export class ServerNetwork {
  readonly namespace: string;
  readonly #cleanup: Cleanup;
  #made = 1;

  private constructor(namespace: string, cleanup: Cleanup) {
    this.namespace = namespace;
    this.#cleanup = cleanup;
  }

  static async create(cleanup: Cleanup): Promise<ServerNetwork> {
    const namespace = `hsw-${process.pid}`;
    await run(['ip', 'netns', 'add', namespace]);
    cleanup.defer(() => removeNamespace(namespace));
    const network = new ServerNetwork(namespace, cleanup);
    await network.inside('ip', 'link', 'set', 'lo', 'up');
    await network.inside('ip', 'link', 'add', SWITCH, 'type', 'bridge', 'forward_delay', '0');
    await network.inside('ip', 'address', 'add', `${SERVER_ADDRESS}/24`, 'dev', SWITCH);
    await network.inside('ip', 'link', 'set', SWITCH, 'up');
    // The machine's way to the Internet. Nobody is there.
    await network.inside('ip', 'route', 'add', 'default', 'via', `${SUBNET}.254`);
    return network;
  }

  /** The command that runs a program in this network. */
  enter(...command: readonly string[]): readonly string[] {
    // Not `ip netns exec`: it mounts /sys anew, and containers then find no cgroups.
    return ['nsenter', `--net=/run/netns/${this.namespace}`, ...command];
  }

  inside(...command: readonly string[]): Promise<Ran> {
    return run(this.enter(...command));
  }

  /** A host that only has its name and address in common with earlier ones, if any. */
  async host(): Promise<ClientHost> {
    const number = ++this.#made;
    const [namespace, address, port] = [`${this.namespace}-${number}`, `${SUBNET}.${number}`, `client${number}`];
    await run(['ip', 'netns', 'add', namespace]);
    this.#cleanup.defer(() => removeNamespace(namespace));
    const cable = ['ip', 'link', 'add', port, 'netns', this.namespace, 'type', 'veth', 'peer', 'name', 'eth0'];
    await run([...cable, 'netns', namespace]);
    await this.inside('ip', 'link', 'set', port, 'master', SWITCH, 'up');
    for (const link of ['lo', 'eth0']) await run(['ip', '-n', namespace, 'link', 'set', link, 'up']);
    await run(['ip', '-n', namespace, 'address', 'add', `${address}/24`, 'dev', 'eth0']);
    await run(['ip', '-n', namespace, 'route', 'add', 'default', 'via', SERVER_ADDRESS]);
    // `ip netns exec` mounts it over /etc/hosts.
    const hosts = join('/etc/netns', namespace, 'hosts');
    mkdirSync(dirname(hosts), { recursive: true });
    writeFileSync(hosts, `127.0.0.1 localhost\n${SERVER_ADDRESS} ${SERVER_NAME}\n`);
    return { namespace, address, port };
  }

  /** Unplugs a host for good. Packets to it disappear, as they do on the Internet. */
  async unplug({ port, address }: ClientHost): Promise<void> {
    await this.inside('ip', 'link', 'set', port, 'down');
    const nobody = ['lladdr', '02:00:00:00:00:99', 'dev', SWITCH, 'nud', 'permanent'];
    await this.inside('ip', 'neighbour', 'replace', address, ...nobody);
  }
}

export interface ClientHost {
  readonly namespace: string;
  readonly address: string;
  readonly port: string;
}

async function removeNamespace(namespace: string): Promise<void> {
  const { stdout } = await run(['ip', 'netns', 'pids', namespace]).catch(() => ({ stdout: '' }));
  for (const pid of stdout.split('\n').filter((each) => each !== '')) {
    try {
      process.kill(Number(pid), 'SIGKILL');
    } catch {
      // It has ended by itself.
    }
  }
  await run(['ip', 'netns', 'delete', namespace]).catch(() => undefined);
  rmSync(join('/etc/netns', namespace), { recursive: true, force: true });
}

/** A real tailscaled with a state of its own, which can move from one host to another. */
export class Tailscaled {
  readonly #network: ServerNetwork;
  readonly #cleanup: Cleanup;
  readonly #folder: string;
  readonly caFile: string | undefined;
  readonly #env: NodeJS.ProcessEnv;
  #host: ClientHost | undefined;
  #stop: (() => Promise<void>) | undefined;

  /** @param caFile the certificate authority that it knows. */
  constructor(network: ServerNetwork, cleanup: Cleanup, caFile?: string) {
    this.#network = network;
    this.#cleanup = cleanup;
    this.#folder = cleanup.folder();
    this.caFile = caFile;
    this.#env = {
      ...{ TS_NO_LOGS_NO_SUPPORT: 'true', TS_PANIC_IF_HIT_MAIN_CONTROL: 'true', TS_DISABLE_PORTMAPPER: 'true' },
      ...{ TS_USE_CACHED_NETMAP: 'false', HOME: this.#folder, TMPDIR: this.#folder, TS_LOGS_DIR: this.#folder },
      ...(caFile === undefined ? {} : { SSL_CERT_FILE: caFile }),
    };
  }

  get address(): string | undefined {
    return this.#host?.address;
  }

  get #socket(): string {
    return join(this.#folder, 'tailscaled.sock');
  }

  async start(): Promise<void> {
    this.#host = await this.#network.host();
    const args = ['--tun=userspace-networking', '--no-logs-no-support', '--port=0', `--statedir=${this.#folder}`];
    const daemon = join(PROGRAMS, 'tailscaled');
    const command = ['netns', 'exec', this.#host.namespace, daemon, ...args, `--socket=${this.#socket}`];
    const child = spawn('ip', command, { env: { ...process.env, ...this.#env }, stdio: 'ignore' });
    const ended = once(child, 'exit');
    this.#stop = async () => {
      child.kill('SIGKILL');
      await ended;
    };
    this.#cleanup.defer(() => this.#stop?.());
    await until('tailscaled answers', async () => (await this.state()) !== '');
  }

  async logIn(url: string, authKey: string): Promise<void> {
    await this.#tailscale('up', `--login-server=${url}`, `--auth-key=${authKey}`, '--hostname=phone', '--timeout=60s');
    await this.running();
  }

  running(timeoutMs = 60_000): Promise<true> {
    return until('the client is Running', async () => (await this.state()) === 'Running', timeoutMs);
  }

  async state(): Promise<string> {
    const { stdout } = await this.#tailscale('status', '--json', '--peers=false').catch(() => ({ stdout: '{}' }));
    return (JSON.parse(stdout) as { BackendState?: string }).BackendState ?? '';
  }

  /** Gone without a word, as a phone that loses its network. */
  async vanish(): Promise<void> {
    if (this.#host !== undefined) await this.#network.unplug(this.#host);
    await this.#stop?.();
    this.#host = undefined;
  }

  /** Vanishes, and is soon Running at another address. */
  async comeBackElsewhere(): Promise<void> {
    await this.vanish();
    await this.start();
    await this.running();
  }

  #tailscale(...args: readonly string[]): Promise<Ran> {
    return run([join(PROGRAMS, 'tailscale'), `--socket=${this.#socket}`, ...args]);
  }
}

/** Makes clients Running without a relay: `derp.paths` of Headscale. There is nothing at that address. */
export const DERP_MAP = `regions:
  900:
    regionid: 900
    regioncode: none
    regionname: None
    nodes:
      - { name: 900a, regionid: 900, hostname: ${SERVER_ADDRESS}, ipv4: ${SERVER_ADDRESS}, ipv6: none }
`;

export const QEMU_ARM64 = '/usr/bin/qemu-aarch64-static';
const BINFMT = '/proc/sys/fs/binfmt_misc';
/** A program for arm64: the first bytes of its file, and which bits of them count. */
const ARM64 = String.raw`\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff`;

/** Until the cleanup, this machine runs programs for arm64 too: QEMU translates them. */
export async function emulateArm64(cleanup: Cleanup): Promise<void> {
  if (!existsSync(join(BINFMT, 'register'))) {
    await run(['mount', '-t', 'binfmt_misc', 'binfmt_misc', BINFMT]);
    cleanup.defer(() => run(['umount', BINFMT]));
  }
  // That one can only be written.
  const known = readdirSync(BINFMT).filter((name) => name !== 'register');
  const isThere = known.some((name) => /^magic 7f454c46020101\w+b700$/m.test(readFileSync(join(BINFMT, name), 'utf8')));
  if (isThere) return;
  // F: QEMU is opened now, so that the programs find it in any root.
  writeFileSync(join(BINFMT, 'register'), `:hsw-arm64:M::${ARM64}:${QEMU_ARM64}:F`);
  cleanup.defer(() => writeFileSync(join(BINFMT, 'hsw-arm64'), '-1'));
}
