import type { Clock, Instant, Timer } from '../lib/clock.ts';
import type { LivenessCheck } from '../liveness/liveness-check.ts';
import type { Stream } from '../streams/stream.ts';
import { judge, type Question, type Verdict } from './judge.ts';

/** What of a contest's question is neither of its two streams nor its check's. */
export type ContestTerms = Pick<Question, 'silentAfterMs' | 'restsUntil'>;

/**
 * One contest: an old stream against a newer one of its node. It lasts until one of the two ends. It decides
 * nothing itself: it puts the question to `judge` when it opens, when the check has news, when the newcomer's
 * first record has come, when settings have changed, and at the moment the last verdict named.
 */
export class Contest {
  readonly old: Stream;
  readonly newcomer: Stream;
  readonly openedAt: Instant;
  readonly #clock: Clock;
  readonly #check: LivenessCheck;
  readonly #terms: () => ContestTerms;
  readonly #onSever: (because: 'dead' | 'silent') => void;
  readonly #onWait: () => void;
  #timer: Timer | undefined;
  #verdict: Verdict | undefined;
  #ended = false;

  constructor(parts: {
    readonly clock: Clock;
    readonly old: Stream;
    readonly newcomer: Stream;
    readonly check: LivenessCheck;
    /** Asked anew for each judgement: a reload may have changed them. */
    readonly terms: () => ContestTerms;
    readonly onSever: (because: 'dead' | 'silent') => void;
    /** Both stay for now. */
    readonly onWait: () => void;
  }) {
    this.old = parts.old;
    this.newcomer = parts.newcomer;
    this.openedAt = parts.clock.now();
    this.#clock = parts.clock;
    this.#check = parts.check;
    this.#terms = parts.terms;
    this.#onSever = parts.onSever;
    this.#onWait = parts.onWait;
  }

  /** The last verdict, for those who ask why. */
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

  /** Ends it; no timer of its outlives this. @returns how long it lasted in milliseconds, undefined if it had ended before. */
  end(): number | undefined {
    if (this.#ended) return undefined;
    this.#ended = true;
    this.#timer?.cancel();
    return this.#clock.now() - this.openedAt;
  }
}
