import { inQuotes, printable } from '../lib/text.ts';

/** A place in a file. Line and column count from 1, as in editors. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

/** Where an operator gave a value: with a flag, with a variable, or at a place in the file. */
export type Place = Position | 'flag' | 'variable';

/** A value that an operator gave, and where they gave it. */
export interface Given {
  readonly value: unknown;
  readonly at: Place;
}

/** What is wrong, where, and what to write instead. */
export interface Problem {
  readonly at: Place;
  /** The setting in camel case, `silentAfter`; undefined if the problem is not about a single setting. */
  readonly name?: string;
  readonly text: string;
}

/** Turns `silentAfter` into `silent-after`, as flags and files spell it. */
export function kebabCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** The environment variable of a flag: `HEADSCALE_WATCHDOG_SILENT_AFTER` of `silentAfter`. */
export function variableOf(name: string): string {
  return `${VARIABLE_PREFIX}${kebabCase(name).replaceAll('-', '_').toUpperCase()}`;
}

/** A setting as an operator writes it in that place: `--silent-after`, its variable, or `silent-after` in the file. */
export function nameAt(name: string, at: Place): string {
  if (at === 'variable') return variableOf(name);
  return at === 'flag' ? `--${kebabCase(name)}` : kebabCase(name);
}

export const VARIABLE_PREFIX = 'HEADSCALE_WATCHDOG_';

/** A value in quotes, for a message. A key is not shown; the message only says that it is one. */
export function quoted(value: unknown): string {
  const text = String(value);
  return secretIn(text) ?? inQuotes(text);
}

/** Text in which the paths of URLs are hidden. Somebody may have written a URL with a secret where no URL belongs. */
export function withoutUrls(value: unknown): string {
  return String(value).replace(/\b(https?:\/\/)\S+/gi, '$1…');
}

/** Text of a file, for a message. A text that contains a key is not shown at all. */
export function shown(text: string, longest: number): string {
  const secret = secretIn(text);
  return secret === undefined ? printable(text, longest) : `${secret} stands here`;
}

const PRIVATE_KEY = /privkey:/i;

function secretIn(text: string): string | undefined {
  if (PRIVATE_KEY.test(text)) return 'a private key';
  return /hskey-/i.test(text) ? 'a key of Headscale' : undefined;
}

/** The start of Headscale's API keys, of secrets for notifications, and of public keys, which are not paths either. */
const KEY_START = /^\s*(hskey-|hsapi|mkey:|nodekey:|whsec_|tk_)/i;
/** Headscale's older API keys: a prefix, a dot and a secret, of letters, digits, hyphens and underscores. */
const OLD_API_KEY = /^\s*[\w-]{5,20}\.[\w-]{20,}\s*$/;
/** What follows `privkey:`. */
const BARE_KEY = /^\s*[0-9a-f]{64}\s*$/i;

/** What a key looks like, in upper or lower case. */
export const KEY_FORMS: readonly RegExp[] = [KEY_START, OLD_API_KEY, BARE_KEY, PRIVATE_KEY];

/** Whether somebody most likely wrote a key instead of a path. No message may show a key. */
export function looksLikeKey(text: string): boolean {
  return KEY_FORMS.some((form) => form.test(text));
}
