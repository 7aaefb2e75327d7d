import { isIPv4, isIPv6, type Socket } from 'node:net';
import { addressText, type Endpoint, plainAddress } from '../lib/addresses.ts';
import type { RefusalReason } from '../streams/events.ts';
import { readFirstBytes } from './first-bytes.ts';
import type { Trust } from './trusted-proxies.ts';

/** The client's connection to the proxy in front of us, according to that proxy. */
export interface ClaimedConnection {
  readonly client: Endpoint;
  /** Where the client connected: the proxy's own end. */
  readonly listener: Endpoint;
}

/** The result of reading a PROXY protocol header. */
export type ProxyHeader =
  /** The header is not complete yet. */
  | { readonly kind: 'more' }
  | { readonly kind: 'bad'; readonly why: string }
  | {
      readonly kind: 'header';
      /** The length of the header in bytes. What follows comes from the client. */
      readonly length: number;
      /** Undefined when the proxy speaks for itself, as in its health checks. */
      readonly claimed: ClaimedConnection | undefined;
    };

const MORE: ProxyHeader = { kind: 'more' };
const bad = (why: string): ProxyHeader => ({ kind: 'bad', why });

/** The start of every header of version 2. */
const V2_SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1');
/** `PROXY TCP6`, the longest two addresses and two ports, and CRLF. */
const V1_LONGEST = 107;
const V1_START = 'PROXY ';
/** Addresses take 216 bytes at most. Then come optional fields (TLVs), which we do not read. */
const V2_LONGEST = 16 + 4096;

/**
 * Reads a PROXY protocol header, version 1 or 2, from the bytes that have arrived so far.
 *
 * Source: HAProxy, `doc/proxy-protocol.txt`, sections 2.1 and 2.2.
 */
export function readProxyHeader(bytes: Buffer): ProxyHeader {
  if (startsAlike(bytes, V2_SIGNATURE)) return bytes.length < 16 ? MORE : readV2(bytes);
  if (startsAlike(bytes, Buffer.from(V1_START))) return readV1(bytes);
  return bad('it does not begin with a PROXY protocol header');
}

/** Whether a connection begins with a PROXY protocol header. No HTTP request begins like that. */
export function isProxyHeader(bytes: Buffer): boolean {
  return [V2_SIGNATURE, Buffer.from(V1_START)].some(
    (start) => bytes.length >= start.length && startsAlike(bytes, start),
  );
}

/** Whether the bytes are equal, up to the length of the shorter one. */
function startsAlike(bytes: Buffer, start: Buffer): boolean {
  const length = Math.min(bytes.length, start.length);
  return bytes.subarray(0, length).equals(start.subarray(0, length));
}

/** `PROXY TCP4 192.0.2.7 192.0.2.1 50000 443\r\n`, or `PROXY UNKNOWN …\r\n`. */
function readV1(bytes: Buffer): ProxyHeader {
  const end = bytes.subarray(0, V1_LONGEST).indexOf('\r\n');
  if (end < 0) return bytes.length < V1_LONGEST ? MORE : bad('its first line has no end');
  const [, family, source = '', target = '', port = '', targetPort = '', ...more] = bytes
    .toString('latin1', 0, end)
    .split(' ');
  const length = end + 2;
  if (family === 'UNKNOWN') return { kind: 'header', length, claimed: undefined };
  const isAddress = family === 'TCP4' ? isIPv4 : family === 'TCP6' ? isIPv6 : () => false;
  if (!isAddress(source) || !isAddress(target)) return bad('its first line does not name two addresses of its family');
  if (!isPort(port) || !isPort(targetPort) || more.length > 0) return bad('its first line does not name two ports');
  const client = { address: source, port: Number(port) };
  return { kind: 'header', length, claimed: { client, listener: { address: target, port: Number(targetPort) } } };
}

function isPort(text: string): boolean {
  return /^(0|[1-9]\d{0,4})$/.test(text) && Number(text) <= 65_535;
}

/*
 * 12 signature | 1 version (2) and command | 1 family and protocol | 2 length of the rest, big-endian
 * TCP over IPv4: 4 source | 4 target | 2 source port | 2 target port; over IPv6: 16 | 16 | 2 | 2; then optional fields (TLVs)
 */
const LOCAL = 0x20;
const PROXY = 0x21;
const TCP4 = 0x11;
const TCP6 = 0x21;

function readV2(bytes: Buffer): ProxyHeader {
  const command = bytes.readUInt8(12);
  const family = bytes.readUInt8(13);
  const length = 16 + bytes.readUInt16BE(14);
  if (command !== LOCAL && command !== PROXY) return bad('its version or command is not valid in version 2');
  if (length > V2_LONGEST) return bad(`its length of ${length} bytes is too large`);
  const width = family === TCP4 ? 4 : family === TCP6 ? 16 : undefined;
  if (command === PROXY && width !== undefined && length < 16 + 2 * width + 4)
    return bad('it is too short for its addresses');
  if (bytes.length < length) return MORE;
  if (command === LOCAL || width === undefined) return { kind: 'header', length, claimed: undefined };
  const [target, ports] = [16 + width, 16 + 2 * width];
  const client = { address: addressText(bytes, 16, width), port: bytes.readUInt16BE(ports) };
  const listener = { address: addressText(bytes, target, width), port: bytes.readUInt16BE(ports + 2) };
  return { kind: 'header', length, claimed: { client, listener } };
}

interface SourcesHandlers {
  trust(): Trust;
  refused(because: RefusalReason, why: string, address: string): void;
}

/** A proxy sends its header at once. */
const WITHIN_MS = 10_000;

/** The two ends of a connection. They are the same for a TCP socket and for the TLS socket on top of it. */
function endsOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string {
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`;
}

/**
 * The PROXY protocol sources of a listener's connections. A connection is identified by its two ends, because its TLS socket is
 * another object than its TCP socket.
 */
export class ProxyProtocolSources {
  readonly #byEnds = new Map<string, ClaimedConnection>();

  /** @returns undefined when there was no header, or the proxy spoke for itself. */
  of(socket: Socket): ClaimedConnection | undefined {
    return this.#byEnds.size === 0 ? undefined : this.#byEnds.get(endsOf(socket));
  }

  /** Reads the header of a new connection, then serves the connection. Only trusted proxies may send one. */
  read(socket: Socket, { trust, refused }: SourcesHandlers, serve: () => void): void {
    const address = plainAddress(socket.remoteAddress);
    if (!trust()(address)) {
      refused(
        'untrusted_proxy',
        `it is not in --trusted-proxies, and this listener accepts only proxies: if it is your proxy, add ${address} there`,
        address,
      );
      socket.destroy();
      return;
    }
    const ends = endsOf(socket);
    const read = (bytes: Buffer) => {
      const header = readProxyHeader(bytes);
      if (header.kind === 'more') return header;
      if (header.kind === 'bad') {
        refused('bad_proxy_header', header.why, address);
        return { kind: 'refuse' } as const;
      }
      if (header.claimed !== undefined) this.#remember(socket, ends, header.claimed);
      return { kind: 'done', rest: bytes.subarray(header.length) } as const;
    };
    readFirstBytes(socket, read, { withinMs: WITHIN_MS, slow: () => socket.destroy() }, (rest) => {
      socket.pause();
      if (rest.length > 0) socket.unshift(rest);
      serve();
    });
  }

  #remember(socket: Socket, ends: string, { client, listener }: ClaimedConnection): void {
    const plain = ({ address, port }: Endpoint): Endpoint => ({ address: plainAddress(address), port });
    this.#byEnds.set(ends, { client: plain(client), listener: plain(listener) });
    socket.once('close', () => this.#byEnds.delete(ends));
  }
}
