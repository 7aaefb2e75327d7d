import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isStreamSilent } from '../../src/headscale/silence.ts';
import type { SurveyedSocket } from '../../src/liveness/evidence.ts';
import { Patrol } from '../../src/liveness/patrol.ts';
import type { ProxiedClient } from '../../src/liveness/proxied-client.ts';
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
let released: number;
let opened: number;
let trimmed: number;
let counted: string[];
let client: ProxiedClient | undefined;
let gone: Stream[];

beforeEach(() => {
  clock = new FakeClock();
  events = [];
  severed = [];
  evidence = QUIET;
  policy = { goneAfterMs: 30_000, observeOnly: false };
  severs = false;
  tended = 0;
  released = 0;
  opened = 0;
  trimmed = 0;
  counted = [];
  client = undefined;
  gone = [];
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
    surveyProxies: () => Promise.resolve(),
    behindProxy: () => client,
    severGone: (each) => gone.push(each),
    policyOf: () => policy,
    isSilent: isStreamSilent,
    silent: (number, of) => void counted.push(`${number} of ${of}`),
    seversUpstreamSilent: () => severs,
    sever: (each) => severed.push(each),
    releaseBuffers: () => {
      released += 1;
    },
    lastId: () => opened,
    trimMemory: () => {
      trimmed += 1;
    },
  });
});
afterEach(() => {
  patrol.close();
  expect(clock.timers).toBe(0);
});

const told = (kind: string) => events.filter((event) => event.kind === kind);
const unacked = (receivedAgoMs: number): KernelEvidence => ({ ...QUIET, unackedSegments: 1, receivedAgoMs });

describe('Patrol, a silent Headscale', () => {
  test('a control stream on which Headscale was silent for 125 s is counted, but not severed', () => {
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

  test('a stream on which Headscale sends something every 59 s is never counted', () => {
    for (let i = 0; i < 60; i++) {
      clock.advance(59_000);
      stream.spokenAt = clock.now();
    }
    expect(new Set(counted)).toEqual(new Set(['0 of 1']));
  });

  test('a round that is late, because the watchdog itself was blocked, counts nothing', () => {
    severs = true;
    clock.stall(200_000);
    expect(counted).toEqual([]);
    expect(severed).toEqual([]);
    clock.advance(4000);
    expect(counted).toEqual(['1 of 1']);
  });

  test('with --upstream-silent-sever, the stream is severed', () => {
    severs = true;
    clock.advance(130_000);
    expect(severed).toContain(stream);
  });

  test('with --upstream-silent-sever and observe-only, would_sever is reported', () => {
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

  test('a stream that Headscale has not answered yet, or that is closing, is not counted', () => {
    setState(stream, { kind: 'closing', reason: 'client_closed' });
    clock.advance(600_000);
    expect(new Set(counted)).toEqual(new Set(['0 of 0']));
    expect(events).toEqual([]);
  });
});

describe('Patrol', () => {
  test('refreshes every stream more often than an idle connection can be probed', () => {
    clock.advance(5000 - 1);
    expect(tended).toBe(1);
    clock.advance(60_000);
    expect(tended).toBeGreaterThanOrEqual(60 / 5);
    expect(released).toBe(tended);
  });
});

describe('Patrol, memory', () => {
  const ROUND_MS = 4000;

  test('when many nodes have come back, memory is given back once, in the first round in which few of them come', () => {
    opened = 300;
    clock.advance(ROUND_MS);
    opened = 320;
    clock.advance(ROUND_MS);
    expect(trimmed).toBe(0);
    opened = 325;
    clock.advance(ROUND_MS);
    expect(trimmed).toBe(1);
    clock.advance(600_000);
    expect(trimmed).toBe(1);
  });

  test('single nodes that come now and then add up', () => {
    for (; opened < 99; opened++) clock.advance(ROUND_MS);
    clock.advance(600_000);
    expect(trimmed).toBe(0);
    opened = 100;
    clock.advance(ROUND_MS);
    expect(trimmed).toBe(1);
  });
});

describe('Patrol, gone streams with observe-only', () => {
  test('a stream with data unacknowledged for gone-after is reported once', () => {
    policy.observeOnly = true;
    evidence = unacked(10_000);
    clock.advance(5000);
    for (let ago = 10_000; ago < 45_000; ago += 5000) {
      evidence = unacked(ago);
      clock.advance(5000);
    }
    expect(told('would_sever')).toEqual([{ kind: 'would_sever', stream, reason: 'gone' }]);
  });

  test('an acknowledgement in between starts the wait again', () => {
    policy.observeOnly = true;
    for (let i = 0; i < 20; i++) {
      // Something is always on its way, and the client always acknowledges what came before it.
      evidence = { ...unacked(100), ackedBytes: i };
      clock.advance(5000);
    }
    expect(events).toEqual([]);
  });

  test('a client that answers but whose receive window stays full is reported when Linux would have closed it', () => {
    policy.observeOnly = true;
    for (let i = 0; i < 10; i++) {
      evidence = { ...QUIET, unsentBytes: 300, ackedBytes: 5000, receivedAgoMs: 100 };
      clock.advance(5000);
    }
    expect(told('would_sever')).toEqual([{ kind: 'would_sever', stream, reason: 'gone' }]);
  });

  test('a long quiet time before data was sent does not count', () => {
    policy.observeOnly = true;
    clock.advance(60_000);
    evidence = unacked(59_000);
    clock.advance(5000);
    evidence = QUIET;
    clock.advance(40_000);
    expect(events).toEqual([]);
  });

  test('without observe-only, Linux closes the stream', () => {
    evidence = unacked(10_000);
    clock.advance(60_000);
    expect(events).toEqual([]);
  });

  test('without evidence, nothing is reported', () => {
    policy.observeOnly = true;
    evidence = undefined;
    clock.advance(120_000);
    expect(events).toEqual([]);
  });
});

describe('Patrol, gone behind a proxy', () => {
  /** What the survey has seen of every connection that may be the client's, and what Linux says when it is asked again. */
  const behind = (surveyed: readonly SurveyedSocket[], now = surveyed.map(({ evidence }) => evidence)): void => {
    client = { surveyed, sockets: () => now } as unknown as ProxiedClient;
  };
  const silentFor = (receivedAgoMs: number, unackedForMs: number): SurveyedSocket => ({
    evidence: { ...QUIET, unackedSegments: 1, receivedAgoMs },
    unackedForMs,
    endedForMs: undefined,
  });
  const round = async (): Promise<void> => {
    clock.advance(4000);
    await Promise.resolve();
  };

  test('data unacknowledged for gone-after: the stream is severed, once the survey is over', async () => {
    setState(stream, { kind: 'open' });
    behind([silentFor(40_000, 29_999)]);
    await round();
    expect(gone).toEqual([]);
    behind([silentFor(44_000, 30_000)]);
    await round();
    expect(gone).toEqual([stream]);
  });

  test('one of several connections is not gone, or the client was heard since the survey: it stays', async () => {
    setState(stream, { kind: 'open' });
    behind([silentFor(44_000, 30_000), silentFor(1000, 0)]);
    await round();
    behind([silentFor(44_000, 30_000)], [{ ...QUIET, receivedAgoMs: 10 }]);
    await round();
    behind([]);
    await round();
    expect(gone).toEqual([]);
  });

  test('gone-after off: it stays; observe-only: it is said, and it stays', async () => {
    setState(stream, { kind: 'open' });
    behind([silentFor(44_000, 30_000)]);
    policy = { goneAfterMs: 0, observeOnly: false };
    await round();
    expect(gone).toEqual([]);
    policy = { goneAfterMs: 30_000, observeOnly: true };
    await round();
    expect([gone, told('would_sever').length]).toEqual([[], 1]);
  });
});
