import { isIP } from 'node:net';
import { parseDuration, parseSize } from '../lib/units.ts';
import { type Given, looksLikeKey, type Problem, quoted, withoutUrls } from './problems.ts';
import type { Cidr, Hold, HostPort } from './types.ts';

/** Why a value cannot be used, and what to write instead. */
export class Invalid {
  readonly why: string;

  constructor(why: string) {
    this.why = why;
  }
}

/** Reads one value: the text of a flag, or a text, number or boolean that YAML has read. */
export interface Reader<Value> {
  (given: unknown): Value | Invalid;
  /** What it accepts, for the schema of the settings file. */
  readonly form: Form;
}

/** What a reader accepts. `off` says whether the word off is accepted as well. */
export type Form =
  | { readonly kind: 'duration'; readonly shortest: string; readonly longest: string; readonly off: boolean }
  | { readonly kind: 'hold' }
  | { readonly kind: 'size'; readonly least: string; readonly most: string }
  | { readonly kind: 'number'; readonly least: number; readonly most: number; readonly off: boolean }
  | { readonly kind: 'boolean' }
  | { readonly kind: 'words'; readonly words: readonly string[] }
  | { readonly kind: 'text' | 'plain name' | 'secret file' }
  | { readonly kind: 'key'; readonly prefix: string }
  | { readonly kind: 'address' | 'upstream URL' | 'notify URL' | 'Redis URL' };

function reader<Value>(form: Form, read: (given: unknown) => Value | Invalid): Reader<Value> {
  return Object.assign(read, { form });
}

/** How to read one value, and its default. */
export interface Readable<Value> {
  readonly read: Reader<Value>;
  readonly byDefault?: string | boolean;
}

/** The type of the value that a `Readable` reads. Without a default it includes undefined. */
type ValueOf<Entry> = Entry extends { readonly read: Reader<infer Value>; readonly byDefault: string | boolean }
  ? Value
  : Entry extends { readonly read: Reader<infer Value> }
    ? Value | undefined
    : never;

export type ValuesOf<Table> = { readonly [Name in keyof Table]: ValueOf<Table[Name]> };

/** Reads each value by itself, so that one mistake hides no other. A value that cannot be used is left out. */
export function readEach<Table extends Readonly<Record<string, Readable<unknown>>>>(
  table: Table,
  given: ReadonlyMap<string, Given>,
): { readonly values: Partial<ValuesOf<Table>>; readonly problems: readonly Problem[] } {
  const values: Record<string, unknown> = {};
  const problems: Problem[] = [];
  for (const [name, { read, byDefault }] of Object.entries(table)) {
    const source = given.get(name);
    const text = source === undefined ? byDefault : source.value;
    if (text === undefined) continue;
    const value = read(text);
    if (!(value instanceof Invalid)) values[name] = value;
    else problems.push({ at: source?.at ?? 'flag', name, text: value.why });
  }
  return { values: values as Partial<ValuesOf<Table>>, problems };
}

/** The members that are not undefined. */
export function present<T extends object>(values: T): { [Name in keyof T]?: Exclude<T[Name], undefined> } {
  const entries = Object.entries(values).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as { [Name in keyof T]?: Exclude<T[Name], undefined> };
}

/** YAML reads `30` as a number. It becomes text again here, so that the message can say which unit is missing. */
export function scalar<Value>(form: Form, read: (text: string) => Value | Invalid): Reader<Value> {
  return reader(form, (given) =>
    /^(string|number|boolean)$/.test(typeof given) ? read(String(given)) : new Invalid('needs a single value'),
  );
}

function isNumber(text: string): boolean {
  return /^\d+(\.\d+)?$/.test(text);
}

/** @returns milliseconds between the two limits; 0 for `off`, if that is allowed. */
export function duration(shortest: string, longest: string, off?: 'off'): Reader<number> {
  const orOff = off === undefined ? '' : ', or off';
  return scalar({ kind: 'duration', shortest, longest, off: off !== undefined }, (text) => {
    if (text === off) return 0;
    const ms = parseDuration(text);
    if (ms === undefined) return notDuration(text, orOff);
    if (ms < (parseDuration(shortest) ?? 0)) {
      return new Invalid(`${quoted(text)} is too short: write ${shortest} or more${orOff}`);
    }
    if (ms <= (parseDuration(longest) ?? 0)) return ms;
    return new Invalid(`${quoted(text)} is too long: write ${longest} or less${orOff}`);
  });
}

function notDuration(text: string, orOff: string): Invalid {
  if (isNumber(text))
    return new Invalid(`${quoted(text)} has no unit: write ${text}s, ${text}ms, ${text}m or ${text}h`);
  return new Invalid(`${quoted(text)} is not a duration: write 1500ms, 30s, 2m or 1h${orOff}`);
}

/** A client gives up on its control connection after ten seconds, and may also have to wait in the pacer. */
export const LONGEST_HOLD_MS = 5000;

export const hold: Reader<Hold> = scalar({ kind: 'hold' }, (text) => {
  if (text === 'auto' || text === 'off') return { kind: text };
  const ms = parseDuration(text);
  if (ms === undefined && isNumber(text)) return notDuration(text, '');
  if (ms === undefined) {
    return new Invalid(`${quoted(text)} is not a duration, 'auto' or 'off': write 1500ms, auto or off`);
  }
  if (ms <= LONGEST_HOLD_MS) return ms === 0 ? { kind: 'off' } : { kind: 'at most', ms };
  return new Invalid(`${quoted(text)} is too long: write 5s or less, since a client gives up after ten`);
});

/** @returns bytes between the two limits. */
export function size(least: string, most: string): Reader<number> {
  return scalar({ kind: 'size', least, most }, (text) => {
    const bytes = parseSize(text);
    if (bytes === undefined) return new Invalid(`${quoted(text)} is not a size: write 512B, 16KiB or 16MiB`);
    if (bytes < (parseSize(least) ?? 0)) return new Invalid(`${quoted(text)} is too small: write ${least} or more`);
    if (bytes <= (parseSize(most) ?? 0)) return bytes;
    return new Invalid(`${quoted(text)} is too large: write ${most} or less`);
  });
}

/** @returns a whole number between the two limits; 0 for `off`, if that is allowed. */
export function wholeNumber(least: number, most: number, off?: 'off'): Reader<number> {
  return scalar({ kind: 'number', least, most, off: off !== undefined }, (text) => {
    if (text === off) return 0;
    const number = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (number >= least && number <= most) return number;
    const orOff = off === undefined ? '' : ', or off';
    return new Invalid(`${quoted(text)} cannot be used: write a whole number from ${least} to ${most}${orOff}`);
  });
}

export const yesOrNo: Reader<boolean> = reader({ kind: 'boolean' }, (given) => {
  if (typeof given === 'boolean') return given;
  const isQuoted = /^(true|false)$/.test(String(given));
  const why = isQuoted ? `is text: write ${given} without quotes` : 'cannot be used: write true or false';
  return new Invalid(`${quoted(given)} ${why}`);
});

export function oneOf<Word extends string>(words: readonly Word[]): Reader<Word> {
  return scalar({ kind: 'words', words }, (text) => {
    const word = words.find((each) => each === text);
    return word ?? new Invalid(`${quoted(withoutUrls(text))} is unknown: write one of ${words.join(', ')}`);
  });
}

/** A free text, such as a name. If YAML reads it as a number or a boolean, the operator must quote it. */
export function word(what: string): Reader<string> {
  return reader({ kind: 'text' }, (given) => {
    if (given === '') return new Invalid(`needs ${what}`);
    if (typeof given === 'string') return given;
    return new Invalid(`${quoted(given)} is a ${typeof given} to YAML: put it in quotes, '${String(given)}'`);
  });
}

/** A name that becomes part of keys in Redis, so spaces, colons and braces are not allowed. */
export const plainName: Reader<string> = reader({ kind: 'plain name' }, (given) => {
  const name = word('a name')(given);
  if (name instanceof Invalid || /^[\w.-]{1,60}$/.test(name)) return name;
  return new Invalid(`${quoted(name)} is not a name: write up to 60 letters, digits, dots, hyphens and underscores`);
});

/**
 * The path of a file that holds a secret. If the operator wrote the key itself, no message and no log may show it.
 *
 * @param what is in the file: `a password`.
 */
export function secretFile(what?: string): Reader<string> {
  const readPath = word(what === undefined ? 'the path of a file' : `the path of a file with ${what}`);
  return reader({ kind: 'secret file' }, (given) => {
    const path = readPath(given);
    return path instanceof Invalid || !looksLikeKey(path) ? path : new Invalid(IS_KEY);
  });
}

const IS_KEY =
  'this is a key, not the path of a file that holds it: write the path, with ./ before it if it only looks like a key';

/** A public key as Headscale prints it: `mkey:` or `nodekey:` and 64 hex digits. */
export function publicKey<Key>(what: string, prefix: string, parse: (text: string) => Key | undefined): Reader<Key> {
  return scalar(
    { kind: 'key', prefix },
    (text) =>
      parse(text) ?? new Invalid(`${quoted(text)} is not a ${what}: write ${prefix}: and 64 hex digits, 0-9 and a-f`),
  );
}

/** What the URL parser calls a URL is more: it takes a missing host from the path, and removes blanks. */
function httpUrl(text: string): URL | undefined {
  return /^https?:\/\/[^/\\\s]\S*$/i.test(text) && URL.canParse(text) ? new URL(text) : undefined;
}

/** Headscale's URL: a scheme, a host and perhaps a port. */
export const upstreamUrl: Reader<URL> = scalar({ kind: 'upstream URL' }, (text) => {
  const url = httpUrl(text);
  if (url === undefined || url.hostname === '') {
    return new Invalid(`${quoted(text)} is not a URL of Headscale: write http://HOST:PORT or https://HOST:PORT`);
  }
  if (url.pathname !== '/' || url.search !== '' || url.hash !== '' || url.username !== '' || url.password !== '') {
    return new Invalid(`${quoted(withoutUser(text))} has more than a host and a port: write ${url.origin}`);
  }
  return url;
});

/** Where notifications go. No message shows it, because the path of such a URL is often a secret. */
export const notifyUrl: Reader<URL> = reader({ kind: 'notify URL' }, (given) => {
  const url = typeof given === 'string' ? httpUrl(given) : undefined;
  if (url !== undefined && url.hostname !== '') return url;
  return new Invalid('this is not a URL for notifications: write https://HOST/PATH');
});

/** A URL for a message, without its user and password. */
export function withoutUser(url: string): string {
  return url.replace(/\/\/[^/]*@/, '//…@');
}

/** @param byDefault an address that would work, as an example. */
export function hostPort(byDefault: string): Reader<HostPort> {
  return scalar({ kind: 'address' }, (text) => {
    const address = parseHostPort(text);
    if (address !== undefined) return address;
    return new Invalid(`${quoted(withoutUser(text))} is not HOST:PORT: write ${likelyAddress(text, byDefault)}`);
  });
}

/** The address that somebody most likely meant: a port alone, a host alone or a URL; otherwise the example. */
function likelyAddress(text: string, byDefault: string): string {
  const [, host = '', port = ''] = /^(.*):(\d+)$/.exec(byDefault) ?? [];
  if (/^\d+$/.test(text)) return Number(text) <= 65_535 ? `${host}:${text}` : byDefault;
  const url = /^https?:\/\/([^/?#@\s]+)/i.exec(text)?.[1] ?? text;
  if (parseHostPort(url) !== undefined) return url;
  if (isIP(url) === 6) return `[${url}]:${port}`;
  return isIP(url) === 4 || /^(localhost|[\w-]+(\.[\w-]+)*\.[a-z]{2,})$/i.test(url) ? `${url}:${port}` : byDefault;
}

/** Reads `HOST:PORT`, `[IPv6]:PORT` or `:PORT` (every address of this machine). @returns undefined if it has another form. */
export function parseHostPort(text: string): HostPort | undefined {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]\s]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port > 65_535) return undefined;
  return { host: match[1] ?? (match[2] || '::'), port };
}

const NOBODY = 'none';

/**
 * Reads the addresses and ranges of trusted proxies, or `none`.
 *
 * @param given each value is one of them, or several with commas between them.
 */
export function readTrustedProxies(given: readonly Given[]): {
  readonly trustedProxies: readonly Cidr[];
  readonly problems: readonly Problem[];
} {
  const trustedProxies: Cidr[] = [];
  const problems: Problem[] = [];
  const texts = given.flatMap(({ value, at }) =>
    String(value)
      .split(',')
      .map((part) => ({ text: part.trim(), at })),
  );
  for (const { text, at } of texts) {
    if (text === NOBODY && texts.length === 1) continue;
    const why =
      text === NOBODY ? `'none' cannot be combined with addresses: remove it, or the addresses` : whyNotTrusted(text);
    if (why === undefined) trustedProxies.push(text as Cidr);
    else problems.push({ at, name: 'trustedProxies', text: why });
  }
  return { trustedProxies, problems };
}

/** Reads origins as browsers send them, or `none`. */
export function readOrigins(given: readonly Given[]): {
  readonly origins: readonly string[];
  readonly problems: readonly Problem[];
} {
  const origins: string[] = [];
  const problems: Problem[] = [];
  for (const { value, at } of given) {
    if (value === NOBODY && given.length === 1) continue;
    const origin = originIn(String(value));
    if (origin instanceof Invalid) problems.push({ at, name: 'adminCorsOrigin', text: origin.why });
    else origins.push(origin);
  }
  return { origins, problems };
}

function originIn(text: string): string | Invalid {
  if (text === '*') return new Invalid("'*' would let every web page read: write the origins, like https://HOST");
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.hostname === '') {
    return new Invalid(
      `${quoted(withoutUser(text))} is not an origin: write https://HOST or https://HOST:PORT, or none`,
    );
  }
  if (url.href === `${url.origin}/`) return url.origin;
  return new Invalid(`${quoted(withoutUser(text))} has more than a scheme, a host and a port: write ${url.origin}`);
}

function whyNotTrusted(text: string): string | undefined {
  const [address = '', bits, ...more] = text.split('/');
  const longest = isIP(address) === 6 ? 128 : 32;
  const isRange = bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= longest);
  if (isIP(address) === 0 || !isRange || more.length > 0 || text.includes('%')) {
    return `${quoted(text)} is not an address or a range: write 127.0.0.1, 10.0.0.0/8 or fd00::/8, or none`;
  }
  if (bits !== undefined && Number(bits) === 0) {
    return `${quoted(text)} is every address there is, so anybody could claim to be any node: write your proxies' own addresses`;
  }
  return undefined;
}
