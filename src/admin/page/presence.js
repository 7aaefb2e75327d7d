/** @import { NodeAvailability } from '../availability-views.ts' */
import { ticksBetween } from './axis.js';
import { drawing, element } from './dom.js';
import { DAY_MS, dayAndMonth, moment, span } from './format.js';

const HEIGHT = 22;
const DAYS_HEIGHT = 46;
const EDGE = 24;
/** After its start, the watchdog waits this long before it counts a node that has not come back as away. */
const SETTLE_MS = 120_000;

/**
 * When a node was online: in the last day as a bar, and on each of the last days as a column and in a list.
 *
 * @param {NodeAvailability} availability
 * @param {{ connectedSince: string | null, hasFile: boolean, isListOpen: boolean }} of since when it is connected, whether there is
 *   a history file, and whether the list of days is open
 * @param {number} now
 * @param {number} width in pixels
 */
export function presenceParts({ periods, days, availability, knownSince }, of, now, width) {
  const { connectedSince, hasFile, isListOpen } = of;
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
  const isKnown = recent.some(({ state }) => state !== 'unknown');
  const text = isKnown ? dayText(recent) : unknownText(connectedSince, knownSince, now);
  parts.push(element('p', {}, text), dayBar(recent, from, now, width), dayLegend());
  const known = days.filter(({ onlineMs, offlineMs }) => onlineMs + offlineMs > 0);
  if (availability !== null && (known.length > 1 || hasFile)) {
    const summary = `Online ${percent(availability)} of the known time of the last 30 days.`;
    parts.push(
      element('h3', { class: 'second' }, 'Presence in the last 30 days'),
      element('p', {}, summary),
      dayColumns(days, width),
      dayList(known, isListOpen),
    );
  }
  if (!hasFile) {
    const hint = element(
      'p',
      { class: 'soft second' },
      'A restart of the watchdog clears this. To keep 30 days, day by day, start it with ',
    );
    hint.append(element('code', {}, '--history-file FILE'), '.');
    parts.push(hint);
  }
  return parts;
}

/** @type {Readonly<Record<Period['state'], string>>} */
const WORDS = { online: 'online', offline: 'away', unknown: 'not known' };

/** @typedef {{ state: NodeAvailability['periods'][number]['state'], since: number, until: number }} Period */

/** @param {readonly Period[]} periods of which at least one is known */
function dayText(periods) {
  const lasted = (/** @type {Period} */ { since, until }) => until - since;
  const sum = (/** @type {Period['state']} */ state) =>
    periods.filter((each) => each.state === state).reduce((total, each) => total + lasted(each), 0);
  const [online, offline] = [sum('online'), sum('offline')];
  const away = periods.filter(({ state }) => state === 'offline');
  const longest = Math.max(0, ...away.map(lasted));
  const times =
    away.length === 0
      ? 'never away'
      : `away ${away.length === 1 ? 'once' : `${away.length} times`}, for ${span(longest)} at most`;
  const [first, last] = [periods[0], periods.at(-1)];
  const before = first?.state === 'unknown' ? ` Nothing is known before ${moment(first.until)}.` : '';
  const since = last?.state === 'unknown' ? ` ${settleText(last.since)}` : '';
  return `Online for ${span(online)} of ${span(online + offline)} (${percent(online / (online + offline))}), ${times}.${before}${since}`;
}

/**
 * What is known all the same before there is anything to count.
 *
 * @param {string | null} connectedSince
 * @param {string | null} knownSince since when the watchdog has watched
 * @param {number} now
 */
function unknownText(connectedSince, knownSince, now) {
  if (connectedSince !== null)
    return `It has been connected since ${moment(connectedSince)}. This counts once Headscale lists it or, if Headscale is not asked for its nodes, after a minute.`;
  const watchedSince = knownSince === null ? now : Date.parse(knownSince);
  if (now < watchedSince + SETTLE_MS) return `It is not connected. ${settleText(watchedSince)}`;
  return 'It is not connected, and has not been for a whole minute since the watchdog started.';
}

/** @param {number} since when the watchdog began to watch again */
function settleText(since) {
  return `The watchdog has watched since ${moment(since)}: if the node is not back by ${moment(since + SETTLE_MS)}, it counts as away.`;
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
    const text = `${WORDS[state]} for ${span(until - since)}: ${moment(since)} to ${moment(until)}`;
    const box = { class: state, x: x(since), y: 0, width: Math.max(1.5, x(until) - x(since)), height: HEIGHT };
    picture.append(drawing('rect', box, drawing('title', {}, text)));
  }
  for (const { at, text } of ticksBetween(from, now, width)) {
    // What begins before the left edge would be cut.
    if (x(at) < EDGE) continue;
    const anchor = at === now ? 'end' : 'middle';
    picture.append(
      drawing('line', { class: 'axis', x1: x(at), x2: x(at), y1: HEIGHT, y2: HEIGHT + 4 }),
      drawing('text', { x: x(at), y: HEIGHT + 17, 'text-anchor': anchor }, text),
    );
  }
  return picture;
}

function dayLegend() {
  const entries = Object.entries(WORDS);
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

/**
 * The newest first.
 *
 * @param {NodeAvailability['days']} days of which something is known
 * @param {boolean} isOpen
 */
function dayList(days, isOpen) {
  const head = ['Day', 'Online', 'Away', 'Share'].map((name) => element('th', { scope: 'col' }, name));
  const rows = days.toReversed().map((day) => {
    const { date, onlineMs, offlineMs } = day;
    return element(
      'tr',
      {},
      element('th', { scope: 'row' }, shortDate(date)),
      element('td', {}, span(onlineMs)),
      element('td', {}, span(offlineMs)),
      element('td', {}, percent(onlineMs / (onlineMs + offlineMs))),
    );
  });
  const table = element(
    'table',
    { class: 'days' },
    element('thead', {}, element('tr', {}, ...head)),
    element('tbody', {}, ...rows),
  );
  return element('details', { open: isOpen }, element('summary', { 'data-focus': 'days' }, 'Day by day'), table);
}

/** @param {string | undefined} date as in `2026-11-27`, of the reader's calendar */
function shortDate(date) {
  return date === undefined ? '' : dayAndMonth(`${date}T12:00:00`);
}

/** @param {NodeAvailability['days'][number]} day */
function dayLine({ date, onlineMs, offlineMs }) {
  const known = onlineMs + offlineMs;
  return `${shortDate(date)}: ${known === 0 ? 'not known' : `online ${percent(onlineMs / known)}, away ${span(offlineMs)}`}`;
}
