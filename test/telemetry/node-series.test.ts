import { describe, expect, test } from 'vitest';
import { keyOf, mkey, nodeOf, seriesStage } from './stage.ts';

const HOUR_MS = 60 * 60_000;

describe('NodeSeries', () => {
  test('rows: a node with a stream has a row, other streams have none', () => {
    const { series, open, world } = seriesStage();
    world.rttMs = 12.345678;
    open(series, undefined);
    open(series, keyOf(2), 'other');
    open(series, keyOf(1));
    expect(series.rows()).toEqual([
      {
        info: { machine_key: mkey(1), node_key: '', node_id: '', name: '', user: '' },
        labels: { machine_key: mkey(1) },
        ...{ openedSeconds: 1000, heardSeconds: 1000, rttSeconds: 0.012346 },
        ...{ receivedBytes: 0, sentBytes: 0, closed: [], takeovers: 0 },
      },
    ]);
  });

  test('rows: bytes are the sum of all its streams, closed and open, and never decrease', () => {
    const { series, open, close } = seriesStage();
    const [first, second] = [open(series, keyOf(1)), open(series, keyOf(1))];
    Object.assign(first, { bytesReceived: 10, bytesSent: 100 });
    Object.assign(second, { bytesReceived: 1, bytesSent: 2 });
    expect(series.rows()).toMatchObject([{ receivedBytes: 11, sentBytes: 102 }]);
    close(series, first);
    expect(series.rows()).toMatchObject([{ receivedBytes: 11, sentBytes: 102 }]);
    second.bytesReceived = 5;
    close(series, second);
    close(series, second);
    expect(series.rows()).toMatchObject([{ receivedBytes: 15, sentBytes: 102 }]);
    open(series, keyOf(1)).bytesSent = 8;
    expect(series.rows()).toMatchObject([{ receivedBytes: 15, sentBytes: 110 }]);
  });

  test('rows: opened is that of the newest stream, last heard that of any stream, even a closed one', () => {
    const { series, open, close, later } = seriesStage();
    const old = open(series, keyOf(1));
    later(5000);
    const newest = open(series, keyOf(1));
    old.heardAt = later(2000);
    expect(series.rows()).toMatchObject([{ openedSeconds: 1005, heardSeconds: 1007 }]);
    close(series, old);
    close(series, newest);
    later(1000);
    expect(series.rows()).toMatchObject([{ openedSeconds: 1005, heardSeconds: 1007 }]);
  });

  test('rows: dates do not jitter while nothing happens, even if the calendar clock does', () => {
    const { series, open, source, clock } = seriesStage();
    let drift = 0;
    Object.assign(clock, { dateOf: (instant: number) => new Date(instant + ++drift) });
    open(series, keyOf(1)).heardAt = (source.clock.now() + 1) as never;
    const first = series.rows();
    expect(series.rows()).toEqual(first);
  });

  test('rows: the round-trip time is that of the newest open stream; without one there is none', () => {
    const { series, open, close, source } = seriesStage();
    const asked: unknown[] = [];
    source.rttMsOf = (stream) => void asked.push(stream.id);
    const [old, newest] = [open(series, keyOf(1)), open(series, keyOf(1))];
    expect(series.rows()).toMatchObject([{ rttSeconds: undefined }]);
    close(series, newest);
    series.rows();
    close(series, old);
    series.rows();
    expect(asked).toEqual([newest.id, old.id]);
  });

  test('rows: closed streams by reason, and takeovers, of identified control streams only', () => {
    const { series, open, close } = seriesStage();
    const old = open(series, keyOf(1));
    const newcomer = open(series, keyOf(1));
    const evidence = {
      silentMs: 0,
      silentAfterMs: 1,
      answers: false,
      contestedMs: 1,
      kernel: undefined,
      reason: 'dead',
    } as const;
    series.listen({ kind: 'stream_severed', stream: old, newcomer, ...evidence });
    series.listen({ kind: 'stream_severed', stream: open(series, undefined), newcomer, ...evidence });
    close(series, old, 'severed_dead');
    close(series, open(series, keyOf(1)));
    close(series, open(series, keyOf(1)));
    const [row] = series.rows();
    expect(row?.takeovers).toBe(1);
    expect(row?.closed.map(({ labels, count }) => [labels, count])).toEqual([
      [{ machine_key: mkey(1), reason: 'severed_dead' }, 1],
      [{ machine_key: mkey(1), reason: 'client_closed' }, 2],
    ]);
  });

  test('rows: labels are the same objects at each scrape, until Headscale lists the node differently', () => {
    const { series, open, close, list } = seriesStage();
    close(series, open(series, keyOf(1)));
    list(nodeOf(1));
    const [first] = series.rows();
    const [again] = series.rows();
    expect(again?.info).toBe(first?.info);
    expect(again?.labels).toBe(first?.labels);
    expect(again?.closed[0]?.labels).toBe(first?.closed[0]?.labels);
    list(nodeOf(1, { name: 'renamed' }));
    expect(series.rows()).toMatchObject([{ info: { name: 'renamed', node_id: '1', user: 'someone' } }]);
  });

  test('a node is dropped an hour after its last stream, and not while it has one', () => {
    const { series, open, close, later, keys } = seriesStage();
    const staying = open(series, keyOf(1));
    close(series, open(series, keyOf(2)));
    close(series, open(series, keyOf(3)));
    later(HOUR_MS / 2);
    close(series, open(series, keyOf(2)));
    later(HOUR_MS / 2 - 1);
    expect(keys()).toEqual([mkey(1), mkey(2), mkey(3)]);
    later(1);
    expect(keys()).toEqual([mkey(1), mkey(2)]);
    later(HOUR_MS);
    expect(keys()).toEqual([mkey(1)]);
    close(series, staying);
    later(HOUR_MS);
    expect(keys()).toEqual([]);
  });

  test('a node that is long gone does not count, even without scrapes', () => {
    const { series, open, close, later, events, world } = seriesStage();
    world.maxNodes = 2;
    for (let number = 0; number < 10; number++) {
      close(series, open(series, keyOf(number)));
      later(HOUR_MS / 2);
    }
    expect(events).toEqual([]);
    expect(series.rows()).toHaveLength(1);
  });
});
