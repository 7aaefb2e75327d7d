import { describe, expect, test } from 'vitest';
import { drainPlan } from '../../src/pipeline/departures.ts';
import type { Stream, StreamKind } from '../../src/streams/stream.ts';

const streamsOf = (...kinds: readonly StreamKind[]): Stream[] =>
  kinds.map((kind, i) => ({ id: i + 1, kind }) as unknown as Stream);
const timesOf = (streams: readonly Stream[], overMs: number): (readonly [number, number])[] =>
  drainPlan(streams, overMs).map(({ stream, afterMs }) => [stream.id, afterMs]);

describe('drainPlan', () => {
  test('spreads control streams evenly: the first ends at once, the last one interval before the end', () => {
    const streams = streamsOf('control', 'control', 'control', 'control');
    expect(timesOf(streams, 20_000)).toEqual([
      [1, 0],
      [2, 5000],
      [3, 10_000],
      [4, 15_000],
    ]);
  });

  test('a single stream ends at once, and without streams the plan is empty', () => {
    expect(timesOf(streamsOf('control'), 20_000)).toEqual([[1, 0]]);
    expect(timesOf([], 20_000)).toEqual([]);
  });

  test('many streams of another kind do not push the control streams together', () => {
    const streams = streamsOf('other', 'control', 'derp', 'other', 'control', 'derp');
    const plan = drainPlan(streams, 8000);
    const at = (isControl: boolean): number[] =>
      plan.filter(({ stream }) => (stream.kind === 'control') === isControl).map(({ afterMs }) => afterMs);
    expect(at(true)).toEqual([0, 4000]);
    expect(at(false)).toEqual([0, 2000, 4000, 6000]);
    expect(plan.map(({ afterMs }) => afterMs)).toEqual([0, 0, 2000, 4000, 4000, 6000]);
  });

  test('with no time, all end at once', () => {
    expect(timesOf(streamsOf('control', 'derp', 'control'), 0).map(([, afterMs]) => afterMs)).toEqual([0, 0, 0]);
  });

  test('ten thousand streams: the intervals are equal', () => {
    const plan = drainPlan(streamsOf(...Array<StreamKind>(10_000).fill('control')), 20_000);
    const gaps = plan.slice(1).map(({ afterMs }, i) => afterMs - (plan[i]?.afterMs ?? 0));
    expect(Math.min(...gaps)).toBeCloseTo(2);
    expect(Math.max(...gaps)).toBeCloseTo(2);
  });
});
