import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isStreamSilent } from '../../src/headscale/silence.ts';
import { Patrol } from '../../src/liveness/patrol.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { type KernelEvidence, type Stream, setState } from '../../src/streams/stream.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { ALICE, Bench } from '../takeover/takeover-bench.ts';

const QUIET: KernelEvidence = {
  ...{ unackedSegments: 0, unsentBytes: 0, ackedBytes: 0, retransmits: 0, unansweredProbes: 0 },
  ...{ receivedAgoMs: 20_000, rttMs: 1, rttvarMs: 1 },
};

let clock: FakeClock;
let events: WatchdogEvent[];
let severed: Stream[];
let patrol: Patrol;
let stream: Stream;
let evidence: KernelEvidence | undefined;
let policy: { goneAfterMs: number; observeOnly: boolean };
let severs: boolean;
let tended: number;
let counted: string[];

beforeEach(() => {
  clock = new FakeClock();
  events = [];
  severed = [];
  evidence = QUIET;
  policy = { goneAfterMs: 30_000, observeOnly: false };
  severs = false;
  tended = 0;
  counted = [];
  stream = new Bench().opens(ALICE).stream;
  stream.spokenAt = clock.now();
  patrol = new Patrol({
    clock,
    emit: (event) => events.push(event),
    streams: () => [stream],
    refresh: () => {
      tended += 1;
    },
    evidenceOf: () => evidence,
    policyOf: () => policy,
    isSilent: (each) => isStreamSilent(each, clock.now()),
    silent: (number, of) => void counted.push(`${number} of ${of}`),
    seversUpstreamSilent: () => severs,
    sever: (each) => severed.push(each),
  });
});
afterEach(() => {
  patrol.close();
  expect(clock.timers).toBe(0);
});

const told = (kind: string) => events.filter((event) => event.kind === kind);
const unacked = (receivedAgoMs: number): KernelEvidence => ({ ...QUIET, unackedSegments: 1, receivedAgoMs });

describe('Patrol, upstream silence', () => {
  test('a control stream that heard nothing from Headscale for 125 s is counted, and not severed', () => {
    clock.advance(124_999);
    expect(isStreamSilent(stream, clock.now())).toBe(false);
    expect(new Set(counted)).toEqual(new Set(['0 of 1']));
    clock.advance(1);
    expect(isStreamSilent(stream, clock.now())).toBe(true);
    clock.advance(600_000);
    expect(counted.at(-1)).toBe('1 of 1');
    expect(severed).toEqual([]);
    stream.spokenAt = clock.now();
    clock.advance(4000);
    expect(counted.at(-1)).toBe('0 of 1');
  });

  test('one on which it speaks every 59 s never is', () => {
    for (let i = 0; i < 60; i++) {
      clock.advance(59_000);
      stream.spokenAt = clock.now();
    }
    expect(new Set(counted)).toEqual(new Set(['0 of 1']));
  });

  test('a round that comes late, since the watchdog itself stood still, says nothing of what it has not read yet', () => {
    severs = true;
    clock.stall(200_000);
    expect(counted).toEqual([]);
    expect(severed).toEqual([]);
    clock.advance(4000);
    expect(counted).toEqual(['1 of 1']);
  });

  test('with --upstream-silent-sever it is severed', () => {
    severs = true;
    clock.advance(130_000);
    expect(severed).toContain(stream);
  });

  test('with it, and observed only, it is told what would have been', () => {
    severs = true;
    policy.observeOnly = true;
    clock.advance(600_000);
    expect(severed).toEqual([]);
    expect(told('would_sever')).toEqual([{ kind: 'would_sever', stream, reason: 'upstream_silent' }]);
    expect(stream.wouldSever).toBe('upstream_silent');
  });

  test.each(['derp', 'other'] as const)('a stream of kind %s may be silent for ever', (kind) => {
    expect(
      isStreamSilent({ ...stream, kind, spokenAt: clock.now() }, (clock.now() + 1e9) as typeof stream.openedAt),
    ).toBe(false);
  });

  test('one that Headscale has not answered, or that is closing, is none', () => {
    setState(stream, { kind: 'closing', reason: 'client_closed' });
    clock.advance(600_000);
    expect(new Set(counted)).toEqual(new Set(['0 of 0']));
    expect(events).toEqual([]);
  });
});

describe('Patrol', () => {
  test('tends every stream more often than an idle connection is ever probed', () => {
    clock.advance(5000 - 1);
    expect(tended).toBe(1);
    clock.advance(60_000);
    expect(tended).toBeGreaterThanOrEqual(60 / 5);
  });
});

describe('Patrol, gone and observed only', () => {
  test('what stays unacknowledged for gone-after is told once', () => {
    policy.observeOnly = true;
    evidence = unacked(10_000);
    clock.advance(5000);
    for (let ago = 10_000; ago < 45_000; ago += 5000) {
      evidence = unacked(ago);
      clock.advance(5000);
    }
    expect(told('would_sever')).toEqual([{ kind: 'would_sever', stream, reason: 'gone' }]);
  });

  test('an acknowledgement in between starts the wait anew', () => {
    policy.observeOnly = true;
    for (let i = 0; i < 20; i++) {
      // Something is always on its way, and the client always acknowledges what came before it.
      evidence = { ...unacked(100), ackedBytes: i };
      clock.advance(5000);
    }
    expect(events).toEqual([]);
  });

  test('a client that answers, and takes nothing since its receive window is full, is told as Linux would have ended it', () => {
    policy.observeOnly = true;
    for (let i = 0; i < 10; i++) {
      evidence = { ...QUIET, unsentBytes: 300, ackedBytes: 5000, receivedAgoMs: 100 };
      clock.advance(5000);
    }
    expect(told('would_sever')).toEqual([{ kind: 'would_sever', stream, reason: 'gone' }]);
  });

  test('long quiet before what was just sent does not count', () => {
    policy.observeOnly = true;
    clock.advance(60_000);
    evidence = unacked(59_000);
    clock.advance(5000);
    evidence = QUIET;
    clock.advance(40_000);
    expect(events).toEqual([]);
  });

  test('a stream that is not only observed is left to Linux', () => {
    evidence = unacked(10_000);
    clock.advance(60_000);
    expect(events).toEqual([]);
  });

  test('no evidence is no reason', () => {
    policy.observeOnly = true;
    evidence = undefined;
    clock.advance(120_000);
    expect(events).toEqual([]);
  });
});
