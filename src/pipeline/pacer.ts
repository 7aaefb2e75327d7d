import type { Clock, Timer } from '../lib/clock.ts';
import { type Rate, TokenBucket } from '../lib/token-bucket.ts';

/** A client gives up on its control connection after ten seconds, and needs some of that time after the wait. */
export const LONGEST_WAIT_MS = 4000;

interface Waiting {
  readonly go: () => void;
  readonly giveUp: () => void;
  readonly deadline: Timer;
}

/**
 * Forwards new control streams to Headscale one after the other, no faster than the configured rate. When Headscale comes back,
 * all nodes come back at once. A single stream does not wait.
 */
export class Pacer {
  readonly #clock: Clock;
  readonly #rate: () => Rate | undefined;
  #bucket: TokenBucket | undefined;
  /** In order of arrival. */
  readonly #waiting = new Map<object, Waiting>();
  #next: Timer | undefined;
  #paced = 0;

  /** @param rate read each time. Undefined: no stream waits. */
  constructor(clock: Clock, rate: () => Rate | undefined) {
    this.#clock = clock;
    this.#rate = rate;
  }

  /** How many streams wait now. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** How many streams have had to wait since the start. */
  get paced(): number {
    return this.#paced;
  }

  /** Calls exactly one of the two: `go` when it is the stream's turn, or `giveUp` after four seconds. */
  enter(who: object, go: () => void, giveUp: () => void): void {
    const rate = this.#rate();
    if (rate === undefined || (this.#waiting.size === 0 && this.#take(rate))) {
      go();
      return;
    }
    this.#paced += 1;
    const deadline = this.#clock.after(LONGEST_WAIT_MS, () => {
      this.leave(who);
      giveUp();
    });
    this.#waiting.set(who, { go, giveUp, deadline });
    this.#schedule();
  }

  /** Removes a stream from the queue, without calling `go` or `giveUp`. */
  leave(who: object): void {
    this.#waiting.get(who)?.deadline.cancel();
    this.#waiting.delete(who);
    if (this.#waiting.size > 0) return;
    this.#next?.cancel();
    this.#next = undefined;
  }

  #schedule(): void {
    if (this.#next !== undefined) return;
    const rate = this.#rate();
    const inMs = rate === undefined ? 0 : (this.#bucket?.nextInMs(rate, this.#clock.now()) ?? 0);
    this.#next = this.#clock.after(inMs, () => {
      this.#next = undefined;
      this.#serve();
    });
  }

  #serve(): void {
    for (const [who, { go }] of [...this.#waiting]) {
      const rate = this.#rate();
      if (rate !== undefined && !this.#take(rate)) break;
      this.leave(who);
      go();
    }
    if (this.#waiting.size > 0) this.#schedule();
  }

  #take(rate: Rate): boolean {
    const now = this.#clock.now();
    this.#bucket ??= new TokenBucket(rate, now);
    return this.#bucket.take(rate, now);
  }
}
