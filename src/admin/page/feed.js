/** @import { ApiEvent } from './types.ts' */
import { byId, element } from './dom.js';
import { clockTime, nameOf } from './format.js';

const KEPT = 300;
const SHOWN = 120;
/** Kinds of events that show a problem: serious ones, and warnings. */
const BAD = [
  ...['upstream_down', 'upstream_silent', 'upstream_not_headscale', 'redis_down'],
  ...['internal_error', 'machine_key_duplicated'],
];
const WARN = [
  ...['would_sever', 'upstream_refused', 'settings_reload_failed', 'nodes_list_failed', 'key_file_reload_failed'],
  ...['node_metrics_disabled', 'limit_reached', 'connection_refused'],
  ...['proxy_not_trusted', 'client_addresses_hidden', 'upgrade_header_lost'],
];
const SHOWN_WITH_THEM = ['stream_severed', 'upstream_up', 'redis_up', 'settings_reloaded'];

/** @param {ApiEvent} event */
export function isEnd({ kind, reason }) {
  if (kind === 'stream_closed')
    return ['gone', 'not_reading', 'severed_by_operator', 'upstream_silent', 'surplus'].includes(reason ?? '');
  // Scanners are refused all day. A refused proxy is a configuration mistake.
  if (kind === 'connection_refused') return reason?.endsWith('_proxy') || reason?.endsWith('_proxy_header');
  if (kind === 'noise_key_checked') return reason === 'differs';
  return [...BAD, ...WARN, ...SHOWN_WITH_THEM].includes(kind);
}

/**
 * A short label for an event, and its level.
 *
 * @param {ApiEvent} event
 * @returns {[string, string]}
 */
export function wordFor({ kind, reason }) {
  if (kind === 'stream_severed') return [`severed: ${reason}`, 'bad'];
  if (kind === 'stream_closed' && reason === 'gone') return ['gone', 'bad'];
  if (kind === 'stream_closed' && reason === 'not_reading') return ['not reading', 'bad'];
  if (kind === 'stream_closed' && reason?.startsWith('severed'))
    return [reason === 'severed_by_operator' ? 'severed by an operator' : 'closed', 'warn'];
  if (kind === 'stream_opened') return ['opened', ''];
  if (kind === 'stream_closed') return ['closed', ''];
  if (kind === 'contest_opened') return ['contested', 'warn'];
  if (kind === 'noise_key_checked') return reason === 'differs' ? ['noise key differs', 'bad'] : [wordsOf(kind), ''];
  if (kind === 'limit_reached') return [`limit: ${wordsOf(reason ?? '')}`, 'warn'];
  if (BAD.includes(kind)) return [wordsOf(kind), 'bad'];
  if (WARN.includes(kind)) return [wordsOf(kind), 'warn'];
  return [wordsOf(kind), ''];
}

/** @param {string} identifier */
function wordsOf(identifier) {
  return identifier.replaceAll('_', ' ');
}

/**
 * @param {ApiEvent} event
 * @param {boolean} hasLink whether to name the node as a link
 */
export function eventItem(event, hasLink) {
  const [word, level] = wordFor(event);
  const item = element('li');
  if (hasLink && event.machineKey !== null) {
    const target = `#node=${event.machineKey}`;
    item.append(element('a', { href: target }, nameOf(event)));
  }
  item.append(
    element('time', { datetime: event.date, title: new Date(event.date).toLocaleString() }, clockTime(event.date)),
    element('span', { class: `tag ${level}` }, word),
    element('p', {}, event.sentence),
  );
  return item;
}

/** The list of events, newest first. */
export class Feed {
  /** @type {ApiEvent[]} */
  #events = [];
  #list = byId('feed', HTMLOListElement);
  #kind = byId('feed-kind', HTMLSelectElement);

  constructor() {
    this.#list.tabIndex = 0;
    this.#list.setAttribute('aria-labelledby', 'feed-title');
    this.#kind.addEventListener('change', () => this.#showAll());
  }

  /** @param {readonly ApiEvent[]} events oldest first */
  start(events) {
    this.#events = [...events];
    this.#showAll();
  }

  /** @param {ApiEvent} event */
  add(event) {
    this.#events.push(event);
    if (this.#events.length > KEPT) this.#events.shift();
    if (!this.#isShown(event)) return;
    const item = eventItem(event, true);
    item.classList.add('new');
    if (this.#list.querySelector('.empty')) this.#list.replaceChildren();
    this.#list.prepend(item);
    if (this.#list.childElementCount > SHOWN) this.#list.lastElementChild?.remove();
  }

  /** @param {ApiEvent} event */
  #isShown(event) {
    return this.#kind.value === 'all' || isEnd(event);
  }

  #showAll() {
    const shown = this.#events.filter((event) => this.#isShown(event)).slice(-SHOWN);
    this.#list.replaceChildren(...shown.reverse().map((event) => eventItem(event, true)));
    if (shown.length === 0) this.#list.append(element('li', { class: 'empty' }, 'No such events so far.'));
  }
}
