import { clockTime, dayAndMonth } from './format.js';

const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
/** As people divide time. */
const STEPS_MS = [
  ...[5, 10, 15, 30].map((seconds) => seconds * SECOND_MS),
  ...[1, 2, 5, 10, 15, 30].map((minutes) => minutes * MINUTE_MS),
  ...[1, 2, 3, 4, 6, 12, 24].map((hours) => hours * HOUR_MS),
];
/** A label with room on both sides, in pixels. */
const LABEL = 72;
/** From the right end, where it says "now". */
const NOW = 58;

/**
 * The ticks of an axis of time that ends now: round times of the reader's clock, as many as there is room for.
 *
 * @param {number} from
 * @param {number} now
 * @param {number} width in pixels
 * @returns {{ at: number, text: string }[]} the last one is now
 */
export function ticksBetween(from, now, width) {
  const perMs = width / (now - from);
  const step = STEPS_MS.find((each) => each * perMs >= LABEL) ?? 24 * HOUR_MS;
  const zoneMs = new Date(now).getTimezoneOffset() * MINUTE_MS;
  const ticks = [];
  for (let at = Math.ceil((from - zoneMs) / step) * step + zoneMs; (now - at) * perMs >= NOW; at += step) {
    const time = clockTime(at);
    // A new day is worth more than its midnight.
    const text = time === '00:00:00' ? dayAndMonth(at) : step < MINUTE_MS ? time : time.slice(0, 5);
    ticks.push({ at, text });
  }
  return [...ticks, { at: now, text: 'now' }];
}
