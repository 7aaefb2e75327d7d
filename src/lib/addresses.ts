import { isIPv4, isIPv6 } from 'node:net';
import { networkInterfaces } from 'node:os';

/** One end of a TCP connection. */
export interface Endpoint {
  /** Without brackets, and an IPv4 address as `a.b.c.d`, see `plainAddress`. */
  readonly address: string;
  readonly port: number;
}

/** A TCP connection as one of its two ends sees it. */
export interface Connection {
  readonly local: Endpoint;
  readonly remote: Endpoint;
}

/** An IPv4 client of a dual-stack socket has the address `::ffff:a.b.c.d`. Headscale and people expect `a.b.c.d`. */
export function plainAddress(address: string | undefined): string {
  if (address === undefined) return 'unknown';
  return address.replace(/^::ffff:(?=[\d.]+$)/i, '');
}

/** `address:port`, with an IPv6 address in brackets. If there is no port, the address alone, without brackets. */
export function addressAndPort(address: string, port: number | undefined): string {
  if (port === undefined) return address;
  return `${address.includes(':') ? `[${address}]` : address}:${port}`;
}

/** The host and port of a URL. The host has no brackets. If the URL has no port, it is the default port of its scheme. */
export function hostAndPortOf(url: URL): { readonly host: string; readonly port: number } {
  const port = url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port);
  return { host: url.hostname.replace(/^\[|\]$/g, ''), port };
}

/** Whether a host is the loopback: `localhost`, `127.0.0.0/8` or `::1`. @param host without port and brackets. */
export function isLoopback(host: string): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|::1)$/i.test(host);
}

/** Whether a server that listens on this host listens on every address of the machine. */
export function isEveryAddress(host: string): boolean {
  return host === '0.0.0.0' || host === '::';
}

/**
 * The bytes of an address: four for IPv4, also where IPv6 maps it (`::ffff:a.b.c.d`), or sixteen. A scope (`%eth0`) is left
 * out. Undefined where it is no address.
 */
export function addressBytes(address: string): Buffer | undefined {
  if (isIPv4(address)) return Buffer.from(address.split('.').map(Number));
  if (!isIPv6(address)) return undefined;
  // The URL parser writes all groups in hexadecimal, also those that were written as an IPv4 address.
  const groups = new URL(`http://[${address.split('%')[0]}]`).hostname.slice(1, -1);
  const [before = [], after] = groups.split('::').map((half) => (half === '' ? [] : half.split(':')));
  const zeros = after === undefined ? [] : Array<string>(8 - before.length - after.length).fill('0');
  const bytes = Buffer.alloc(16);
  [...before, ...zeros, ...(after ?? [])].forEach((group, i) => {
    bytes.writeUInt16BE(Number.parseInt(group, 16), 2 * i);
  });
  return isMapped(bytes, 0) ? bytes.subarray(12) : bytes;
}

/** The address in `length` (4 or 16) bytes from `start`: plain, lower-case and in its short form (RFC 5952). */
export function addressText(bytes: Buffer, start: number, length: number): string {
  if (length === 4) return `${bytes[start]}.${bytes[start + 1]}.${bytes[start + 2]}.${bytes[start + 3]}`;
  if (isMapped(bytes, start)) return addressText(bytes, start + 12, 4);
  const groups: string[] = [];
  // The first of the longest runs of zeros, if it is longer than one.
  let longestAt = 0;
  let longest = 1;
  let zeros = 0;
  for (let i = 0; i < 8; i++) {
    const group = bytes.readUInt16BE(start + 2 * i);
    groups.push(group.toString(16));
    zeros = group === 0 ? zeros + 1 : 0;
    if (zeros > longest) {
      longest = zeros;
      longestAt = i + 1 - zeros;
    }
  }
  if (longest === 1) return groups.join(':');
  return `${groups.slice(0, longestAt).join(':')}::${groups.slice(longestAt + longest).join(':')}`;
}

function isMapped(bytes: Buffer, start: number): boolean {
  return (
    bytes.readUInt16BE(start + 10) === 0xffff &&
    bytes.readUInt32BE(start) === 0 &&
    bytes.readUInt32BE(start + 4) === 0 &&
    bytes.readUInt16BE(start + 8) === 0
  );
}

/**
 * The addresses of this machine. Empty if it does not tell: libc asks for them through netlink, which a seccomp profile may
 * refuse.
 */
export function ownAddresses(read: typeof networkInterfaces = networkInterfaces): readonly string[] {
  try {
    return Object.values(read()).flatMap((all = []) => all.map(({ address }) => address));
  } catch {
    return [];
  }
}
