import type { Stream } from '../streams/stream.ts';

/** When a stream is to end. */
export interface PlannedEnd {
  readonly stream: Stream;
  /** In milliseconds, from the start of the drain. */
  readonly afterMs: number;
}

/**
 * Spreads the ends of `streams` evenly over `overMs`, in the order given: Headscale suffers when all its nodes come back
 * at once. Control streams are spaced among themselves, so that many of another kind do not crowd them together.
 */
export function drainPlan(streams: readonly Stream[], overMs: number): readonly PlannedEnd[] {
  const control = streams.filter(({ kind }) => kind === 'control');
  const others = streams.filter(({ kind }) => kind !== 'control');
  return [...spaced(control, overMs), ...spaced(others, overMs)].sort((a, b) => a.afterMs - b.afterMs);
}

/** The first at once, so that a single stream is waited for by nobody; the last one space before the end. */
function spaced(streams: readonly Stream[], overMs: number): readonly PlannedEnd[] {
  return streams.map((stream, i) => ({ stream, afterMs: (overMs * i) / streams.length }));
}
