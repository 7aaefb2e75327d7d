/** @import { EventOfApi } from './types.ts' */
import { byId, element } from './dom.js';
import { clockTime, nameOf } from './format.js';

const KEPT = 300;
const SHOWN = 120;
const ENDS = ['severed', 'would sever', 'duplicate machine key', 'internal error', 'not reloaded'];
const HEALTH = [
  'upstream up',
  'upstream down',
  'upstream silent',
  'upstream is not Headscale',
  'key not read again',
  'reloaded',
  'nodes not listed',
];

/** @param {EventOfApi} event */
export function isEnd({ kind, reason }) {
  if (kind === 'stream closed')
    return ['gone', 'not_reading', 'severed_by_operator', 'upstream_silent'].includes(reason ?? '');
  return ENDS.includes(kind) || HEALTH.includes(kind);
}

/**
 * The word for what an event came to, and how much it matters.
 *
 * @param {EventOfApi} event
 * @returns {[string, string]}
 */
export function wordFor({ kind, reason }) {
  if (kind === 'severed') return [`severed: ${reason}`, 'bad'];
  if (kind === 'stream closed' && reason === 'gone') return ['gone', 'bad'];
  if (kind === 'stream closed' && reason === 'not_reading') return ['not reading', 'bad'];
  if (kind === 'stream closed' && reason?.startsWith('severed'))
    return [reason === 'severed_by_operator' ? 'severed by an operator' : 'closed', 'warn'];
  if (kind === 'stream opened') return ['opened', ''];
  if (kind === 'stream closed') return ['closed', ''];
  if (kind === 'contest opened') return ['contested', 'warn'];
  if (
    [
      'upstream down',
      'upstream silent',
      'upstream is not Headscale',
      'internal error',
      'duplicate machine key',
    ].includes(kind)
  )
    return [kind, 'bad'];
  if (['would sever', 'not reloaded', 'nodes not listed'].includes(kind)) return [kind, 'warn'];
  return [kind, ''];
}

/**
 * @param {EventOfApi} event
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

/** What happened, the newest first. */
export class Feed {
  /** @type {EventOfApi[]} */
  #events = [];
  #list = byId('feed', HTMLOListElement);
  #kind = byId('feed-kind', HTMLSelectElement);

  constructor() {
    this.#list.tabIndex = 0;
    this.#list.setAttribute('aria-labelledby', 'feed-title');
    this.#kind.addEventListener('change', () => this.#showAll());
  }

  /** @param {readonly EventOfApi[]} events oldest first */
  start(events) {
    this.#events = [...events];
    this.#showAll();
  }

  /** @param {EventOfApi} event */
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

  /** @param {EventOfApi} event */
  #isShown(event) {
    return this.#kind.value === 'all' || isEnd(event);
  }

  #showAll() {
    const shown = this.#events.filter((event) => this.#isShown(event)).slice(-SHOWN);
    this.#list.replaceChildren(...shown.reverse().map((event) => eventItem(event, true)));
    if (shown.length === 0) this.#list.append(element('li', { class: 'empty' }, 'Nothing was ended so far.'));
  }
}
