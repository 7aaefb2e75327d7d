/** @import { EventView } from '../views.ts' */

/*
 * The events of a takeover put together: the page and the command `events` show them as one line.
 */

/** Numbers of streams begin again when the watchdog starts again. */
export const SAME_TAKEOVER_MS = 3_600_000;
export const CONTEST = ['contest_opened', 'contest_ended', 'stream_severed'];
/** What may come after the first event of a takeover. */
const MAY_FOLLOW = [...CONTEST, 'stream_held', 'stream_released', 'stream_closed'];
/** How a stream closes that has lost a contest. */
export const LOST = ['severed_dead', 'severed_silent', 'client_left'];

/** @typedef {{ key: string, old: number, newcomer: number }} Contest */

/**
 * One line: an event, or a takeover with its steps.
 *
 * @typedef {object} Line
 * @property {string} key
 * @property {Contest | undefined} contest of which it has the steps
 * @property {EventView[]} events oldest first
 */

/**
 * The two streams of a contest: `old>newcomer`.
 *
 * @param {EventView} event
 * @returns {Contest | undefined}
 */
export function contestOf({ kind, stream, otherStream, machineKey }) {
  if (stream === null || otherStream === null || !CONTEST.includes(kind)) return undefined;
  const [old, newcomer] = kind === 'stream_severed' ? [stream, otherStream] : [otherStream, stream];
  return { key: `${machineKey} ${old}>${newcomer}`, old, newcomer };
}

/**
 * Puts the steps of a takeover together.
 *
 * @param {readonly EventView[]} events oldest first
 * @param {Line[]} lines of earlier events: the new ones are added
 */
export function linesOf(events, lines = []) {
  for (const event of events) addTo(lines, event);
  return lines;
}

/**
 * @param {Line[]} lines in the order of their last events
 * @param {EventView} event
 * @returns {Line} the one that has it now
 */
export function addTo(lines, event) {
  // Lists are long, and most events are no step of anything.
  const place = MAY_FOLLOW.includes(event.kind) ? lines.findLastIndex((line) => belongsTo(line, event)) : -1;
  const [line] = place < 0 ? [] : lines.splice(place, 1);
  if (line) {
    line.events.push(event);
    lines.push(line);
    return line;
  }
  const events = [...holdBefore(lines, event), event];
  const contest = events.map(contestOf).find((each) => each !== undefined);
  const made = { key: `${event.seq} ${event.time}`, contest, events };
  lines.push(made);
  return made;
}

/**
 * A newcomer may be held before its contest opens.
 *
 * @param {Line[]} lines
 * @param {EventView} event
 */
function holdBefore(lines, { kind, stream, machineKey }) {
  if (kind !== 'contest_opened') return [];
  const place = lines.findLastIndex(
    ({ events: [first] }) =>
      first?.kind === 'stream_held' && first.stream === stream && first.machineKey === machineKey,
  );
  return place < 0 ? [] : (lines.splice(place, 1)[0]?.events ?? []);
}

/**
 * @param {Pick<Line, 'contest' | 'events'>} line
 * @param {EventView} event
 */
export function belongsTo({ contest, events }, event) {
  const last = events.at(-1);
  if (!contest || !last || event.machineKey !== last.machineKey || !isStepOf(contest, event)) return false;
  // Reading times is slow, and only few events come this far.
  return Date.parse(event.time) - Date.parse(last.time) <= SAME_TAKEOVER_MS;
}

/**
 * @param {Contest} contest
 * @param {EventView} event
 */
function isStepOf({ key, old, newcomer }, event) {
  const { kind, stream, reason } = event;
  if (kind === 'stream_closed') return stream === old && LOST.includes(reason ?? '');
  if (kind === 'stream_held' || kind === 'stream_released') return stream === newcomer;
  return contestOf(event)?.key === key;
}

/** The event that says how it came out, or how it stands. @param {readonly EventView[]} events */
export function mainOf(events) {
  return (
    events.find(({ kind }) => kind === 'stream_severed') ??
    events.find(({ kind }) => kind === 'contest_ended') ??
    events.find(({ kind }) => kind === 'contest_opened') ??
    events[0]
  );
}
