import { isTimezone } from '../history/availability.ts';
import { isoTime } from '../lib/clock.ts';
import { inQuotes } from '../lib/text.ts';

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
      throw new ParameterError(`${inQuotes(name)} is not a parameter here. Use one of ${known.join(', ')}.`);
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
      throw new ParameterError(`${name}=${inQuotes(word)} is unknown. Use one of ${values.join(', ')}.`);
    }
    return new Set(words as Word[]);
  }

  /** Reads a whole number from `least` to `most`. */
  number(name: string, least: number, most: number): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const number = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
    if (number >= least && number <= most) return number;
    throw new ParameterError(`${name}=${inQuotes(text)} is invalid. Use a whole number from ${least} to ${most}.`);
  }

  /** Reads a time, in milliseconds since 1970: `7d` is seven days before `now`. */
  time(name: string, now: number): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const time = timeIn(text, now);
    if (!Number.isNaN(time)) return time;
    throw new ParameterError(
      `${name}=${inQuotes(text)} is no time. Use 90m, 24h or 7d (that long ago), or a time like 2026-11-27T08:00:00Z.`,
    );
  }

  /** Reads the name of a time zone, by default UTC. */
  timezone(name: string): string {
    const text = this.text(name) ?? 'UTC';
    if (isTimezone(text)) return text;
    throw new ParameterError(`${name}=${inQuotes(text)} is unknown. Use a name like Europe/Berlin, or UTC.`);
  }
}

/** Of two times, the first begins a span and the second ends it. @throws ParameterError if the span is empty or long. */
export function spanOf(
  given: Parameters,
  now: number,
  byDefaultMs: number,
): { readonly since: number; readonly until: number } {
  const until = given.time('until', now) ?? now;
  const since = given.time('since', now) ?? until - byDefaultMs;
  checkOrder(since, until);
  if (until - since <= LONGEST_SPAN_MS) return { since, until };
  throw new ParameterError(
    `From ${isoTime(since)} to ${isoTime(until)} is too long. Ask for ${LONGEST_SPAN_DAYS} days at most.`,
  );
}

/** @throws ParameterError unless `since` comes first. */
export function checkOrder(since: number, until: number): void {
  if (since >= until)
    throw new ParameterError(`since must be before until, and ${isoTime(since)} is not before ${isoTime(until)}.`);
}

const LONGEST_SPAN_DAYS = 366;
const LONGEST_SPAN_MS = LONGEST_SPAN_DAYS * 86_400_000;

const AGO_MS: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const ISO_TIME = /^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?)?$/;

/** Reads `7d` (that long before now) or an ISO 8601 time; one without a time zone is in UTC. @returns NaN for anything else. */
function timeIn(text: string, now: number): number {
  const [, number, unit = ''] = /^(\d{1,6})([smhd])$/.exec(text) ?? [];
  if (number !== undefined) return now - Number(number) * (AGO_MS[unit] ?? Number.NaN);
  // A plus sign in a query is a space.
  const time = text.replace(' ', '+');
  if (!ISO_TIME.test(time)) return Number.NaN;
  return Date.parse(/T.*(Z|[+-]\d\d:?\d\d)$/.test(time) || !time.includes('T') ? time : `${time}Z`);
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
      `sort=${inQuotes(text)} is unknown. Use one of ${known}. A leading - sorts in descending order.`,
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
 * @param isPlace what every place looks like.
 * @throws ParameterError
 */
export function pageOf<Item>(
  items: Item[],
  given: Parameters,
  columns: Readonly<Record<string, (item: Item) => string | number>>,
  keyOf: (item: Item) => string,
  isPlace: RegExp,
): { readonly total: number; readonly next: string | null; readonly page: readonly Item[] } {
  const order = orderBy(columns, given.text('sort'));
  const limit = given.number('limit', 1, MOST_ITEMS);
  const after = given.text('after');
  if (after !== undefined && order !== undefined)
    throw new ParameterError('after= cannot be combined with sort=. Remove one of them.');
  if (after !== undefined && !isPlace.test(after))
    throw new ParameterError(`after=${inQuotes(after)} is invalid. Use what next was in the answer before.`);
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
