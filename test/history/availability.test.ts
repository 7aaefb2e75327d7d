import { describe, expect, test } from 'vitest';
import { availabilityOf, daysBetween, isTimezone, totalsByDay, totalsOf } from '../../src/history/availability.ts';
import { PresenceLog } from '../../src/history/presence-log.ts';
import { keyOf } from '../telemetry/stage.ts';

const KEY = keyOf(1);
const at = (text: string): number => Date.parse(text);
const MIDNIGHT = at('2026-11-26T00:00:00Z');
const S = 1000;

/** A log whose run `now` began at `since`, in seconds after midnight. */
function logSince(since: number) {
  const log = new PresenceLog('now');
  const time = (s: number): number => MIDNIGHT + s * S;
  log.applyRun({ at: time(since), run: 'now', since: time(since) });
  const up = (s: number, run = 'now') => log.applyNode({ at: time(s), run, node: KEY, since: undefined });
  const down = (since: number, s: number, run = 'now') =>
    log.applyNode({ at: time(s), run, node: KEY, since: time(since) });
  const ran = (run: string, since: number, until: number) => log.applyRun({ at: time(until), run, since: time(since) });
  const seen = (from: number, to: number, now = to) =>
    log
      .periods(KEY, time(from), time(to), time(now))
      .map(({ state, since, until }) => [state, (since - MIDNIGHT) / S, (until - MIDNIGHT) / S]);
  return { log, up, down, ran, seen };
}

describe('PresenceLog', () => {
  test('says when a node was online and offline, to the second', () => {
    const { log, up, down, seen } = logSince(0);
    up(10);
    down(10, 400);
    up(1000);
    expect(seen(0, 2000)).toEqual([
      ['unknown', 0, 10],
      ['online', 10, 400],
      ['offline', 400, 1000],
      ['online', 1000, 2000],
    ]);
    expect(seen(500, 5000, 1500)).toEqual([
      ['offline', 500, 1000],
      ['online', 1000, 1500],
    ]);
    expect(log.onlineSince(KEY)).toBe(MIDNIGHT + 1000 * S);
    expect(log.lastOnlineAt(KEY)).toBe(MIDNIGHT + 400 * S);
  });

  test('knows nothing of a node before it heard of it, and of a node that never came it knows that it was away', () => {
    const { log, seen } = logSince(0);
    expect(seen(0, 100)).toEqual([['unknown', 0, 100]]);
    log.applyNode({ at: MIDNIGHT + 300 * S, run: 'now', node: KEY, since: MIDNIGHT + 300 * S });
    expect(seen(0, 1000)).toEqual([
      ['unknown', 0, 300],
      ['offline', 300, 1000],
    ]);
    expect(log.lastOnlineAt(KEY)).toBeUndefined();
  });

  test('shows the time between two runs as unknown, and so the way back of a node that was online', () => {
    const { log, up, down, ran, seen } = logSince(5000);
    ran('before', 0, 4000);
    up(100, 'before');
    log.endEarlierRuns();
    up(5030);
    down(5030, 6000);
    expect(seen(0, 7000)).toEqual([
      ['unknown', 0, 100],
      ['online', 100, 4000],
      ['unknown', 4000, 5030],
      ['online', 5030, 6000],
      ['offline', 6000, 7000],
    ]);
  });

  test('a node that is not back two minutes after a start has been offline since the start', () => {
    const { log, up, ran, seen } = logSince(5000);
    ran('before', 0, 4000);
    up(100, 'before');
    log.endEarlierRuns();
    expect(seen(3000, 5100)).toEqual([
      ['online', 3000, 4000],
      ['unknown', 4000, 5100],
    ]);
    up(5200);
    expect(seen(3000, 5300)).toEqual([
      ['online', 3000, 4000],
      ['unknown', 4000, 5000],
      ['offline', 5000, 5200],
      ['online', 5200, 5300],
    ]);
  });

  test('a node that was away before a stop is away after the start', () => {
    const { log, up, down, ran, seen } = logSince(5000);
    ran('before', 0, 4000);
    up(0, 'before');
    down(0, 1000, 'before');
    log.endEarlierRuns();
    up(5060);
    expect(seen(0, 5100)).toEqual([
      ['online', 0, 1000],
      ['offline', 1000, 4000],
      ['unknown', 4000, 5000],
      ['offline', 5000, 5060],
      ['online', 5060, 5100],
    ]);
  });

  test('two runs that overlap are one time, and an end in one of them does not end the other', () => {
    const { log, up, down, ran, seen } = logSince(2000);
    ran('old', 0, 2010);
    up(100, 'old');
    up(2005);
    down(100, 2008, 'old');
    log.endEarlierRuns();
    expect(seen(0, 3000)).toEqual([
      ['unknown', 0, 100],
      ['online', 100, 3000],
    ]);
  });

  test('forgets what is old, but not that the node existed', () => {
    const { log, up, down, seen } = logSince(0);
    up(10);
    down(10, 400);
    up(1000);
    down(1000, 1100);
    log.forgetBefore(MIDNIGHT + 500 * S, () => true);
    expect(seen(0, 1200)).toEqual([
      ['unknown', 0, 500],
      ['offline', 500, 1000],
      ['online', 1000, 1100],
      ['offline', 1100, 1200],
    ]);
    log.forgetBefore(MIDNIGHT + 5000 * S, () => true);
    expect(seen(4000, 6000)).toEqual([
      ['unknown', 4000, 5000],
      ['offline', 5000, 6000],
    ]);
    log.forgetBefore(MIDNIGHT + 5000 * S, () => false);
    expect(log.has(KEY)).toBe(false);
  });

  test('its records make another log that says the same', () => {
    const { log, up, down, ran } = logSince(5000);
    ran('before', 0, 4000);
    up(100, 'before');
    down(100, 200, 'before');
    up(300, 'before');
    log.endEarlierRuns();
    up(5030);
    const copy = new PresenceLog('now');
    for (const record of log.records()) {
      if ('node' in record) copy.applyNode(record);
      else copy.applyRun(record);
    }
    copy.endEarlierRuns();
    const end = MIDNIGHT + 9000 * S;
    expect(copy.periods(KEY, MIDNIGHT, end, end)).toEqual(log.periods(KEY, MIDNIGHT, end, end));
    expect(copy.periods(KEY, MIDNIGHT, end, end)).toHaveLength(6);
  });
});

describe('a day', () => {
  test('begins at midnight UTC, and the first and the last may be parts', () => {
    const days = daysBetween(at('2026-11-25T18:00:00Z'), at('2026-11-27T06:00:00Z'), 'UTC');
    expect(days.map(({ date, since, until }) => [date, (until - since) / 3_600_000])).toEqual([
      ['2026-11-25', 6],
      ['2026-11-26', 24],
      ['2026-11-27', 6],
    ]);
  });

  test.each([
    ['Europe/Berlin', '2026-10-25', 25],
    ['Europe/Berlin', '2026-03-29', 23],
    // Clocks go forward at midnight, so the day begins at one o'clock.
    ['Africa/Cairo', '2026-04-24', 23],
    ['Asia/Kathmandu', '2026-05-01', 24],
  ])('in %s, %s has %i hours', (timezone, date, hours) => {
    const noon = at(`${date}T12:00:00Z`);
    const days = daysBetween(noon - 2 * 86_400_000, noon + 2 * 86_400_000, timezone);
    const day = days.find((each) => each.date === date);
    expect(((day?.until ?? 0) - (day?.since ?? 0)) / 3_600_000).toBe(hours);
    expect(new Set(days.map((each) => each.date)).size).toBe(days.length);
  });

  test('has a time zone that exists', () => {
    expect(['UTC', 'Europe/Berlin', '+02:00x', 'Mars/Base', ''].map(isTimezone)).toEqual([
      true,
      true,
      false,
      false,
      false,
    ]);
  });

  test('totals of days add up to the totals of the whole', () => {
    const { log, up, down } = logSince(0);
    up(3600);
    down(3600, 100_000);
    const [from, to] = [MIDNIGHT, MIDNIGHT + 2 * 86_400_000];
    const periods = log.periods(KEY, from, to, to);
    const byDay = totalsByDay(periods, daysBetween(from, to, 'UTC'));
    expect(byDay).toEqual([
      { online: (86_400 - 3600) * S, offline: 0, unknown: 3600 * S },
      { online: 13_600 * S, offline: (86_400 - 13_600) * S, unknown: 0 },
    ]);
    expect(totalsOf(periods)).toEqual({ online: 96_400 * S, offline: 72_800 * S, unknown: 3600 * S });
    expect(availabilityOf(totalsOf(periods))).toBeCloseTo(96_400 / 169_200);
    expect(availabilityOf({ online: 0, offline: 0, unknown: 5 })).toBeUndefined();
  });
});
