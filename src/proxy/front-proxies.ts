import { existsSync, readFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { networkInterfaces } from 'node:os';
import { TRUSTED_BY_DEFAULT } from '../config/settings.ts';
import type { Cidr } from '../config/types.ts';
import type { MachineKey } from '../identity/keys.ts';
import { isLoopback } from '../lib/addresses.ts';
import type { Clock, Instant } from '../lib/clock.ts';
import type { Emit, FrontProxyEvent, LostHeader, WatchdogEvent } from '../streams/events.ts';
import { ORIGIN_HEADERS } from './forwarded.ts';
import { type Trust, trustOf } from './trusted-proxies.ts';

/** Where an operator's own proxies are: RFC 1918, CGNAT, link-local, unique local. Of strangers we tell nothing. */
const isPrivate = trustOf([
  ...['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10', '169.254.0.0/16', 'fc00::/7', 'fe80::/10'],
] as readonly string[] as readonly Cidr[]);

/** Addresses that are remembered of each kind. There are a few proxies; what more there is goes untold. */
const MOST_ADDRESSES = 64;
/** So many nodes from one private address share it. Two are enough where a proxy is known to be there. */
const MANY_NODES = 4;
const MANY_NODES_OF_PROXY = 2;
const TOLD_AGAIN_MS = 3_600_000;

export interface FrontProxiesOptions {
  readonly clock: Clock;
  readonly emit: Emit;
  trusted(): readonly Cidr[];
  trust(): Trust;
  /** Whether it is an address or a gateway of this machine, see `Gateways`. */
  isGateway(address: string): boolean;
}

/**
 * Finds what is wrong with the proxies in front of this one, from the requests they pass on: they are not trusted, they
 * hide who their clients are, or they remove what an upgrade needs. Each is told once an address, or once an hour.
 */
export class FrontProxies {
  readonly #parts: FrontProxiesOptions;
  readonly #untrusted = new Map<string, FrontProxyEvent>();
  readonly #hidden = new Map<string, FrontProxyEvent>();
  readonly #lost = new Map<string, { readonly event: FrontProxyEvent; readonly at: number }>();
  /** Who came from a private address, as far as it takes to see that many did. */
  readonly #nodes = new Map<string, Set<MachineKey>>();

  constructor(parts: FrontProxiesOptions) {
    this.#parts = parts;
  }

  /** @param sender who sent this request's head: whoever has connected, or whom a PROXY protocol header names. */
  requested(request: IncomingMessage, sender: string): void {
    const header = Object.keys(request.headers).find((name) => ORIGIN_HEADERS.has(name));
    if (header !== undefined) this.#forwarded(sender, header);
    const [path, query = ''] = (request.url ?? '').split('?', 2);
    if (path !== '/ts2021') return;
    if (request.headers.upgrade === undefined) this.#lostHeader(sender, 'upgrade');
    else if (request.headers[HANDSHAKE] === undefined && !query.toLowerCase().includes(HANDSHAKE)) {
      this.#lostHeader(sender, 'handshake');
    }
  }

  readonly listen = (event: WatchdogEvent): void => {
    if (event.kind !== 'stream_opened' || event.stream.kind !== 'control') return;
    const { address, machineKey } = event.stream;
    if (machineKey !== undefined) this.#identified(address, machineKey);
  };

  /** What holds now, each as it was told. */
  standing(): readonly FrontProxyEvent[] {
    const since = this.#parts.clock.now() - TOLD_AGAIN_MS;
    const lost = [...this.#lost.values()].filter(({ at }) => at > since).map(({ event }) => event);
    const trust = this.#parts.trust();
    const untrusted = [...this.#untrusted.values()].filter(({ address }) => !trust(address));
    const hidden = [...this.#hidden.values()].filter(
      (event) => event.kind === 'client_addresses_hidden' && event.isTrusted === trust(event.address),
    );
    return [...untrusted, ...hidden, ...lost];
  }

  #forwarded(address: string, header: string): void {
    if (this.#untrusted.has(address) || this.#untrusted.size >= MOST_ADDRESSES) return;
    if (this.#parts.trust()(address)) return;
    const trusted = this.#parts.trusted();
    // Whoever trusts nobody has decided about this machine's own programs.
    if (!isPrivate(address) && !(isLoopback(address) && trusted.length > 0)) return;
    const names = trusted === TRUSTED_BY_DEFAULT ? [address] : [...trusted, address];
    this.#tell(this.#untrusted, {
      kind: 'proxy_not_trusted',
      address,
      header,
      setting: names.join(','),
      isEngine: this.#isEngine(address),
    });
  }

  #identified(address: string, machineKey: MachineKey): void {
    const isTrusted = this.#parts.trust()(address);
    if (!isTrusted && !isPrivate(address)) return;
    if (this.#untrusted.has(address) || this.#hidden.has(address)) return;
    if (!this.#nodes.has(address) && this.#nodes.size >= MOST_ADDRESSES) return;
    const nodes = this.#nodes.get(address) ?? new Set();
    this.#nodes.set(address, nodes.add(machineKey));
    const isEngine = this.#isEngine(address);
    if (nodes.size < (isTrusted || isEngine ? MANY_NODES_OF_PROXY : MANY_NODES)) return;
    this.#nodes.delete(address);
    this.#tell(this.#hidden, { kind: 'client_addresses_hidden', address, isTrusted, isEngine });
  }

  #lostHeader(address: string, header: LostHeader): void {
    const { clock, emit } = this.#parts;
    const now = clock.now();
    const last = this.#lost.get(address);
    const isOld = last === undefined || now - last.at >= TOLD_AGAIN_MS;
    if (last === undefined && this.#lost.size >= MOST_ADDRESSES) {
      for (const [each, { at }] of this.#lost) if (now - at >= TOLD_AGAIN_MS) this.#lost.delete(each);
    }
    const isNews = isOld && (last !== undefined || this.#lost.size < MOST_ADDRESSES);
    const isTrusted = this.#parts.trust()(address);
    const event: FrontProxyEvent = { kind: 'upgrade_header_lost', address, header, isTrusted, isNews };
    if (isNews) this.#lost.set(address, { event, at: now });
    emit(event);
  }

  #tell(told: Map<string, FrontProxyEvent>, event: FrontProxyEvent): void {
    if (told.size >= MOST_ADDRESSES) return;
    told.set(event.address, event);
    this.#parts.emit(event);
  }

  #isEngine(address: string): boolean {
    return !isLoopback(address) && this.#parts.isGateway(address);
  }
}

const HANDSHAKE = 'x-tailscale-handshake';

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
    if (isLoopback(address)) return true;
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
