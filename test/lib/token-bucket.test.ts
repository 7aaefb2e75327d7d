import { describe, expect, test } from 'vitest';
import type { Instant } from '../../src/lib/clock.ts';
import { TokenBucket, TokenBuckets } from '../../src/lib/token-bucket.ts';

const at = (ms: number): Instant => ms as Instant;
const RATE = { perSecond: 10, burst: 3 };

describe('TokenBucket', () => {
  test('gives its burst at once, then one token each tenth of a second, and never more than its burst', () => {
    const bucket = new TokenBucket(RATE, at(0));
    expect([0, 0, 0, 0].map((ms) => bucket.take(RATE, at(ms)))).toEqual([true, true, true, false]);
    expect(bucket.nextInMs(RATE, at(0))).toBeCloseTo(100);
    expect(bucket.take(RATE, at(99))).toBe(false);
    expect(bucket.take(RATE, at(100))).toBe(true);
    expect(Array.from({ length: 5 }, () => bucket.take(RATE, at(60_000)))).toEqual([true, true, true, false, false]);
  });

  test('gives nothing if the clock steps back', () => {
    const bucket = new TokenBucket({ perSecond: 1, burst: 1 }, at(1000));
    bucket.take(RATE, at(1000));
    expect(bucket.take({ perSecond: 1, burst: 1 }, at(500))).toBe(false);
  });
});

describe('TokenBuckets', () => {
  test('each client has its own bucket, and of many buckets only those in use are kept', () => {
    const buckets = new TokenBuckets();
    for (let i = 0; i < 30_000; i++) expect(buckets.take(`who ${i}`, RATE, at(i))).toBe(true);
    expect(buckets.size).toBeLessThanOrEqual(10_000);
    for (let i = 0; i < 3; i++) buckets.take('often', RATE, at(30_000));
    expect(buckets.take('often', RATE, at(30_000))).toBe(false);
  });
});
