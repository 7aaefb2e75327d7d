/** @import { NodeAvailability } from '../availability-views.ts' */
/** @import { EventView, NodeDetail, Overview, PolicyView, PresenceView, StreamView } from '../views.ts' */
import { getAvailability, getEvents, getNode } from './api.js';
import { byId, copy, element, refill, say } from './dom.js';
import { evidenceText } from './evidence.js';
import { feedItems, severingOf } from './feed.js';
import { ago, bytes, count, fullDate, isSameStart, moment, nameOf, now, roundTrip, shortKey, span } from './format.js';
import { expiry, levelOfNode, signOf, stateNote } from './node-table.js';
import { presenceParts } from './presence.js';
import { keyOf, levelOfStream, refusalOf, severLabel, stateOf } from './stream-table.js';
import { linesOf } from './takeovers.js';
import { timeline } from './timeline.js';

/** @typedef {{ overview: Overview, streams: readonly StreamView[], listed: PresenceView | undefined }} Known */

/** What a contest waits for. @type {Readonly<Record<string, string>>} */
const WAITS = {
  silence: 'The watchdog waits until the old client has been silent for long enough.',
  settling: 'The watchdog waits until the new stream has proved to be real.',
  guard: 'Two machines may use this key, so the watchdog delays the severing.',
};

/** The presence of 30 days may be long, and changes with an event or slowly. */
const AVAILABILITY_EVERY_MS = 60_000;
const MOST_EVENTS = 5000;
const MOST_LINES = 300;

/** One node: what is known of it, why its last stream ended, its day, its streams, its keys and its events. */
export class NodeView {
  #place = byId('node', HTMLElement);
  #key = '';
  /** The one that is in its place. */
  #shown = '';
  #startedAt = '';
  /** @type {Known | undefined} */
  #known;
  /** @type {readonly EventView[]} */
  #events = [];
  /** @type {ReturnType<typeof linesOf>} */
  #lines = [];
  /** Where to go on asking for events; empty: they are not known yet. */
  #next = '';
  #hasFile = false;
  /** @type {NodeDetail | undefined} */
  #detail;
  /** @type {NodeAvailability | undefined} */
  #availability;
  #availabilityAt = 0;
  /** @type {(stream: StreamView) => void} */
  #onSever;
  /** Each is filled again only if it has changed. */
  #parts = {
    head: card('Node'),
    why: card('Why its last stream ended'),
    presence: card('Presence'),
    streams: card('Streams'),
    timeline: card('Streams in the last 24 hours'),
    keys: card('Keys'),
    events: card('Events'),
  };

  /** @param {(stream: StreamView) => void} onSever */
  constructor(onSever) {
    this.#onSever = onSever;
    new ResizeObserver(() => this.#drawPictures()).observe(this.#parts.timeline);
  }

  /**
   * @param {string} key its machine key
   * @param {Known} known
   */
  async show(key, known) {
    const { startedAt } = known.overview;
    // After a restart, events may be numbered from the beginning again.
    if (key !== this.#key || !isSameStart(this.#startedAt, startedAt)) {
      this.#next = '';
      this.#availabilityAt = 0;
    }
    if (key !== this.#key) this.#known = undefined;
    this.#key = key;
    this.#startedAt = startedAt;
    const newestSeq = this.#events.at(-1)?.seq;
    const [, detail] = await Promise.all([
      this.#fetchEvents(key),
      // A key that nobody knows any more has events at most.
      getNode(key).catch(() => undefined),
    ]);
    if (key !== this.#key) return;
    const isOld = newestSeq !== this.#events.at(-1)?.seq || now() - this.#availabilityAt > AVAILABILITY_EVERY_MS;
    if (isOld) {
      this.#availability = await getAvailability(key).catch(() => undefined);
      this.#availabilityAt = now();
      if (key !== this.#key) return;
    }
    this.#known = known;
    this.#detail = detail;
    // If the first answer fails, the next one shows the node.
    const isNew = key !== this.#shown;
    this.#shown = key;
    if (isNew) {
      for (const part of Object.values(this.#parts)) part.replaceChildren();
      this.#place.replaceChildren(
        element('p', {}, element('a', { href: '#nodes' }, '← All nodes')),
        ...Object.values(this.#parts),
      );
    }
    this.tick();
    this.#drawPictures();
    refill(this.#parts.keys, ...keyParts(key, detail ?? known.listed));
    this.#showEvents();
    if (isNew) this.#place.querySelector('h2')?.focus();
  }

  /** Asks for all events the first time, and then for newer ones. @param {string} key */
  async #fetchEvents(key) {
    const after = this.#next;
    const query = { node: key, limit: String(MOST_EVENTS) };
    const { events, next, fromFile } = await getEvents(after === '' ? query : { ...query, after });
    // Another refresh may have been faster.
    if (key !== this.#key || after !== this.#next) return;
    const isFirst = after === '';
    this.#events = isFirst ? events : [...this.#events, ...events].slice(-MOST_EVENTS);
    this.#lines = linesOf(events, isFirst ? [] : this.#lines).slice(-MOST_LINES);
    this.#next = next;
    this.#hasFile = fromFile;
  }

  /** Draws nothing again without a new event. */
  #showEvents() {
    const events = this.#events;
    const before = this.#parts.events.querySelector('[data-seq]')?.getAttribute('data-seq');
    const newest = String(events.at(-1)?.seq ?? 0);
    if (before === newest) return;
    const list = element('ol', { class: 'feed' }, ...feedItems(this.#lines, false));
    if (events.length === 0) list.append(element('li', { class: 'empty' }, 'No events of this node.'));
    this.#parts.events.replaceChildren(element('h3', { 'data-seq': newest }, 'Events, newest first'), list);
  }

  leave() {
    this.#key = '';
    this.#shown = '';
    this.#known = undefined;
    this.#place.replaceChildren();
  }

  /** Updates the durations. */
  tick() {
    if (this.#known === undefined) return;
    const { streams, listed, overview } = this.#known;
    const node = this.#detail ?? listed;
    const own = streams.filter(({ machineKey }) => machineKey === this.#key);
    const name = nameOf({
      node: node?.name ? { name: node.name } : (own[0]?.node ?? this.#events.at(-1)?.node ?? null),
      machineKey: this.#key,
    });
    const tags = node === undefined ? [] : [element('span', { class: `tag ${levelOfNode(node)}` }, node.state)];
    const note = node === undefined ? '' : stateNote(node);
    if (note !== '') tags.push(element('span', { class: 'tag warn' }, note));
    refill(
      this.#parts.head,
      element('h2', { tabindex: '-1', title: name, 'data-focus': 'title' }, name, ' ', ...tags),
      facts(nodeFacts(node, this.#detail?.policy, overview)),
    );
    refill(this.#parts.why, ...whyParts(this.#events));
    this.#parts.why.classList.toggle(
      'because',
      this.#events.some(({ kind }) => kind === 'stream_closed'),
    );
    this.#drawStreams(own);
  }

  /** @param {readonly StreamView[]} own */
  #drawStreams(own) {
    const drawn = own.map((stream) => {
      const refusal = refusalOf(stream);
      const button = element(
        'button',
        {
          ...{
            type: 'button',
            class: 'sever',
            'aria-label': severLabel(stream),
            'data-focus': `sever ${keyOf(stream)}`,
            title: refusal,
          },
          'aria-disabled': refusal === undefined ? undefined : 'true',
        },
        'Sever…',
      );
      const head = element(
        'h4',
        {},
        `Stream ${keyOf(stream)} `,
        element('span', { class: `tag ${levelOfStream(stream)}` }, stateOf(stream)),
        button,
      );
      return element('div', { class: 'stream', 'data-key': keyOf(stream) }, head, facts(streamFacts(stream)));
    });
    const none = element('p', { class: 'soft' }, 'It has no stream.');
    refill(this.#parts.streams, element('h3', {}, 'Streams'), ...(drawn.length === 0 ? [none] : drawn));
    for (const button of this.#parts.streams.querySelectorAll('button')) {
      button.onclick = () => {
        const key = button.closest('[data-key]')?.getAttribute('data-key');
        const stream = this.#known?.streams.find((each) => each.machineKey === this.#key && keyOf(each) === key);
        if (stream !== undefined && refusalOf(stream) === undefined) this.#onSever(stream);
      };
    }
  }

  /** They are as wide as the page lets them, and their text is not scaled. */
  #drawPictures() {
    if (this.#known === undefined) return;
    const part = this.#parts.timeline;
    const { paddingLeft, paddingRight } = getComputedStyle(part);
    const width = Math.floor(part.clientWidth - Number.parseFloat(paddingLeft) - Number.parseFloat(paddingRight));
    if (!(width > 0)) return;
    const own = this.#known.streams.filter(({ machineKey }) => machineKey === this.#key);
    const title = element('h3', {}, 'Streams in the last 24 hours');
    part.replaceChildren(title, ...timeline(this.#events, own, now(), width));
    const { presence } = this.#parts;
    presence.hidden = this.#availability === undefined;
    if (this.#availability === undefined) return;
    const of = {
      connectedSince: this.#known.listed?.connectedSince ?? null,
      hasFile: this.#hasFile,
      isListOpen: presence.querySelector('details')?.open ?? false,
    };
    refill(presence, ...presenceParts(this.#availability, of, now(), width));
  }
}

/** @param {string} label */
function card(label) {
  return element('section', { class: 'card', 'aria-label': label });
}

/** @param {readonly (readonly [term: string, text: string, title?: string | undefined])[]} list */
function facts(list) {
  const made = element('dl', { class: 'facts' });
  for (const [term, text, title] of list) made.append(element('dt', {}, term), element('dd', { title }, text));
  return made;
}

/**
 * @param {PresenceView | undefined} node
 * @param {PolicyView | undefined} policy
 * @param {Overview} overview
 * @returns {readonly (readonly [term: string, text: string, title?: string | undefined])[]}
 */
function nodeFacts(node, policy, overview) {
  if (node === undefined) return [['State', 'neither Headscale nor the watchdog knows this key']];
  const { user, addresses, tags, os, clientVersion, capabilityVersion, others, isEphemeral } = node;
  const sign = signOf(node);
  const system = [
    os,
    clientVersion && `Tailscale ${clientVersion}`,
    capabilityVersion && `capability ${capabilityVersion}`,
  ];
  /** @type {(readonly [term: string, text: string, title?: string | undefined])[]} */
  const list = [
    [
      'User',
      user ?? 'unknown: Headscale does not list this node, or the watchdog has neither an API key nor an OAuth client',
    ],
    [
      'Connected',
      node.connectedSince === null
        ? 'no'
        : `for ${span(now() - Date.parse(node.connectedSince))}, since ${moment(node.connectedSince)}`,
    ],
    [
      'Last sign',
      sign === undefined ? 'none yet' : `${ago(sign.at)}${node.lastSignAt === null ? `, ${sign.by}` : ''}`,
      sign && fullDate(sign.at),
    ],
    ['Headscale shows', shownText(node, overview)],
    [
      'Comes from',
      `${node.remoteAddress ?? 'nowhere now'}${node.rttMs === null ? '' : `, round trip ${roundTrip(node.rttMs)}`}`,
    ],
    ['In the tailnet', addresses.join(', ') || 'no address known'],
    [
      'Key expires',
      node.keyExpiresAt === null
        ? 'never, or not known'
        : `${expiry(node.keyExpiresAt)} (${fullDate(node.keyExpiresAt)})`,
    ],
  ];
  if (tags.length > 0) list.push(['Tags', tags.join(', ')]);
  if (system.some(Boolean)) list.push(['Client', system.filter(Boolean).join(', ')]);
  if (isEphemeral) list.push(['Ephemeral', 'yes: Headscale deletes it some time after it has left']);
  if (others.length > 0)
    list.push(['Also logged in as', others.map((other) => `${other.name} (${other.user})`).join(', ')]);
  if (node.suspectedSince !== null)
    list.push([
      'Two machines?',
      `perhaps, since ${moment(node.suspectedSince)}: its streams keep coming back right after they are severed. The watchdog delays severings to find out, which takes some minutes`,
    ]);
  if (node.isDuplicate)
    list.push([
      'Duplicate key',
      "two machines use its machine key: delete tailscaled's state on the clone, and log the clone in again",
    ]);
  if (policy) list.push(['Rule', ruleText(policy)]);
  return list;
}

/**
 * @param {PresenceView} node
 * @param {Overview} overview
 */
function shownText({ shownOnline, shownLastSeenAt }, { nodesListedAt }) {
  if (shownOnline === null) return 'not known';
  const seen = shownOnline || shownLastSeenAt === null ? '' : `, last seen ${moment(shownLastSeenAt)}`;
  const asOf = nodesListedAt === null ? '' : `, as of ${moment(nodesListedAt)}`;
  return `${shownOnline ? 'online' : 'offline'}${seen}${asOf}`;
}

/** @param {PolicyView} policy */
function ruleText({ rule, isCertain, silentAfterMs, goneAfterMs, probeIdleMs, hold, observeOnly, offlineAfterMs }) {
  const which = !isCertain
    ? 'not certain yet, so the most careful values'
    : rule === null
      ? 'no rule matches'
      : `rule ${rule} of the file`;
  const values = [
    `silent-after ${span(silentAfterMs)}`,
    `gone-after ${goneAfterMs === 0 ? 'off' : span(goneAfterMs)}`,
    `probe-idle ${probeIdleMs === 0 ? 'off' : span(probeIdleMs)}`,
    `hold ${hold}`,
    `offline-after ${offlineAfterMs === 0 ? 'off' : span(offlineAfterMs)}`,
  ];
  if (observeOnly) values.push('observe-only: nothing is held or severed');
  return `${which}: ${values.join(', ')}`;
}

/**
 * @param {StreamView} stream
 * @returns {readonly (readonly [term: string, text: string, title?: string | undefined])[]}
 */
function streamFacts(stream) {
  const { openedAt, remoteAddress, bytesReceived, bytesSent, lastHeardAt, upstreamLastHeardAt, closeReason, contests } =
    stream;
  /** @type {(readonly [term: string, text: string, title?: string | undefined])[]} */
  const list = [
    ['Open', `for ${span(now() - Date.parse(openedAt))}, since ${moment(openedAt)}`],
    ['From', remoteAddress],
    ['Evidence', evidenceText(stream)],
    [
      'Last byte',
      `from the client ${ago(lastHeardAt)}${upstreamLastHeardAt === null ? '' : `, from Headscale ${ago(upstreamLastHeardAt)}`}`,
    ],
    ['Bytes', `${bytes(bytesReceived)} in, ${bytes(bytesSent)} out`],
  ];
  if (closeReason !== null) list.push(['Closing', closeReason.replaceAll('_', ' ')]);
  for (const { role, otherStream, waitingFor } of contests) {
    const text = role === 'old' ? `the node is back on stream ${otherStream}` : `the old stream is ${otherStream}`;
    list.push([
      'Contest',
      `${text}${waitingFor === null ? '' : `. ${WAITS[waitingFor] ?? `It waits for ${waitingFor}.`}`}`,
    ]);
  }
  return list;
}

/** @param {readonly EventView[]} events */
function whyParts(events) {
  const closed = events.findLast(({ kind, streamKind }) => kind === 'stream_closed' && streamKind === 'control');
  const parts = [];
  if (closed === undefined) {
    parts.push(
      element('h3', {}, 'Why its last stream ended'),
      element('p', {}, 'No stream of this node has ended in the last 24 hours, or since the watchdog started.'),
    );
  } else {
    const severed = events.findLast(({ kind, stream }) => kind === 'stream_severed' && stream === closed.stream);
    parts.push(
      element(
        'h3',
        { title: fullDate(closed.time) },
        `Why its last stream (${closed.stream}) ended ${ago(closed.time)}`,
      ),
      element('p', {}, (severed ?? closed).sentence),
    );
    const earlier = events.findLast((event) => severingOf(event) === 'ended' && event.stream !== closed.stream);
    if (severed === undefined && severingOf(closed) === undefined && earlier !== undefined)
      parts.push(
        element('p', { class: 'soft' }, `The watchdog last ended one ${ago(earlier.time)}: ${earlier.sentence}`),
      );
  }
  const twin = events.findLast(({ kind }) => kind === 'machine_key_duplicated');
  if (twin !== undefined) parts.push(element('p', { class: 'soft' }, `${ago(twin.time)}: ${twin.sentence}`));
  const ended = new Set(events.filter((event) => severingOf(event) === 'ended').map(({ stream }) => stream)).size;
  if (ended > 1)
    parts.push(element('p', { class: 'soft' }, `The watchdog ended ${count(ended, 'stream')} of it in this time.`));
  return parts;
}

/**
 * @param {string} machineKey
 * @param {PresenceView | undefined} node
 */
function keyParts(machineKey, node) {
  const keys = /** @type {const} */ ([
    ['Machine key', machineKey],
    ['Node key', node?.nodeKey ?? null],
  ]);
  const rows = keys.flatMap(([name, key]) => {
    if (key === null) return [];
    const button = element(
      'button',
      { type: 'button', class: 'copy', 'data-focus': name, 'aria-label': `Copy the ${name.toLowerCase()}` },
      'Copy',
    );
    button.addEventListener('click', async () => {
      const isDone = await copy(key);
      say(isDone ? `Copied ${shortKey(key)}` : 'The browser does not let this page copy. Select the key instead.');
    });
    return [
      element('div', { class: 'key' }, element('span', { class: 'soft' }, name), element('code', {}, key), button),
    ];
  });
  return [element('h3', {}, 'Keys'), ...rows];
}
