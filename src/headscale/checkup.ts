import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import { NoAnswerError, reasonOf } from '../lib/errors.ts';
import type { Emit, Silence } from '../streams/events.ts';
import type { HeadscaleApi } from './api.ts';
import {
  ANSWERS_WITHIN_MS,
  ASK_AFTER_QUIET_MS,
  areTooManySilent,
  PendingAnswers,
  STREAM_SILENT_AFTER_MS,
} from './silence.ts';

const CHECK_EVERY_MS = 60_000;
const CHECK_EVERY_WHILE_DOWN_MS = 2000;
/** A question whose time was up this much too late says nothing: we were held up ourselves. */
const LATE_MS = 2000;

/** What is known of Headscale; `up` is undefined until the first word. */
export interface UpstreamHealth {
  /** Whether it answers requests. */
  readonly up: boolean | undefined;
  /** Where it accepts connections but does not answer: see `silence.ts`. On streams alone it may be `up` all the same. */
  readonly silentOn: Silence['on'] | undefined;
  /** Whether what answers there has a Noise key, as Headscale has; undefined until it has answered. */
  readonly isHeadscale: boolean | undefined;
  /** Why it is down. */
  readonly reason: string | undefined;
  /** Undefined before 0.27, and while it is not known. */
  readonly version: string | undefined;
  /** Whether our key file fits Headscale's key; undefined until both are known. */
  readonly keyMatches: boolean | undefined;
}

export interface CheckupOptions {
  readonly clock: Clock;
  readonly api: HeadscaleApi;
  readonly upstream: URL;
  /** The public half of the key file, `mkey:<hex>`; undefined where there is none. */
  ourKey(): string | undefined;
  readonly emit: Emit;
  /** When Headscale last said anything on a stream. */
  lastSpokenAt(): Instant | undefined;
}

/**
 * Knows whether Headscale is up and answers, its version, and whether our key is its key: by asking each minute, whenever
 * it has said nothing for five seconds, every two seconds while it is down, and whenever a connection gives cause to. It
 * says each change once.
 */
export class Checkup {
  /** Clients' requests that Headscale has not answered yet. */
  readonly pending: PendingAnswers;
  readonly #options: CheckupOptions;
  readonly #upstream: string;
  #health: UpstreamHealth = {
    up: undefined,
    silentOn: undefined,
    isHeadscale: undefined,
    reason: undefined,
    version: undefined,
    keyMatches: undefined,
  };
  /** Our key, as it was last compared with Headscale's. */
  #compared: string | undefined;
  #askedAt: Instant | undefined;
  #versionAskedAt: Instant | undefined;
  /** Since when it answers without a break. */
  #upSince: Instant | undefined;
  #timer: Timer | undefined;
  #asking: Promise<void> | undefined;
  #closed = false;

  constructor(options: CheckupOptions) {
    this.#options = options;
    this.pending = new PendingAnswers(options.clock, () => this.suspect());
    this.#upstream = options.upstream.origin;
  }

  get health(): UpstreamHealth {
    return this.#health;
  }

  /** Asks Headscale now; at most one question is out at a time. */
  check(): Promise<void> {
    return this.#check(true);
  }

  #check(withVersion: boolean): Promise<void> {
    if (this.#closed) return Promise.resolve();
    this.#asking ??= this.#ask(withVersion).finally(() => {
      this.#asking = undefined;
      this.#askedAt = this.#options.clock.now();
      this.#schedule();
    });
    return this.#asking;
  }

  /** Our key may be another, or gone: what was known of the one before is not true of it. */
  keyChanged(): void {
    if (this.#options.ourKey() !== this.#compared) this.#health = { ...this.#health, keyMatches: undefined };
    void this.check();
  }

  /** A connection to Headscale came about. */
  reached(): void {
    // Back after an outage: perhaps with another version or key, so it is asked before it is believed.
    if (this.#health.up === false) void this.check();
  }

  /** A connection to Headscale failed, or an answer is late. That may be the request's fault, so Headscale is asked itself. */
  suspect(): void {
    if (this.#health.up !== false) void this.check();
  }

  /** On how many control streams Headscale says nothing; told every few seconds. */
  streamsSilent(silent: number, of: number): void {
    const now = this.#options.clock.now();
    const { up, silentOn } = this.#health;
    // After an outage each stream may wait for a minute until it is its turn.
    const counts = up === true && this.#upSince !== undefined && now - this.#upSince >= STREAM_SILENT_AFTER_MS;
    if (!counts || areTooManySilent(silent, of) === (silentOn === 'streams')) return;
    if (silentOn === 'streams') {
      this.#health = { ...this.#health, silentOn: undefined };
      this.#options.emit({ kind: 'upstream_up', upstream: this.#upstream, version: this.#health.version });
    } else this.#isSilent({ on: 'streams', silent, of });
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#timer?.cancel();
    await this.#options.api.close();
    await this.#asking;
  }

  #schedule(): void {
    this.#timer?.cancel();
    if (this.#closed) return;
    this.#timer = this.#options.clock.after(this.#dueInMs(), () => {
      // It may have spoken since.
      if (this.#dueInMs() > 0) this.#schedule();
      // Headscale logs each request, and its version seldom changes.
      else void this.#check(this.#health.up !== true || this.#versionDueInMs() <= 0);
    });
  }

  #dueInMs(): number {
    const now = this.#options.clock.now();
    const askedAt = this.#askedAt ?? now;
    if (this.#health.up === false) return plus(askedAt, CHECK_EVERY_WHILE_DOWN_MS) - now;
    const lastSignOfLife = Math.max(
      askedAt,
      this.pending.answeredAt ?? askedAt,
      this.#options.lastSpokenAt() ?? askedAt,
    );
    return Math.min(lastSignOfLife + ASK_AFTER_QUIET_MS - now, this.#versionDueInMs());
  }

  #versionDueInMs(): number {
    const now = this.#options.clock.now();
    return (this.#versionAskedAt ?? now) + CHECK_EVERY_MS - now;
  }

  async #ask(withVersion: boolean): Promise<void> {
    const { clock, api } = this.#options;
    const startedAt = clock.now();
    try {
      const [key, version] = await Promise.all([
        api.noisePublicKey(),
        withVersion ? this.#version() : this.#health.version,
      ]);
      if (this.#closed) return;
      this.pending.answered();
      this.#isUp(version, key !== undefined);
      this.#compare(key);
    } catch (error) {
      if (this.#closed) return;
      if (!(error instanceof NoAnswerError)) this.#isDown(reasonOf(error));
      else if (clock.now() - startedAt <= ANSWERS_WITHIN_MS + LATE_MS) this.#isSilent({ on: 'requests' });
    }
  }

  #version(): Promise<string | undefined> {
    this.#versionAskedAt = this.#options.clock.now();
    // Whether it is there is for `/key` to say.
    return this.#options.api.version().catch(() => this.#health.version);
  }

  #isDown(reason: string): void {
    const { up, silentOn } = this.#health;
    if (up === false && silentOn === undefined) return;
    this.#health = { ...this.#health, up: false, silentOn: undefined, reason };
    this.#options.emit({ kind: 'upstream_down', upstream: this.#upstream, detail: reason });
  }

  #isSilent(silence: Silence): void {
    const { on } = silence;
    if (this.#health.silentOn === on) return;
    this.#health =
      on === 'requests'
        ? { ...this.#health, up: false, silentOn: on, reason: 'it accepts connections and does not answer' }
        : { ...this.#health, silentOn: on };
    this.#options.emit({ kind: 'upstream_silent', upstream: this.#upstream, silence });
  }

  #isUp(version: string | undefined, isHeadscale: boolean): void {
    const before = this.#health;
    const silentOn = before.up === true ? before.silentOn : undefined;
    this.#health = { ...before, up: true, silentOn, isHeadscale, reason: undefined, version };
    if (before.up !== true) this.#upSince = this.#options.clock.now();
    if (before.up === true && before.isHeadscale === isHeadscale && before.version === version) return;
    const upstream = this.#upstream;
    this.#options.emit(
      isHeadscale ? { kind: 'upstream_up', upstream, version } : { kind: 'upstream_not_headscale', upstream },
    );
  }

  #compare(upstreams: string | undefined): void {
    const ours = this.#options.ourKey();
    if (ours === undefined || upstreams === undefined) return;
    this.#compared = ours;
    const matches = ours === upstreams;
    const isNews = this.#health.keyMatches !== matches;
    this.#health = { ...this.#health, keyMatches: matches };
    if (isNews) this.#options.emit({ kind: 'noise_key_checked', matches, ours, upstreams });
  }
}

/** From 0.27 on Headscale answers `/version`, and takes a second stream beside the first: nobody needs to wait. */
export function needsHold({ version }: Pick<UpstreamHealth, 'version'>): boolean {
  return version === undefined;
}
