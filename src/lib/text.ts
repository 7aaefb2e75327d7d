// biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal obeys them
const CONTROL = /[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;

/**
 * Makes text from outside (a node's name, a header, a file) safe for a terminal, a log line or an answer. It escapes
 * control characters and the characters that change the writing direction.
 *
 * @param longest in characters. `…` replaces the rest.
 */
export function printable(text: string, longest = Number.POSITIVE_INFINITY): string {
  const cut = text.length > longest ? `${text.slice(0, longest)}…` : text;
  return cut.replace(CONTROL, escaped);
}

/**
 * The same text in one piece, to keep it for long. V8 puts a text together from references to its parts, which take several times
 * its memory.
 */
export function compact(text: string): string {
  return Buffer.from(text).toString();
}

const LONGEST_QUOTE = 80;

/** Text from outside in quotes, safe and on one line, for a message. */
export function inQuotes(text: string): string {
  return `'${printable(text, LONGEST_QUOTE)}'`;
}

function escaped(character: string): string {
  if (character === '\n') return '\\n';
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
}

/** The word of `known` that somebody most likely meant when they wrote `word`. @returns undefined if no word is close. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const typed = word.toLowerCase().replaceAll('_', '-');
  // A long text is not a misspelt word, and comparing it takes time.
  if (typed.length > 40) return undefined;
  const near = known
    // Two words differ by at least as many changes as their lengths differ. This spares most comparisons.
    .filter((candidate) => Math.abs(candidate.length - typed.length) <= mostChanges(candidate))
    .map((candidate) => ({ candidate, distance: editDistance(typed, candidate) }))
    .filter(({ candidate, distance }) => distance <= mostChanges(candidate))
    .sort((a, b) => a.distance - b.distance);
  return near[0]?.candidate;
}

function mostChanges(word: string): number {
  return Math.max(1, Math.floor(word.length / 3));
}

/**
 * How many changes turn `a` into `b`: to add, remove or replace a letter, or to swap two neighbours (optimal string
 * alignment). Levenshtein's distance would count a swap as two changes, although it is the most common typing error.
 */
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
