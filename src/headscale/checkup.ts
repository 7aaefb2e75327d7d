import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import { NoAnswerError, reasonOf } from '../lib/errors.ts';
import type { Emit, Silence } from '../streams/events.ts';
import type { HeadscaleApi } from './api.ts';
import { type Capabilities, capabilitiesOf } from './capabilities.ts';
import {
  areTooManySilent,
  CHECK_AFTER_QUIET_MS,
  CHECK_TIMEOUT_MS,
  PendingAnswers,
  STREAM_SILENT_AFTER_MS,
} from './silence.ts';

const CHECK_EVERY_MS = 60_000;
const CHECK_EVERY_WHILE_DOWN_MS = 2000;
/** If a request's timeout comes this much too late, our own process was held up, and the timeout says nothing. */
const LATE_MS = 2000;

/** What is known about Headscale. `up` is undefined until the first check has ended. */
export interface UpstreamHealth {
  /** Whether it answers requests. */
  readonly up: boolean | undefined;
  /** Set if Headscale accepts connections but does not answer: see `silence.ts`. With `streams` it can still be `up`. */
  readonly silentOn: Silence['on'] | undefined;
  /** Whether the server there has a Noise key, as Headscale does; undefined until it has answered. */
  readonly isHeadscale: boolean | undefined;
  /** Why Headscale is down. */
  readonly reason: string | undefined;
  /** Undefined before 0.27, and while unknown. */
  readonly version: string | undefined;
  /** Whether our key file holds Headscale's key; undefined until both are known. */
  readonly keyMatches: boolean | undefined;
}

interface CheckupOptions {
  readonly clock: Clock;
  readonly api: HeadscaleApi;
  readonly upstream: URL;
  /** The public half of our key, `mkey:<hex>`; undefined without a key file. */
  ourKey(): string | undefined;
  readonly emit: Emit;
  /** When Headscale last sent anything on a stream. */
  lastSpokenAt(): Instant | undefined;
}

/**
 * Checks whether Headscale is up and answers, which version it is, and whether our key is its key. It checks each minute, when
 * Headscale has sent nothing for five seconds, every two seconds while it is down, and when a connection fails. It emits one
 * event for each change.
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
  /** Our key when it was last compared with Headscale's. */
  #compared: string | undefined;
  #askedAt: Instant | undefined;
  #versionAskedAt: Instant | undefined;
  /** Since when Headscale has answered every check. */
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

  /** What this Headscale can do, and what it gets wrong. */
  get capabilities(): Capabilities {
    return capabilitiesOf(this.#health.version);
  }

  /** Checks now. Only one check runs at a time. */
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

  /** The key file may have changed, so an earlier comparison no longer counts. */
  keyChanged(): void {
    if (this.#options.ourKey() !== this.#compared) this.#health = { ...this.#health, keyMatches: undefined };
    void this.check();
  }

  /** A connection to Headscale succeeded. */
  reached(): void {
    // After an outage Headscale may have another version or key, so check before calling it up.
    if (this.#health.up === false) void this.check();
  }

  /** A connection to Headscale failed, or an answer is late. The request may be to blame, so check. */
  suspect(): void {
    if (this.#health.up !== false) void this.check();
  }

  /** To be called every few seconds. @param silent on how many of the `of` control streams Headscale sends nothing. */
  streamsSilent(silent: number, of: number): void {
    const now = this.#options.clock.now();
    const { up, silentOn } = this.#health;
    // After an outage it can take a minute until each stream gets its keepalive.
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
      // Headscale may have sent something since.
      if (this.#dueInMs() > 0) this.#schedule();
      // Headscale logs each request and its version rarely changes, so ask for the version only now and then.
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
    return Math.min(lastSignOfLife + CHECK_AFTER_QUIET_MS - now, this.#versionDueInMs());
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
      else if (clock.now() - startedAt <= CHECK_TIMEOUT_MS + LATE_MS) this.#isSilent({ on: 'requests' });
    }
  }

  #version(): Promise<string | undefined> {
    this.#versionAskedAt = this.#options.clock.now();
    // Only `/key` decides whether Headscale is up.
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
        ? { ...this.#health, up: false, silentOn: on, reason: 'it accepts connections but does not answer' }
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
