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
    ['by places of arrival', placed(100, at(2)), undefined, placed(100, at(1)), true],
    ['by a place of arrival against one given later', placed(100, at(2)), undefined, placed(100, at(1, false)), true],
    [
      'one whose place was given later may be the older one',
      placed(100, at(2, false)),
      undefined,
      placed(100, at(1)),
      undefined,
    ],
    [
      'one whose place was given later, before ours arrived',
      placed(100, at(1, false)),
      undefined,
      placed(100, at(2)),
      false,
    ],
    ['places of two epochs say nothing', placed(100, at(2, true, 'f')), undefined, placed(100, at(1)), undefined],
    ['a place that its age belies', placed(10_000, at(2)), undefined, placed(100, at(1)), false],
    [
      'a place that an age belies which may be too small',
      placed(10_000, at(2)),
      undefined,
      placed(100, at(1), false),
      true,
    ],
    ['an unknown order', placed(100), undefined, placed(100), undefined],
    ['an age that may be of long ago', placed(100), undefined, placed(100_000), undefined],
    ['an age that was asked for', placed(100), 20, placed(100_000), true],
    ['an age that took longer to come than it tells', placed(100), 4000, placed(5000), undefined],
    ['an age of a clock that has stood still', placed(100, undefined, false), 20, placed(100_000), undefined],
    ['ages that are hardly apart', placed(100), 20, placed(2000), undefined],
    [
      'ages of a month, seconds apart: clocks do not run alike',
      placed(2_592_000_000),
      20,
      placed(2_592_005_000),
      undefined,
    ],
    ['ages the other way round', placed(100_000), 20, placed(100), false],
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

  test('a clock that has stood still makes them unsure, all at once or bit by bit; one set back does not', () => {
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
