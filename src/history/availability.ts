import type { Period, PeriodState } from './presence-log.ts';

/** How long a node was in each state, in milliseconds. Their sum is the time that was asked for, up to now. */
export type Totals = Readonly<Record<PeriodState, number>>;

/** One day of a calendar, or the part of it that was asked for. */
export interface Day {
  /** As in `2026-11-27`. */
  readonly date: string;
  readonly since: number;
  readonly until: number;
}

/** The share of the known time that a node was online, from 0 to 1; undefined if nothing is known. */
export function availabilityOf({ online, offline }: Totals): number | undefined {
  return online + offline === 0 ? undefined : online / (online + offline);
}

/** @param periods of one node, oldest first. */
export function totalsOf(periods: readonly Period[]): Totals {
  const totals = { online: 0, offline: 0, unknown: 0 };
  for (const { state, since, until } of periods) totals[state] += until - since;
  return totals;
}

/** The totals of each day. @param periods of one node, oldest first. */
export function totalsByDay(periods: readonly Period[], days: readonly Day[]): readonly Totals[] {
  let i = 0;
  return days.map((day) => {
    const totals = { online: 0, offline: 0, unknown: 0 };
    for (; i < periods.length; i++) {
      const { state, since, until } = periods[i] as Period;
      totals[state] += Math.max(0, Math.min(until, day.until) - Math.max(since, day.since));
      // The rest of this period belongs to the next day.
      if (until > day.until) break;
    }
    return totals;
  });
}

/** Whether this is a time zone as in `Europe/Berlin` or `UTC`. */
export function isTimezone(name: string): boolean {
  try {
    return calendarOf(name) !== undefined;
  } catch {
    return false;
  }
}

/** The days from `since` to `until`, as they begin in this time zone. The first and the last may be parts of a day. */
export function daysBetween(since: number, until: number, timezone: string): readonly Day[] {
  const dateAt = calendarOf(timezone);
  const days: Day[] = [];
  for (let at = since; at < until; ) {
    const date = dateAt(at);
    const next = Math.min(until, nextDay(at, date, dateAt));
    days.push({ date, since: at, until: next });
    at = next;
  }
  return days;
}

const SECOND_MS = 1000;
/** No day is longer than this. */
const LONGEST_DAY_S = 26 * 3600;

/** When the day after `date` begins. A day may have 23 or 25 hours, and may begin at one o'clock, so this looks for the border. */
function nextDay(at: number, date: string, dateAt: (at: number) => string): number {
  // Days begin at a whole second.
  const start = Math.floor(at / SECOND_MS);
  let [same, other] = [start, start + LONGEST_DAY_S];
  while (other - same > 1) {
    const middle = Math.floor((same + other) / 2);
    if (dateAt(middle * SECOND_MS) <= date) same = middle;
    else other = middle;
  }
  return other * SECOND_MS;
}

/** @throws RangeError if there is no such time zone. */
function calendarOf(timeZone: string): (at: number) => string {
  const format = new Intl.DateTimeFormat('en-CA', { timeZone, year: 'numeric', month: '2-digit', day: '2-digit' });
  return (at) => format.format(at);
}
