/** @import { NodeAvailability } from '../availability-views.ts' */
import { drawing, element } from './dom.js';
import { clockTime, count, moment, span } from './format.js';

const DAY_MS = 86_400_000;
const HEIGHT = 22;
const DAYS_HEIGHT = 46;
/** A label of the axis, with room on both sides. */
const LABEL = 70;

/**
 * When a node was online: in the last day as a bar, and on each of the last days as a column.
 *
 * @param {NodeAvailability} availability
 * @param {number} now
 * @param {number} width in pixels
 */
export function presenceParts({ periods, days, availability, knownSince }, now, width) {
  /** @type {Element[]} */
  const parts = [element('h3', {}, 'Presence in the last 24 hours')];
  const from = now - DAY_MS;
  const recent = periods
    .map(({ state, since, until }) => ({
      state,
      since: Math.max(from, Date.parse(since)),
      until: Math.min(now, Date.parse(until)),
    }))
    .filter(({ since, until }) => until > since);
  parts.push(element('p', {}, dayText(recent, knownSince)), dayBar(recent, from, now, width), dayLegend());
  const known = days.filter(({ onlineMs, offlineMs }) => onlineMs + offlineMs > 0);
  if (known.length > 1 && availability !== null) {
    const text = `Online ${percent(availability)} of the known time of the last ${count(days.length, 'day')}.`;
    parts.push(
      element('h3', { class: 'second' }, `Presence in the last ${count(days.length, 'day')}`),
      element('p', {}, text),
      dayColumns(days, width),
    );
  }
  return parts;
}

/** @typedef {{ state: NodeAvailability['periods'][number]['state'], since: number, until: number }} Period */

/**
 * @param {readonly Period[]} periods
 * @param {string | null} knownSince
 */
function dayText(periods, knownSince) {
  const lasted = (/** @type {Period} */ { since, until }) => until - since;
  const sum = (/** @type {Period['state']} */ state) =>
    periods.filter((each) => each.state === state).reduce((total, each) => total + lasted(each), 0);
  const [online, offline] = [sum('online'), sum('offline')];
  if (online + offline === 0) return 'Nothing is known of the last 24 hours.';
  const away = periods.filter(({ state }) => state === 'offline');
  const longest = Math.max(0, ...away.map(lasted));
  const times =
    away.length === 0
      ? 'never away'
      : `away ${away.length === 1 ? 'once' : `${away.length} times`}, for ${span(longest)} at most`;
  const since = sum('unknown') > 0 && knownSince !== null ? ` Nothing is known before ${moment(knownSince)}.` : '';
  return `Online for ${span(online)} of ${span(online + offline)} (${percent(online / (online + offline))}), ${times}.${since}`;
}

/** @param {number} share */
function percent(share) {
  // Two digits would say 100 % of a node that was away.
  const rounded = share < 1 ? Math.min(99.9, Math.round(share * 1000) / 10) : 100;
  return `${rounded} %`;
}

/**
 * @param {readonly Period[]} periods
 * @param {number} from
 * @param {number} now
 * @param {number} width
 */
function dayBar(periods, from, now, width) {
  const x = (/** @type {number} */ at) => ((at - from) / (now - from)) * width;
  const label = `${periods.length} periods, described above`;
  const picture = drawing('svg', {
    class: 'timeline presence',
    width,
    height: HEIGHT + 20,
    role: 'img',
    'aria-label': label,
  });
  for (const { state, since, until } of periods) {
    const text = `${state} for ${span(until - since)}: ${moment(since)} to ${moment(until)}`;
    const box = { class: state, x: x(since), y: 0, width: Math.max(1.5, x(until) - x(since)), height: HEIGHT };
    picture.append(drawing('rect', box, drawing('title', {}, text)));
  }
  const parts = [8, 6, 4, 3, 2].find((each) => width / each >= LABEL) ?? 2;
  for (let part = 0; part <= parts; part++) {
    const at = from + ((now - from) * part) / parts;
    const anchor = part === 0 ? 'start' : part === parts ? 'end' : 'middle';
    picture.append(
      drawing(
        'text',
        { x: x(at), y: HEIGHT + 15, 'text-anchor': anchor },
        part === parts ? 'now' : clockTime(at).slice(0, 5),
      ),
    );
  }
  return picture;
}

function dayLegend() {
  const entries = /** @type {const} */ ([
    ['online', 'online'],
    ['offline', 'away'],
    ['unknown', 'not known'],
  ]);
  const items = entries.map(([state, text]) => {
    const box = drawing(
      'svg',
      { class: 'presence', viewBox: '0 0 14 14', 'aria-hidden': 'true' },
      drawing('rect', { class: state, width: 14, height: 14 }),
    );
    return element('span', {}, box, text);
  });
  return element('p', { class: 'legend' }, ...items);
}

/**
 * @param {NodeAvailability['days']} days
 * @param {number} width
 */
function dayColumns(days, width) {
  const step = Math.min(36, width / days.length);
  const picture = drawing('svg', {
    ...{ class: 'timeline presence', width: step * days.length, height: DAYS_HEIGHT + 18, role: 'img' },
    'aria-label': days.map((day) => dayLine(day)).join('; '),
  });
  for (const [index, day] of days.entries()) {
    const { onlineMs, offlineMs } = day;
    const known = onlineMs + offlineMs;
    const column = { x: index * step + 1, width: Math.max(1, step - 2) };
    const high = known === 0 ? 0 : (onlineMs / known) * DAYS_HEIGHT;
    const group = drawing(
      'g',
      {},
      drawing('title', {}, dayLine(day)),
      drawing('rect', { ...column, class: known === 0 ? 'unknown' : 'offline', y: 0, height: DAYS_HEIGHT }),
    );
    if (known > 0) group.append(drawing('rect', { ...column, class: 'online', y: DAYS_HEIGHT - high, height: high }));
    picture.append(group);
  }
  const end = step * days.length;
  picture.append(drawing('text', { x: 0, y: DAYS_HEIGHT + 14 }, shortDate(days[0]?.date)));
  if (end > 160)
    picture.append(
      drawing('text', { x: end, y: DAYS_HEIGHT + 14, 'text-anchor': 'end' }, shortDate(days.at(-1)?.date)),
    );
  return picture;
}

/** @param {string | undefined} date as in `2026-11-27` */
function shortDate(date = '') {
  return date.slice(5);
}

/** @param {NodeAvailability['days'][number]} day */
function dayLine({ date, onlineMs, offlineMs }) {
  const known = onlineMs + offlineMs;
  return `${date}: ${known === 0 ? 'not known' : `online ${percent(onlineMs / known)}, away ${span(offlineMs)}`}`;
}
