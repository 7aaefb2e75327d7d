import type { IncomingMessage } from 'node:http';
import { TLSSocket } from 'node:tls';
import { plainAddress } from '../lib/addresses.ts';
import type { ProxySource } from './proxy-protocol.ts';
import { clientAddress, type Trust } from './trusted-proxies.ts';

/** What anybody may claim about where a request comes from: all of it is dropped, and ours put in its place. */
export const ORIGIN_HEADERS: ReadonlySet<string> = new Set([
  'forwarded',
  'true-client-ip',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
  'x-real-ip',
]);

/** What we know about where a request came from. */
export interface Origin {
  /** Without port, as in `203.0.113.7` or `2001:db8::7`. */
  readonly address: string;
  /** Undefined where a proxy before us told the address alone. */
  readonly port: number | undefined;
  /** Whether the connection is the node's own, so that its kernel's evidence is about the node. */
  readonly isDirect: boolean;
  readonly proto: 'http' | 'https';
  /** The Host header; undefined if there was none (HTTP/1.0). */
  readonly host: string | undefined;
}

/**
 * Where a request comes from: what a proxy told us by the PROXY protocol, if it did; behind trusted ones what their headers
 * say; else who has connected to us.
 */
export function originOf(request: IncomingMessage, claimed: ProxySource | undefined, trust: Trust): Origin {
  const { socket, headers } = request;
  const peer = plainAddress(socket.remoteAddress);
  const isDirect = claimed === undefined && !trust(peer);
  const nearest = claimed?.address ?? peer;
  const proto = socket instanceof TLSSocket ? 'https' : 'http';
  if (!trust(nearest)) {
    return { address: nearest, port: claimed?.port ?? socket.remotePort, isDirect, proto, host: headers.host };
  }
  const told = (name: string): string | undefined => [headers[name]].flat().join(', ') || undefined;
  const address = clientAddress(nearest, told('x-forwarded-for'), told('x-real-ip'), trust);
  return {
    address,
    port: address === nearest ? (claimed?.port ?? socket.remotePort) : undefined,
    isDirect,
    proto: protoIn(told('x-forwarded-proto')) ?? proto,
    host: told('x-forwarded-host') ?? headers.host,
  };
}

/** What the nearest proxy says that its client speaks. */
function protoIn(text: string | undefined): Origin['proto'] | undefined {
  const last = text?.split(',').at(-1)?.trim().toLowerCase();
  return last === 'http' || last === 'https' ? last : undefined;
}

function truthsAbout(origin: Origin): [name: string, value: string][] {
  const truths: [string, string][] = [
    ['X-Forwarded-For', origin.address],
    ['X-Forwarded-Proto', origin.proto],
    ['X-Real-IP', origin.address],
  ];
  if (origin.host !== undefined) truths.push(['X-Forwarded-Host', origin.host]);
  return truths;
}

/** `rawHeaders` (name, value, name, value, …) without the client's claims and with our own words; else unchanged. */
export function forwardedRawHeaders(rawHeaders: readonly string[], origin: Origin): string[] {
  const kept: string[] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] as string;
    if (!ORIGIN_HEADERS.has(name.toLowerCase())) kept.push(name, rawHeaders[i + 1] as string);
  }
  for (const [name, value] of truthsAbout(origin)) kept.push(name, value);
  return kept;
}
