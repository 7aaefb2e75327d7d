import { programs } from './build.ts';
import { type Child, jsonLines } from './child.ts';
import type { Lab } from './lab.ts';
import { Metrics } from './metrics.ts';
import { onHost } from './network.ts';
import { ended } from './reach.ts';
import { until } from './wait.ts';

const PORT = 8081;
const ADMIN = '127.0.0.1:9191';

/** A stream as `/streams` shows it. */
export interface StreamView {
  readonly id: number;
  readonly kind: string;
  readonly machineKey: string | null;
  readonly remoteAddress: string;
  readonly lastHeardAt: string;
  readonly state: string;
  readonly contests: readonly unknown[];
}

/** What the watchdog logged as it severed a stream. */
export interface Severing {
  readonly at: Date;
  readonly stream: number;
  readonly silentMs: number;
}

interface Upstream {
  readonly url: string;
  readonly noiseKeyFile: string;
}

/** The watchdog as people run it, as a process on the lab's server. */
export class Watchdog {
  readonly #lab: Lab;
  readonly #child: Child;
  /** What clients are to use as their login server. */
  readonly url: string;

  private constructor(lab: Lab, child: Child, url: string) {
    this.#lab = lab;
    this.#child = child;
    this.url = url;
  }

  static async start(lab: Lab, upstream: Upstream, ...flags: readonly string[]): Promise<Watchdog> {
    const listen = `${lab.server.address}:${PORT}`;
    const where = ['--upstream', upstream.url, '--noise-key', upstream.noiseKeyFile, '--listen', listen];
    const command = onHost(lab.server, process.execPath, programs.watchdog, 'serve', ...where, '--admin', ADMIN);
    const child = lab.start('watchdog', [command[0], [...command[1], '--log-level', 'debug', ...flags]]);
    const watchdog = new Watchdog(lab, child, `http://${listen}`);
    await until('watchdog', { timeoutMs: 20_000, giveUp: () => ended(child) }, async () => {
      // Its own answer, and Headscale's through it.
      const [ready, key] = await Promise.all([lab.reach.get(ADMIN, '/readyz'), lab.reach.get(listen, '/key?v=142')]);
      const { upstream: seen, noiseKeyMatches } = JSON.parse(ready.body) as Readiness;
      return key.status === 200 && seen.up && noiseKeyMatches ? true : undefined;
    });
    return watchdog;
  }

  async metrics(): Promise<Metrics> {
    const { status, body } = await this.#lab.reach.get(ADMIN, '/metrics');
    if (status !== 200) throw new Error(`/metrics: ${status} ${body}`);
    return new Metrics(body);
  }

  async streams(): Promise<readonly StreamView[]> {
    const { status, body } = await this.#lab.reach.get(ADMIN, '/streams');
    if (status !== 200) throw new Error(`/streams: ${status} ${body}`);
    return (JSON.parse(body) as { readonly streams: readonly StreamView[] }).streams;
  }

  /** The control streams that come from `address`, a host's. */
  async streamsFrom(address: string): Promise<readonly StreamView[]> {
    return (await this.streams()).filter(
      ({ kind, remoteAddress }) => kind === 'control' && remoteAddress.startsWith(`${address}:`),
    );
  }

  severings(): readonly Severing[] {
    return jsonLines(this.#child.stdout)
      .filter(({ msg }) => typeof msg === 'string' && msg.startsWith('stream severed'))
      .map(({ time, stream, silentMs }) => ({
        at: new Date(String(time)),
        stream: Number(stream),
        silentMs: Number(silentMs),
      }));
  }

  /** Log lines that speak of an error. */
  errors(): readonly object[] {
    return jsonLines(this.#child.stdout).filter(({ level }) => Number(level) >= 50);
  }
}

interface Readiness {
  readonly upstream: { readonly up: boolean | null };
  readonly noiseKeyMatches: boolean | null;
}
