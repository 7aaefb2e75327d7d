import { printable } from '../lib/text.ts';

/** A query parameter is invalid. The message names the value and says what is allowed. */
export class ParameterError extends Error {
  override readonly name = 'ParameterError';
}

/**
 * Reads query parameters. Unknown names are errors too, because a misspelt filter would silently filter nothing.
 *
 * @throws ParameterError
 */
export class Parameters {
  readonly #given: URLSearchParams;

  constructor(given: URLSearchParams, known: readonly string[]) {
    this.#given = given;
    for (const name of given.keys()) {
      if (known.includes(name)) continue;
      throw new ParameterError(`${quoted(name)} is not a parameter here. Use one of ${known.join(', ')}.`);
    }
  }

  /** @returns undefined if the parameter is missing or empty. */
  text(name: string): string | undefined {
    return this.#given.get(name) || undefined;
  }

  /** Reads one of `values`, or several with commas between them. */
  words<Word extends string>(name: string, values: readonly Word[]): ReadonlySet<Word> | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const words = text.split(',').map((word) => word.trim());
    for (const word of words) {
      if ((values as readonly string[]).includes(word)) continue;
      throw new ParameterError(`${name}=${quoted(word)} is unknown. Use one of ${values.join(', ')}.`);
    }
    return new Set(words as Word[]);
  }

  /** Reads a whole number from `least` to `most`. */
  number(name: string, least: number, most: number): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const number = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
    if (number >= least && number <= most) return number;
    throw new ParameterError(`${name}=${quoted(text)} is invalid. Use a whole number from ${least} to ${most}.`);
  }
}

/**
 * The order that `sort=` asks for: `rtt` is ascending, `-rtt` descending. Equal items stay as they are.
 *
 * @param columns what each column sorts by.
 * @throws ParameterError
 */
function orderBy<Item>(
  columns: Readonly<Record<string, (item: Item) => string | number>>,
  text: string | undefined,
): ((a: Item, b: Item) => number) | undefined {
  if (text === undefined) return undefined;
  const name = text.replace(/^-/, '');
  const column = Object.hasOwn(columns, name) ? columns[name] : undefined;
  if (column === undefined) {
    const known = Object.keys(columns).join(', ');
    throw new ParameterError(
      `sort='${text.slice(0, 40)}' is unknown. Use one of ${known}. A leading - sorts in descending order.`,
    );
  }
  const sign = text.startsWith('-') ? -1 : 1;
  return (a, b) => {
    const [x, y] = [column(a), column(b)];
    return x === y ? 0 : x < y ? -sign : sign;
  };
}

/** The parameters that `pageOf` reads. */
export const PAGE_PARAMETERS = ['sort', 'limit', 'after'] as const;

const MOST_ITEMS = 100_000;

/**
 * Sorts a list and takes a page of it. Pages that are asked for one after the other skip and repeat no item, although items
 * come and go meanwhile: without `sort=` each item has its fixed place, and a page begins after the last item of the one before.
 *
 * @param keyOf the place of an item; no two items have the same.
 * @throws ParameterError
 */
export function pageOf<Item>(
  items: Item[],
  given: Parameters,
  columns: Readonly<Record<string, (item: Item) => string | number>>,
  keyOf: (item: Item) => string,
): { readonly total: number; readonly next: string | null; readonly page: readonly Item[] } {
  const order = orderBy(columns, given.text('sort'));
  const limit = given.number('limit', 1, MOST_ITEMS);
  const after = given.text('after');
  if (after !== undefined && order !== undefined)
    throw new ParameterError('after= cannot be combined with sort=. Remove one of them.');
  const total = items.length;
  if (order !== undefined) return { total, next: null, page: items.sort(order).slice(0, limit) };
  if (limit === undefined && after === undefined) return { total, next: null, page: items };
  const placed = items
    .map((item) => ({ item, key: keyOf(item) }))
    .filter(({ key }) => after === undefined || key > after);
  placed.sort((a, b) => (a.key < b.key ? -1 : 1));
  const page = placed.slice(0, limit);
  const next = page.length < placed.length ? (page.at(-1)?.key ?? null) : null;
  return { total, next, page: page.map(({ item }) => item) };
}

function quoted(text: string): string {
  return `'${printable(text, 80)}'`;
}
