import type { StreamKind } from './stream.ts';

/**
 * What a request asks for, decided here and nowhere else, exactly as Headscale decides it: with Go's `http.ReadRequest`,
 * its router, and tailscale `control/controlhttp/controlhttpserver`. What two readers might read differently is refused.
 */
export type ReadRequest =
  | { readonly kind: 'refused'; readonly why: string }
  | { readonly kind: 'plain'; readonly headers: string[] }
  | { readonly kind: 'upgrade'; readonly headers: string[]; readonly asked: AskedUpgrade };

/** What Headscale can switch a connection to. */
export type Protocol = 'tailscale-control-protocol' | 'websocket' | 'derp';
const PROTOCOLS: ReadonlySet<string> = new Set<Protocol>(['tailscale-control-protocol', 'websocket', 'derp']);

export interface AskedUpgrade {
  readonly protocol: Protocol;
  readonly streamKind: StreamKind;
  /** The handshake that Headscale is going to read; undefined where it will find none. */
  readonly handshake: string | undefined;
}

/** A request's head as Node's parser gives it. */
export interface RequestHead {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
  readonly httpVersion: string;
  /** Name, value, name, value, … */
  readonly rawHeaders: readonly string[];
}

const HANDSHAKE = 'X-Tailscale-Handshake';
const KINDS: Readonly<Record<string, StreamKind>> = { '/ts2021': 'control', '/derp': 'derp' };
/** A name or an address, and a port: as Go has it, but without marks that no host's name has. */
const HOST = /^([A-Za-z0-9._~-]*|\[[0-9A-Fa-f:.]+(%25[A-Za-z0-9._~-]+)?\])(:\d{0,5})?$/;

/** About one connection alone, so they stay on it (RFC 9110, section 7.6.1). Our own server answers Expect. */
const HOP_BY_HOP: ReadonlySet<string> = new Set([
  'connection',
  'expect',
  'http2-settings',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'upgrade',
]);
/** Whatever Connection says: without them a message would mean something else. */
const NEVER_NAMED: ReadonlySet<string> = new Set(['content-length', 'host', 'transfer-encoding']);

export function readRequest(head: RequestHead): ReadRequest {
  const target = targetOf(head);
  if (target === undefined) return refused('its target is neither a path nor an http URL');
  const encoded = target.path.includes('%') ? KINDS[unescaped(target.path)] : undefined;
  // Headscale's routers differ here: up to 0.28 it decodes the path first, from 0.29 it does not.
  if (encoded !== undefined) return refused('its path is written with percent signs that it does not need');
  const headers = endToEnd(head.rawHeaders);
  const values = new Values(head.rawHeaders);
  const why = whyRefused(head, target, values);
  if (why !== undefined) return refused(why);
  // HTTP/1.0 may leave it out, and the request goes on as HTTP/1.1.
  if (values.host.length === 0) headers.push('Host', '');
  const protocol = values.upgrade[0]?.toLowerCase() ?? '';
  // With a body it is a plain request: a server may ignore Upgrade (RFC 9110, section 7.8).
  if (!isProtocol(protocol) || values.hasBody) return { kind: 'plain', headers };
  const streamKind = KINDS[target.path] ?? 'other';
  const told = streamKind === 'control' ? handshakesOf(protocol, target, headers) : [];
  if (told.some((each) => each !== told[0])) return refused('it has two handshakes that differ');
  return { kind: 'upgrade', headers, asked: { protocol, streamKind, handshake: told[0] || undefined } };
}

function refused(why: string): ReadRequest {
  return { kind: 'refused', why };
}

/** @param text in lower case. */
export function isProtocol(text: string): text is Protocol {
  return PROTOCOLS.has(text);
}

/** Of the headers that say what a request is, all values in their order. */
class Values {
  readonly host: string[] = [];
  readonly upgrade: string[] = [];
  readonly length: string[] = [];
  readonly encoding: string[] = [];

  constructor(rawHeaders: readonly string[]) {
    for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
      const value = rawHeaders[i + 1] as string;
      switch (rawHeaders[i]?.toLowerCase()) {
        case 'host':
          this.host.push(value);
          break;
        case 'upgrade':
          this.upgrade.push(value);
          break;
        case 'content-length':
          this.length.push(value);
          break;
        case 'transfer-encoding':
          this.encoding.push(value);
          break;
        default:
      }
    }
  }

  get hasBody(): boolean {
    return this.encoding.length > 0 || (this.length[0] ?? '0') !== '0';
  }
}

function whyRefused(
  { httpVersion }: RequestHead,
  target: Target,
  { host, length, encoding }: Values,
): string | undefined {
  if (httpVersion !== '1.1' && httpVersion !== '1.0') return 'its version is neither 1.0 nor 1.1';
  if (host.length > 1) return 'it has more than one Host';
  if (host[0] !== undefined && !HOST.test(host[0])) return 'its Host is no name or address';
  if (target.host !== undefined && host[0] !== undefined && host[0].toLowerCase() !== target.host.toLowerCase()) {
    return 'its Host is not the host of its target';
  }
  if (encoding.length > 1 || (encoding[0] ?? 'chunked').toLowerCase() !== 'chunked') {
    return 'its Transfer-Encoding is not chunked alone';
  }
  if (encoding.length > 0 && httpVersion !== '1.1') return 'HTTP/1.0 has no Transfer-Encoding';
  if (length.length > 1 || !/^(0|[1-9]\d{0,15})$/.test(length[0] ?? '0'))
    return 'its Content-Length is no plain number';
  return undefined;
}

interface Target {
  readonly path: string;
  readonly query: string;
  /** Of a whole URL alone. */
  readonly host?: string;
}

/** As `url.ParseRequestURI` splits it. It knows no fragments: a `#` is a part of the path or of the query. */
function targetOf({ method, url = '' }: RequestHead): Target | undefined {
  if (url.startsWith('/')) {
    const mark = url.indexOf('?');
    return mark < 0 ? { path: url, query: '' } : { path: url.slice(0, mark), query: url.slice(mark + 1) };
  }
  if (url === '*') return method === 'OPTIONS' ? { path: '*', query: '' } : undefined;
  const [whole, host = '', path = '', query = ''] = /^https?:\/\/([^/?]+)(\/[^?]*)?(?:\?(.*))?$/i.exec(url) ?? [];
  if (whole === undefined || !HOST.test(host) || host.startsWith(':')) return undefined;
  return { path, query, host };
}

/** Each where Headscale reads it, and nowhere else: another one would be another node's. A browser can set no header. */
function handshakesOf(protocol: Protocol, { query }: Target, headers: readonly string[]): string[] {
  if (protocol === 'websocket') return parametersOf(query, HANDSHAKE);
  // On this path Headscale refuses it.
  if (protocol === 'derp') return [];
  const name = HANDSHAKE.toLowerCase();
  return headers.filter((_, i) => i % 2 === 1 && headers[i - 1]?.toLowerCase() === name);
}

/** As Go's `url.ParseQuery`; none where it finds a mistake anywhere, for then Headscale closes the session. */
function parametersOf(query: string, wanted: string): string[] {
  if (query.includes(';') || /%(?![0-9A-Fa-f]{2})/.test(query)) return [];
  const values: string[] = [];
  for (const part of query.split('&')) {
    const mark = part.indexOf('=');
    if (unescaped((mark < 0 ? part : part.slice(0, mark)).replaceAll('+', ' ')) !== wanted) continue;
    values.push(mark < 0 ? '' : unescaped(part.slice(mark + 1).replaceAll('+', ' ')));
  }
  return values;
}

/** Each byte for itself: what is no ASCII is neither a path nor a handshake that we know. */
function unescaped(text: string): string {
  return text.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

/** A message's headers without those that are about its connection: the known ones and all that Connection names. */
export function endToEnd(rawHeaders: readonly string[]): string[] {
  const named = namedByConnection(rawHeaders);
  const kept: string[] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = (rawHeaders[i] as string).toLowerCase();
    if (HOP_BY_HOP.has(name) || (named?.has(name) && !NEVER_NAMED.has(name))) continue;
    kept.push(rawHeaders[i] as string, rawHeaders[i + 1] as string);
  }
  return kept;
}

/** @returns undefined where there is nothing but what is usual. */
function namedByConnection(rawHeaders: readonly string[]): ReadonlySet<string> | undefined {
  let named: Set<string> | undefined;
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    if ((rawHeaders[i] as string).length !== 10 || rawHeaders[i]?.toLowerCase() !== 'connection') continue;
    const value = (rawHeaders[i + 1] as string).toLowerCase();
    if (value === 'upgrade' || value === 'close' || value === 'keep-alive') continue;
    named ??= new Set();
    for (const name of value.split(',')) named.add(name.trim());
  }
  return named;
}
