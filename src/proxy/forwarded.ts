import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { type Connection, plainAddress } from '../lib/addresses.ts';
import type { ClientPath } from '../liveness/proxy-sockets.ts';
import type { UpgradeMessage } from './first-bytes.ts';
import type { ClaimedConnection } from './proxy-protocol.ts';
import { type ToldClient, type Trust, toldByProxies } from './trusted-proxies.ts';

/** Headers that say where a request comes from. Anybody can send them, so they are replaced with our own. */
export const ORIGIN_HEADERS: ReadonlySet<string> = new Set([
  'forwarded',
  'true-client-ip',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
  'x-real-ip',
  'x-real-port',
]);

/** Where a request comes from, and how it reaches us. */
export interface Origin {
  /** The client's address without a port, as in `203.0.113.7` or `2001:db8::7`. */
  readonly address: string;
  /** Undefined if a proxy in front of us named only the address. */
  readonly port: number | undefined;
  readonly path: ClientPath;
  readonly proto: 'http' | 'https';
  /** The Host header. Undefined if there was none (HTTP/1.0). */
  readonly host: string | undefined;
}

const DIRECT: ClientPath = { kind: 'direct' };

/**
 * Finds out where a request comes from: from the PROXY protocol header if there was one, then from the headers of trusted
 * proxies, see `toldByProxies`, else from the connection itself.
 *
 * @param claimed what the PROXY protocol header of the connection says.
 */
export function originOf(
  request: Pick<UpgradeMessage, 'socket' | 'headers'>,
  claimed: ClaimedConnection | undefined,
  trust: Trust,
): Origin {
  const { socket, headers } = request;
  const proto = socket instanceof TLSSocket ? 'https' : 'http';
  const sender = claimed?.client ?? { address: plainAddress(socket.remoteAddress), port: socket.remotePort };
  const nearest = { address: sender.address, port: sender.port || undefined };
  if (!trust(nearest.address)) {
    const path: ClientPath =
      claimed === undefined
        ? DIRECT
        : { kind: 'one_proxy', proxy: endOfProxy(socket), client: nearest, listener: claimed.listener };
    return { ...nearest, path, proto, host: headers.host };
  }
  const value = (name: string): string | undefined => {
    const found = headers[name];
    return (typeof found === 'string' ? found : found?.join(', ')) || undefined;
  };
  const told = toldByProxies(value, trust);
  const { address, port } = told.client ?? nearest;
  return {
    address,
    port,
    path: pathBehind(socket, claimed, told.client, trust),
    proto: protoIn(told.proto) ?? protoIn(value('x-forwarded-proto')) ?? proto,
    host: told.host ?? value('x-forwarded-host') ?? headers.host,
  };
}

/** @param claimed the PROXY protocol header, if there was one: it named a trusted proxy, which sent the request. */
function pathBehind(
  socket: Socket,
  claimed: ClaimedConnection | undefined,
  client: ToldClient | undefined,
  trust: Trust,
): ClientPath {
  const proxy = endOfProxy(socket);
  if (client === undefined || trust(client.address)) return { kind: 'address_hidden', proxy };
  if (claimed !== undefined || !client.isSeenByNearest) return { kind: 'several_proxies', proxy };
  const { address, port } = client;
  return { kind: 'one_proxy', proxy, client: { address, port }, listener: undefined };
}

/** A trusted proxy's end of its connection to us. Of a socket that has closed meanwhile, not all is known. */
function endOfProxy({ remoteAddress = '::', remotePort = 0, localAddress = '::', localPort = 0 }: Socket): Connection {
  return {
    local: { address: plainAddress(remoteAddress), port: remotePort },
    remote: { address: plainAddress(localAddress), port: localPort },
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
