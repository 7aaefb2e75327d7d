import { describe, expect, test } from 'vitest';
import { History, type HistoryQuery } from '../../src/history/history.ts';
import type { MachineKey } from '../../src/identity/keys.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { keyOf, stage } from '../telemetry/stage.ts';

const ALL: HistoryQuery = {
  ...{ after: undefined, limit: 100, machineKeys: undefined, stream: undefined, kinds: undefined, levels: undefined },
  ...{ since: undefined, until: undefined },
};

function bench(bounds = { ofNodes: 5, ofOthers: 2, ageMs: 60_000 }) {
  const on = stage();
  const ports = {
    nameOf: (key: MachineKey) => (key === keyOf(1) ? 'router-1' : undefined),
    isNode: (key: MachineKey) => key !== keyOf(666),
  };
  const history = new History(on.clock, ports, bounds);
  const seqs = (query: Partial<HistoryQuery> = {}) => history.find({ ...ALL, ...query }).map(({ seq }) => seq);
  return { ...on, history, seqs };
}

describe('History', () => {
  test('keeps the newest entries of nodes, and strangers cannot push them out', () => {
    const { history, open, seqs } = bench();
    for (let i = 0; i < 7; i++) open(history, keyOf(1));
    expect(seqs()).toEqual([3, 4, 5, 6, 7]);
    for (let i = 0; i < 50; i++) open(history, undefined);
    // A key that anybody can make, and Headscale does not know.
    for (let i = 0; i < 50; i++) open(history, keyOf(666));
    expect(seqs()).toEqual([3, 4, 5, 6, 7, 106, 107]);
  });

  test('forgets entries that are too old', () => {
    const { history, open, seqs, later } = bench();
    open(history, keyOf(1));
    later(59_000);
    open(history, keyOf(1));
    expect(seqs()).toEqual([1, 2]);
    later(2000);
    expect(seqs()).toEqual([2]);
    later(60_000);
    expect(history.size).toBe(0);
  });

  test('finds entries by node, by either stream, by kind, and after a number', () => {
    const { history, open, close, seqs } = bench({ ofNodes: 50, ofOthers: 50, ageMs: 60_000 });
    const old = open(history, keyOf(1));
    const newcomer = open(history, keyOf(1));
    open(history, keyOf(2));
    history.listen({ kind: 'contest_opened', old, newcomer });
    close(history, old, 'severed_dead');
    expect(seqs({ machineKeys: new Set([keyOf(2)]) })).toEqual([3]);
    expect(seqs({ stream: old.id })).toEqual([1, 4, 5]);
    expect(seqs({ kinds: new Set(['stream_closed']) })).toEqual([5]);
    expect(seqs({ levels: new Set(['info', 'warn']) })).toEqual([4]);
    expect(seqs({ after: 2, limit: 2 })).toEqual([3, 4]);
    expect(seqs({ limit: 2 })).toEqual([4, 5]);
  });

  test('tells listeners of events as they happen, except of handshakes that were read', () => {
    const { history, open } = bench();
    const told: string[] = [];
    const end = history.onEntry(({ sentence }) => told.push(sentence));
    const handshake = { kind: 'handshake_checked', detail: undefined, remoteAddress: '192.0.2.1:1' } as const;
    history.listen({ ...handshake, result: 'identified' });
    open(history, keyOf(1));
    end();
    open(history, keyOf(1));
    expect(told).toEqual(["router-1's stream 1 was opened from 192.0.2.1:1000."]);
  });

  test('counts streams, takeovers and vanished nodes for each minute of the last hour', () => {
    const { history, open, close, later, clock } = bench();
    // The fake calendar begins within a minute; to its beginning.
    later(60_000 - (clock.now() % 60_000));
    const old = open(history, keyOf(1));
    const newcomer = open(history, keyOf(1));
    later(120_000);
    const severed: WatchdogEvent = {
      ...{
        kind: 'stream_severed',
        stream: old,
        newcomer,
        reason: 'dead',
        silentMs: 1,
        silentAfterMs: 1,
        answers: false,
        contestedMs: 1,
        kernel: undefined,
      },
    };
    history.listen(severed);
    close(history, old, 'severed_dead');
    later(60_000);
    close(history, newcomer, 'gone');
    const hour = history.lastHour();
    expect(hour).toHaveLength(60);
    expect(hour.slice(-5).map(({ streams, takeovers, gone }) => [streams, takeovers, gone])).toEqual([
      [0, 0, 0],
      [2, 0, 0],
      [2, 0, 0],
      [2, 1, 0],
      [1, 0, 1],
    ]);
    expect(hour.at(-1)?.at).toBe(Math.floor(clock.now() / 60_000) * 60_000);
    later(3 * 3_600_000);
    expect(history.lastHour().every(({ streams, takeovers }) => streams === 0 && takeovers === 0)).toBe(true);
  });
});
