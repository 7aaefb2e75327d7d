/** @import { EventView } from '../views.ts' */
/** @import { Line as Takeover } from './takeovers.js' */
import { getEvents } from './api.js';
import { byId, element } from './dom.js';
import { clockTime, dayOf, fullDate, nameOf, now } from './format.js';
import { addTo, belongsTo, CONTEST, contestOf, LOST, linesOf, mainOf, SAME_TAKEOVER_MS } from './takeovers.js';

const KEPT = 300;
const SHOWN = 120;
/** As long as the animation in style.css. */
const NEW_MS = 1500;
const RECOVERIES = ['upstream_up', 'redis_up', 'settings_reloaded'];
const HEADSCALE = [
  ...['upstream_up', 'upstream_down', 'upstream_silent', 'upstream_not_headscale', 'upstream_refused'],
  ...['upstream_protocol_mismatched', 'noise_key_checked', 'nodes_listed', 'nodes_list_failed'],
];

/** What the feed can show: its name, and what it asks for. @type {readonly (readonly [key: string, name: string, query: { kind?: readonly string[], level?: readonly string[] }])[]} */
const CHOICES = [
  ['important', 'what matters', { level: ['info', 'warn', 'error'] }],
  ['takeovers', 'takeovers', { kind: [...CONTEST, 'would_sever'] }],
  ['ended', 'streams ended by the watchdog', { kind: ['stream_closed', 'would_sever'], level: ['info'] }],
  ['warnings', 'warnings and errors', { level: ['warn', 'error'] }],
  ['headscale', 'Headscale and keys', { kind: [...HEADSCALE, 'key_file_reloaded', 'key_file_reload_failed'] }],
  ['all', 'everything', {}],
];

/** Why the watchdog itself ends a stream, with no contest before. */
const ENDED_BY_US = [
  ...['gone', 'not_reading', 'severed_by_operator', 'upstream_silent', 'surplus', 'shown_offline', 'node_deleted'],
];

/**
 * Whether the watchdog, or somebody through it, ended a stream, or would have. A stream that loses a contest has two such
 * events: its severing and its end.
 *
 * @param {Pick<EventView, 'kind' | 'reason'>} event
 * @returns {'ended' | 'would' | undefined}
 */
export function severingOf({ kind, reason }) {
  if (kind === 'would_sever') return 'would';
  if (kind === 'stream_severed') return 'ended';
  return kind === 'stream_closed' && [...ENDED_BY_US, ...LOST].includes(reason ?? '') ? 'ended' : undefined;
}

/**
 * The word for an event and its colour: errors red, warnings amber, and a takeover, which is a success, green.
 *
 * @param {EventView} event
 * @returns {[word: string, colour: string]}
 */
function wordFor({ kind, level, reason }) {
  const colour = colourOf(level);
  switch (kind) {
    case 'stream_severed':
      return [`takeover: ${reason}`, 'good'];
    case 'stream_opened':
      return ['opened', ''];
    case 'stream_closed':
      return ENDED_BY_US.includes(reason ?? '') ? [wordsOf(reason ?? ''), ''] : ['closed', ''];
    case 'contest_opened':
      return ['contested', 'warn'];
    case 'contest_ended':
      return ['contest over', ''];
    case 'machine_key_duplicated':
      return ['duplicate machine key', colour];
    case 'noise_key_checked':
      return [reason === 'differs' ? 'Noise key differs' : 'Noise key matches', colour];
    case 'limit_reached':
      return [`limit: ${wordsOf(reason ?? '')}`, colour];
    default:
      return [wordsOf(kind), RECOVERIES.includes(kind) && colour === '' ? 'good' : colour];
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
 * A line as it is drawn.
 *
 * @typedef {Takeover & { item?: HTMLLIElement, drawn?: number, isNew?: boolean }} Line
 */

/**
 * @param {Takeover} line
 * @param {boolean} hasLink whether to name the node as a link
 */
export function lineItem({ key, events }, hasLink) {
  const main = mainOf(events);
  const item = element('li', { 'data-key': key });
  if (main === undefined) return item;
  item.append(...eventParts(main, hasLink));
  if (contestOf(main) !== undefined) item.append(steps(main, events));
  return item;
}

/**
 * @param {EventView} event
 * @param {boolean} hasLink
 */
function eventParts(event, hasLink) {
  const [word, colour] = wordFor(event);
  const head = element(
    'div',
    { class: 'event-head' },
    element('time', { datetime: event.time, title: fullDate(event.time) }, clockTime(event.time)),
    element('span', { class: `tag ${colour}`, title: event.code ?? undefined }, word),
  );
  if (hasLink && event.machineKey !== null) {
    const name = nameOf(event);
    head.append(
      element('a', { href: `#node=${event.machineKey}`, title: name, 'data-focus': `event ${event.seq}` }, name),
    );
  }
  return [head, element('p', {}, event.sentence)];
}

/**
 * The steps of a takeover. They are asked for when somebody wants to see them: the feed has only those that matter.
 *
 * @param {EventView} main
 * @param {readonly EventView[]} known
 */
function steps(main, known) {
  const list = element('ol', { class: 'steps' });
  const details = element('details', {}, element('summary', { 'data-focus': `steps ${main.seq}` }, 'Steps'), list);
  /** @param {readonly EventView[]} events */
  const show = (events) =>
    list.replaceChildren(...events.map((event) => element('li', {}, ...eventParts(event, false))));
  details.addEventListener('toggle', async () => {
    if (!details.open) return;
    show(known);
    const contest = contestOf(main);
    if (contest === undefined) return;
    try {
      const query = { node: main.machineKey ?? '', limit: '1000' };
      const found = await Promise.all(
        [contest.old, contest.newcomer].map((stream) => getEvents({ ...query, stream: String(stream) })),
      );
      const all = new Map([...known, ...found.flatMap(({ events }) => events)].map((event) => [event.seq, event]));
      const isStep = (/** @type {EventView} */ event) =>
        Math.abs(Date.parse(event.time) - Date.parse(main.time)) < SAME_TAKEOVER_MS &&
        (belongsTo({ contest, events: [main] }, event) ||
          event === main ||
          (event.kind === 'stream_opened' && event.stream === contest.newcomer));
      show([...all.values()].filter(isStep).sort((a, b) => a.seq - b.seq));
    } catch {
      // What is known already stays.
    }
  });
  return details;
}

/**
 * The lines with a heading wherever the day changes, newest first.
 *
 * @param {readonly Line[]} lines oldest first
 * @param {boolean} hasLink
 */
export function feedItems(lines, hasLink) {
  const items = [];
  let day = dayOf(now());
  for (const line of lines.toReversed()) {
    const main = mainOf(line.events);
    if (main === undefined) continue;
    const itsDay = dayOf(main.time);
    if (itsDay !== day) items.push(element('li', { class: 'day', 'data-key': itsDay }, itsDay));
    day = itsDay;
    if (line.item === undefined || line.drawn !== line.events.length) {
      // Another step has come while somebody reads those before it.
      const isOpen = line.item?.querySelector('details')?.open ?? false;
      line.item = lineItem(line, hasLink);
      line.item.querySelector('details')?.toggleAttribute('open', isOpen);
    }
    line.drawn = line.events.length;
    if (line.isNew) announce(line.item);
    line.isNew = false;
    items.push(line.item);
  }
  return items;
}

/** Lights up for a moment. @param {HTMLLIElement} item */
function announce(item) {
  item.classList.add('new');
  // Not at the end of the animation: where the list is out of sight, that would only begin when somebody looks.
  setTimeout(() => item.classList.remove('new'), NEW_MS);
}

/** The list of events, newest first. */
export class Feed {
  /** @type {Line[]} */
  #lines = [];
  #list = byId('feed', HTMLOListElement);
  #show = byId('feed-show', HTMLSelectElement);
  #isDue = false;
  /** What it shows. Somebody may have chosen something else, which is not shown yet. */
  #chosen = '';
  /** The newest event that it has. */
  #seq = 0;
  #asked = 0;
  /** What came while the newest events are asked for: the answer may not have it. @type {EventView[] | undefined} */
  #meanwhile;

  /** @param {(show: string) => void} onChoice */
  constructor(onChoice) {
    this.#list.tabIndex = 0;
    this.#list.setAttribute('aria-labelledby', 'feed-title');
    this.#show.append(...CHOICES.map(([value, name]) => element('option', { value }, name)));
    this.#show.addEventListener('change', () => onChoice(this.#show.value));
  }

  #choice() {
    return CHOICES.find(([key]) => key === this.#chosen)?.[2] ?? {};
  }

  /** Shows other events. @param {string | null} show */
  async choose(show) {
    const value = CHOICES.find(([key]) => key === show)?.[0] ?? 'important';
    if (value === this.#chosen) return;
    this.#chosen = value;
    this.#show.value = value;
    await this.start();
  }

  /** Asks for the newest events of the kinds that it shows, so that others cannot push them out. */
  async start() {
    this.#asked += 1;
    const asked = this.#asked;
    this.#meanwhile = [];
    const { kind, level } = this.#choice();
    const { events, lastSeq } = await getEvents({
      limit: String(KEPT),
      ...(kind && { kind: kind.join(',') }),
      ...(level && { level: level.join(',') }),
    }).catch((error) => {
      if (asked === this.#asked) this.#meanwhile = undefined;
      throw error;
    });
    if (asked !== this.#asked) return lastSeq;
    this.#seq = events.at(-1)?.seq ?? 0;
    this.#lines = linesOf(events.filter(isNews));
    const meanwhile = this.#meanwhile ?? [];
    this.#meanwhile = undefined;
    for (const event of meanwhile) this.add(event);
    this.#draw();
    return lastSeq;
  }

  /** @param {EventView} event */
  add(event) {
    this.#meanwhile?.push(event);
    if (event.seq <= this.#seq) return;
    this.#seq = event.seq;
    const { kind, level } = this.#choice();
    const isStep = this.#lines.some((line) => belongsTo(line, event));
    const isShown = (kind?.includes(event.kind) ?? true) && (level?.includes(event.level) ?? true) && isNews(event);
    if (!isShown && !isStep) return;
    /** @type {Line} */ (addTo(this.#lines, event)).isNew = true;
    if (this.#lines.length > KEPT) this.#lines.shift();
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#draw();
    });
  }

  /** Items that stay are not touched, so that the focus and what somebody reads stay where they are. */
  #draw() {
    const items = feedItems(this.#lines.slice(-SHOWN), true);
    if (items.length === 0) items.push(element('li', { class: 'empty' }, 'No such events so far.'));
    const wanted = new Set(items);
    for (const old of [...this.#list.children]) if (!wanted.has(/** @type {HTMLLIElement} */ (old))) old.remove();
    let place = this.#list.firstElementChild;
    for (const item of items) {
      if (item === place) place = place.nextElementSibling;
      else this.#list.insertBefore(item, place);
    }
  }
}

/** Scanners send bad requests all day. A refused proxy is somebody's mistake. @param {EventView} event */
function isNews({ kind, reason }) {
  return kind !== 'connection_refused' || reason !== 'bad_request';
}
