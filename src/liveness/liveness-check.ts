import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import type { KernelEvidence } from '../streams/stream.ts';
import { answerWaitMs, isDead, type Liveness, QUIET_BEFORE_PROBE_MS, receivedAt, verdictWithinMs } from './evidence.ts';

/** The connection that a liveness check probes. */
export interface CheckedConnection {
  /** Current evidence. Undefined if there is none: not Linux, behind a proxy, or the connection is gone. */
  evidence(): KernelEvidence | undefined;
  /** Sends a keepalive probe. Linux waits until the connection has been quiet for one second. */
  probe(): void;
  stopProbing(): void;
}

const PROBE_EVERY_MS = 150;
const SLOW_PROBE_EVERY_MS = 1000;
const SLOW_FOR_MS = 10_000;
const LOOK_EVERY_MS = 50;
/** The kernel counts in jiffies of up to 10 ms. A smaller change of "last received" means nothing. */
const JIFFY_MS = 10;

/**
 * Finds out whether the client of one old stream is there. It probes the client's kernel now and every 150 ms, until there is
 * an answer or the hold ends (in doubt, until a verdict is possible). Then it probes once a second for ten seconds. While a
 * probe is unanswered, it looks every 50 ms.
 */
export class LivenessCheck {
  readonly #clock: Clock;
  readonly #connection: CheckedConnection;
  readonly #onUpdate: () => void;
  #timer: Timer | undefined;
  #eagerUntil: Instant;
  #slowUntil: Instant;
  #nextProbeAt: Instant;
  #firstProbeAt: Instant | undefined;
  #receivedBefore: Instant | undefined;
  #answeredAt: Instant | undefined;
  #liveness: Liveness = 'unknown';
  /** Something suggests that the client is there: it answered a moment ago, or its address is in use. */
  #inDoubt = false;

  /** @param onUpdate called after every look. It may stop the check. */
  constructor(clock: Clock, connection: CheckedConnection, onUpdate: () => void) {
    const now = clock.now();
    this.#clock = clock;
    this.#connection = connection;
    this.#onUpdate = onUpdate;
    this.#eagerUntil = now;
    this.#slowUntil = now;
    this.#nextProbeAt = now;
  }

  /**
   * Starts probing, or starts again.
   *
   * @param eagerMs how long to probe every 150 ms. In doubt it lasts at least until a verdict is possible.
   * @returns in how many milliseconds there will be an answer or a verdict. Undefined if there is no evidence.
   */
  start(eagerMs: number, inDoubt: boolean): number | undefined {
    const reading = this.#read();
    if (reading === undefined) return undefined;
    const { evidence, now } = reading;
    this.#inDoubt = inDoubt || (this.#inDoubt && this.#timer !== undefined);
    this.#timer?.cancel();
    if (this.#firstProbeAt === undefined) this.#receivedBefore = receivedAt(evidence, now);
    // A look and its timer may both be a little late.
    const withinMs = verdictWithinMs(evidence, this.#inDoubt) + 2 * LOOK_EVERY_MS;
    this.#eagerUntil = plus(now, inDoubt ? Math.max(eagerMs, withinMs) : eagerMs);
    this.#slowUntil = plus(this.#eagerUntil, SLOW_FOR_MS);
    this.#nextProbeAt = now;
    this.#step(evidence, now);
    return withinMs;
  }

  /** What rule 1 says now. */
  liveness(): Liveness {
    const evidence = this.#connection.evidence();
    if (evidence === undefined) return 'unknown';
    return isDead(evidence, this.#firstProbeAt, this.#clock.now(), this.#inDoubt) ? 'dead' : this.#liveness;
  }

  /** Whether the client's kernel has sent anything since `instant`: an answer to a probe, or any other segment. */
  answeredSince(instant: Instant): boolean {
    return this.#answeredAt !== undefined && this.#answeredAt >= instant;
  }

  stop(): void {
    this.#timer?.cancel();
    if (this.#timer !== undefined) this.#connection.stopProbing();
    this.#timer = undefined;
    // Probes from before do not count after a restart.
    this.#firstProbeAt = undefined;
  }

  readonly #look = (): void => {
    const reading = this.#read();
    if (reading === undefined) {
      this.#liveness = 'unknown';
      this.stop();
    } else {
      this.#step(reading.evidence, reading.now);
    }
    this.#onUpdate();
  };

  /** Reads the evidence and its time. A pause between the two would make an old segment look new, so then it reads again. */
  #read(): { readonly evidence: KernelEvidence; readonly now: Instant } | undefined {
    for (;;) {
      const now = this.#clock.now();
      const evidence = this.#connection.evidence();
      if (evidence === undefined) return undefined;
      if (this.#clock.now() - now < JIFFY_MS / 2) return { evidence, now };
    }
  }

  #step(evidence: KernelEvidence, now: Instant): void {
    this.#noteAnswer(evidence, now);
    this.#speedUpIfOverdue(evidence, now);
    if (now >= this.#slowUntil) {
      this.stop();
      return;
    }
    if (now >= this.#nextProbeAt) this.#probe(evidence, now);
    const outstanding = this.#firstProbeAt !== undefined;
    const wakeAt = outstanding ? Math.min(now + LOOK_EVERY_MS, this.#nextProbeAt) : this.#nextProbeAt;
    this.#timer = this.#clock.after(wakeAt - now, this.#look);
  }

  #noteAnswer(evidence: KernelEvidence, now: Instant): void {
    const received = receivedAt(evidence, now);
    if (this.#receivedBefore === undefined || received - this.#receivedBefore <= JIFFY_MS) return;
    this.#receivedBefore = received;
    this.#firstProbeAt = undefined;
    this.#answeredAt = now;
    this.#liveness = 'answers';
    this.#inDoubt = true;
    // There is an answer, so slow down.
    if (now < this.#eagerUntil) {
      this.#eagerUntil = now;
      this.#slowUntil = plus(now, SLOW_FOR_MS);
      this.#nextProbeAt = plus(now, SLOW_PROBE_EVERY_MS);
    }
  }

  /** After a slow probe without an answer, probe eagerly until a verdict is possible. */
  #speedUpIfOverdue(evidence: KernelEvidence, now: Instant): void {
    if (now < this.#eagerUntil || this.#firstProbeAt === undefined) return;
    if (now - this.#firstProbeAt < answerWaitMs(evidence, false)) return;
    const verdictAt = plus(this.#firstProbeAt, answerWaitMs(evidence, this.#inDoubt) + LOOK_EVERY_MS);
    if (now >= verdictAt) return;
    this.#eagerUntil = verdictAt;
    this.#slowUntil = plus(now, Math.max(this.#slowUntil - now, verdictAt - now));
    this.#nextProbeAt = now;
  }

  #probe(evidence: KernelEvidence, now: Instant): void {
    this.#connection.probe();
    this.#nextProbeAt = plus(now, now < this.#eagerUntil ? PROBE_EVERY_MS : SLOW_PROBE_EVERY_MS);
    // Linux sends the probe only after one second of quiet, so that is when the first unanswered probe leaves.
    this.#firstProbeAt ??= plus(now, Math.max(0, QUIET_BEFORE_PROBE_MS - evidence.receivedAgoMs));
  }
}
