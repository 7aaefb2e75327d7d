import { existsSync, readFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import type { Clock, Instant } from '../lib/clock.ts';

/** Networks change seldom, and whoever asks may ask for thousands of clients. */
const KNOWN_FOR_MS = 60_000;
/** In hexadecimal: the flag RTF_GATEWAY of a route. */
const RTF_GATEWAY = 0x2;

/**
 * This machine's own addresses and its gateways. A client that seems to have one of them is most likely somebody else behind
 * a proxy of the container engine (docker-proxy, slirp4netns, pasta) or of this machine: of whoever it is, that says nothing.
 */
export class Gateways {
  readonly #clock: Clock;
  readonly #read: () => ReadonlySet<string>;
  #known: { readonly addresses: ReadonlySet<string>; readonly at: Instant } | undefined;

  constructor(clock: Clock, read = readAddresses) {
    this.#clock = clock;
    this.#read = read;
  }

  /** @param address without a port, as in `172.17.0.1` or `fd00::1`. */
  has(address: string): boolean {
    if (address.startsWith('127.')) return true;
    const now = this.#clock.now();
    if (this.#known === undefined || now - this.#known.at >= KNOWN_FOR_MS) {
      this.#known = { addresses: this.#read(), at: now };
    }
    return this.#known.addresses.has(address.toLowerCase());
  }
}

/** The gateways of the container that this process runs in, as far as the usual engines leave a mark; else none. */
export function gatewaysOfContainer(): readonly string[] {
  const isInContainer =
    existsSync('/.dockerenv') || existsSync('/run/.containerenv') || process.env.KUBERNETES_SERVICE_HOST !== undefined;
  return isInContainer ? [...gatewaysIn(table('/proc/net/route')), ...gateways6In(table('/proc/net/ipv6_route'))] : [];
}

function readAddresses(): ReadonlySet<string> {
  const own = Object.values(networkInterfaces()).flatMap((each) => (each ?? []).map(({ address }) => address));
  return new Set([...own, ...gatewaysIn(table('/proc/net/route')), ...gateways6In(table('/proc/net/ipv6_route'))]);
}

/** Empty where there is none: another system, or one that hides it. */
function table(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

/** The gateways of Linux' `/proc/net/route`: interface, destination, gateway, flags, …; an address's bytes come last first. */
export function gatewaysIn(routes: string): readonly string[] {
  return routes.split('\n').flatMap((line) => {
    const [, , gateway = '', flags = ''] = line.trim().split(/\s+/);
    if (!/^[0-9a-f]{8}$/i.test(gateway) || !(Number.parseInt(flags, 16) & RTF_GATEWAY)) return [];
    return [[...Buffer.from(gateway, 'hex')].reverse().join('.')];
  });
}

/** The gateways of Linux' `/proc/net/ipv6_route`: destination, its length, source, its length, next hop, metric, references, uses, flags, … */
export function gateways6In(routes: string): readonly string[] {
  return routes.split('\n').flatMap((line) => {
    const [, , , , hop = '', , , , flags = ''] = line.trim().split(/\s+/);
    if (!/^[0-9a-f]{32}$/i.test(hop) || !(Number.parseInt(flags, 16) & RTF_GATEWAY)) return [];
    // The URL parser writes it the short way, in which clients' addresses come.
    return [new URL(`http://[${hop.replace(/(.{4})(?=.)/g, '$1:')}]`).hostname.slice(1, -1)];
  });
}
