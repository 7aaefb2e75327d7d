/** @import { EventView, StreamView } from '../views.ts' */
import { ticksBetween } from './axis.js';
import { drawing, element } from './dom.js';
import { severingOf } from './feed.js';
import { count, DAY_MS, moment, span } from './format.js';

/** Of a letter of the labels, at most. */
const LETTER = 7;
const RIGHT = 14;
const LANE = 30;
const TOP = 10;
const MOST_LANES = 24;
const SHORTEST_MS = 60_000;
/** Left of the first event. */
const MARGIN = 0.03;

/**
 * @typedef {object} Lane
 * @property {number} id
 * @property {number} from
 * @property {number | undefined} to
 * @property {EventView[]} events
 */

/**
 * Draws a node's streams of the last 24 hours, one lane for each stream, over a span that fits them.
 *
 * @param {readonly EventView[]} events oldest first
 * @param {readonly StreamView[]} open
 * @param {number} now
 * @param {number} width in pixels: the picture is not scaled, so that its text stays legible on a phone
 * @returns {Element[]}
 */
export function timeline(events, open, now, width) {
  const lanes = lanesOf(events, open, now).slice(-MOST_LANES);
  if (lanes.length === 0) return [element('p', { class: 'soft' }, 'No stream of this node is known.')];
  const left = 18 + LETTER * Math.max(...lanes.map(({ id }) => labelOf(id).length));
  const oldest = Math.min(...lanes.map(({ from }) => from));
  const range = Math.min(DAY_MS, Math.max(SHORTEST_MS, (now - oldest) * (1 + MARGIN)));
  const room = width - left - RIGHT;
  /** @param {number} at */
  const x = (at) => left + Math.max(0, 1 - (now - at) / range) * room;
  const height = TOP + lanes.length * LANE + 24;
  const label = `${count(lanes.length, 'stream')} in the last ${span(range)}. The list below has all events.`;
  const picture = drawing('svg', {
    class: 'timeline',
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    role: 'img',
    'aria-label': label,
  });
  for (const { at, text } of ticksBetween(now - range, now, room)) {
    picture.append(
      drawing('line', { class: 'axis', x1: x(at), x2: x(at), y1: TOP, y2: height - 22 }),
      drawing('text', { x: x(at), y: height - 6, 'text-anchor': at === now ? 'end' : 'middle' }, text),
    );
  }
  for (const [index, lane] of lanes.entries())
    picture.append(drawLane(lane, { y: TOP + index * LANE + LANE / 2, left }, x, now));
  return [picture, legend(lanes.some((lane) => lane.events.some(({ kind }) => kind === 'would_sever')))];
}

/** @param {number} id */
function labelOf(id) {
  return `stream ${id}`;
}

/**
 * @param {Lane} lane
 * @param {{ y: number, left: number }} place
 * @param {(at: number) => number} x
 * @param {number} now
 */
function drawLane({ id, from, to, events }, { y, left }, x, now) {
  const group = drawing('g');
  group.append(drawing('text', { x: left - 12, y: y + 4, 'text-anchor': 'end' }, labelOf(id)));
  const end = x(to ?? now);
  group.append(
    drawing('rect', { class: 'lane', x: x(from), y: y - 4, width: Math.max(2, end - x(from)), height: 8, rx: 4 }),
  );
  const held = events.find(({ kind }) => kind === 'stream_held');
  const released = events.find(({ kind }) => kind === 'stream_released');
  if (held) {
    const [start, stop] = [x(Date.parse(held.time)), x(released ? Date.parse(released.time) : (to ?? now))];
    group.append(
      drawing(
        'rect',
        { class: 'held', x: start, y: y - 4, width: Math.max(3, stop - start), height: 8 },
        drawing('title', {}, held.sentence),
      ),
    );
  }
  const isSevered = events.some(({ kind }) => kind === 'stream_severed');
  for (const event of events) {
    // The event that severed the stream came a moment earlier and marks its end.
    if (event.kind === 'stream_closed' && isSevered) continue;
    const mark = markOf(event, x(Date.parse(event.time)), y);
    if (mark === undefined) continue;
    mark.append(drawing('title', {}, `${moment(event.time)} ${event.sentence}`));
    group.append(mark);
  }
  return group;
}

/**
 * @param {Pick<EventView, 'kind' | 'reason'>} event
 * @param {number} x
 * @param {number} y
 */
function markOf(event, x, y) {
  const { kind } = event;
  const severing = severingOf(event);
  if (severing !== undefined) {
    return drawing('path', { class: `severed ${severing}`, d: `M${x - 6} ${y - 6}l12 12m0 -12l-12 12` });
  }
  if (kind === 'stream_opened') return drawing('circle', { class: 'opened', cx: x, cy: y, r: 5 });
  if (kind === 'stream_closed') return drawing('circle', { class: 'closed', cx: x, cy: y, r: 5 });
  if (kind === 'contest_opened') return drawing('path', { class: 'contest', d: `M${x} ${y - 9}l7 9l-7 9l-7 -9z` });
  return undefined;
}

/**
 * @param {readonly EventView[]} events
 * @param {readonly StreamView[]} open
 * @param {number} now
 * @returns {Lane[]}
 */
function lanesOf(events, open, now) {
  /** @type {Map<number, Lane>} */
  const lanes = new Map();
  /** @param {number} id */
  const laneOf = (id) => {
    const lane = lanes.get(id) ?? { id, from: now - DAY_MS, to: undefined, events: [] };
    lanes.set(id, lane);
    return lane;
  };
  for (const stream of open) laneOf(stream.id).from = Date.parse(stream.openedAt);
  for (const event of events) {
    if (event.stream === null) continue;
    // Contests are drawn in the old stream's lane, because that stream may lose.
    const isContest = event.kind === 'contest_opened' || event.kind === 'contest_ended';
    const lane = laneOf(isContest ? (event.otherStream ?? event.stream) : event.stream);
    lane.events.push(event);
    if (event.kind === 'stream_opened') lane.from = Date.parse(event.time);
    if (event.kind === 'stream_closed') lane.to = Date.parse(event.time);
  }
  /** @type {Set<number>} */
  const ids = new Set(open.map(({ id }) => id));
  for (const lane of lanes.values()) {
    // If the watchdog crashed, no event tells when its streams ended.
    if (lane.to === undefined && !ids.has(lane.id)) lane.to = Date.parse(lane.events.at(-1)?.time ?? '');
  }
  return [...lanes.values()].filter(({ to }) => (to ?? now) > now - DAY_MS).sort((a, b) => a.id - b.id);
}

/** @param {boolean} isObserved whether a stream would have been severed */
function legend(isObserved) {
  const entries = /** @type {const} */ ([
    [{ kind: 'stream_opened', reason: null }, 'opened'],
    [{ kind: 'contest_opened', reason: null }, 'contested'],
    [undefined, 'held'],
    [{ kind: 'stream_severed', reason: 'dead' }, 'ended by the watchdog'],
    ...(isObserved
      ? [/** @type {const} */ ([{ kind: 'would_sever', reason: 'dead' }, 'would be, if not observe-only'])]
      : []),
    [{ kind: 'stream_closed', reason: null }, 'closed'],
  ]);
  const items = entries.map(([event, text]) => {
    const mark = (event && markOf(event, 9, 9)) ?? drawing('rect', { class: 'held', x: 0, y: 5, width: 18, height: 8 });
    return element(
      'span',
      {},
      drawing('svg', { class: 'timeline', viewBox: '-1 -1 20 20', 'aria-hidden': 'true' }, mark),
      text,
    );
  });
  return element('p', { class: 'legend' }, ...items);
}
