/** @import { EventView } from '../views.ts' */
import { byId, element } from './dom.js';
import { clockTime, nameOf } from './format.js';

const KEPT = 300;
const SHOWN = 120;
const RECOVERIES = ['upstream_up', 'redis_up', 'settings_reloaded'];
/** Why the watchdog itself ends a stream, with no contest before. */
const ENDED_BY_US = [
  'gone',
  'not_reading',
  'severed_by_operator',
  'upstream_silent',
  'surplus',
  'shown_offline',
  'node_deleted',
];

/**
 * Whether the watchdog, or somebody through it, ended or would have ended a stream.
 *
 * @param {EventView} event
 */
export function isSevering({ kind, reason }) {
  if (kind === 'stream_closed') return ENDED_BY_US.includes(reason ?? '');
  return kind === 'stream_severed' || kind === 'would_sever';
}

/** @param {EventView} event */
function isNotable(event) {
  const { kind, level, reason } = event;
  // Scanners send bad requests all day. A refused proxy is somebody's mistake.
  if (kind === 'connection_refused' && reason === 'bad_request') return false;
  return isSevering(event) || level === 'warn' || level === 'error' || RECOVERIES.includes(kind);
}

/**
 * The word for an event and its colour.
 *
 * @param {EventView} event
 * @returns {[word: string, colour: string]}
 */
function wordFor({ kind, level, reason }) {
  switch (kind) {
    case 'stream_severed':
      return [`severed: ${reason}`, 'bad'];
    case 'stream_opened':
      return ['opened', ''];
    case 'stream_closed':
      if (reason === 'gone') return ['gone', 'bad'];
      if (reason === 'not_reading') return ['not reading', 'bad'];
      if (reason === 'severed_by_operator') return ['severed by an operator', 'warn'];
      return ['closed', reason?.startsWith('severed') ? 'warn' : ''];
    case 'contest_opened':
      return ['contested', 'warn'];
    case 'would_sever':
      return ['would sever', 'warn'];
    case 'machine_key_duplicated':
      return ['duplicate machine key', 'bad'];
    case 'noise_key_checked':
      return [reason === 'differs' ? 'Noise key differs' : 'Noise key matches', colourOf(level)];
    case 'limit_reached':
      return [`limit: ${wordsOf(reason ?? '')}`, colourOf(level)];
    default:
      return [wordsOf(kind), colourOf(level)];
  }
}

/** @param {EventView['level']} level */
function colourOf(level) {
  if (level === 'error') return 'bad';
  return level === 'warn' ? 'warn' : '';
}

/** @param {string} identifier */
function wordsOf(identifier) {
  return identifier.replaceAll('_', ' ');
}

/**
 * @param {EventView} event
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
    element('time', { datetime: event.time, title: new Date(event.time).toLocaleString() }, clockTime(event.time)),
    element('span', { class: `tag ${level}` }, word),
    element('p', {}, event.sentence),
  );
  return item;
}

/** The list of events, newest first. */
export class Feed {
  /** @type {EventView[]} */
  #events = [];
  #list = byId('feed', HTMLOListElement);
  #kind = byId('feed-kind', HTMLSelectElement);

  constructor() {
    this.#list.tabIndex = 0;
    this.#list.setAttribute('aria-labelledby', 'feed-title');
    this.#kind.addEventListener('change', () => this.#showAll());
  }

  /** @param {readonly EventView[]} events oldest first */
  start(events) {
    this.#events = [...events];
    this.#showAll();
  }

  /** @param {EventView} event */
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

  /** @param {EventView} event */
  #isShown(event) {
    return this.#kind.value === 'all' || isNotable(event);
  }

  #showAll() {
    const shown = this.#events.filter((event) => this.#isShown(event)).slice(-SHOWN);
    this.#list.replaceChildren(...shown.reverse().map((event) => eventItem(event, true)));
    if (shown.length === 0) this.#list.append(element('li', { class: 'empty' }, 'No such events so far.'));
  }
}
