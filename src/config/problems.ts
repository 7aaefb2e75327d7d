import { printable } from '../lib/text.ts';

/** A place in a file, as editors count: line and column begin at 1. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

/** A value that an operator gave, and where: with a flag, or at a place in the file. */
export interface Given {
  readonly value: unknown;
  readonly at: Position | 'flag';
}

/** What is wrong, where, and what to write instead. */
export interface Problem {
  readonly at: Position | 'flag';
  /** The setting as the program names it, `silentAfter`; undefined where it is about no single setting. */
  readonly name?: string;
  readonly text: string;
}

/** `silentAfter` as flags and files spell it: `silent-after`. */
export function kebabCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

const LONGEST_QUOTE = 80;

/** A value for a message, in quotes; a key is named and not shown. */
export function quoted(value: unknown): string {
  const text = String(value);
  return secretIn(text) ?? `'${printable(text, LONGEST_QUOTE)}'`;
}

/** Text of a file for a message; nothing of a text with a key in it. */
export function shown(text: string, longest: number): string {
  const secret = secretIn(text);
  return secret === undefined ? printable(text, longest) : `${secret} stands here`;
}

const PRIVATE_KEY = /privkey:/i;

function secretIn(text: string): string | undefined {
  if (PRIVATE_KEY.test(text)) return 'a private key';
  return /hskey-/i.test(text) ? 'a key of Headscale' : undefined;
}

/** How Headscale's API keys begin, and public keys, which are not paths either. */
const KEY_START = /^\s*(hskey-|hsapi|mkey:|nodekey:)/i;
/** Headscale's older API keys: a prefix, a dot and a secret, of letters, digits, hyphens and underscores. */
const OLD_API_KEY = /^\s*[\w-]{5,20}\.[\w-]{20,}\s*$/;
/** What follows `privkey:`. */
const BARE_KEY = /^\s*[0-9a-f]{64}\s*$/i;

/** Whether a text in place of a path is most likely a key, which no message may show. */
export function looksLikeKey(text: string): boolean {
  return KEY_START.test(text) || OLD_API_KEY.test(text) || BARE_KEY.test(text) || PRIVATE_KEY.test(text);
}
