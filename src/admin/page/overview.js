/** @import { Overview } from '../views.ts' */
import { byId, drawing, element } from './dom.js';
import { clockTime } from './format.js';

/**
 * Shows the tiles at the top: whether all is well, and the figures of the last hour.
 *
 * @param {Overview} overview
 */
export function showOverview(overview) {
  const { upstream, streams, lastHour, duplicateKeys, observeOnly } = overview;
  const { minutes } = lastHour;
  const [up, upClass] = upstreamTexts(upstream);
  const [key, keyClass, keyMore] = keyTexts(overview);
  const contested = streams.contested > 0 ? `${streams.contested} contested` : 'no contests';
  const duplicates =
    duplicateKeys > 0
      ? `${duplicateKeys} duplicate machine ${duplicateKeys === 1 ? 'key' : 'keys'}: see the events`
      : '';
  const warnings = byId('warnings', HTMLUListElement);
  warnings.hidden = overview.frontProxies.length === 0;
  warnings.replaceChildren(...overview.frontProxies.map(({ sentence }) => element('li', {}, sentence)));
  byId('version', HTMLElement).textContent = overview.version;
  byId('tiles', HTMLElement).replaceChildren(
    tile(
      'Headscale',
      up,
      upClass,
      upstream.detail ?? `${upstream.url}${upstream.version ? `, ${upstream.version}` : ''}`,
    ),
    tile('Noise key', key, keyClass, duplicates || keyMore),
    ...redisTiles(overview),
    tile('Open streams', String(streams.total), '', contested, chart(minutes, 'streams')),
    tile(
      'Takeovers, last hour',
      String(lastHour.takeovers),
      '',
      observeOnly ? 'observe-only mode: nothing is severed' : '',
      chart(minutes, 'takeovers'),
    ),
    tile('Gone, last hour', String(lastHour.gone), '', '', chart(minutes, 'gone')),
  );
}

/**
 * @param {Overview['upstream']} upstream
 * @returns {[string, string]}
 */
function upstreamTexts({ up, silentOn, isHeadscale }) {
  if (up === null) return ['checking…', ''];
  if (silentOn !== null) return ['does not answer', 'bad'];
  if (!up) return ['down', 'bad'];
  return isHeadscale === false ? ['not Headscale', 'bad'] : ['up', 'good'];
}

/**
 * @param {Overview} overview
 * @returns {[string, string, string]}
 */
function keyTexts({ noiseKeyMatches }) {
  if (noiseKeyMatches === null)
    return ['unknown', 'warn', 'there is no key file, or Headscale has not sent its key: no takeovers'];
  if (noiseKeyMatches) return ['matches', 'good', 'the watchdog can identify nodes'];
  return ['differs', 'bad', "this is not Headscale's key: the watchdog cannot identify nodes"];
}

/** @param {Overview} overview */
function redisTiles({ redisUp }) {
  if (redisUp === null) return [];
  return [
    redisUp
      ? tile('Redis', 'up', 'good', 'replicas share their streams')
      : tile('Redis', 'down', 'bad', 'this watchdog works alone'),
  ];
}

/**
 * @param {string} title
 * @param {string} value
 * @param {string} level
 * @param {string} more
 * @param {Element} [picture]
 */
function tile(title, value, level, more, picture) {
  const made = element(
    'div',
    { class: 'card tile' },
    element('h2', {}, title),
    element('div', { class: `value ${level}` }, value),
  );
  if (more !== '') made.append(element('p', { class: 'more' }, more));
  if (picture) made.append(picture);
  return made;
}

const HEIGHT = 30;

/**
 * A bar chart with one bar for each minute.
 *
 * @param {Overview['lastHour']['minutes']} minutes
 * @param {'streams' | 'takeovers' | 'gone'} what
 */
function chart(minutes, what) {
  const most = Math.max(1, ...minutes.map((minute) => minute[what]));
  const total = minutes.reduce((sum, minute) => sum + minute[what], 0);
  const label =
    what === 'streams'
      ? `at most ${most} streams in a minute`
      : `${total} in the last hour, at most ${most} in a minute`;
  const picture = drawing('svg', {
    class: 'chart',
    viewBox: `0 0 240 ${HEIGHT}`,
    preserveAspectRatio: 'none',
    role: 'img',
    'aria-label': label,
  });
  for (const [index, minute] of minutes.entries()) {
    const height = minute[what] === 0 ? 1 : Math.max(3, (minute[what] / most) * HEIGHT);
    const bar = drawing('rect', { x: index * 4, y: HEIGHT - height, width: 3, height });
    bar.append(drawing('title', {}, `${clockTime(minute.at).slice(0, 5)}: ${minute[what]}`));
    picture.append(bar);
  }
  return picture;
}
