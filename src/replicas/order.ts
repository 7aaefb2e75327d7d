import type { Clock, Instant } from '../lib/clock.ts';
import type { Stream } from '../streams/stream.ts';

/** The clocks of two machines drift apart by at most one part in a thousand. */
const MAX_DRIFT = 0.001;
/** How much earlier the client may have connected: a busy event loop and Redis make a stream wait. */
const MAX_WAIT_BEFORE_OPEN_MS = 2000;
/** If the calendar jumps forward by more than this, the monotonic clock may have stood still. */
const STANDSTILL_MS = 1000;
/** An answer that took longer is too vague about a stream's age. */
const MAX_ROUND_TRIP_MS = 5000;

/** What is known about how old a stream is. Only durations are compared, never the clocks of two machines. */
export interface Seniority {
  /** Undefined if Redis has not assigned one. */
  readonly order: Order | undefined;
  readonly openedAgoMs: number;
  /** False if its replica's clock may have stood still since it opened. The stream is then older than `openedAgoMs`. */
  readonly isAgeSure: boolean;
}

/**
 * Whether another replica's stream is newer than one of ours. Undefined if that cannot be known.
 *
 * @param told what the other replica reported.
 * @param roundTripMs how long ago we asked for the report; undefined if we did not ask, and it may have travelled for long.
 */
export function isNewer(told: Seniority, roundTripMs: number | undefined, ours: Seniority): boolean | undefined {
  // However long the report travelled, the stream is at least as old as it said.
  if (ours.isAgeSure && isLonger(told.openedAgoMs, ours.openedAgoMs)) return false;
  const byPlace = isNewerByPlace(told.order, ours.order);
  if (byPlace !== undefined) return byPlace;
  if (roundTripMs === undefined || roundTripMs > MAX_ROUND_TRIP_MS || !told.isAgeSure) return undefined;
  return isLonger(ours.openedAgoMs, told.openedAgoMs + roundTripMs) ? true : undefined;
}

function isLonger(ageMs: number, thanMs: number): boolean {
  return ageMs * (1 - MAX_DRIFT) > thanMs * (1 + MAX_DRIFT) + MAX_WAIT_BEFORE_OPEN_MS;
}

/** A stream with an exact place arrived when Redis assigned it. Any other stream arrived then or earlier. */
function isNewerByPlace(told: Order | undefined, ours: Order | undefined): boolean | undefined {
  if (told === undefined || ours === undefined || told.epoch !== ours.epoch) return undefined;
  if (told.isExact && told.place > ours.place) return true;
  return ours.isExact && ours.place >= told.place ? false : undefined;
}

/**
 * How long ago our streams opened. The monotonic clock stands still while a machine is suspended or migrated, and then the
 * calendar jumps ahead of it. From then on the streams that were open are known to be at least so old, but not how old.
 */
export class Ages {
  readonly #clock: Clock;
  #calendarAheadMs: number;
  #sureSince: Instant | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#calendarAheadMs = calendarAheadMs(clock);
  }

  /** @param arrivedAt when the stream began to wait for Redis, if it did. */
  of({ openedAt }: Stream, arrivedAt: Instant = openedAt): Pick<Seniority, 'openedAgoMs' | 'isAgeSure'> {
    this.checkClock();
    const since = arrivedAt < openedAt ? arrivedAt : openedAt;
    const isAgeSure = this.#sureSince === undefined || since >= this.#sureSince;
    return { openedAgoMs: this.#clock.now() - since, isAgeSure };
  }

  /** What another process knows about older streams is not sure. */
  doubt(): void {
    this.#sureSince = this.#clock.now();
  }

  /** Notices a standstill. Call it regularly. */
  checkClock(): void {
    const aheadMs = calendarAheadMs(this.#clock);
    const isAsBefore = aheadMs - this.#calendarAheadMs <= STANDSTILL_MS;
    if (!isAsBefore) this.#sureSince = this.#clock.now();
    // Many short standstills add up.
    this.#calendarAheadMs = isAsBefore ? Math.min(aheadMs, this.#calendarAheadMs) : aheadMs;
  }
}

function calendarAheadMs(clock: Clock): number {
  const now = clock.now();
  return clock.dateOf(now).getTime() - now;
}

/** A stream's place among the streams of its node. Redis counts them. */
export interface Order {
  /** Only places of one epoch can be compared. A new epoch begins whenever Redis may have forgotten places. */
  readonly epoch: string;
  readonly place: number;
  /** True if the place was assigned on arrival. Otherwise it came later, and the stream is older than its place says. */
  readonly isExact: boolean;
}
