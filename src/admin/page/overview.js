/** @import { Overview, PresenceView } from '../views.ts' */
import { byId, drawing, element, refill } from './dom.js';
import { clockTime, dayAhead, fullDate, moment, now, span } from './format.js';
import { connectedOf } from './node-table.js';

/**
 * Shows the tiles at the top: whether all is well, and the figures of the last hour. Each leads to what it counts.
 *
 * @param {Overview} overview
 * @param {readonly PresenceView[]} nodes
 */
export function showOverview(overview, nodes) {
  const { upstream, streams, lastHour, observeOnly } = overview;
  const { minutes } = lastHour;
  const { connected, total } = connectedOf(nodes);
  const disagreeing = nodes.filter(({ disagreement }) => disagreement !== null).length;
  const [up, upLevel] = upstreamTexts(upstream);
  const [key, keyLevel, keyMore] = keyTexts(overview);
  const tiles = byId('tiles', HTMLElement);
  refill(
    tiles,
    tile('Nodes connected', `${connected} of ${total}`, '', disagreeing > 0 ? `${disagreeing} disagreeing` : '', {
      href: disagreeing > 0 ? '#nodes&filter=disagrees' : '#nodes&filter=connected',
    }),
    tile('Open streams', String(streams.total), '', streams.contested > 0 ? `${streams.contested} contested` : '', {
      href: streams.contested > 0 ? '#streams&filter=contested' : '#streams',
      picture: chart(minutes, 'streams'),
    }),
    tile('Takeovers in 1\u00a0h', String(lastHour.takeovers), '', observeOnly ? 'observe-only' : '', {
      href: '#events&show=takeovers',
      picture: chart(minutes, 'takeovers'),
    }),
    tile('Gone in 1\u00a0h', String(lastHour.gone), '', '', {
      href: '#events&show=ended',
      picture: chart(minutes, 'gone'),
    }),
    tile('Headscale', up, upLevel, upstreamMore(upstream), {
      ...{ href: '#events&show=headscale', title: upstream.detail ?? undefined },
    }),
    tile('Noise key', key, keyLevel, keyMore, { href: '#events&show=headscale' }),
    ...redisTiles(overview),
  );
  showFoot(overview);
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

/** A tile is narrow: the problem above has all of it. @type {readonly (readonly [RegExp, string])[]} */
const FAILURES = [
  [/ECONNREFUSED/, 'connection refused'],
  [/ECONNRESET|socket hang up/, 'connection reset'],
  [/ETIMEDOUT/, 'no answer'],
  [/ENOTFOUND|EAI_AGAIN/, 'name not found'],
  [/EHOSTUNREACH|ENETUNREACH/, 'no route'],
];

/** @param {Overview['upstream']} upstream */
function upstreamMore({ detail, version, url }) {
  if (detail === null) return version ?? new URL(url).host;
  return FAILURES.find(([of]) => of.test(detail))?.[1] ?? detail;
}

/**
 * @param {Overview} overview
 * @returns {[string, string, string]}
 */
function keyTexts({ noiseKeyMatches, upstream, problems }) {
  if (noiseKeyMatches === null) return ['unknown', 'warn', 'no takeovers'];
  // Headscale may come back with another key.
  if (upstream.up === false) {
    const since = problems.find(({ kind }) => kind === 'upstream_down' || kind === 'upstream_silent')?.since;
    return [noiseKeyMatches ? 'matched' : 'differed', 'soft', since === undefined ? '' : `as of ${moment(since)}`];
  }
  return noiseKeyMatches ? ['matches', 'good', ''] : ['differs', 'bad', 'no takeovers'];
}

/** @param {Overview} overview */
function redisTiles({ redisUp, replica }) {
  if (redisUp === null) return [];
  return [
    tile('Redis', redisUp ? 'up' : 'away', redisUp ? 'good' : 'bad', replica ?? '', { href: '#events&show=warnings' }),
  ];
}

/**
 * @param {string} name
 * @param {string} value
 * @param {string} level
 * @param {string} more
 * @param {{ href: string, title?: string | undefined, picture?: Element }} options
 */
function tile(name, value, level, more, { href, title, picture }) {
  const made = element(
    'a',
    { class: 'card tile', href, title, 'data-focus': name },
    element('span', { class: 'name' }, name),
    element('span', { class: `value ${level}` }, value),
  );
  if (more !== '') made.append(element('span', { class: 'more' }, more));
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

/**
 * What this watchdog is and what it has to work with.
 *
 * @param {Overview} overview
 */
function showFoot(overview) {
  const { version, startedAt, listen, upstream, evidence, redisUp, replica, certificateExpiresAt } = overview;
  const { descriptors, nodesListedAt } = overview;
  const addresses = listen.map((each) => (each === null ? 'not listening' : hostPort(each))).join(', ');
  /** @type {readonly (readonly [name: string, text: string, title?: string])[]} */
  const facts = [
    ['Watchdog', version],
    ['Headscale', `${upstream.version ?? 'version unknown'} at ${upstream.url}`],
    ['Listens on', addresses],
    ['Running', `${span(now() - Date.parse(startedAt))}, since ${moment(startedAt)}`, fullDate(startedAt)],
    ['Evidence', evidenceText(evidence)],
    ['Node list', nodesListedAt === null ? 'none' : `as of ${moment(nodesListedAt)}`],
    ['Redis', redisUp === null ? 'not used' : `${redisUp ? 'up' : 'away'}, this is ${replica}`],
    ['Certificates', certificateExpiresAt === null ? 'none' : `the first ends on ${dayAhead(certificateExpiresAt)}`],
    ['Descriptors', descriptors === null ? 'unknown' : `${descriptors.open} of ${descriptors.limit}`],
  ];
  const list = element('dl');
  for (const [name, text, title] of facts) {
    list.append(element('div', { title }, element('dt', {}, name), element('dd', {}, text)));
  }
  refill(byId('foot', HTMLElement), list);
}

/** @param {{ address: string, family: string, port: number }} address */
function hostPort({ address, family, port }) {
  return `${family === 'IPv6' ? `[${address}]` : address}:${port}`;
}

/** @param {Overview['evidence']} evidence */
function evidenceText({ direct, proxy }) {
  if (direct && proxy) return "from clients' and proxies' connections";
  if (direct) return "from clients' connections only";
  return proxy ? "from proxies' connections only" : 'none';
}
