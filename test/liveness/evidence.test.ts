import { describe, expect, test } from 'vitest';
import type { Instant } from '../../src/lib/clock.ts';
import { answerWaitMs, isDead } from '../../src/liveness/evidence.ts';
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
