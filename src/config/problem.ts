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
