import { describe, expect, test } from 'vitest';
import { Attendance } from '../../src/history/attendance.ts';
import { type NodeRecord, PresenceLog, type RunRecord } from '../../src/history/presence-log.ts';
import type { MachineKey } from '../../src/identity/keys.ts';
import type { Stream } from '../../src/streams/stream.ts';
import { keyOf, stage } from '../telemetry/stage.ts';

const [ONE, TWO] = [keyOf(1), keyOf(2)];

function bench({ listed = true } = {}) {
  const on = stage();
  const { clock } = on;
  const startedAt = clock.now();
  const log = new PresenceLog('now');
  const nodes = new Set<MachineKey>([ONE]);
  const world = { listed };
  const noted: (RunRecord | NodeRecord)[] = [];
  const attendance = new Attendance({
    ...{ clock, run: 'now', log },
    nodes: { isListed: () => world.listed, isNode: (key) => nodes.has(key), keys: () => nodes },
    noted: (record) => noted.push(record),
  });
  const seconds = (at: number): number => (at - startedAt) / 1000;
  return {
    ...{ ...on, attendance, log, nodes, world, noted },
    /** A stream that Headscale accepts. */
    session(key: MachineKey): Stream {
      const stream = on.open(attendance, key);
      stream.spokenAt = clock.now();
      return stream;
    },
    /** What a node was, in seconds since the start. */
    seen: (key = ONE) =>
      log
        .periods(key, startedAt, clock.now(), attendance.watchedUntil())
        .map(({ state, since, until }) => [state, seconds(since), seconds(until)]),
  };
}

describe('Attendance', () => {
  test('a node is online while it has a session; one that Headscale refuses is none', () => {
    const { attendance, session, open, close, later, seen } = bench();
    attendance.listed();
    later(200_000);
    const refused = open(attendance, ONE);
    later(5000);
    close(attendance, refused, 'upstream_unreachable');
    later(5000);
    const stream = session(ONE);
    later(3_600_000);
    close(attendance, stream);
    later(1000);
    expect(seen()).toEqual([
      ['offline', 0, 210],
      ['online', 210, 3810],
      ['offline', 3810, 3811],
    ]);
  });

  test('a session counts from the opening of its stream, also if Headscale accepts it later', () => {
    const { attendance, open, later, clock, seen, log } = bench();
    attendance.listed();
    later(10_000);
    const held = open(attendance, ONE);
    later(4000);
    held.spokenAt = clock.now();
    later(3000);
    expect(log.onlineSince(ONE)).toBe(held.openedAt);
    expect(seen()).toEqual([
      ['unknown', 0, 10],
      ['online', 10, 17],
    ]);
  });

  test('a takeover leaves no gap, also if the old stream ends before Headscale has accepted the new one', () => {
    const { attendance, session, open, close, later, clock, seen } = bench();
    const old = session(ONE);
    later(100_000);
    const newcomer = open(attendance, ONE);
    later(1000);
    close(attendance, old, 'severed_dead');
    later(500);
    newcomer.spokenAt = clock.now();
    later(8500);
    expect(seen()).toEqual([['online', 0, 110]]);
    // This one comes to nothing: the node was gone when its session ended.
    const another = open(attendance, ONE);
    later(1000);
    close(attendance, newcomer, 'gone');
    later(3000);
    close(attendance, another, 'client_left_early');
    expect(seen()).toEqual([
      ['online', 0, 111],
      ['offline', 111, 114],
    ]);
  });

  test('a client that does not read for a while is still there', () => {
    const { session, later, seen } = bench();
    const stream = session(ONE);
    later(10_000);
    stream.spokenAt = undefined;
    later(10_000);
    expect(seen()).toEqual([['online', 0, 20]]);
  });

  test('a machine that registers is known from its first session on, and a stranger never', () => {
    const { attendance, nodes, session, later, seen, log } = bench();
    attendance.listed();
    session(TWO);
    session(keyOf(666));
    later(4000);
    expect(seen(TWO)).toEqual([['unknown', 0, 4]]);
    nodes.add(TWO);
    attendance.listed();
    later(4000);
    expect(seen(TWO)).toEqual([['online', 0, 8]]);
    later(600_000);
    expect([...log.keys()].sort()).toEqual([ONE, TWO].sort());
  });

  test('without a list of nodes, a key is a node once a session has lasted for a minute', () => {
    const { attendance, session, close, later, seen, log } = bench({ listed: false });
    close(attendance, session(TWO));
    const stream = session(ONE);
    later(70_000);
    close(attendance, stream);
    later(10_000);
    close(attendance, session(ONE));
    expect([...log.keys()]).toEqual([ONE]);
    expect(seen()).toEqual([
      ['online', 0, 70],
      ['offline', 70, 80],
    ]);
  });

  test('from the beginning of a drain on, nothing is known', () => {
    const { attendance, session, close, later, seen, clock } = bench();
    const stream = session(ONE);
    later(50_000);
    attendance.listen({ kind: 'drain_started', streams: 1, overMs: 20_000, isShortened: false });
    later(10_000);
    close(attendance, stream, 'shutdown');
    expect(seen()).toEqual([['online', 0, 50]]);
    expect(clock.timers).toBe(0);
  });

  test('a node that was online until the end was not away for the moment that the end takes', () => {
    const { attendance, session, later, log, clock } = bench();
    session(ONE);
    later(50_000);
    // Each look at the clock takes a while.
    const now = clock.now.bind(clock);
    let looks = 0;
    clock.now = () => (now() + looks++) as ReturnType<typeof now>;
    attendance.end();
    log.endEarlierRuns();
    const ended = attendance.watchedUntil();
    expect(log.periods(ONE, 0, ended + 1000, ended + 1000).at(-1)?.state).not.toBe('online');
    expect(log.periods(ONE, 0, ended, ended).map(({ state }) => state)).toEqual(['unknown', 'online']);
    const next = new PresenceLog('next');
    for (const record of log.records()) {
      if ('node' in record) next.applyNode(record);
      else next.applyRun(record);
    }
    next.applyRun({ at: ended + 5000, run: 'next', since: ended + 5000 });
    next.applyNode({ at: ended + 6000, run: 'next', node: ONE, since: undefined });
    const states = next.periods(ONE, 0, ended + 9000, ended + 9000).map(({ state }) => state);
    expect(states).toEqual(['unknown', 'online', 'unknown', 'online']);
  });

  test('relays and streams without a key do not count, and nothing stays when all have left', () => {
    const { attendance, open, session, close, later, clock, log } = bench();
    const all = [open(attendance, undefined), open(attendance, undefined, 'derp'), session(ONE)];
    later(10_000);
    for (const stream of all) close(attendance, stream);
    attendance.end();
    expect([...log.keys()]).toEqual([ONE]);
    expect(clock.timers).toBe(0);
  });

  test('what it notes makes the same log after a restart', () => {
    const { attendance, session, close, later, noted, log, clock } = bench();
    const startedAt = clock.now();
    for (let i = 0; i < 5; i++) {
      const stream = session(ONE);
      later(100_000);
      close(attendance, stream);
      later(3000);
    }
    session(ONE);
    later(1000);
    attendance.end();
    const copy = new PresenceLog('later');
    for (const record of noted) {
      if ('node' in record) copy.applyNode(record);
      else copy.applyRun(record);
    }
    copy.endEarlierRuns();
    const now = clock.now();
    expect(copy.periods(ONE, startedAt, now, now)).toEqual(log.periods(ONE, startedAt, now, now));
    expect(copy.periods(ONE, startedAt, now, now)).toHaveLength(11);
  });
});
