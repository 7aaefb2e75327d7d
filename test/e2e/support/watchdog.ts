import type { PresenceView, Readiness, StreamView } from '../../../src/admin/views.ts';
import type { EventKind } from '../../../src/streams/events.ts';
import type { KernelEvidence } from '../../../src/streams/stream.ts';
import { programs } from './build.ts';
import { type Child, jsonLines } from './child.ts';
import type { Lab } from './lab.ts';
import { Metrics } from './metrics.ts';
import { onHost } from './network.ts';
import { ended } from './reach.ts';
import { until } from './wait.ts';

const PINO_WARN = 40;
const PINO_ERROR = 50;
/** Why the watchdog ends a stream with no contest before. */
const SEVERED_ALONE = [
  ...['gone', 'not_reading', 'upstream_silent', 'shown_offline', 'node_deleted', 'severed_by_operator'],
];

/** What the watchdog logged as it severed a stream. */
export interface Severing {
  readonly at: Date;
  readonly stream: number;
  /** `address:port` of the client that lost. */
  readonly remoteAddress: string;
  readonly reason: string;
  readonly silentMs: number;
  readonly kernel: KernelEvidence | undefined;
}

export interface Outcome {
  /** The exit code; null after a signal. */
  readonly code: number | null;
  readonly stdout: string;
  /** Both of its outputs. */
  readonly said: string;
}

export interface Upstream {
  readonly url: string;
  readonly noiseKeyFile: string;
}

type Command = readonly [command: string, args: readonly string[]];

/** The watchdog as people run it, as a process on the lab's server. */
export class Watchdog {
  readonly #lab: Lab;
  readonly #command: Command;
  readonly #listen: string;
  readonly #admin: string;
  /** What clients are to use as their login server. */
  readonly url: string;
  #child: Child;

  private constructor(lab: Lab, command: Command, listen: string, admin: string) {
    this.#lab = lab;
    this.#command = command;
    this.#listen = listen;
    this.#admin = admin;
    this.url = `http://${listen}`;
    this.#child = lab.start('watchdog', command);
  }

  /** Starts one on ports of its own: a lab can have several, each with its flags. */
  static async start(lab: Lab, upstream: Upstream, ...flags: readonly string[]): Promise<Watchdog> {
    const listen = `${lab.server.address}:${lab.port()}`;
    const admin = `127.0.0.1:${lab.port()}`;
    const where = ['--upstream', upstream.url, '--noise-key', upstream.noiseKeyFile, '--listen', listen];
    const given = ['--admin', admin, '--log-level', 'debug', '--drain', 'off', ...flags];
    const command = onHost(lab.server, process.execPath, programs.watchdog, 'serve', ...where, ...given);
    const watchdog = new Watchdog(lab, command, listen, admin);
    await watchdog.#ready();
    return watchdog;
  }

  /** Of its admin server. */
  get admin(): string {
    return this.#admin;
  }

  /** Ends it, and starts it again with the same flags on the same ports: it remembers nothing. */
  async restart(): Promise<void> {
    await this.#child.end();
    this.#child = this.#lab.start('watchdog', this.#command);
    await this.#ready();
  }

  /** Ends it as a service manager does. */
  async stop(): Promise<void> {
    await this.#child.end('SIGTERM');
  }

  /** It dies: no goodbye to anybody. */
  async kill(): Promise<void> {
    await this.#child.end('SIGKILL');
  }

  /** Has it read its file again, as an operator would. @returns what was said. */
  async reload(): Promise<string> {
    const { stdout } = await command(this.#lab, 'reload', '--admin', this.#admin);
    return stdout;
  }

  async metrics(): Promise<Metrics> {
    const { status, body } = await this.#lab.reach.get(this.#admin, '/metrics');
    if (status !== 200) throw new Error(`/metrics: ${status} ${body}`);
    return new Metrics(body);
  }

  async streams(): Promise<readonly StreamView[]> {
    const { status, body } = await this.#lab.reach.get(this.#admin, '/streams');
    if (status !== 200) throw new Error(`/streams: ${status} ${body}`);
    return (JSON.parse(body) as { readonly streams: readonly StreamView[] }).streams;
  }

  /** What it says about a node, by its name. @throws when nobody knows it. */
  async node(name: string): Promise<PresenceView> {
    const { status, body } = await this.#lab.reach.get(this.#admin, `/nodes/${name}`);
    if (status !== 200) throw new Error(`/nodes/${name}: ${status} ${body}`);
    return JSON.parse(body) as PresenceView;
  }

  async nodes(): Promise<readonly PresenceView[]> {
    const { body } = await this.#lab.reach.get(this.#admin, '/nodes');
    return (JSON.parse(body) as { readonly nodes: readonly PresenceView[] }).nodes;
  }

  /** The status with which it answers a probe of a node. */
  async health(name: string): Promise<number> {
    return (await this.#lab.reach.get(this.#admin, `/nodes/${name}/health`)).status;
  }

  /** The control streams that come from `address`, a host's; behind a proxy no port is known. */
  async streamsFrom(address: string): Promise<readonly StreamView[]> {
    return (await this.streams()).filter(
      ({ kind, remoteAddress }) =>
        kind === 'control' && (remoteAddress === address || remoteAddress.startsWith(`${address}:`)),
    );
  }

  /** @throws when `address` has none, or several. */
  async onlyStreamFrom(address: string): Promise<StreamView> {
    const [stream, ...others] = await this.streamsFrom(address);
    if (stream === undefined || others.length > 0) throw new Error(`${address} should have one stream`);
    return stream;
  }

  severings(): readonly Severing[] {
    const severed = this.lines().filter(
      ({ event, reason }) =>
        event === 'stream_severed' || (event === 'stream_closed' && SEVERED_ALONE.includes(String(reason))),
    );
    return severed.map(({ time, stream, remoteAddress, reason, silentMs, kernel }) => ({
      at: new Date(String(time)),
      stream: Number(stream),
      remoteAddress: String(remoteAddress),
      reason: String(reason),
      silentMs: Number(silentMs),
      kernel: kernel as KernelEvidence | undefined,
    }));
  }

  /** The log lines of one kind of event. */
  logged(kind: EventKind): readonly Record<string, unknown>[] {
    return this.lines().filter(({ event }) => event === kind);
  }

  warnings(): readonly Record<string, unknown>[] {
    return this.lines().filter(({ level }) => level === PINO_WARN);
  }

  /** Log lines that speak of an error. */
  errors(): readonly Record<string, unknown>[] {
    return this.lines().filter(({ level }) => Number(level) >= PINO_ERROR);
  }

  /** The whole log. */
  lines(): readonly Record<string, unknown>[] {
    return jsonLines(this.#child.stdout);
  }

  /** Waits until it answers itself, and Headscale through it. */
  async #ready(): Promise<void> {
    await until('watchdog', { timeoutMs: 60_000, giveUp: () => ended(this.#child) }, async () => {
      const [ready, key] = await Promise.all([
        this.#lab.reach.get(this.#admin, '/readyz'),
        this.#lab.reach.get(this.#listen, '/key?v=142'),
      ]);
      const { upstream: seen, noiseKeyMatches } = JSON.parse(ready.body) as Readiness;
      return key.status === 200 && seen.up && noiseKeyMatches ? true : undefined;
    });
  }
}

/** Runs one of the watchdog's other commands on the lab's server, to its end. */
export async function command(lab: Lab, ...args: readonly string[]): Promise<Outcome> {
  const child = lab.start(args[0] ?? '', onHost(lab.server, process.execPath, programs.watchdog, ...args));
  const code = await child.ended();
  return { code, stdout: child.stdout.join('\n'), said: child.output.join('\n') };
}
