import type { Clock, Timer } from '../clock.ts';
import { reasonOf } from '../errors.ts';
import type { Emit } from '../events.ts';
import type { HeadscaleApi } from './api.ts';

const CHECK_EVERY_MS = 60_000;
const CHECK_EVERY_WHILE_DOWN_MS = 2000;

/** What is known of Headscale; `up` is undefined until the first word. */
export interface UpstreamHealth {
  readonly up: boolean | undefined;
  /** Whether what answers there has a Noise key, as Headscale has; undefined until it has answered. */
  readonly isHeadscale: boolean | undefined;
  /** Why it is down. */
  readonly reason: string | undefined;
  /** Undefined before 0.27, and while it is not known. */
  readonly version: string | undefined;
  /** Whether our key file fits Headscale's key; undefined until both are known. */
  readonly keyMatches: boolean | undefined;
}

/**
 * Knows whether Headscale is up, its version, and whether our key is its key: by asking each minute, every two seconds
 * while it is down, and whenever a connection gives cause to. It says each change once.
 */
export class Checkup {
  readonly #clock: Clock;
  readonly #api: HeadscaleApi;
  readonly #emit: Emit;
  readonly #upstream: string;
  readonly #ourKey: () => string | undefined;
  #health: UpstreamHealth = {
    up: undefined,
    isHeadscale: undefined,
    reason: undefined,
    version: undefined,
    keyMatches: undefined,
  };
  /** Our key, as it was last compared with Headscale's. */
  #compared: string | undefined;
  #timer: Timer | undefined;
  #asking: Promise<void> | undefined;
  #closed = false;

  /** @param ourKey the public half of the key file, `mkey:<hex>`; undefined where there is none. */
  constructor(clock: Clock, api: HeadscaleApi, upstream: URL, ourKey: () => string | undefined, emit: Emit) {
    this.#clock = clock;
    this.#api = api;
    this.#emit = emit;
    this.#upstream = upstream.origin;
    this.#ourKey = ourKey;
  }

  get health(): UpstreamHealth {
    return this.#health;
  }

  /** Asks Headscale now; at most one question is out at a time. */
  check(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    this.#asking ??= this.#ask().finally(() => {
      this.#asking = undefined;
      this.#schedule();
    });
    return this.#asking;
  }

  /** Our key may be another, or gone: what was known of the one before is not true of it. */
  keyChanged(): void {
    if (this.#ourKey() !== this.#compared) this.#health = { ...this.#health, keyMatches: undefined };
    void this.check();
  }

  /** A connection to Headscale came about. */
  reached(): void {
    // Back after an outage: perhaps with another version or key, so it is asked before it is believed.
    if (this.#health.up === false) void this.check();
  }

  /** A connection to Headscale failed. That may have been the request's fault, so Headscale is asked itself. */
  suspect(): void {
    if (this.#health.up !== false) void this.check();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#timer?.cancel();
    await this.#api.close();
    await this.#asking;
  }

  #schedule(): void {
    this.#timer?.cancel();
    if (this.#closed) return;
    const delayMs = this.#health.up === false ? CHECK_EVERY_WHILE_DOWN_MS : CHECK_EVERY_MS;
    this.#timer = this.#clock.after(delayMs, () => void this.check());
  }

  async #ask(): Promise<void> {
    try {
      const [key, version] = await Promise.all([this.#api.noisePublicKey(), this.#api.version()]);
      if (this.#closed) return;
      this.#isUp(version, key !== undefined);
      this.#compare(key);
    } catch (error) {
      this.#isDown(reasonOf(error));
    }
  }

  #isDown(reason: string): void {
    if (this.#health.up === false || this.#closed) return;
    this.#health = { ...this.#health, up: false, reason };
    this.#emit({ kind: 'upstream down', upstream: this.#upstream, reason });
  }

  #isUp(version: string | undefined, isHeadscale: boolean): void {
    const before = this.#health;
    this.#health = { ...before, up: true, isHeadscale, reason: undefined, version };
    if (before.up === true && before.isHeadscale === isHeadscale && before.version === version) return;
    const upstream = this.#upstream;
    this.#emit(
      isHeadscale ? { kind: 'upstream up', upstream, version } : { kind: 'upstream is not Headscale', upstream },
    );
  }

  #compare(upstreams: string | undefined): void {
    const ours = this.#ourKey();
    if (ours === undefined || upstreams === undefined) return;
    this.#compared = ours;
    const matches = ours === upstreams;
    const isNews = this.#health.keyMatches !== matches;
    this.#health = { ...this.#health, keyMatches: matches };
    if (isNews) this.#emit({ kind: 'noise key checked', matches, ours, upstreams });
  }
}

/** From 0.27 on Headscale answers `/version`, and takes a second stream beside the first: nobody needs to wait. */
export function needsHold({ version }: Pick<UpstreamHealth, 'version'>): boolean {
  return version === undefined;
}
