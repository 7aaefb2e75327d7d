import { byId, element, setText } from './dom.js';
import { Table } from './table.js';

/**
 * @template T
 * @typedef {readonly [key: string, name: string, is: (item: T) => boolean]} Filter
 */

/**
 * @template T
 * @typedef {object} ListOptions
 * @property {'nodes' | 'streams'} view
 * @property {Omit<import('./table.js').TableOptions<T>, 'place'>} table
 * @property {readonly Filter<T>[]} filters the first one shows everything
 * @property {(item: T) => string} textOf where a search looks, in lower case
 * @property {(items: readonly T[], shown: number) => string} summary
 * @property {(filter: string) => void} onFilter
 */

/**
 * A view with a table, a search and filters.
 *
 * @template T
 */
export class ListView {
  /** @type {ListOptions<T>} */
  #options;
  #place;
  #search;
  #table;
  #count;
  /** @type {readonly T[]} */
  #items = [];
  #chosen = '';
  /** @type {{ filter: Filter<T>, button: HTMLButtonElement, number: HTMLElement }[]} */
  #buttons;

  /** @param {ListOptions<T>} options */
  constructor(options) {
    const { view, table, filters, onFilter } = options;
    this.#options = options;
    this.#place = byId(`${view}-view`, HTMLElement);
    this.#search = byId(`${view}-search`, HTMLInputElement);
    this.#count = byId(`${view}-count`, HTMLElement);
    this.#table = new Table({ ...table, place: byId(`${view}-table`, HTMLElement) });
    this.#search.addEventListener('input', () => this.#apply());
    const place = byId(`${view}-filters`, HTMLElement);
    this.#buttons = filters.map((filter) => {
      const [key, name] = filter;
      const number = element('b');
      const button = element('button', { type: 'button', class: 'chip', 'data-filter': key }, name, ' ', number);
      button.addEventListener('click', () => onFilter(key));
      place.append(button);
      return { filter, button, number };
    });
  }

  /** @param {readonly T[]} items */
  show(items) {
    this.#items = items;
    // What nobody sees is not sorted and counted.
    if (this.#place.hidden) return;
    this.#table.show(items);
    this.#summarize();
  }

  /**
   * @param {boolean} isHere whether this is the view to show
   * @param {string | null} filter
   */
  go(isHere, filter) {
    const wasHidden = this.#place.hidden;
    this.#place.hidden = !isHere;
    if (!isHere) return;
    if (wasHidden) this.#table.show(this.#items);
    if (!wasHidden && this.#chosen === (filter ?? '')) return;
    this.#chosen = filter ?? '';
    this.#apply();
  }

  /** Updates the durations. */
  tick() {
    if (!this.#place.hidden) this.#table.tick();
  }

  #filter() {
    const { filters } = this.#options;
    return filters.find(([key]) => key === this.#chosen) ?? filters[0];
  }

  #apply() {
    const { textOf } = this.#options;
    const words = this.#search.value
      .toLowerCase()
      .split(/\s+/)
      .filter((word) => word !== '');
    const [, , is] = this.#filter() ?? [];
    this.#table.filter((item) => {
      if (is?.(item) === false) return false;
      const text = words.length === 0 ? '' : textOf(item);
      return words.every((word) => text.includes(word));
    });
    this.#summarize();
  }

  #summarize() {
    setText(this.#count, this.#options.summary(this.#items, this.#table.shown));
    const chosen = this.#filter();
    for (const { filter, button, number } of this.#buttons) {
      const found = this.#items.filter(filter[2]).length;
      setText(number, String(found));
      button.setAttribute('aria-pressed', String(filter === chosen));
      button.classList.toggle('none', found === 0);
    }
  }
}
