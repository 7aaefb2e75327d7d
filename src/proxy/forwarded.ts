import type { IncomingMessage } from 'node:http';
import { TLSSocket } from 'node:tls';
import { plainAddress } from '../lib/addresses.ts';
import type { ProxySource } from './proxy-protocol.ts';
import { clientAddress, type Trust } from './trusted-proxies.ts';

/** Headers that say where a request comes from. Anybody can send them, so they are replaced with our own. */
export const ORIGIN_HEADERS: ReadonlySet<string> = new Set([
  'forwarded',
  'true-client-ip',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
  'x-real-ip',
]);

/** Where a request comes from. */
export interface Origin {
  /** The client's address without a port, as in `203.0.113.7` or `2001:db8::7`. */
  readonly address: string;
  /** Undefined if a proxy in front of us named only the address. */
  readonly port: number | undefined;
  /** Whether the client connects to us directly, so that kernel evidence is about the client and not about a proxy. */
  readonly isDirect: boolean;
  readonly proto: 'http' | 'https';
  /** The Host header. Undefined if there was none (HTTP/1.0). */
  readonly host: string | undefined;
}

/**
 * Finds out where a request comes from: from the PROXY protocol header if there was one, then from the headers of trusted
 * proxies, else from the connection itself.
 *
 * @param claimed the source in the PROXY protocol header of the connection.
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

/** The protocol that the nearest proxy says its client uses. */
function protoIn(text: string | undefined): Origin['proto'] | undefined {
  const last = text?.split(',').at(-1)?.trim().toLowerCase();
  return last === 'http' || last === 'https' ? last : undefined;
}

function headersFor(origin: Origin): [name: string, value: string][] {
  const own: [string, string][] = [
    ['X-Forwarded-For', origin.address],
    ['X-Forwarded-Proto', origin.proto],
    ['X-Real-IP', origin.address],
  ];
  if (origin.host !== undefined) own.push(['X-Forwarded-Host', origin.host]);
  return own;
}

/** Replaces the origin headers in `rawHeaders` (name, value, name, value, …) with our own. All others stay as they are. */
export function forwardedRawHeaders(rawHeaders: readonly string[], origin: Origin): string[] {
  const kept: string[] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] as string;
    if (!ORIGIN_HEADERS.has(name.toLowerCase())) kept.push(name, rawHeaders[i + 1] as string);
  }
  for (const [name, value] of headersFor(origin)) kept.push(name, value);
  return kept;
}
