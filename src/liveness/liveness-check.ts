import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import type { KernelEvidence } from '../streams/stream.ts';
import { answerWaitMs, isDead, type Liveness, QUIET_BEFORE_PROBE_MS, receivedAt, verdictWithinMs } from './evidence.ts';

/** What an check may do to its stream's connection. */
export interface CheckedConnection {
  /** Fresh evidence; undefined where there is none (not Linux, behind a proxy, connection gone). */
  evidence(): KernelEvidence | undefined;
  /** Asks the client's kernel for a sign of life. Linux waits until the line has been quiet for a second. */
  probe(): void;
  stopProbing(): void;
}

const PROBE_EVERY_MS = 150;
const CALM_PROBE_EVERY_MS = 1000;
const CALM_FOR_MS = 10_000;
const LOOK_EVERY_MS = 50;
/** The kernel counts in jiffies (up to 10 ms): a smaller step of "last received" is no news. */
const JIFFY_MS = 10;

/**
 * Asks the kernel of one old stream's client whether anybody is there: a probe now and every 150 ms
 * until it answers or the hold ends (in doubt, until a verdict can be had), then one a second for ten seconds.
 * Looks every 50 ms while one is out.
 */
export class LivenessCheck {
  readonly #clock: Clock;
  readonly #witness: CheckedConnection;
  readonly #onUpdate: () => void;
  #timer: Timer | undefined;
  #eagerUntil: Instant;
  #calmUntil: Instant;
  #nextProbeAt: Instant;
  #firstProbeAt: Instant | undefined;
  #receivedBefore: Instant | undefined;
  #answeredAt: Instant | undefined;
  #liveness: Liveness = 'unknown';
  /** There is a reason to think that the client is there: it answered a moment ago, or its address is in use. */
  #inDoubt = false;

  /** @param onUpdate called after every look; it may stop the check. */
  constructor(clock: Clock, witness: CheckedConnection, onUpdate: () => void) {
    const now = clock.now();
    this.#clock = clock;
    this.#witness = witness;
    this.#onUpdate = onUpdate;
    this.#eagerUntil = now;
    this.#calmUntil = now;
    this.#nextProbeAt = now;
  }

  /**
   * Asks (again), eagerly for `eagerMs` and for as long as a verdict takes.
   *
   * @returns in how many milliseconds there is an answer or a verdict; undefined where there is no evidence to be had.
   */
  start(eagerMs: number, inDoubt: boolean): number | undefined {
    const reading = this.#read();
    if (reading === undefined) return undefined;
    const { evidence, now } = reading;
    this.#inDoubt = inDoubt || (this.#inDoubt && this.#timer !== undefined);
    this.#timer?.cancel();
    if (this.#firstProbeAt === undefined) this.#receivedBefore = receivedAt(evidence, now);
    // A look may come a little late, and its timer too.
    const withinMs = verdictWithinMs(evidence, this.#inDoubt) + 2 * LOOK_EVERY_MS;
    this.#eagerUntil = plus(now, inDoubt ? Math.max(eagerMs, withinMs) : eagerMs);
    this.#calmUntil = plus(this.#eagerUntil, CALM_FOR_MS);
    this.#nextProbeAt = now;
    this.#step(evidence, now);
    return withinMs;
  }

  /** Rule 1's view, from evidence read now. */
  liveness(): Liveness {
    const evidence = this.#witness.evidence();
    if (evidence === undefined) return 'unknown';
    return isDead(evidence, this.#firstProbeAt, this.#clock.now(), this.#inDoubt) ? 'dead' : this.#liveness;
  }

  /** Whether the client's kernel has been heard since `instant`, in answer to a probe sent meanwhile or of its own accord. */
  answeredSince(instant: Instant): boolean {
    return this.#answeredAt !== undefined && this.#answeredAt >= instant;
  }

  stop(): void {
    this.#timer?.cancel();
    if (this.#timer !== undefined) this.#witness.stopProbing();
    this.#timer = undefined;
    // Probes of an earlier check are no evidence in a later one.
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

  /** Evidence and the moment it is of. A pause between the two would make an old segment look new, so it reads again. */
  #read(): { readonly evidence: KernelEvidence; readonly now: Instant } | undefined {
    for (;;) {
      const now = this.#clock.now();
      const evidence = this.#witness.evidence();
      if (evidence === undefined) return undefined;
      if (this.#clock.now() - now < JIFFY_MS / 2) return { evidence, now };
    }
  }

  #step(evidence: KernelEvidence, now: Instant): void {
    this.#noteAnswer(evidence, now);
    this.#urgeIfOverdue(evidence, now);
    if (now >= this.#calmUntil) {
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
    // Answered: calm from here on.
    if (now < this.#eagerUntil) {
      this.#eagerUntil = now;
      this.#calmUntil = plus(now, CALM_FOR_MS);
      this.#nextProbeAt = plus(now, CALM_PROBE_EVERY_MS);
    }
  }

  /** A calm probe that went unanswered is followed up eagerly, until there can be a verdict. */
  #urgeIfOverdue(evidence: KernelEvidence, now: Instant): void {
    if (now < this.#eagerUntil || this.#firstProbeAt === undefined) return;
    if (now - this.#firstProbeAt < answerWaitMs(evidence, false)) return;
    const verdictAt = plus(this.#firstProbeAt, answerWaitMs(evidence, this.#inDoubt) + LOOK_EVERY_MS);
    if (now >= verdictAt) return;
    this.#eagerUntil = verdictAt;
    this.#calmUntil = plus(now, Math.max(this.#calmUntil - now, verdictAt - now));
    this.#nextProbeAt = now;
  }

  #probe(evidence: KernelEvidence, now: Instant): void {
    this.#witness.probe();
    this.#nextProbeAt = plus(now, now < this.#eagerUntil ? PROBE_EVERY_MS : CALM_PROBE_EVERY_MS);
    // When the first of the unanswered probes really leaves: not before the line has been quiet for a second.
    this.#firstProbeAt ??= plus(now, Math.max(0, QUIET_BEFORE_PROBE_MS - evidence.receivedAgoMs));
  }
}
