import type { Clock, Instant, Timer } from '../clock.ts';
import type { Stream } from '../streams/stream.ts';
import type { Inquiry } from './inquiry.ts';
import { judge, type Verdict } from './judge.ts';

/**
 * One contest: an old stream against a newer one of its node. It lasts until one of the two ends. It decides
 * nothing itself: it puts the question to `judge` when it opens, when the inquiry has news, when the newcomer's
 * first record has come, and at the moment the last verdict named.
 */
export class Contest {
  readonly old: Stream;
  readonly newcomer: Stream;
  readonly openedAt: Instant;
  readonly #clock: Clock;
  readonly #inquiry: Inquiry;
  readonly #silentAfterMs: number;
  readonly #onSever: (because: 'dead' | 'silent') => void;
  #timer: Timer | undefined;
  #verdict: Verdict | undefined;
  #ended = false;

  constructor(parts: {
    readonly clock: Clock;
    readonly old: Stream;
    readonly newcomer: Stream;
    readonly inquiry: Inquiry;
    readonly silentAfterMs: number;
    readonly onSever: (because: 'dead' | 'silent') => void;
  }) {
    this.old = parts.old;
    this.newcomer = parts.newcomer;
    this.openedAt = parts.clock.now();
    this.#clock = parts.clock;
    this.#inquiry = parts.inquiry;
    this.#silentAfterMs = parts.silentAfterMs;
    this.#onSever = parts.onSever;
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
      kernel: this.#inquiry.says(),
      oldHeardAt: this.old.heardAt,
      silentAfterMs: this.#silentAfterMs,
      newcomerFirstRecordAt: this.newcomer.firstRecordAt,
    });
    if (this.#verdict.kind === 'sever') {
      this.#onSever(this.#verdict.because);
    } else if (this.#verdict.until !== undefined) {
      this.#timer = this.#clock.after(this.#verdict.until - now, () => this.judge());
    }
  }

  /** Ends it; no timer of its outlives this. @returns how long it lasted in milliseconds, undefined if it had ended before. */
  end(): number | undefined {
    if (this.#ended) return undefined;
    this.#ended = true;
    this.#timer?.cancel();
    return this.#clock.now() - this.openedAt;
  }
}
