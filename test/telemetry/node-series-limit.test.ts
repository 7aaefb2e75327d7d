import { describe, expect, test } from 'vitest';
import { keyOf, mkey, nodeOf, seriesStage } from './stage.ts';

describe('NodeSeries maxNodes', () => {
  test('with one node above the limit, all series are off and stay off, and this is reported once', () => {
    const { series, open, close, events, keys, world } = seriesStage();
    world.maxNodes = 2;
    const [first] = [open(series, keyOf(1)), open(series, keyOf(2)), open(series, keyOf(2))];
    expect(keys()).toHaveLength(2);
    open(series, keyOf(3));
    open(series, keyOf(4));
    close(series, first);
    expect(keys()).toEqual([]);
    world.maxNodes = 1;
    expect(keys()).toEqual([]);
    expect(events).toEqual([{ kind: 'node_metrics_disabled', maxNodes: 2 }]);
  });

  test('a higher limit brings the series back, with the open streams', () => {
    const { series, open, close, events, keys, world } = seriesStage();
    world.maxNodes = 1;
    const first = open(series, keyOf(1));
    first.bytesSent = 7;
    close(series, open(series, keyOf(2)));
    world.maxNodes = 2;
    expect(series.rows()).toMatchObject([{ sentBytes: 7, labels: { machine_key: mkey(1) } }]);
    open(series, keyOf(3));
    expect(keys()).toEqual([mkey(1), mkey(3)]);
    open(series, keyOf(4));
    world.maxNodes = 3;
    series.reconsider();
    expect(keys()).toEqual([mkey(1), mkey(3), mkey(4)]);
    expect(events.map((event) => ('maxNodes' in event ? event.maxNodes : event))).toEqual([1, 2]);
  });

  test('a raised limit that is noticed when a stream opens counts that stream once', () => {
    const { series, open, close, keys, world } = seriesStage();
    world.maxNodes = 0;
    open(series, keyOf(1));
    world.maxNodes = 5;
    const second = open(series, keyOf(2));
    second.bytesSent = 4;
    expect(series.rows()).toMatchObject([{ sentBytes: 0 }, { sentBytes: 4 }]);
    close(series, second);
    expect(keys()).toHaveLength(2);
    expect(series.rows()[1]).toMatchObject({ sentBytes: 4 });
  });

  test('a limit that was not raised enough is reported again', () => {
    const { series, open, events, keys, world } = seriesStage();
    world.maxNodes = 1;
    for (const number of [1, 2, 3]) open(series, keyOf(number));
    world.maxNodes = 2;
    series.reconsider();
    expect(keys()).toEqual([]);
    expect(events).toHaveLength(2);
  });

  test('0 switches the series off without a report, also when the limit becomes 0', () => {
    const { series, open, events, keys, world } = seriesStage();
    open(series, keyOf(1));
    world.maxNodes = 0;
    expect(keys()).toEqual([]);
    open(series, keyOf(2));
    expect(keys()).toEqual([]);
    expect(events).toEqual([]);
  });

  test('a limit that is lowered below the number of nodes switches the series off', () => {
    const { series, open, events, keys, world } = seriesStage();
    for (const number of [1, 2, 3]) open(series, keyOf(number));
    world.maxNodes = 2;
    series.reconsider();
    expect(keys()).toEqual([]);
    expect(events).toEqual([{ kind: 'node_metrics_disabled', maxNodes: 2 }]);
  });
});

describe('NodeSeries isNode', () => {
  test('keys that Headscale does not know have no series and do not count', () => {
    const { series, open, close, events, keys, world, list } = seriesStage();
    world.maxNodes = 1;
    list(nodeOf(1));
    open(series, keyOf(1));
    for (let number = 2; number < 100; number++) close(series, open(series, keyOf(number)));
    open(series, keyOf(100));
    expect(keys()).toEqual([mkey(1)]);
    expect(events).toEqual([]);
  });

  test('a key that Headscale lists while its stream is open has series from the opening on', () => {
    const { series, open, close, keys, list } = seriesStage();
    list();
    close(series, open(series, keyOf(1)));
    const stream = open(series, keyOf(1));
    stream.bytesSent = 9;
    expect(keys()).toEqual([]);
    list(nodeOf(1));
    close(series, stream);
    expect(series.rows()).toMatchObject([{ sentBytes: 9, info: { name: 'node-1' }, closed: [{ count: 1 }] }]);
  });

  test('the first list drops unknown keys; a deleted node is dropped at once, or when its stream closes', () => {
    const { series, open, close, keys, list } = seriesStage();
    close(series, open(series, keyOf(1)));
    const open2 = open(series, keyOf(2));
    open(series, keyOf(3));
    list(nodeOf(3));
    expect(keys()).toEqual([mkey(3)]);
    list(nodeOf(1), nodeOf(2), nodeOf(3));
    expect(keys()).toEqual([mkey(2), mkey(3)]);
    list(nodeOf(3));
    close(series, open2);
    list(nodeOf(2), nodeOf(3));
    expect(keys()).toEqual([mkey(3)]);
  });

  test('series that invented keys switched off come back with the first list; reported once', () => {
    const { open, list, series, events, keys, world } = seriesStage();
    world.maxNodes = 2;
    for (const number of [101, 102, 103, 1]) open(series, keyOf(number));
    series.reconsider();
    series.reconsider();
    expect(keys()).toEqual([]);
    expect(events).toEqual([{ kind: 'node_metrics_disabled', maxNodes: 2 }]);
    list(nodeOf(1));
    series.reconsider();
    expect(keys()).toEqual([mkey(1)]);
    expect(events).toHaveLength(1);
  });

  test('a list with more nodes than the limit switches the series off', () => {
    const { series, open, events, keys, world, list } = seriesStage();
    world.maxNodes = 1;
    list(nodeOf(1));
    for (const number of [1, 2]) open(series, keyOf(number));
    expect(keys()).toHaveLength(1);
    list(nodeOf(1), nodeOf(2));
    series.reconsider();
    expect(keys()).toEqual([]);
    expect(events).toEqual([{ kind: 'node_metrics_disabled', maxNodes: 1 }]);
  });
});
