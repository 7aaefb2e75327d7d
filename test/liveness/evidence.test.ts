import { describe, expect, test } from 'vitest';
import type { Instant } from '../../src/lib/clock.ts';
import {
  answerWaitMs,
  isDead,
  isDeadBehindProxy,
  isGoneBehindProxy,
  liveliest,
  verdictBehindProxyWithinMs,
} from '../../src/liveness/evidence.ts';
import type { KernelEvidence } from '../../src/streams/stream.ts';

const NOW = 50_000 as Instant;
const ago = (ms: number): Instant => (NOW - ms) as Instant;
const quiet: KernelEvidence = {
  unackedSegments: 0,
  retransmits: 0,
  unansweredProbes: 0,
  unsentBytes: 0,
  ackedBytes: 0,
  receivedAgoMs: 20_000,
  rttMs: 1,
  rttvarMs: 0.5,
};

describe('isDead', () => {
  test.each([
    ['no probe was sent', quiet, undefined, false],
    ['three probes, 450 ms', { ...quiet, unansweredProbes: 3 }, ago(450), true],
    ['three probes, 449 ms', { ...quiet, unansweredProbes: 3 }, ago(449), false],
    ['two probes, after any time', { ...quiet, unansweredProbes: 2 }, ago(60_000), false],
    ['three unanswered probes that we did not send', { ...quiet, unansweredProbes: 3 }, undefined, false],
    [
      'three probes, slow line, its time not up',
      { ...quiet, unansweredProbes: 9, rttMs: 300, rttvarMs: 50 },
      ago(1499),
      false,
    ],
    [
      'three probes, slow line, its time up',
      { ...quiet, unansweredProbes: 9, rttMs: 300, rttvarMs: 50 },
      ago(1500),
      true,
    ],
    ['two retransmissions', { ...quiet, unackedSegments: 1, retransmits: 2 }, undefined, true],
    ['one retransmission', { ...quiet, unackedSegments: 1, retransmits: 1 }, undefined, false],
    ['retransmissions of data that was acknowledged later', { ...quiet, retransmits: 2 }, undefined, false],
  ])('%s', (_criterion, evidence, firstProbeAt, expected) => {
    expect(isDead(evidence, firstProbeAt, NOW, false)).toBe(expected);
  });

  test.each([
    ['seven probes, 2850 ms', { ...quiet, unansweredProbes: 7 }, ago(2850), true],
    ['seven probes, 2849 ms', { ...quiet, unansweredProbes: 7 }, ago(2849), false],
    ['six probes, after any time', { ...quiet, unansweredProbes: 6 }, ago(60_000), false],
    ['five retransmissions', { ...quiet, unackedSegments: 1, retransmits: 5 }, undefined, true],
    ['four retransmissions', { ...quiet, unackedSegments: 1, retransmits: 4 }, undefined, false],
  ])('in doubt: %s', (_criterion, evidence, firstProbeAt, expected) => {
    expect(isDead(evidence, firstProbeAt, NOW, true)).toBe(expected);
  });
});

describe('answerWaitMs', () => {
  test('is 450 ms on a fast connection, and three times rtt + 4 rttvar on a slow one', () => {
    expect(answerWaitMs({ ...quiet, rttMs: 20, rttvarMs: 10 }, false)).toBe(450);
    expect(answerWaitMs({ ...quiet, rttMs: 600, rttvarMs: 100 }, false)).toBe(3000);
  });

  test('is longer in doubt: four more chances for an answer, 600 ms apart', () => {
    expect(answerWaitMs({ ...quiet, rttMs: 20, rttvarMs: 10 }, true)).toBe(2850);
    expect(answerWaitMs({ ...quiet, rttMs: 600, rttvarMs: 100 }, true)).toBe(5400);
  });
});

describe('behind a proxy', () => {
  const at = (changes: Partial<KernelEvidence>): KernelEvidence => ({ ...quiet, ...changes });
  const probed = (unansweredProbes: number, receivedAgoMs: number, nextProbeInMs: number): KernelEvidence =>
    at({ unansweredProbes, receivedAgoMs, nextProbeInMs });

  test('a client that has left is dead', () => {
    expect(isDeadBehindProxy(at({ ended: true }), true)).toBe(true);
    expect(verdictBehindProxyWithinMs(at({ ended: true }), true)).toBe(0);
  });

  test('data that two retransmissions could not deliver, in doubt five', () => {
    const dead = (retransmits: number, inDoubt: boolean) =>
      isDeadBehindProxy(at({ unackedSegments: 1, retransmits }), inDoubt);
    expect([dead(1, false), dead(2, false), dead(4, true), dead(5, true)]).toEqual([false, true, false, true]);
  });

  test("Go's probes every 15 s: dead at the second without an answer, in doubt at the third, once that one had time to answer", () => {
    expect(isDeadBehindProxy(probed(1, 29_900, 100), false)).toBe(false);
    expect(isDeadBehindProxy(probed(2, 30_100, 14_900), false)).toBe(false);
    expect(isDeadBehindProxy(probed(2, 30_600, 14_400), false)).toBe(true);
    expect(isDeadBehindProxy(probed(2, 40_000, 5000), true)).toBe(false);
    expect(isDeadBehindProxy(probed(3, 46_000, 14_000), true)).toBe(true);
  });

  test('a healthy idle client, however long it says nothing, is not dead', () => {
    expect(isDeadBehindProxy(at({ receivedAgoMs: 3_600_000 }), false)).toBe(false);
    expect(isDeadBehindProxy(at({ unackedSegments: 3, receivedAgoMs: 3_600_000 }), false)).toBe(false);
  });

  test('a newcomer waits only while something is under way: a retransmission, or the deciding probe if it comes soon', () => {
    expect(verdictBehindProxyWithinMs(at({}), false)).toBeUndefined();
    expect(verdictBehindProxyWithinMs(at({ unackedSegments: 1 }), false)).toBeUndefined();
    expect(verdictBehindProxyWithinMs(at({ unackedSegments: 1, retransmits: 1 }), false)).toBeGreaterThan(0);
    expect(verdictBehindProxyWithinMs(probed(1, 27_500, 2500), false)).toBe(2950);
    expect(verdictBehindProxyWithinMs(probed(1, 27_400, 2600), false)).toBeUndefined();
    expect(verdictBehindProxyWithinMs(probed(2, 30_100, 14_900), false)).toBe(450);
    expect(verdictBehindProxyWithinMs(probed(2, 40_000, 5000), false)).toBe(0);
  });

  test('gone: unacknowledged for gone-after, or quiet for it with probes unanswered, or left a moment ago', () => {
    const gone = (evidence: Partial<KernelEvidence>, unackedForMs = 0, endedForMs?: number) =>
      isGoneBehindProxy({ evidence: at(evidence), unackedForMs, endedForMs }, 30_000);
    expect(gone({ receivedAgoMs: 3_600_000 })).toBe(false);
    expect(gone({ receivedAgoMs: 40_000 }, 29_999)).toBe(false);
    expect(gone({ receivedAgoMs: 40_000 }, 30_000)).toBe(true);
    // Its kernel still sends something: it is there.
    expect(gone({ receivedAgoMs: 2000 }, 30_000)).toBe(false);
    expect(gone({ receivedAgoMs: 40_000, unansweredProbes: 1 })).toBe(false);
    expect(gone({ receivedAgoMs: 29_999, unansweredProbes: 2 })).toBe(false);
    expect(gone({ receivedAgoMs: 30_000, unansweredProbes: 2 })).toBe(true);
    // Headscale sent something while the proxy was probing.
    const interrupted = { receivedAgoMs: 30_000, unansweredProbes: 1, unackedSegments: 1 };
    expect([gone({ ...interrupted, retransmits: 1 }), gone({ ...interrupted, retransmits: 2 })]).toEqual([false, true]);
    // Without a probe before it, the outage may have begun a moment ago.
    expect(gone({ ...interrupted, unansweredProbes: 0, retransmits: 6 }, 7000)).toBe(false);
    expect([gone({ ended: true }, 0, 0), gone({ ended: true }, 0, 4000)]).toEqual([false, true]);
  });

  test('of several connections, the one that looks most alive is shown', () => {
    const [old, recent, ended] = [at({ receivedAgoMs: 9000 }), at({ receivedAgoMs: 10 }), at({ ended: true })];
    expect(liveliest([ended, old, recent])).toBe(recent);
    expect(liveliest([ended])).toBe(ended);
    expect(liveliest([])).toBeUndefined();
  });
});
