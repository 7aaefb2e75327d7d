/** @import { StreamView } from '../views.ts' */
import { byId, element, setText } from './dom.js';
import { evidenceMark, evidenceText } from './evidence.js';
import { ago, bytes, nameOf, roundTrip, span } from './format.js';

const ROW_HEIGHT = 40;
/** Rows that exist above and below the visible ones, so that scrolling does not show gaps. */
const EXTRA_ROWS = 8;

/** @type {readonly { name: string, key: string, of: (stream: StreamView) => string | number }[]} */
const COLUMNS = [
  { name: 'Stream', key: 'id', of: ({ id }) => id },
  {
    name: 'Node',
    key: 'node',
    of: (stream) => (stream.node === null ? `\uffff${nameOf(stream)}` : stream.node.name.toLowerCase()),
  },
  { name: 'Address', key: 'address', of: ({ remoteAddress }) => remoteAddress },
  { name: 'Open for', key: 'opened', of: ({ openedAt }) => -Date.parse(openedAt) },
  { name: 'Last heard', key: 'heard', of: ({ lastHeardAt }) => -Date.parse(lastHeardAt) },
  { name: 'Round trip', key: 'rtt', of: (stream) => roundTripMs(stream) ?? Number.POSITIVE_INFINITY },
  { name: 'Bytes in / out', key: 'bytes', of: ({ bytesReceived, bytesSent }) => bytesReceived + bytesSent },
  { name: 'State', key: 'state', of: (stream) => stateOf(stream) },
];

/** @param {StreamView} stream */
export function stateOf({ state, contests, wouldSever }) {
  if (wouldSever !== null) return `would sever: ${wouldSever}`;
  if (state === 'open' && contests.some(({ role }) => role === 'old')) return 'contested';
  return state;
}

/**
 * Undefined without evidence, and for a client that has left its proxy.
 *
 * @param {StreamView} stream
 */
function roundTripMs({ kernel }) {
  return kernel === null || kernel.ended ? undefined : kernel.rttMs;
}

/**
 * Each replica numbers its own streams.
 *
 * @param {StreamView} stream
 */
export function keyOf({ id, replica }) {
  return replica === null ? String(id) : `${replica}/${id}`;
}

/**
 * @typedef {object} Row
 * @property {HTMLElement} line
 * @property {HTMLElement[]} cells
 * @property {HTMLAnchorElement} link
 * @property {HTMLElement} tag
 * @property {HTMLElement} rtt
 * @property {HTMLElement} mark where the evidence comes from
 */

/** The table of streams. Only visible rows exist as elements. A row keeps its element, and the focus, while it is visible. */
export class StreamTable {
  /** @type {readonly StreamView[]} */
  #all = [];
  /** @type {readonly StreamView[]} */
  #shown = [];
  /** By `keyOf`. @type {Map<string, Row>} */
  #rows = new Map();
  #sort = 'id';
  #descending = true;
  /** @type {(stream: StreamView) => boolean} */
  #filter = () => true;
  /** @type {(stream: StreamView) => void} */
  #onSever;
  #isDue = false;
  #head = element('div', { class: 'row head', role: 'row', 'aria-rowindex': '1' });
  #body = element('div', { class: 'body', role: 'rowgroup' });
  #empty = element('p', { class: 'empty' }, 'No matching streams.');
  #grid = element('div', { class: 'grid', role: 'table', 'aria-labelledby': 'streams-title' });
  #scroll = element('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Streams, scrollable' });

  /** @param {(stream: StreamView) => void} onSever */
  constructor(onSever) {
    this.#onSever = onSever;
    for (const { name, key } of COLUMNS) {
      const button = element('button', { type: 'button' }, name);
      button.addEventListener('click', () => this.#sortBy(key));
      this.#head.append(element('div', { role: 'columnheader', 'data-key': key }, button));
    }
    this.#head.append(element('div', { role: 'columnheader' }, element('span', { class: 'hidden' }, 'Sever')));
    this.#grid.append(element('div', { role: 'rowgroup' }, this.#head), this.#body);
    this.#scroll.append(this.#grid, this.#empty);
    this.#scroll.addEventListener('scroll', () => this.#drawSoon(), { passive: true });
    this.#body.addEventListener('keydown', (event) => this.#move(event));
    new ResizeObserver(() => this.#drawSoon()).observe(this.#scroll);
    byId('table', HTMLElement).append(this.#scroll);
  }

  /** @param {readonly StreamView[]} streams */
  show(streams) {
    this.#all = streams;
    this.#arrange();
  }

  /** @param {(stream: StreamView) => boolean} filter */
  filter(filter) {
    this.#filter = filter;
    this.#scroll.scrollTop = 0;
    this.#arrange();
  }

  get shown() {
    return this.#shown.length;
  }

  /** Updates the durations. */
  tick() {
    for (const stream of this.#visible()) this.#fill(stream);
  }

  /** @param {string} key */
  #sortBy(key) {
    this.#descending = this.#sort === key && !this.#descending;
    this.#sort = key;
    this.#arrange();
  }

  #arrange() {
    const column = COLUMNS.find(({ key }) => key === this.#sort)?.of ?? (({ id }) => id);
    const sign = this.#descending ? -1 : 1;
    const keyed = this.#all.filter(this.#filter).map((stream) => /** @type {const} */ ([column(stream), stream]));
    keyed.sort(([a, one], [b, other]) => (a === b ? one.id - other.id : a < b ? -sign : sign));
    this.#shown = keyed.map(([, stream]) => stream);
    for (const header of this.#head.querySelectorAll('[data-key]')) {
      const isSorted = header.getAttribute('data-key') === this.#sort;
      header.setAttribute('aria-sort', isSorted ? (this.#descending ? 'descending' : 'ascending') : 'none');
    }
    this.#grid.setAttribute('aria-rowcount', String(this.#shown.length + 1));
    this.#body.style.height = `${this.#shown.length * ROW_HEIGHT}px`;
    this.#empty.hidden = this.#shown.length > 0;
    this.#draw();
  }

  #drawSoon() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#draw();
    });
  }

  #first() {
    return Math.max(0, Math.floor(this.#scroll.scrollTop / ROW_HEIGHT) - EXTRA_ROWS);
  }

  #visible() {
    const count = Math.ceil(this.#scroll.clientHeight / ROW_HEIGHT) + 2 * EXTRA_ROWS;
    return this.#shown.slice(this.#first(), this.#first() + count);
  }

  #draw() {
    const visible = this.#visible();
    const keys = new Set(visible.map(keyOf));
    for (const [key, row] of this.#rows) {
      if (keys.has(key)) continue;
      row.line.remove();
      this.#rows.delete(key);
    }
    for (const [index, stream] of visible.entries()) {
      const row = this.#rows.get(keyOf(stream)) ?? this.#make(stream);
      const place = this.#first() + index;
      row.line.setAttribute('aria-rowindex', String(place + 2));
      row.line.style.transform = `translateY(${place * ROW_HEIGHT}px)`;
      this.#fill(stream);
    }
  }

  /**
   * @param {StreamView} stream
   * @returns {Row}
   */
  #make(stream) {
    const cells = COLUMNS.map(() => element('div', { role: 'cell' }));
    const link = element('a');
    const tag = element('span', { class: 'tag' });
    const rtt = element('span');
    const mark = element('small');
    cells[1]?.append(link);
    cells[5]?.append(rtt, mark);
    cells[7]?.append(tag);
    const button = element(
      'button',
      { type: 'button', 'aria-label': `Sever stream ${stream.id} of ${nameOf(stream)}` },
      'Sever…',
    );
    button.addEventListener('click', () => this.#onSever(stream));
    const line = element(
      'div',
      { class: 'row', role: 'row', 'data-id': keyOf(stream) },
      ...cells,
      element('div', { role: 'cell' }, button),
    );
    const row = { line, cells, link, tag, rtt, mark };
    this.#rows.set(keyOf(stream), row);
    this.#body.append(line);
    return row;
  }

  /** @param {StreamView} stream */
  #fill(stream) {
    const row = this.#rows.get(keyOf(stream));
    if (row === undefined) return;
    const { cells, link, tag, rtt, mark } = row;
    const state = stateOf(stream);
    const texts = [
      ...[
        stream.replica === null ? String(stream.id) : `${stream.id} · ${stream.replica}`,
        undefined,
        stream.remoteAddress,
        span(Date.now() - Date.parse(stream.openedAt)),
      ],
      ...[ago(stream.lastHeardAt), undefined],
      `${bytes(stream.bytesReceived)} / ${bytes(stream.bytesSent)}`,
    ];
    for (const [index, text] of texts.entries()) {
      const cell = cells[index];
      if (cell !== undefined && text !== undefined) setText(cell, text);
    }
    setText(link, nameOf(stream));
    link.title = stream.machineKey ?? '';
    if (stream.machineKey !== null) link.href = `#node=${stream.machineKey}`;
    setText(rtt, roundTrip(roundTripMs(stream)));
    setText(mark, evidenceMark(stream));
    if (cells[5] !== undefined) cells[5].title = `Evidence: ${evidenceText(stream)}`;
    setText(tag, state);
    tag.title = state;
    tag.className = `tag ${state === 'open' ? '' : 'warn'}`;
  }

  /** @param {KeyboardEvent} event */
  #move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const line = event.target instanceof Element ? event.target.closest('.row') : null;
    if (step === undefined || !(line instanceof HTMLElement)) return;
    const place = this.#shown.findIndex((stream) => keyOf(stream) === line.dataset.id) + step;
    const next = this.#shown[place];
    if (next === undefined) return;
    event.preventDefault();
    const { scrollTop, clientHeight } = this.#scroll;
    const top = place * ROW_HEIGHT;
    if (top < scrollTop) this.#scroll.scrollTop = top;
    else if (top + 2 * ROW_HEIGHT > scrollTop + clientHeight)
      this.#scroll.scrollTop = top + 2 * ROW_HEIGHT - clientHeight;
    this.#draw();
    const isButton = event.target instanceof HTMLButtonElement;
    const row = this.#rows.get(keyOf(next));
    (isButton ? row?.line.querySelector('button') : row?.link)?.focus({ preventScroll: true });
  }
}
