import type { Clock, Instant, Timer } from '../lib/clock.ts';
import type { LivenessCheck } from '../liveness/liveness-check.ts';
import type { LossReason, Stream } from '../streams/stream.ts';
import { judge, type Question, type Verdict } from './judge.ts';

/** The part of the question that comes from the configuration and the guard. */
export type ContestTerms = Pick<Question, 'silentAfterMs' | 'suspendedUntil'>;

/**
 * One contest: an old stream against a newer one of the same node. It lasts until one of the two ends. `judge` decides. The
 * contest calls it when it opens, when the liveness check has an update, when the newcomer's first record arrives, when
 * settings change, and at the time that the last verdict gave.
 */
export class Contest {
  readonly old: Stream;
  readonly newcomer: Stream;
  readonly openedAt: Instant;
  readonly #clock: Clock;
  readonly #check: LivenessCheck;
  readonly #terms: () => ContestTerms;
  readonly #onSever: (because: LossReason) => void;
  readonly #onWait: () => void;
  #timer: Timer | undefined;
  #verdict: Verdict | undefined;
  #ended = false;

  constructor(options: {
    readonly clock: Clock;
    readonly openedAt: Instant;
    readonly old: Stream;
    readonly newcomer: Stream;
    readonly check: LivenessCheck;
    /** Read again for each judgement, because a reload may have changed them. */
    readonly terms: () => ContestTerms;
    readonly onSever: (because: LossReason) => void;
    /** Called when both streams stay for now. */
    readonly onWait: () => void;
  }) {
    this.old = options.old;
    this.newcomer = options.newcomer;
    this.openedAt = options.openedAt;
    this.#clock = options.clock;
    this.#check = options.check;
    this.#terms = options.terms;
    this.#onSever = options.onSever;
    this.#onWait = options.onWait;
  }

  /** The last verdict, for the admin API. */
  get verdict(): Verdict | undefined {
    return this.#verdict;
  }

  judge(): void {
    if (this.#ended) return;
    this.#timer?.cancel();
    const now = this.#clock.now();
    this.#verdict = judge({
      now,
      kernel: this.#check.liveness(),
      oldHeardAt: this.old.heardAt,
      ...this.#terms(),
      newcomerFirstRecordAt: this.newcomer.firstRecordAt,
    });
    if (this.#verdict.kind === 'sever') {
      this.#onSever(this.#verdict.because);
      return;
    }
    const { until } = this.#verdict;
    if (until !== undefined) this.#timer = this.#clock.after(until - now, () => this.judge());
    this.#onWait();
  }

  /** Ends the contest and cancels its timer. @returns how long it lasted, in milliseconds; undefined if it had already ended. */
  end(): number | undefined {
    if (this.#ended) return undefined;
    this.#ended = true;
    this.#timer?.cancel();
    return this.#clock.now() - this.openedAt;
  }
}
