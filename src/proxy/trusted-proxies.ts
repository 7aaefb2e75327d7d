import { BlockList, isIP } from 'node:net';
import type { Cidr } from '../config/types.ts';
import { plainAddress } from '../lib/addresses.ts';

/** Whether an address is a trusted proxy, so that its X-Forwarded-For is believed. */
export type Trust = (address: string) => boolean;

/** @param cidrs addresses and ranges. An IPv4 address also matches as `::ffff:a.b.c.d`. */
export function trustOf(cidrs: readonly Cidr[]): Trust {
  if (cidrs.length === 0) return () => false;
  const list = new BlockList();
  for (const cidr of cidrs) {
    const [address = '', bits] = cidr.split('/');
    const family = familyOf(address);
    if (bits === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(bits), family);
  }
  // Each check makes an object outside of JavaScript, and a few addresses send most requests.
  const known = new Map<string, boolean>();
  return (address) => {
    let isTrusted = known.get(address);
    if (isTrusted === undefined) {
      isTrusted = isIP(address) !== 0 && list.check(address, familyOf(address));
      if (known.size >= MOST_KNOWN) known.clear();
      known.set(address, isTrusted);
    }
    return isTrusted;
  };
}

/** For how many addresses the answer is kept. */
const MOST_KNOWN = 1024;

/** The trusted proxies of the current configuration. Cheap to call for every connection: it is rebuilt only after a change. */
export function currentTrust(configured: () => readonly Cidr[]): () => Trust {
  let from: readonly Cidr[] = [];
  let trust = trustOf(from);
  return () => {
    const now = configured();
    if (now !== from) {
      from = now;
      trust = trustOf(now);
    }
    return trust;
  };
}

function familyOf(address: string): 'ipv4' | 'ipv6' {
  return isIP(address) === 6 ? 'ipv6' : 'ipv4';
}

/** What trusted proxies say about a request. */
export interface Told {
  /** Undefined if they do not say who the client is. */
  readonly client: ToldClient | undefined;
  /** As the nearest proxy wrote them in `Forwarded`. Undefined if another header counts. */
  readonly proto: string | undefined;
  readonly host: string | undefined;
}

export interface ToldClient {
  readonly address: string;
  readonly port: number | undefined;
  /** Whether the proxy nearest to us saw this address itself. If not, another trusted proxy did. */
  readonly isSeenByNearest: boolean;
}

/**
 * Reads what trusted proxies say about the client of a request. A client may write any of these headers itself, and a proxy
 * passes on those that it does not know.
 *
 * The address comes from the first of these headers that the request has: X-Forwarded-For, X-Real-IP, Forwarded (RFC 7239).
 * X-Forwarded-For is first, because Caddy, nginx as Headscale documents it, HAProxy with `option forwardfor`, Apache and
 * Traefik all write it, and all of them pass on a client's Forwarded. X-Forwarded-For and Forwarded are read from the right, up
 * to the first address that is not a trusted proxy: anybody may have written what stands before it. They end where they cannot
 * be read.
 *
 * The port comes from the same element as the address. If there is none, and the nearest proxy saw the client itself, the port
 * comes from X-Real-Port, or from Forwarded if its last element names the same address. If these two differ, one of them is not
 * the proxy's, and the port is unknown. A client can invent a port where its proxy sends none, so use the port only together
 * with the address: at worst it then names another connection from the same address.
 *
 * @param told the value of a header, by its lower-case name. Undefined if there is none, or it is empty.
 */
export function toldByProxies(told: (name: string) => string | undefined, trust: Trust): Told {
  const [forwardedFor, realIp, forwarded = ''] = ['x-forwarded-for', 'x-real-ip', 'forwarded'].map(told);
  const [nearest] = forwardedElements(forwarded);
  const client = outermost(
    forwardedFor !== undefined
      ? hopsOf(forwardedFor)
      : realIp !== undefined
        ? [hopIn(realIp)]
        : forwardedHops(forwarded),
    trust,
  );
  const counts = forwardedFor === undefined && realIp === undefined;
  return {
    client: client?.isSeenByNearest
      ? { ...client, port: client.port ?? portBeside(client.address, told, nearest) }
      : client,
    proto: counts ? nearest?.get('proto') : undefined,
    host: (counts && nearest?.get('host')) || undefined,
  };
}

/** A host on the way from the client to us. */
interface Hop {
  readonly address: string;
  readonly port: number | undefined;
}

/** @param hops from the nearest one on. Undefined for one that cannot be read. */
function outermost(hops: Iterable<Hop | undefined>, trust: Trust): ToldClient | undefined {
  let client: ToldClient | undefined;
  for (const hop of hops) {
    if (hop === undefined) break;
    client = { ...hop, isSeenByNearest: client === undefined };
    if (!trust(hop.address)) break;
  }
  return client;
}

/** The port that other headers than the one with the address give. */
function portBeside(
  address: string,
  told: (name: string) => string | undefined,
  nearest: ForwardedElement | undefined,
): number | undefined {
  const realPort = portIn(told('x-real-port')?.trim());
  const hop = hopIn(nearest?.get('for') ?? '');
  const forwardedPort = hop?.address === address ? hop.port : undefined;
  if (realPort !== undefined && forwardedPort !== undefined && realPort !== forwardedPort) return undefined;
  return realPort ?? forwardedPort;
}

/** Reads an address that may have a port and brackets. */
function hopIn(text: string): Hop | undefined {
  const trimmed = text.trim();
  const [, bracketed, plain = trimmed, port] =
    isIP(trimmed) === 0 ? (/^(?:\[([^\]]*)\]|(.*?))(?::(\d+|_[\w.-]+))?$/.exec(trimmed) ?? []) : [];
  const address = plainAddress(bracketed ?? plain).toLowerCase();
  return isIP(address) === 0 ? undefined : { address, port: portIn(port) };
}

function portIn(text: string | undefined): number | undefined {
  const port = /^\d{1,5}$/.test(text ?? '') ? Number(text) : 0;
  return port > 0 && port <= 65_535 ? port : undefined;
}

/** The parameters of one element of `Forwarded`, by their lower-case names. */
type ForwardedElement = ReadonlyMap<string, string>;

/** From the right. An element names no address if the proxy hides it: `for=unknown`, `for=_hidden`. */
function* forwardedHops(forwarded: string): Iterable<Hop | undefined> {
  for (const element of forwardedElements(forwarded)) yield hopIn(element.get('for') ?? '');
}

/** The addresses in X-Forwarded-For, from the right. */
function* hopsOf(forwardedFor: string): Iterable<Hop | undefined> {
  for (const text of forwardedFor.split(',').reverse()) yield hopIn(text);
}

/**
 * The elements of a `Forwarded` header, from the right, up to the first one that cannot be read. What stands on the left may be
 * a client's, so it must not change how the rest is read, for example with a quotation mark that has no partner.
 */
function* forwardedElements(forwarded: string): Iterable<ForwardedElement> {
  let end = forwarded.length;
  while (end > 0) {
    const comma = lastComma(forwarded, end);
    const element = elementIn(forwarded.slice(comma + 1, end));
    if (element === undefined) return;
    yield element;
    end = comma;
  }
}

/** Where the last comma outside quoted strings is before `end`. -1 if there is none. */
function lastComma(text: string, end: number): number {
  let isQuoted = false;
  for (let i = end - 1; i >= 0; i--) {
    if (text[i] === ',' && !isQuoted) return i;
    if (text[i] !== '"') continue;
    let escapes = 0;
    while (text[i - 1 - escapes] === '\\') escapes++;
    if (escapes % 2 === 0) isQuoted = !isQuoted;
    i -= escapes;
  }
  return -1;
}

/** `for="[2001:db8::7]:4711";proto=https`. RFC 7239, section 4: each parameter once, and no space around `=`. */
function elementIn(text: string): ForwardedElement | undefined {
  const pair = /(?:[ \t]*([\w!#$%&'*+.^`|~-]+)=(?:([\w!#$%&'*+.^`|~-]+)|"((?:[^"\\]|\\.)*)"))?[ \t]*(;|$)/y;
  const element = new Map<string, string>();
  for (let end: string | undefined = ';'; end === ';'; ) {
    const [all, name, token, quoted = '', next] = pair.exec(text) ?? [];
    if (all === undefined) return undefined;
    end = next;
    if (name === undefined) continue;
    if (element.has(name.toLowerCase())) return undefined;
    element.set(name.toLowerCase(), token ?? quoted.replace(/\\(.)/g, '$1'));
  }
  return element.size === 0 ? undefined : element;
}
