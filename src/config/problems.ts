/** A place in a file, as editors count: both from 1. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

/** What is wrong at a place of the file, and the cure. */
export interface Mistake {
  readonly at: Position;
  readonly text: string;
}

/** A value an operator gave, and where: a flag, or a place in the file. */
export interface Given {
  readonly value: unknown;
  readonly at: Position | 'flag';
}

/** What is wrong with a setting, by the name the program uses: `silentAfter`. */
export interface Problem {
  readonly at: Position | 'flag';
  readonly name: string;
  readonly text: string;
}

/** `silentAfter` as flags and files spell it: `silent-after`. */
export function kebabCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

const LONGEST_QUOTE = 80;

/** A value for a message: see `printable`. */
export function quoted(value: unknown): string {
  const text = String(value);
  return secretIn(text) ?? `'${printable(text, LONGEST_QUOTE)}'`;
}

/** A text of others for one line on a terminal: control characters escaped, a long one cut, and no key in it. */
export function printable(text: string, longest: number): string {
  const secret = secretIn(text);
  if (secret !== undefined) return `${secret} stands here`;
  const cut = text.length > longest ? `${text.slice(0, longest)}…` : text;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not reach a terminal
  return cut.replace(/[\0-\x1f\x7f-\x9f\u2028\u2029]/g, escaped);
}

const PRIVATE_KEY = /privkey:/i;

function secretIn(text: string): string | undefined {
  if (PRIVATE_KEY.test(text)) return 'a private key';
  return /hskey-/i.test(text) ? 'a key of Headscale' : undefined;
}

/** How keys begin: Headscale's API keys; also public ones, which are no path either. */
const KEY_START = /^\s*(hskey-|hsapi|mkey:|nodekey:)/i;
/** Headscale's older API keys: prefix, dot and secret, each of letters, digits, - and _. */
const OLD_API_KEY = /^\s*[\w-]{5,20}\.[\w-]{20,}\s*$/;
/** What follows `privkey:`. */
const BARE_KEY = /^\s*[0-9a-f]{64}\s*$/i;

/** Whether a text that should be a path is most likely a key itself, so that it must be shown nowhere. */
export function looksLikeKey(text: string): boolean {
  return KEY_START.test(text) || OLD_API_KEY.test(text) || BARE_KEY.test(text) || PRIVATE_KEY.test(text);
}

function escaped(character: string): string {
  if (character === '\n') return '\\n';
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
}

/** Reads one value: what the schema's library gives for each setting. */
interface Reader<Value> {
  safeParse(
    value: unknown,
  ):
    | { readonly success: true; readonly data: Value }
    | { readonly success: false; readonly error: { readonly issues: readonly { readonly message: string }[] } };
}

export type Readers<Values> = { readonly [Name in keyof Values]-?: Reader<Values[Name]> };

/** Reads each setting by itself, so that a mistake in one hides none in another. A value with a mistake is left out. */
export function readEach<Values>(
  readers: Readers<Values>,
  given: ReadonlyMap<string, Given>,
): { readonly values: Partial<Values>; readonly problems: readonly Problem[] } {
  const values: Partial<Values> = {};
  const problems: Problem[] = [];
  for (const name of Object.keys(readers) as (keyof Values & string)[]) {
    const source = given.get(name);
    const read = readers[name].safeParse(source?.value);
    if (read.success) values[name] = read.data;
    else for (const { message } of read.error.issues) problems.push({ at: source?.at ?? 'flag', name, text: message });
  }
  return { values, problems };
}

/** The word of `known` that `word` is most likely a slip of; undefined when none is near. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const slip = word.toLowerCase().replaceAll('_', '-');
  // A long text is no slip of a short word, and would only cost time.
  if (slip.length > 40) return undefined;
  const near = known
    // Letters that only one of them can have are each a change: most words are out before they are compared.
    .filter((candidate) => Math.abs(candidate.length - slip.length) <= mostChanges(candidate))
    .map((candidate) => ({ candidate, distance: editDistance(slip, candidate) }))
    .filter(({ candidate, distance }) => distance <= mostChanges(candidate))
    .sort((a, b) => a.distance - b.distance);
  return near[0]?.candidate;
}

function mostChanges(word: string): number {
  return Math.max(1, Math.floor(word.length / 3));
}

/** How many letters must be put in, left out, changed or swapped with their neighbour to make `b` of `a`. */
function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let best = Math.min(cell(last, j) + 1, cell(row, j - 1) + 1, cell(last, j - 1) + (same ? 0 : 1));
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (isSwap) best = Math.min(best, cell(beforeLast, j - 2) + 1);
      row.push(best);
    }
    [beforeLast, last] = [last, row];
  }
  return cell(last, b.length);
}

function cell(row: readonly number[], index: number): number {
  return row[index] ?? Number.POSITIVE_INFINITY;
}
