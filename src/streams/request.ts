import type { StreamKind } from './stream.ts';

/**
 * What a request asks for. This is decided only here, exactly as Headscale decides it: Go's `http.ReadRequest`, Headscale's
 * router and tailscale `control/controlhttp/controlhttpserver`. A request that two parsers may read differently is refused.
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
  /** The handshake that Headscale will read. Undefined if Headscale will find no handshake. */
  readonly handshake: string | undefined;
}

/** The head of a request, as Node's parser gives it. */
export interface RequestHead {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
  readonly httpVersion: string;
  /** Name, value, name, value, … */
  readonly rawHeaders: readonly string[];
}

const HANDSHAKE = 'X-Tailscale-Handshake';
const KINDS: Readonly<Record<string, StreamKind>> = { '/ts2021': 'control', '/derp': 'derp' };
/** A name or an address, and a port: as in Go, but only with characters that occur in host names. */
const HOST = /^([A-Za-z0-9._~-]*|\[[0-9A-Fa-f:.]+(%25[A-Za-z0-9._~-]+)?\])(:\d{0,5})?$/;

/** Headers about one connection, which a proxy must not forward (RFC 9110, section 7.6.1). Node's server answers Expect. */
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
/** Headers that are forwarded even if Connection names them: without them the message would mean something else. */
const NEVER_NAMED: ReadonlySet<string> = new Set(['content-length', 'host', 'transfer-encoding']);

/** Decides what a request asks for. @returns the headers to forward, or why the request is refused. */
export function readRequest(head: RequestHead): ReadRequest {
  const target = targetOf(head);
  if (target === undefined) return refused('its target is neither a path nor an http URL');
  const encoded = target.path.includes('%') ? KINDS[unescaped(target.path)] : undefined;
  // Headscale's routers differ: up to 0.28 the path is decoded first, from 0.29 it is not.
  if (encoded !== undefined) return refused('its path has percent-encoded characters that need no encoding');
  const headers = endToEnd(head.rawHeaders);
  const values = new Values(head.rawHeaders);
  const why = whyRefused(head, target, values);
  if (why !== undefined) return refused(why);
  // HTTP/1.0 requests may have no Host. We forward them as HTTP/1.1, which needs one.
  if (values.host.length === 0) headers.push('Host', '');
  const protocol = values.upgrade[0]?.toLowerCase() ?? '';
  // An upgrade with a body is handled as a plain request: a server may ignore Upgrade (RFC 9110, section 7.8).
  if (!isProtocol(protocol) || values.hasBody) return { kind: 'plain', headers };
  const streamKind = KINDS[target.path] ?? 'other';
  const told = streamKind === 'control' ? handshakesOf(protocol, target, headers) : [];
  if (told.some((each) => each !== told[0])) return refused('it has two different handshakes');
  return { kind: 'upgrade', headers, asked: { protocol, streamKind, handshake: told[0] || undefined } };
}

function refused(why: string): ReadRequest {
  return { kind: 'refused', why };
}

/** @param text in lower case. */
export function isProtocol(text: string): text is Protocol {
  return PROTOCOLS.has(text);
}

/** All values of the headers that decide what a request is, in their order. */
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
  if (host[0] !== undefined && !HOST.test(host[0])) return 'its Host is not a name or an address';
  if (target.host !== undefined && host[0] !== undefined && host[0].toLowerCase() !== target.host.toLowerCase()) {
    return 'its Host is not the host of its target';
  }
  if (encoding.length > 1 || (encoding[0] ?? 'chunked').toLowerCase() !== 'chunked') {
    return 'its Transfer-Encoding is not exactly chunked';
  }
  if (encoding.length > 0 && httpVersion !== '1.1') return 'HTTP/1.0 has no Transfer-Encoding';
  if (length.length > 1 || !/^(0|[1-9]\d{0,15})$/.test(length[0] ?? '0'))
    return 'its Content-Length is not a plain number';
  return undefined;
}

interface Target {
  readonly path: string;
  readonly query: string;
  /** Only set when the target is a whole URL. */
  readonly host?: string;
}

/** Splits the target like Go's `url.ParseRequestURI`. That knows no fragments: `#` is part of the path or the query. */
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

/** The handshakes, only from where Headscale reads them: the header, or the query of a browser, which cannot set headers. */
function handshakesOf(protocol: Protocol, { query }: Target, headers: readonly string[]): string[] {
  if (protocol === 'websocket') return parametersOf(query, HANDSHAKE);
  // Headscale refuses DERP on this path.
  if (protocol === 'derp') return [];
  const name = HANDSHAKE.toLowerCase();
  return headers.filter((_, i) => i % 2 === 1 && headers[i - 1]?.toLowerCase() === name);
}

/** Like Go's `url.ParseQuery`. An error anywhere in the query gives no values: Headscale then closes the session. */
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

/** Decodes byte by byte, not as UTF-8: the paths and handshakes that we know are ASCII. */
function unescaped(text: string): string {
  return text.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

/** The end-to-end headers of a message: without the hop-by-hop headers and those that Connection names. */
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

/** @returns undefined when Connection has only its usual values. */
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
