import { addressAndPort } from '../lib/addresses.ts';
import { type Given, type Place, type Problem, quoted } from './problems.ts';
import { parseHostPort, readEach } from './readers.ts';
import { LISTEN_SETTINGS, type ListenSettings } from './settings.ts';
import type { Listen } from './types.ts';

/** An address to listen on, and where the operator gave it. */
export interface PlacedListen {
  readonly listen: Listen;
  readonly at: Place;
}

/**
 * Reads the addresses to listen on.
 *
 * @param given each value is a text (`HOST:PORT`, or a URL with options in its query), or the entries of a mapping by name.
 */
export function readListens(given: readonly Given[]): {
  readonly listens: readonly PlacedListen[];
  readonly problems: readonly Problem[];
} {
  const listens: PlacedListen[] = [];
  const problems: Problem[] = [];
  for (const each of given) {
    const before = problems.length;
    const report = (text: string, at = each.at): void => void problems.push({ at, name: 'listen', text });
    const { settings, scheme, shown } = isMapping(each.value)
      ? { settings: each.value, scheme: undefined, shown: '' }
      : readListenText(String(each.value), each.at, report);
    const { values, problems: found } = readEach(LISTEN_SETTINGS, settings);
    for (const { at, text } of found) report(text, at);
    const tlsProblem = tlsProblemOf(values, scheme);
    // Show the address, so that the operator knows which flag it is, but not the query, which may hold a key.
    if (tlsProblem !== undefined) report(`${shown}${tlsProblem}`);
    if (problems.length === before) listens.push({ listen: listenOf(values as ListenSettings), at: each.at });
  }
  return { listens, problems };
}

function isMapping(value: unknown): value is ReadonlyMap<string, Given> {
  return value instanceof Map;
}

type Scheme = 'http' | 'https';

const OPTIONS: ReadonlyMap<string, keyof ListenSettings> = new Map([
  ['cert', 'cert'],
  ['key', 'key'],
  ['redirect', 'redirect'],
  ['proxy-protocol', 'proxyProtocol'],
]);

/** Reads from a text (`HOST:PORT` or a URL) the same settings that a mapping in the file has. */
function readListenText(
  text: string,
  at: Given['at'],
  report: (text: string) => void,
): {
  readonly settings: ReadonlyMap<string, Given>;
  readonly scheme: Scheme | undefined;
  /** The part of it that a message may show. */
  readonly shown: string;
} {
  const match = /^(https?):\/\/([^/?#]*)\/?(?:\?(.*))?$/.exec(text);
  if (match === null) return { settings: new Map([['address', { value: text, at }]]), scheme: undefined, shown: '' };
  const scheme = match[1] as Scheme;
  const where = match[2] ?? '';
  const hasPort = parseHostPort(where) !== undefined;
  const address = hasPort ? where : `${where}:${scheme === 'https' ? 443 : 80}`;
  const settings = new Map<string, Given>([['address', { value: address, at }]]);
  for (const option of (match[3] ?? '').split('&').filter((each) => each !== '')) {
    const [word = '', ...rest] = option.split('=');
    const name = OPTIONS.get(word);
    if (name !== undefined) settings.set(name, { value: optionValue(rest.join('=')), at });
    else report(`${quoted(word)} is not an option here: write one of ${[...OPTIONS.keys()].join(', ')}`);
  }
  return { settings, scheme, shown: `${quoted(`${scheme}://${where}`)} ` };
}

function optionValue(text: string): unknown {
  return /^(true|false)$/.test(text) ? text === 'true' : text;
}

function tlsProblemOf(
  { cert, key, redirect }: Partial<ListenSettings>,
  scheme: Scheme | undefined,
): string | undefined {
  if (scheme === 'http' && (cert ?? key) !== undefined) {
    return 'has a certificate, which needs https://: write https://, or remove the certificate';
  }
  if (cert === undefined && key !== undefined) return 'has a key without its certificate: add cert';
  if (cert !== undefined && key === undefined) return 'has a certificate without its key: add key';
  if (scheme === 'https' && cert === undefined) return 'has no certificate: write https://HOST:PORT?cert=FILE&key=FILE';
  if (redirect === true && cert !== undefined)
    return 'already speaks HTTPS, where redirect sends browsers: remove redirect';
  return undefined;
}

function listenOf({ address, cert, key, redirect, proxyProtocol }: ListenSettings): Listen {
  if (address === undefined) throw new TypeError('readListens accepts no listener without an address');
  const tls = cert === undefined || key === undefined ? undefined : { certFile: cert, keyFile: key };
  return { ...address, tls, redirect, proxyProtocol };
}

/** As an operator writes it. */
export function formatListen(listen: Listen): string {
  const { host, port, tls, redirect, proxyProtocol } = listen;
  const options = [
    ...(tls === undefined ? [] : [`cert=${tls.certFile}`, `key=${tls.keyFile}`]),
    ...(redirect ? ['redirect=true'] : []),
    ...(proxyProtocol ? ['proxy-protocol=true'] : []),
  ].join('&');
  const address = addressAndPort(host, port);
  return options === '' ? address : `${tls === undefined ? 'http' : 'https'}://${address}?${options}`;
}

/** The port that browsers on plain HTTP are sent to. */
export function httpsPortOf(listens: readonly Listen[]): number {
  return listens.find(({ tls }) => tls !== undefined)?.port ?? 443;
}
