import { addressAndPort } from '../lib/addresses.ts';
import { parseHostPort } from './host-port.ts';
import { type Given, type Position, type Problem, quoted, readEach } from './problems.ts';
import { type ListenSettings, listenSchema } from './schema.ts';
import type { Listen } from './types.ts';

/** A `listen` that could be read, and where it was given. */
export interface PlacedListen {
  readonly listen: Listen;
  readonly at: Position | 'flag';
}

const OPTIONS: ReadonlyMap<string, keyof ListenSettings> = new Map([
  ['cert', 'cert'],
  ['key', 'key'],
  ['redirect', 'redirect'],
  ['proxy-protocol', 'proxyProtocol'],
]);

/**
 * Reads every address to listen on.
 *
 * @param given each a text (`HOST:PORT`, or a URL with options in its query), or what a mapping of the file holds by name.
 */
export function readListens(given: readonly Given[]): {
  readonly listens: readonly PlacedListen[];
  readonly problems: readonly Problem[];
} {
  const listens: PlacedListen[] = [];
  const problems: Problem[] = [];
  for (const each of given) {
    const before = problems.length;
    const tell = (text: string, at = each.at): void => void problems.push({ at, name: 'listen', text });
    const { settings, scheme, shown } = isMapping(each.value)
      ? { settings: each.value, scheme: undefined, shown: '' }
      : settingsOfText(String(each.value), each.at, tell);
    const { values, problems: found } = readEach<ListenSettings>(listenSchema.shape, settings);
    for (const { at, text, name } of found) {
      // What is not there has no place of its own.
      if (name !== 'address' || settings.has('address')) tell(text, settings.has(name) ? at : each.at);
    }
    // Of several flags only what is in it tells one from the other; its query may hold what nobody should see.
    tellOfTls(values, scheme, (text) => tell(`${shown}${text}`));
    if (problems.length === before) listens.push({ listen: listenOf(values as ListenSettings), at: each.at });
  }
  return { listens, problems };
}

function isMapping(value: unknown): value is ReadonlyMap<string, Given> {
  return value instanceof Map;
}

type Scheme = 'http' | 'https';
type Tell = (text: string) => void;

/** The same settings that a mapping has, from a text. */
function settingsOfText(
  text: string,
  at: Given['at'],
  tell: Tell,
): { readonly settings: ReadonlyMap<string, Given>; readonly scheme: Scheme | undefined; readonly shown: string } {
  const match = /^(https?):\/\/([^/?#]*)\/?(?:\?(.*))?$/.exec(text);
  if (match === null) return { settings: new Map([['address', { value: text, at }]]), scheme: undefined, shown: '' };
  const scheme = match[1] as Scheme;
  const where = match[2] ?? '';
  const isWhole = parseHostPort(where) !== undefined;
  const settings = new Map<string, Given>([
    ['address', { value: isWhole ? where : `${where}:${scheme === 'https' ? 443 : 80}`, at }],
  ]);
  for (const option of (match[3] ?? '').split('&').filter((each) => each !== '')) {
    const [word = '', ...rest] = option.split('=');
    const name = OPTIONS.get(word);
    if (name === undefined) tell(`${quoted(word)} is no option here: known are ${[...OPTIONS.keys()].join(', ')}`);
    else settings.set(name, { value: optionValue(rest.join('=')), at });
  }
  return { settings, scheme, shown: `${quoted(`${scheme}://${where}`)} ` };
}

function optionValue(text: string): unknown {
  return /^(true|false)$/.test(text) ? text === 'true' : text;
}

function tellOfTls({ cert, key, redirect }: Partial<ListenSettings>, scheme: Scheme | undefined, tell: Tell): void {
  if (scheme === 'http' && (cert ?? key) !== undefined)
    tell('has a certificate, which needs https://: write it so, or remove it');
  else if ((cert === undefined) !== (key === undefined)) {
    tell(
      `has ${cert === undefined ? 'a key without its certificate: add cert' : 'a certificate without its key: add key'}`,
    );
  } else if (scheme === 'https' && cert === undefined) {
    tell('has no certificate: write https://HOST:PORT?cert=FILE&key=FILE');
  } else if (redirect === true && cert !== undefined) {
    tell('has redirect, which sends browsers to HTTPS, and here they are: remove it');
  }
}

function listenOf({ address, cert, key, redirect, proxyProtocol }: ListenSettings): Listen {
  const tls = cert === undefined || key === undefined ? undefined : { certFile: cert, keyFile: key };
  return { ...address, tls, redirect, proxyProtocol };
}

/** As an operator writes it. */
export function formatListen(listen: Listen): string {
  const { tls, redirect, proxyProtocol } = listen;
  const options = [
    ...(tls === undefined ? [] : [`cert=${tls.certFile}`, `key=${tls.keyFile}`]),
    ...(redirect ? ['redirect=true'] : []),
    ...(proxyProtocol ? ['proxy-protocol=true'] : []),
  ].join('&');
  if (options === '') return addressAndPort(listen.host, listen.port);
  return `${tls === undefined ? 'http' : 'https'}://${addressAndPort(listen.host, listen.port)}?${options}`;
}

/** Where browsers that are on plain HTTP are sent. */
export function httpsPortOf(listens: readonly Listen[]): number {
  return listens.find(({ tls }) => tls !== undefined)?.port ?? 443;
}
