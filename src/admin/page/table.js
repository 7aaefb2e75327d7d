import { element, setText } from './dom.js';

/** Rows that exist above and below the visible ones, so that scrolling does not show gaps. */
const EXTRA_ROWS = 8;

/**
 * @template T
 * @typedef {object} Column
 * @property {string} key
 * @property {string} name
 * @property {(item: T) => string | number} of what it sorts by
 * @property {(item: T) => string} text
 * @property {(item: T) => string} [small] a second line
 * @property {(item: T) => string} [title] the tooltip
 * @property {(item: T) => string | undefined} [href]
 * @property {(item: T) => string} [level] shows the text as a tag of this colour
 * @property {boolean} [isNumber]
 */

/**
 * @template T
 * @typedef {object} Action what can be done with a row
 * @property {string} text
 * @property {(item: T) => string} label
 * @property {(item: T) => string | undefined} refusal why it cannot be done now
 * @property {(item: T) => void} run
 */

/**
 * @template T
 * @typedef {object} TableOptions
 * @property {HTMLElement} place
 * @property {string} name
 * @property {readonly Column<T>[]} columns
 * @property {(item: T) => string} keyOf
 * @property {string} sort
 * @property {boolean} [isDescending]
 * @property {string} empty what to say while there is nothing at all
 * @property {Action<T>} [action]
 */

/**
 * @typedef {object} Row
 * @property {HTMLElement} line
 * @property {{ cell: HTMLElement, main: HTMLElement, small: HTMLElement | undefined }[]} cells
 * @property {HTMLButtonElement | undefined} button
 */

/**
 * A table, or cards on a narrow screen. Only visible rows exist as elements. A row keeps its element, and the focus, while it is
 * visible.
 *
 * @template T
 */
export class Table {
  /** @type {readonly T[]} */
  #all = [];
  /** @type {readonly T[]} */
  #shown = [];
  /** @type {Map<string, Row>} */
  #rows = new Map();
  /** The item of each row now: an action must not see an old one. @type {Map<string, T>} */
  #items = new Map();
  /** @type {TableOptions<T>} */
  #options;
  #sort;
  #descending;
  /** @type {(item: T) => boolean} */
  #filter = () => true;
  #isDue = false;
  #rowHeight = 46;
  #head = element('div', { class: 'row head', role: 'row', 'aria-rowindex': '1' });
  #body = element('div', { class: 'body', role: 'rowgroup' });
  #empty;
  #grid;
  #scroll;
  /** For cards, which have no heads of columns. */
  #sorter = element('select');

  /** @param {TableOptions<T>} options */
  constructor(options) {
    const { name, place, columns, action, sort, isDescending = false } = options;
    this.#options = options;
    this.#sort = sort;
    this.#descending = isDescending;
    this.#empty = element('p', { class: 'empty' });
    this.#grid = element('div', { class: 'grid', role: 'table', 'aria-label': name });
    this.#scroll = element('div', {
      class: 'scroll',
      tabindex: '0',
      role: 'region',
      'aria-label': `${name}, scrollable`,
    });
    for (const column of columns) {
      const button = element('button', { type: 'button' }, column.name);
      button.addEventListener('click', () => this.#sortBy(column.key));
      const kind = column.isNumber ? 'number' : undefined;
      this.#head.append(element('div', { role: 'columnheader', 'data-key': column.key, class: kind }, button));
      for (const [direction, word] of /** @type {const} */ ([
        ['', '↑'],
        ['-', '↓'],
      ]))
        this.#sorter.append(element('option', { value: `${direction}${column.key}` }, `${column.name} ${word}`));
    }
    if (action)
      this.#head.append(element('div', { role: 'columnheader' }, element('span', { class: 'hidden' }, action.text)));
    this.#sorter.addEventListener('change', () => {
      this.#descending = this.#sorter.value.startsWith('-');
      this.#sort = this.#sorter.value.replace('-', '');
      this.#arrange();
    });
    this.#grid.append(element('div', { role: 'rowgroup' }, this.#head), this.#body);
    this.#scroll.append(this.#grid, this.#empty);
    this.#scroll.addEventListener('scroll', () => this.#drawSoon(), { passive: true });
    addEventListener('scroll', () => this.#drawSoon(), { passive: true });
    this.#body.addEventListener('keydown', (event) => this.#move(event));
    new ResizeObserver(() => this.#measure()).observe(this.#scroll);
    place.append(element('label', { class: 'sorter' }, 'Sort by ', this.#sorter), this.#scroll);
  }

  /** @param {readonly T[]} items */
  show(items) {
    this.#all = items;
    this.#arrange();
  }

  /** @param {(item: T) => boolean} filter */
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
    for (const item of this.#visible().items) this.#fill(item);
  }

  /** The height of a row depends on the width: cards are higher. */
  #measure() {
    this.#rowHeight = Number.parseFloat(getComputedStyle(this.#body).getPropertyValue('--row')) || 46;
    this.#arrange();
  }

  /** @param {string} key */
  #sortBy(key) {
    this.#descending = this.#sort === key && !this.#descending;
    this.#sort = key;
    this.#arrange();
  }

  #arrange() {
    const { columns, keyOf } = this.#options;
    const of = columns.find(({ key }) => key === this.#sort)?.of ?? keyOf;
    const sign = this.#descending ? -1 : 1;
    const keyed = this.#all.filter(this.#filter).map((item) => /** @type {const} */ ([of(item), item]));
    // Sorting is stable, so equal items stay in the order of the answer.
    keyed.sort(([a], [b]) => (a === b ? 0 : a < b ? -sign : sign));
    this.#shown = keyed.map(([, item]) => item);
    for (const header of this.#head.querySelectorAll('[data-key]')) {
      const isSorted = header.getAttribute('data-key') === this.#sort;
      header.setAttribute('aria-sort', isSorted ? (this.#descending ? 'descending' : 'ascending') : 'none');
    }
    this.#sorter.value = `${this.#descending ? '-' : ''}${this.#sort}`;
    this.#grid.setAttribute('aria-rowcount', String(this.#shown.length + 1));
    this.#body.style.height = `${this.#shown.length * this.#rowHeight}px`;
    this.#empty.hidden = this.#shown.length > 0;
    setText(this.#empty, this.#all.length === 0 ? this.#options.empty : 'Nothing matches.');
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

  /** On a narrow screen the page scrolls, otherwise the table does. */
  #visible() {
    const view = this.#scroll.getBoundingClientRect();
    const { top } = this.#body.getBoundingClientRect();
    const from = Math.max(0, Math.floor((Math.max(view.top, 0) - top) / this.#rowHeight) - EXTRA_ROWS);
    const to = Math.ceil((Math.min(view.bottom, innerHeight) - top) / this.#rowHeight) + EXTRA_ROWS;
    return { from, items: view.width === 0 ? [] : this.#shown.slice(from, Math.max(from, to)) };
  }

  #draw() {
    const { keyOf } = this.#options;
    const { from, items } = this.#visible();
    this.#items = new Map(items.map((item) => [keyOf(item), item]));
    for (const [key, row] of this.#rows) {
      if (this.#items.has(key)) continue;
      row.line.remove();
      this.#rows.delete(key);
    }
    for (const [index, item] of items.entries()) {
      const row = this.#rows.get(keyOf(item)) ?? this.#make(keyOf(item));
      const place = from + index;
      row.line.setAttribute('aria-rowindex', String(place + 2));
      row.line.style.transform = `translateY(${place * this.#rowHeight}px)`;
      this.#fill(item);
    }
    this.#order(items);
  }

  /** The Tab key goes through the rows as they are in the document. @param {readonly T[]} items */
  #order(items) {
    const focused = document.activeElement;
    let next = this.#body.firstElementChild;
    for (const item of items) {
      const line = this.#rows.get(this.#options.keyOf(item))?.line;
      if (line === undefined) continue;
      if (line === next) next = next.nextElementSibling;
      else this.#body.insertBefore(line, next);
    }
    // What is moved loses the focus.
    if (focused instanceof HTMLElement && focused !== document.activeElement && this.#body.contains(focused))
      focused.focus({ preventScroll: true });
  }

  /**
   * @param {string} key
   * @returns {Row}
   */
  #make(key) {
    const { columns, action } = this.#options;
    const cells = columns.map((column) => {
      const main = element(column.href ? 'a' : 'span', { class: 'main' });
      const small = column.small && element('small');
      const cell = element(
        'div',
        { role: 'cell', class: `${column.key}${column.isNumber ? ' number' : ''}`, 'data-label': column.name },
        main,
      );
      if (small) cell.append(small);
      return { cell, main, small };
    });
    const line = element('div', { class: 'row', role: 'row', 'data-id': key }, ...cells.map(({ cell }) => cell));
    const button = action && element('button', { type: 'button' }, action.text);
    if (button) {
      button.addEventListener('click', () => {
        const item = this.#items.get(key);
        if (item !== undefined && action.refusal(item) === undefined) action.run(item);
      });
      line.append(element('div', { role: 'cell', class: 'action' }, button));
    }
    const row = { line, cells, button };
    this.#rows.set(key, row);
    this.#body.append(line);
    return row;
  }

  /** @param {T} item */
  #fill(item) {
    const { columns, keyOf, action } = this.#options;
    const row = this.#rows.get(keyOf(item));
    if (row === undefined) return;
    for (const [index, column] of columns.entries()) {
      const parts = row.cells[index];
      if (parts === undefined) continue;
      const { cell, main, small } = parts;
      const text = column.text(item);
      setText(main, text);
      if (small && column.small) setText(small, column.small(item));
      // What a narrow column shortens can be read in its tooltip.
      const title = column.title?.(item) ?? text;
      if (cell.title !== title) cell.title = title;
      if (column.level) main.className = `main tag ${column.level(item)}`;
      const href = column.href?.(item);
      if (href !== undefined && main.getAttribute('href') !== href) main.setAttribute('href', href);
    }
    if (action && row.button) {
      const refusal = action.refusal(item);
      row.button.setAttribute('aria-label', action.label(item));
      // It stays in the order of the Tab key, so that a screen reader can tell why it does nothing.
      if (refusal === undefined) row.button.removeAttribute('aria-disabled');
      else row.button.setAttribute('aria-disabled', 'true');
      row.button.title = refusal ?? '';
    }
  }

  /** @param {KeyboardEvent} event */
  #move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const line = event.target instanceof Element ? event.target.closest('.row') : null;
    if (step === undefined || !(line instanceof HTMLElement)) return;
    const { keyOf } = this.#options;
    const place = this.#shown.findIndex((item) => keyOf(item) === line.dataset.id) + step;
    const next = this.#shown[place];
    if (next === undefined) return;
    event.preventDefault();
    const { scrollTop, clientHeight } = this.#scroll;
    const top = place * this.#rowHeight;
    if (top < scrollTop) this.#scroll.scrollTop = top;
    else if (top + 2 * this.#rowHeight > scrollTop + clientHeight)
      this.#scroll.scrollTop = top + 2 * this.#rowHeight - clientHeight;
    this.#draw();
    const isButton = event.target instanceof HTMLButtonElement;
    const row = this.#rows.get(keyOf(next));
    const target = isButton ? row?.button : row?.line.querySelector('a');
    target?.focus({ preventScroll: this.#scroll.scrollHeight > clientHeight });
  }
}
