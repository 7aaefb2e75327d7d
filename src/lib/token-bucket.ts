import type { Instant } from './clock.ts';

/** How many tokens a bucket gets each second, and how many it holds at most. */
export interface Rate {
  readonly perSecond: number;
  readonly burst: number;
}

/** Limits a rate: whoever wants to act takes a token, and new tokens arrive at a steady rate. */
export class TokenBucket {
  #tokens: number;
  #at: Instant;

  /** The bucket starts full. */
  constructor({ burst }: Rate, now: Instant) {
    this.#tokens = burst;
    this.#at = now;
  }

  /** Takes a token. @returns false if the bucket is empty. */
  take(rate: Rate, now: Instant): boolean {
    this.#fill(rate, now);
    // Floating-point sums are not exact, and after a wait of `nextInMs` there must be a token.
    if (this.#tokens < 1 - 1e-6) return false;
    this.#tokens = Math.max(0, this.#tokens - 1);
    return true;
  }

  refill({ burst }: Rate): void {
    this.#tokens = burst;
  }

  /** Time until the next token, in milliseconds; 0 if there is one now. */
  nextInMs(rate: Rate, now: Instant): number {
    this.#fill(rate, now);
    return this.#tokens >= 1 ? 0 : ((1 - this.#tokens) / rate.perSecond) * 1000;
  }

  isFull(rate: Rate, now: Instant): boolean {
    this.#fill(rate, now);
    return this.#tokens >= rate.burst;
  }

  #fill({ perSecond, burst }: Rate, now: Instant): void {
    this.#tokens = Math.min(burst, this.#tokens + (Math.max(0, now - this.#at) / 1000) * perSecond);
    this.#at = now;
  }
}

/** With more buckets than this, the full ones are dropped. If that is not enough, all are dropped and start full again. */
const MOST_BUCKETS = 10_000;

/** One bucket for each client. Memory is bounded: a full bucket can be dropped, because a new one is full too. */
export class TokenBuckets {
  readonly #buckets = new Map<string, TokenBucket>();

  take(who: string, rate: Rate, now: Instant): boolean {
    let bucket = this.#buckets.get(who);
    if (bucket === undefined) {
      if (this.#buckets.size >= MOST_BUCKETS) this.#forget(rate, now);
      bucket = new TokenBucket(rate, now);
      this.#buckets.set(who, bucket);
    }
    return bucket.take(rate, now);
  }

  get size(): number {
    return this.#buckets.size;
  }

  #forget(rate: Rate, now: Instant): void {
    for (const [who, bucket] of this.#buckets) if (bucket.isFull(rate, now)) this.#buckets.delete(who);
    if (this.#buckets.size >= MOST_BUCKETS) this.#buckets.clear();
  }
}
