import { describe, expect, test } from 'vitest';
import { Ages, isNewer, type Seniority } from '../../src/replicas/order.ts';
import type { Stream } from '../../src/streams/stream.ts';
import { FakeClock } from '../support/fake-clock.ts';

const at = (place: number, isExact = true, epoch = 'e') => ({ epoch, place, isExact });
const placed = (openedAgoMs: number, order: Seniority['order'] = undefined, isAgeSure = true): Seniority => ({
  ...{ openedAgoMs, order, isAgeSure },
});

describe('isNewer', () => {
  test.each([
    ['two places from arrival', placed(100, at(2)), undefined, placed(100, at(1)), true],
    [
      'a place from arrival, after a place that was assigned later',
      placed(100, at(2)),
      undefined,
      placed(100, at(1, false)),
      true,
    ],
    [
      'a stream whose place was assigned later may be the older one',
      placed(100, at(2, false)),
      undefined,
      placed(100, at(1)),
      undefined,
    ],
    [
      'a place that was assigned later, but before ours arrived',
      placed(100, at(1, false)),
      undefined,
      placed(100, at(2)),
      false,
    ],
    [
      'places of two epochs cannot be compared',
      placed(100, at(2, true, 'f')),
      undefined,
      placed(100, at(1)),
      undefined,
    ],
    ['a place that contradicts the age', placed(10_000, at(2)), undefined, placed(100, at(1)), false],
    [
      'a place that contradicts an age which may be too small',
      placed(10_000, at(2)),
      undefined,
      placed(100, at(1), false),
      true,
    ],
    ['no places, equal ages', placed(100), undefined, placed(100), undefined],
    ['an age in a report that may be old', placed(100), undefined, placed(100_000), undefined],
    ['an age in the answer to a request', placed(100), 20, placed(100_000), true],
    ['an age in an answer that took longer than the age', placed(100), 4000, placed(5000), undefined],
    ['an age from a clock that has stood still', placed(100, undefined, false), 20, placed(100_000), undefined],
    ['ages that hardly differ', placed(100), 20, placed(2000), undefined],
    [
      'ages of a month that differ by seconds: clocks drift',
      placed(2_592_000_000),
      20,
      placed(2_592_005_000),
      undefined,
    ],
    ['the other stream is older', placed(100_000), 20, placed(100), false],
  ])('%s', (_name, told, roundTripMs, ours, expected) => {
    expect(isNewer(told, roundTripMs, ours)).toBe(expected);
  });
});

describe('Ages', () => {
  class Calendar extends FakeClock {
    aheadMs = 0;
    override dateOf(instant: number): Date {
      return new Date(instant + this.aheadMs);
    }
  }
  const opened = (clock: FakeClock): Stream => ({ openedAt: clock.now() }) as Stream;

  test('ages become unsure if the clock stands still, once or in small steps, but not if the calendar is set back', () => {
    for (const steps of [[60_000], [400, 400, 400]]) {
      const clock = new Calendar();
      const ages = new Ages(clock);
      const [before, since] = [opened(clock), clock.now()];
      clock.advance(1000);
      clock.aheadMs = -5000;
      expect(ages.of(before)).toEqual({ openedAgoMs: 1000, isAgeSure: true });
      for (const step of steps) {
        clock.aheadMs += step;
        clock.advance(1000);
        ages.checkClock();
      }
      expect(ages.of(before)).toMatchObject({ isAgeSure: false });
      clock.advance(1);
      expect(ages.of(opened(clock))).toEqual({ openedAgoMs: 0, isAgeSure: true });
      // It arrived before, and waited for Redis.
      expect(ages.of(opened(clock), since)).toMatchObject({ isAgeSure: false });
    }
  });
});
