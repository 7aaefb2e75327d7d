/** @import { EventView, PresenceView, StreamView } from '../views.ts' */
import { getEvents } from './api.js';
import { byId, element } from './dom.js';
import { evidenceText } from './evidence.js';
import { eventItem, isSevering } from './feed.js';
import { ago, nameOf } from './format.js';
import { keyOf, stateOf } from './stream-table.js';
import { legend, timeline } from './timeline.js';

/** One node: why its last stream was severed, its streams in the last 24 hours, and its events. */
export class NodeView {
  #place = byId('node', HTMLElement);
  #key = '';
  /** @type {(stream: StreamView) => void} */
  #onSever;

  /** @param {(stream: StreamView) => void} onSever */
  constructor(onSever) {
    this.#onSever = onSever;
  }

  /**
   * @param {string} key its machine key
   * @param {readonly StreamView[]} streams
   * @param {PresenceView | undefined} listed
   */
  async show(key, streams, listed) {
    const isNew = key !== this.#key;
    this.#key = key;
    const { events } = await getEvents({ node: key, limit: '5000' });
    if (key !== this.#key) return;
    const own = streams.filter(({ machineKey }) => machineKey === key);
    this.#draw(key, own, listed, events);
    if (isNew) this.#place.querySelector('h2')?.focus();
  }

  leave() {
    this.#key = '';
    this.#place.replaceChildren();
  }

  /**
   * @param {string} key
   * @param {readonly StreamView[]} own
   * @param {PresenceView | undefined} listed
   * @param {readonly EventView[]} events
   */
  #draw(key, own, listed, events) {
    const node = listed?.name ? { name: listed.name } : (own[0]?.node ?? events.at(-1)?.node ?? null);
    const facts = element('dl');
    for (const [term, text] of [
      [
        'User',
        listed?.user ??
          own[0]?.node?.user ??
          'unknown: Headscale does not list this node, or the watchdog has neither an API key nor an OAuth client',
      ],
      ['Machine key', key],
      [
        'Now',
        own.length === 0
          ? `no open stream${listed?.lastSignAt ? `, last seen ${ago(listed.lastSignAt)}` : ''}`
          : `${own.length} open ${own.length === 1 ? 'stream' : 'streams'}`,
      ],
      ['Headscale shows', shownBy(listed)],
      ...own.map((stream) => [
        own.length === 1 ? 'Evidence' : `Evidence, stream ${keyOf(stream)}`,
        evidenceText(stream),
      ]),
    ]) {
      facts.append(element('dt', {}, term ?? ''), element('dd', {}, text ?? ''));
    }
    const title = element('h2', { tabindex: '-1' }, nameOf({ node, machineKey: key }));
    const back = element('a', { href: '#streams' }, '← All streams');
    // Everything is built again, so give the focus back to the same button.
    const focused = document.activeElement?.getAttribute('data-focus');
    this.#place.replaceChildren(
      element('p', {}, back),
      element('section', { class: 'card', 'aria-label': 'Node' }, title, facts, this.#buttons(own)),
      whyCard(events),
      element(
        'section',
        { class: 'card', 'aria-label': 'Streams in the last 24 hours' },
        element('h3', {}, 'Streams in the last 24 hours'),
        timeline(events, own, Date.now()),
        legend(),
      ),
      element(
        'section',
        { class: 'card', 'aria-label': 'Events' },
        element('h3', {}, 'Events, newest first'),
        eventList(events),
      ),
    );
    if (focused) this.#place.querySelector(`[data-focus="${focused}"]`)?.closest('button')?.focus();
  }

  /** @param {readonly StreamView[]} own */
  #buttons(own) {
    const list = element('p');
    for (const stream of own) {
      const text = `Sever stream ${stream.id} (${stateOf(stream)}, from ${stream.remoteAddress})…`;
      const button = element('button', { type: 'button', 'data-focus': `sever-${stream.id}` }, text);
      button.addEventListener('click', () => this.#onSever(stream));
      list.append(button, ' ');
    }
    return list;
  }
}

/** @param {PresenceView | undefined} listed */
function shownBy(listed) {
  if (listed === undefined || listed.shownOnline === null) return 'not known';
  if (listed.state === 'expired') return `${listed.shownOnline ? 'online' : 'offline'}, and its key has expired`;
  return listed.shownOnline ? 'online' : 'offline';
}

/** @param {readonly EventView[]} events */
function whyCard(events) {
  const last = events.findLast((event) => isSevering(event) || event.kind === 'machine_key_duplicated');
  if (last === undefined) {
    return element(
      'section',
      { class: 'card why', 'aria-label': 'Why' },
      element('h3', {}, 'No stream was severed'),
      element('p', {}, 'The watchdog has not severed a stream of this node in the last 24 hours, or since it started.'),
    );
  }
  const heading =
    last.kind === 'stream_severed' || last.kind === 'stream_closed'
      ? `Why stream ${last.stream} was severed ${ago(last.time)}`
      : `Noticed ${ago(last.time)}`;
  return element(
    'section',
    { class: 'card why bad', 'aria-label': 'Why' },
    element('h3', {}, heading),
    element('p', {}, last.sentence),
  );
}

/** @param {readonly EventView[]} events */
function eventList(events) {
  const list = element('ol', { class: 'feed' });
  list.append(
    ...events
      .slice(-500)
      .reverse()
      .map((event) => eventItem(event, false)),
  );
  if (events.length === 0) list.append(element('li', { class: 'empty' }, 'No events of this node.'));
  return list;
}
