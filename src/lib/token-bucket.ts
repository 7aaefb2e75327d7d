import type { Instant } from './clock.ts';

/** So many a second in the long run, and so many at once. */
export interface Rate {
  readonly perSecond: number;
  readonly burst: number;
}

/** A bucket that fills with the time, and from which each takes one. */
export class TokenBucket {
  #tokens: number;
  #at: Instant;

  /** It begins full. */
  constructor({ burst }: Rate, now: Instant) {
    this.#tokens = burst;
    this.#at = now;
  }

  /** @returns whether there was one to take. */
  take(rate: Rate, now: Instant): boolean {
    this.#fill(rate, now);
    // Sums of fractions are not exact, and who waited for `nextInMs` is to have one.
    if (this.#tokens < 1 - 1e-6) return false;
    this.#tokens = Math.max(0, this.#tokens - 1);
    return true;
  }

  refill({ burst }: Rate): void {
    this.#tokens = burst;
  }

  /** How long until there is one, in milliseconds. */
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

/** So many buckets are kept; with more, those that are full again go first, and then all begin anew. */
const MOST_BUCKETS = 10_000;

/** A bucket for each of many, of whom only those that have taken lately are remembered. */
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
