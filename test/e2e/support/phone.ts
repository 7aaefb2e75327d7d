import { cpSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { programs } from './build.ts';
import { type Child, run } from './child.ts';
import { switchKeepaliveOff } from './foreign-sockets.ts';
import type { Lab } from './lab.ts';
import { type Host, onHost } from './network.ts';
import { type Answer, ask, ended } from './reach.ts';
import { until } from './wait.ts';

// Nothing of the client may look for anything but its control server.
const QUIET = {
  TS_NO_LOGS_NO_SUPPORT: 'true',
  TS_PANIC_IF_HIT_MAIN_CONTROL: 'true',
  TS_DISABLE_PORTMAPPER: 'true',
  TS_DEBUG_DISABLE_PORTLIST: 'true',
  // A client that remembers its last network map is Running before it has heard from any server.
  TS_USE_CACHED_NETMAP: 'false',
};
const SOCKET_POLL_MS = 10;

export interface ClientStatus {
  readonly BackendState: string;
  /** Where its owner is to admit it; empty while nobody has to. */
  readonly AuthURL: string;
}

/** A machine with tailscaled. What tailscaled keeps on disk survives; the host below it may change. */
export class Phone {
  readonly name: string;
  readonly #lab: Lab;
  readonly #folder: string;
  readonly #env: NodeJS.ProcessEnv;
  #host: Host | undefined;
  #daemon: Child | undefined;

  /** @param original the machine whose disk this one has a copy of, keys and all. */
  constructor(lab: Lab, name: string, original?: Phone) {
    this.name = name;
    this.#lab = lab;
    this.#folder = lab.folder(name);
    if (original !== undefined) copyState(original.#folder, this.#folder);
    const trust = lab.caFile === undefined ? {} : { SSL_CERT_FILE: lab.caFile };
    this.#env = { ...QUIET, ...trust, HOME: this.#folder, TMPDIR: this.#folder, TS_LOGS_DIR: this.#folder };
  }

  get host(): Host {
    if (this.#host === undefined) throw new Error(`${this.name} is nowhere`);
    return this.#host;
  }

  /** Where it is to start next. */
  moveTo(host: Host): void {
    if (this.#host !== undefined) throw new Error(`${this.name} is somewhere else`);
    this.#host = host;
  }

  get daemon(): Child {
    if (this.#daemon === undefined) throw new Error(`tailscaled of ${this.name} does not run`);
    return this.#daemon;
  }

  /** Starts tailscaled, on a new host with an address it never had if there is no host. */
  async start(): Promise<Child> {
    this.#host ??= await this.#lab.network.addHost(this.name);
    const args = ['--tun=userspace-networking', '--no-logs-no-support', '--port=0'];
    const command = onHost(this.#host, programs.tailscaled, ...args, ...this.#paths());
    this.#daemon = this.#lab.start(`tailscaled of ${this.name}`, command, this.#env);
    return this.#daemon;
  }

  /**
   * Has a new node that has been started log in without a key, so that it waits for its owner.
   *
   * @returns the URL at which its owner is to admit it.
   */
  async askToLogIn(loginServer: string): Promise<string> {
    await this.#answering();
    const who = [`--login-server=${loginServer}`, `--hostname=${this.name}`, '--accept-dns=false'];
    const up = [programs.tailscale, [`--socket=${this.#socket}`, 'up', ...who]] as const;
    this.#lab.start(`tailscale up of ${this.name}`, up);
    return until('a login that waits', { timeoutMs: 30_000 }, async () => (await this.status()).AuthURL || undefined);
  }

  async #answering(): Promise<void> {
    const { daemon } = this;
    await until(`tailscaled of ${this.name}`, { timeoutMs: 10_000, giveUp: () => ended(daemon) }, () => this.status());
  }

  /** Logs a new node in and waits until it runs. @param flags more of `tailscale up`. */
  async logIn(loginServer: string, authKey: string, ...flags: readonly string[]): Promise<void> {
    await this.start();
    await this.#answering();
    const who = [`--login-server=${loginServer}`, `--auth-key=${authKey}`, `--hostname=${this.name}`];
    await this.command('up', ...who, '--timeout=25s', '--accept-dns=false', ...flags);
    await this.running(10_000);
  }

  /** @returns milliseconds from the start of the process until the client said that it runs. */
  async running(timeoutMs: number): Promise<number> {
    const daemon = this.daemon;
    const patience = { timeoutMs, everyMs: SOCKET_POLL_MS, giveUp: () => ended(daemon) };
    return until(`${this.name} Running`, patience, async () => {
      const status = await this.status();
      return status.BackendState === 'Running' ? performance.now() - daemon.startedAt : undefined;
    });
  }

  async status(): Promise<ClientStatus> {
    const { status, body } = await this.#local('GET', 'status?peers=false');
    if (status !== 200) throw new Error(`status of ${this.name}: ${status} ${body}`);
    return JSON.parse(body) as ClientStatus;
  }

  /** Ends tailscaled as a shutdown does: its connections are closed with a FIN. */
  async shutDown(): Promise<void> {
    await this.daemon.end('SIGTERM');
    this.#daemon = undefined;
  }

  /**
   * Gone without a word: no FIN, no RST, nobody at the old address.
   *
   * @returns when that was, as `performance.now()` tells it.
   */
  async vanish(): Promise<number> {
    const host = this.host;
    const vanishedAt = await this.#lab.network.cutOff(host);
    await this.#daemon?.end('SIGKILL');
    await this.#lab.network.removeHost(host);
    this.#daemon = undefined;
    this.#host = undefined;
    return vanishedAt;
  }

  /** From here on its open connections send no keepalive probes of their own, as those of iOS and Android do not. */
  switchKeepaliveOff(): void {
    switchKeepaliveOff(this.daemon.pid);
  }

  /** Stops the program; its kernel goes on answering for its connections. */
  freeze(): void {
    this.daemon.signal('SIGSTOP');
  }

  /** Runs `tailscale` with these arguments, to its end. @returns what it printed. */
  command(...args: readonly string[]): Promise<string> {
    return run(programs.tailscale, `--socket=${this.#socket}`, ...args);
  }

  /** Makes the client say something to its control server: that its machine has another name now. */
  async say(hostname: string): Promise<void> {
    const { status, body } = await this.#local(
      'PATCH',
      'prefs',
      JSON.stringify({ Hostname: hostname, HostnameSet: true }),
    );
    if (status !== 200) throw new Error(`renaming ${this.name}: ${status} ${body}`);
  }

  /** tailscaled's local API. */
  #local(method: string, path: string, body?: string): Promise<Answer> {
    return ask({
      method,
      path: `/localapi/v0/${path}`,
      headers: { host: 'local-tailscaled.sock' },
      createConnection: () => connect({ path: this.#socket }),
      ...(body === undefined ? {} : { body }),
    });
  }

  get #socket(): string {
    return join(this.#folder, 'tailscaled.sock');
  }

  #paths(): readonly string[] {
    return [`--statedir=${this.#folder}`, `--socket=${this.#socket}`];
  }
}

function copyState(from: string, to: string): void {
  cpSync(from, to, { recursive: true, filter: (path) => !path.endsWith('.sock') });
}
