import type { Clock, Instant } from '../lib/clock.ts';
import type { Stream } from '../streams/stream.ts';

/** Two machines' clocks run at most one part in a thousand apart. */
const DRIFT = 0.001;
/** A client may have connected so long before: what a busy event loop, and Redis, let it wait. */
const OPENED_WITHIN_MS = 2000;
/** A clock that was set forward by so much may as well have stood still. */
const STOOD_STILL_MS = 1000;
/** An answer that took longer says nothing of an age. */
const LONGEST_ROUND_TRIP_MS = 5000;

/** What is known of a stream's place in time. No two machines' clocks are ever compared: only durations are. */
export interface Seniority {
  /** Undefined where Redis has not told. */
  readonly order: Order | undefined;
  readonly openedAgoMs: number;
  /** Its replica's clock has not stood still since it opened. Else the stream is older than it says. */
  readonly isAgeSure: boolean;
}

/**
 * Whether another replica's stream is newer than one of ours; undefined where that cannot be known.
 *
 * @param roundTripMs since we asked for what we were told; undefined where we had not asked, so that it may have been long on its way.
 */
export function isNewer(told: Seniority, roundTripMs: number | undefined, ours: Seniority): boolean | undefined {
  // However long it was on its way, it is not younger than it said when it was told.
  if (ours.isAgeSure && isLonger(told.openedAgoMs, ours.openedAgoMs)) return false;
  const byPlace = isNewerByPlace(told.order, ours.order);
  if (byPlace !== undefined) return byPlace;
  if (roundTripMs === undefined || roundTripMs > LONGEST_ROUND_TRIP_MS || !told.isAgeSure) return undefined;
  return isLonger(ours.openedAgoMs, told.openedAgoMs + roundTripMs) ? true : undefined;
}

function isLonger(ageMs: number, thanMs: number): boolean {
  return ageMs * (1 - DRIFT) > thanMs * (1 + DRIFT) + OPENED_WITHIN_MS;
}

/** A stream whose place is exact arrived at it; any other arrived at its place or before. */
function isNewerByPlace(told: Order | undefined, ours: Order | undefined): boolean | undefined {
  if (told === undefined || ours === undefined || told.epoch !== ours.epoch) return undefined;
  if (told.isExact && told.place > ours.place) return true;
  return ours.isExact && ours.place >= told.place ? false : undefined;
}

/**
 * How long ago streams of ours opened. The clock stands still while a machine sleeps or is moved, and the calendar then
 * jumps: from there on the ages of those that were open are only known to be at least so much.
 */
export class Ages {
  readonly #clock: Clock;
  #calendarAheadMs: number;
  #sureSince: Instant | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#calendarAheadMs = calendarAheadMs(clock);
  }

  /** @param arrivedAt when it began to wait for Redis, where it did. */
  of({ openedAt }: Stream, arrivedAt: Instant = openedAt): Pick<Seniority, 'openedAgoMs' | 'isAgeSure'> {
    this.look();
    const since = arrivedAt < openedAt ? arrivedAt : openedAt;
    const isAgeSure = this.#sureSince === undefined || since >= this.#sureSince;
    return { openedAgoMs: this.#clock.now() - since, isAgeSure };
  }

  look(): void {
    const aheadMs = calendarAheadMs(this.#clock);
    const isAsBefore = aheadMs - this.#calendarAheadMs <= STOOD_STILL_MS;
    if (!isAsBefore) this.#sureSince = this.#clock.now();
    // What it has stood still in small parts adds up.
    this.#calendarAheadMs = isAsBefore ? Math.min(aheadMs, this.#calendarAheadMs) : aheadMs;
  }
}

function calendarAheadMs(clock: Clock): number {
  const now = clock.now();
  return clock.dateOf(now).getTime() - now;
}

/** A stream's place among its node's streams, as Redis counts them. */
export interface Order {
  /** What places can be compared within. It changes whenever Redis may have forgotten places that it gave. */
  readonly epoch: string;
  readonly place: number;
  /** The place was given when the stream arrived. Else it was given later, and the stream is older than it says. */
  readonly isExact: boolean;
}
