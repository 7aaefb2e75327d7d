export const DAY_MS = 86_400_000;

/** How far the watchdog's clock is ahead of this browser's. Ages are about the watchdog's times. */
let aheadMs = 0;

/** @param {string} date the watchdog's time in an answer that came just now */
export function setWatchdogTime(date) {
  aheadMs = Date.parse(date) - Date.now();
}

/** The time by the watchdog's clock. */
export function now() {
  return Date.now() + aheadMs;
}

/** @param {number} ms */
export function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
}

/** @param {string | number} date */
export function ago(date) {
  return `${span(now() - new Date(date).getTime())} ago`;
}

/** @param {number} count */
export function bytes(count) {
  if (count < 1000) return `${count} B`;
  if (count < 1_000_000) return `${(count / 1000).toFixed(1)} kB`;
  if (count < 1_000_000_000) return `${(count / 1_000_000).toFixed(1)} MB`;
  return `${(count / 1_000_000_000).toFixed(1)} GB`;
}

/** @param {number | null | undefined} ms */
export function roundTrip(ms) {
  if (ms === undefined || ms === null) return '–';
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}

/** @type {Intl.DateTimeFormatOptions} */
const CLOCK = { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' };
// A formatter takes long to make, and a list of events needs it hundreds of times.
const clockFormat = new Intl.DateTimeFormat(undefined, CLOCK);
const dayFormat = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
const shortDayFormat = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' });

const dateFormat = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short', year: 'numeric' });

/** @param {string | number} date */
export function clockTime(date) {
  return clockFormat.format(new Date(date));
}

/** @param {string | number} date */
export function dayOf(date) {
  return dayFormat.format(new Date(date));
}

/** @param {string | number} date */
export function dayAndMonth(date) {
  return shortDayFormat.format(new Date(date));
}

/**
 * The day, and how far away it is: `3 Dec 2026, in 6 days`.
 *
 * @param {string | number} date
 */
export function dayAhead(date) {
  const leftMs = new Date(date).getTime() - now();
  const away =
    Math.abs(leftMs) < 2 * DAY_MS ? span(Math.abs(leftMs)) : count(Math.floor(Math.abs(leftMs) / DAY_MS), 'day');
  return `${dateFormat.format(new Date(date))}, ${leftMs < 0 ? `${away} ago` : `in ${away}`}`;
}

/**
 * The time, with the day if it is not today.
 *
 * @param {string | number} date
 */
export function moment(date) {
  const time = clockTime(date);
  return dayOf(date) === dayOf(now()) ? time : `${dayAndMonth(date)}, ${time}`;
}

/** @param {string | number} date */
export function fullDate(date) {
  return `${dayOf(date)} ${new Date(date).getFullYear()}, ${clockTime(date)}`;
}

/** @param {{ node: { name: string } | null, machineKey: string | null, kind?: string }} of */
export function nameOf({ node, machineKey, kind }) {
  if (node !== null) return node.name;
  if (machineKey !== null) return shortKey(machineKey);
  return kind === 'derp' ? '(relay)' : '(unidentified)';
}

/** @param {string} key */
export function shortKey(key) {
  return `${key.slice(0, 13)}…`;
}

/**
 * @param {number} number
 * @param {string} noun
 */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

/**
 * Whether a watchdog that said `before` when it started is the one that says `after`. It works the date out anew each time, so it is a
 * millisecond earlier or later.
 *
 * @param {string} before
 * @param {string} after
 */
export function isSameStart(before, after) {
  return Math.abs(Date.parse(before) - Date.parse(after)) < 500;
}
