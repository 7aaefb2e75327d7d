import type { StaysBecause } from '../proxy/tunnel-parts.ts';
import { isLive, type Stream } from '../streams/stream.ts';

/** A stream, and when it will be severed. */
export interface PlannedEnd {
  readonly stream: Stream;
  /** Milliseconds from the start of the drain. */
  readonly afterMs: number;
}

/**
 * Spreads the ends of `streams` evenly over `overMs`, in the given order, because Headscale is overloaded when all nodes come
 * back at once. Control streams are spread separately, so that many other streams do not push them together.
 */
export function drainPlan(streams: readonly Stream[], overMs: number): readonly PlannedEnd[] {
  const control = streams.filter(({ kind }) => kind === 'control');
  const others = streams.filter(({ kind }) => kind !== 'control');
  return [...spread(control, overMs), ...spread(others, overMs)].sort((a, b) => a.afterMs - b.afterMs);
}

/** The first stream ends at once, so that a single stream causes no wait. The last one ends one interval before the end. */
function spread(streams: readonly Stream[], overMs: number): readonly PlannedEnd[] {
  return streams.map((stream, i) => ({ stream, afterMs: (overMs * i) / streams.length }));
}

/**
 * Chooses the streams that go to another process next. A node's older streams go before its newer ones, because the newer ones
 * contest them.
 *
 * @param staysBecause why a stream cannot go now; undefined if it can.
 * @param isUrgent whether the stream's node has just come back, and its newcomer waits for the others.
 */
export function nextToGo(
  streams: Iterable<Stream>,
  staysBecause: (stream: Stream) => StaysBecause | undefined,
  isUrgent: (stream: Stream) => boolean,
): readonly Stream[] {
  const able = [...streams].filter((stream) => isLive(stream) && staysBecause(stream) === undefined);
  return able.sort((a, b) => Number(isUrgent(b)) - Number(isUrgent(a)) || a.id - b.id);
}
