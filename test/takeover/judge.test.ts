import { describe, expect, test } from 'vitest';
import type { Instant } from '../../src/lib/clock.ts';
import { judge, type Verdict } from '../../src/takeover/judge.ts';

const NOW = 100_000 as Instant;
const THRESHOLD = 30_000;
const ago = (ms: number): Instant => (NOW - ms) as Instant;
const inMs = (ms: number): Instant => (NOW + ms) as Instant;

const dead: Verdict = { kind: 'sever', because: 'dead' };
const silent: Verdict = { kind: 'sever', because: 'silent' };
const waitForSilence = (ms: number): Verdict => ({ kind: 'wait', waitingFor: 'silence', until: inMs(ms) });
const waitForSettling = (until: Instant | undefined): Verdict => ({ kind: 'wait', waitingFor: 'settling', until });

const SETTLED = ago(1000);
const SETTLING = ago(999);

describe('judge', () => {
  // The table at the end of the rule, row by row; each row with the newcomer in each of its states.
  test.each([
    // old stream's kernel, heard ms ago, newcomer's first record, verdict
    ['dead', 0, undefined, dead],
    ['dead', 29_999, SETTLING, dead],
    ['dead', 30_000, SETTLED, dead],
    ['answers', 30_000, SETTLED, silent],
    ['unknown', 30_000, SETTLED, silent],
    ['answers', 3_600_000, SETTLED, silent],
    ['answers', 30_000, undefined, waitForSettling(undefined)],
    ['unknown', 30_000, undefined, waitForSettling(undefined)],
    ['answers', 30_000, SETTLING, waitForSettling(inMs(1))],
    ['unknown', 90_000, SETTLING, waitForSettling(inMs(1))],
    ['answers', 29_999, SETTLED, waitForSilence(1)],
    ['unknown', 29_999, SETTLED, waitForSilence(1)],
    ['answers', 0, undefined, waitForSilence(30_000)],
    ['unknown', 0, SETTLING, waitForSilence(30_000)],
  ] as const)('kernel %s, heard %d ms ago, first record at %s', (kernel, heardAgo, newcomerFirstRecordAt, verdict) => {
    const question = { now: NOW, kernel, oldHeardAt: ago(heardAgo), silentAfterMs: THRESHOLD, newcomerFirstRecordAt };
    expect(judge({ ...question, suspendedUntil: undefined })).toEqual(verdict);
    // A rest that is over is none.
    expect(judge({ ...question, suspendedUntil: NOW })).toEqual(verdict);
  });

  test("uses the node's own threshold", () => {
    const newcomer = { newcomerFirstRecordAt: SETTLED, suspendedUntil: undefined };
    const question = { now: NOW, kernel: 'answers', oldHeardAt: ago(5000), ...newcomer } as const;
    expect(judge({ ...question, silentAfterMs: 5000 })).toEqual(silent);
    expect(judge({ ...question, silentAfterMs: 5001 })).toEqual(waitForSilence(1));
  });

  test('while the guard suspends rule 2, no stream is silent, but rule 1 applies', () => {
    const resting = {
      now: NOW,
      silentAfterMs: THRESHOLD,
      suspendedUntil: inMs(600_000),
      newcomerFirstRecordAt: SETTLED,
    };
    const waitForGuard: Verdict = { kind: 'wait', waitingFor: 'guard', until: inMs(600_000) };
    expect(judge({ ...resting, kernel: 'answers', oldHeardAt: ago(30_000) })).toEqual(waitForGuard);
    expect(judge({ ...resting, kernel: 'unknown', oldHeardAt: ago(3_600_000) })).toEqual(waitForGuard);
    expect(judge({ ...resting, kernel: 'answers', oldHeardAt: ago(29_999) })).toEqual(waitForSilence(1));
    expect(judge({ ...resting, kernel: 'dead', oldHeardAt: ago(0) })).toEqual(dead);
  });
});
