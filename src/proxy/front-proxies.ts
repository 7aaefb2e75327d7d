import { existsSync, readFileSync } from 'node:fs';
import { TRUSTED_BY_DEFAULT } from '../config/settings.ts';
import type { Cidr } from '../config/types.ts';
import type { MachineKey } from '../identity/keys.ts';
import { isLoopback, ownAddresses } from '../lib/addresses.ts';
import type { Clock, Instant } from '../lib/clock.ts';
import { type Emit, type FrontProxyEvent, hasBegun, type LostHeader, type WatchdogEvent } from '../streams/events.ts';
import type { UpgradeMessage } from './first-bytes.ts';
import { ORIGIN_HEADERS } from './forwarded.ts';
import { type Trust, trustOf } from './trusted-proxies.ts';

/** Where an operator's own proxies are: RFC 1918, CGNAT, link-local, unique local. Strangers are not reported. */
const isPrivate = trustOf([
  ...['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10', '169.254.0.0/16', 'fc00::/7', 'fe80::/10'],
] as readonly string[] as readonly Cidr[]);

/** How many addresses are remembered for each problem. More are not reported. */
const MOST_ADDRESSES = 64;
/** This many nodes with one private address share it. Two are enough if the address is a known proxy. */
const MANY_NODES = 4;
const MANY_NODES_OF_PROXY = 2;
const REPORT_AGAIN_MS = 3_600_000;

/** What `FrontProxies` needs from the rest of the watchdog. */
export interface FrontProxiesOptions {
  readonly clock: Clock;
  readonly emit: Emit;
  trusted(): readonly Cidr[];
  trust(): Trust;
  /** Whether the address is one of this machine's addresses or gateways, see `Gateways`. */
  isGateway(address: string): boolean;
}

/**
 * Finds mistakes in the configuration of proxies in front of this one, from the requests that they forward: we do not trust
 * them, they hide their clients' addresses, or they remove headers that an upgrade needs. Each is reported once per address, or
 * once an hour.
 */
export class FrontProxies {
  readonly #options: FrontProxiesOptions;
  readonly #untrusted = new Map<string, FrontProxyEvent>();
  readonly #hidden = new Map<string, FrontProxyEvent>();
  readonly #lost = new Map<string, { readonly event: FrontProxyEvent; readonly at: number; isCorrected: boolean }>();
  /** The machine keys seen from each private address, until there are enough to report it. */
  readonly #nodes = new Map<string, Set<MachineKey>>();

  constructor(options: FrontProxiesOptions) {
    this.#options = options;
  }

  /** @param sender the address that sent this request: the peer, or the source in its PROXY protocol header. */
  requested({ headers, url = '' }: Pick<UpgradeMessage, 'headers' | 'url'>, sender: string): void {
    for (const header in headers) {
      if (!ORIGIN_HEADERS.has(header)) continue;
      this.#forwarded(sender, header);
      break;
    }
    const [path, query = ''] = url.split('?', 2);
    if (path !== '/ts2021') return;
    if (headers.upgrade === undefined) this.#lostHeader(sender, 'upgrade');
    else if (headers[HANDSHAKE] === undefined && !query.toLowerCase().includes(HANDSHAKE)) {
      this.#lostHeader(sender, 'handshake');
    } else {
      const lost = this.#lost.get(sender);
      if (lost !== undefined) lost.isCorrected = true;
    }
  }

  readonly listen = (event: WatchdogEvent): void => {
    if (!hasBegun(event) || event.stream.kind !== 'control') return;
    const { address, machineKey } = event.stream;
    if (machineKey !== undefined) this.#identified(address, machineKey);
  };

  /** The problems that still exist, as they were reported. */
  standing(): readonly FrontProxyEvent[] {
    const since = this.#options.clock.now() - REPORT_AGAIN_MS;
    const lost = [...this.#lost.values()]
      .filter(({ at, isCorrected }) => at > since && !isCorrected)
      .map(({ event }) => event);
    const trust = this.#options.trust();
    const untrusted = [...this.#untrusted.values()].filter(({ address }) => !trust(address));
    const hidden = [...this.#hidden.values()].filter(
      (event) => event.kind === 'client_addresses_hidden' && event.isTrusted === trust(event.address),
    );
    return [...untrusted, ...hidden, ...lost];
  }

  #forwarded(address: string, header: string): void {
    if (this.#untrusted.has(address) || this.#untrusted.size >= MOST_ADDRESSES) return;
    if (this.#options.trust()(address)) return;
    const trusted = this.#options.trusted();
    // An operator who trusts no proxy has decided so for programs on this machine too.
    if (!isPrivate(address) && !(isLoopback(address) && trusted.length > 0)) return;
    const names = trusted === TRUSTED_BY_DEFAULT ? [address] : [...trusted, address];
    this.#report(this.#untrusted, {
      kind: 'proxy_not_trusted',
      address,
      header,
      setting: names.join(','),
      isEngine: this.#isEngine(address),
    });
  }

  #identified(address: string, machineKey: MachineKey): void {
    const isTrusted = this.#options.trust()(address);
    if (!isTrusted && !isPrivate(address)) return;
    if (this.#untrusted.has(address) || this.#hidden.has(address)) return;
    if (!this.#nodes.has(address) && this.#nodes.size >= MOST_ADDRESSES) return;
    const nodes = this.#nodes.get(address) ?? new Set();
    this.#nodes.set(address, nodes.add(machineKey));
    const isEngine = this.#isEngine(address);
    if (nodes.size < (isTrusted || isEngine ? MANY_NODES_OF_PROXY : MANY_NODES)) return;
    this.#nodes.delete(address);
    this.#report(this.#hidden, { kind: 'client_addresses_hidden', address, isTrusted, isEngine });
  }

  #lostHeader(address: string, header: LostHeader): void {
    const { clock, emit } = this.#options;
    const now = clock.now();
    const last = this.#lost.get(address);
    const isOld = last === undefined || now - last.at >= REPORT_AGAIN_MS;
    if (last === undefined && this.#lost.size >= MOST_ADDRESSES) {
      for (const [each, { at }] of this.#lost) if (now - at >= REPORT_AGAIN_MS) this.#lost.delete(each);
    }
    const isNews = isOld && (last !== undefined || this.#lost.size < MOST_ADDRESSES);
    const isTrusted = this.#options.trust()(address);
    const event: FrontProxyEvent = { kind: 'upgrade_header_lost', address, header, isTrusted, isNews };
    if (isNews) this.#lost.set(address, { event, at: now, isCorrected: false });
    else if (last !== undefined) last.isCorrected = false;
    emit(event);
  }

  #report(reported: Map<string, FrontProxyEvent>, event: FrontProxyEvent): void {
    if (reported.size >= MOST_ADDRESSES) return;
    reported.set(event.address, event);
    this.#options.emit(event);
  }

  #isEngine(address: string): boolean {
    return !isLoopback(address) && this.#options.isGateway(address);
  }
}

const HANDSHAKE = 'x-tailscale-handshake';

/** Networks rarely change, and this may be asked for thousands of clients. */
const KNOWN_FOR_MS = 60_000;
/** The flag RTF_GATEWAY of a route (`linux/route.h`). */
const RTF_GATEWAY = 0x2;

/**
 * The addresses of this machine and its gateways. A client with such an address is probably behind a proxy of the container
 * engine (docker-proxy, slirp4netns, pasta) or of this machine, so its address does not identify it.
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

/** The gateways of the container that this process runs in. Empty if no known engine's mark is found. */
export function gatewaysOfContainer(): readonly string[] {
  const isInContainer =
    existsSync('/.dockerenv') || existsSync('/run/.containerenv') || process.env.KUBERNETES_SERVICE_HOST !== undefined;
  return isInContainer ? [...gatewaysIn(table('/proc/net/route')), ...gateways6In(table('/proc/net/ipv6_route'))] : [];
}

function readAddresses(): ReadonlySet<string> {
  return new Set([
    ...ownAddresses(),
    ...gatewaysIn(table('/proc/net/route')),
    ...gateways6In(table('/proc/net/ipv6_route')),
  ]);
}

/** The text of a file in `/proc`. Empty if there is none: another system, or it is hidden. */
function table(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

/** The gateways in Linux's `/proc/net/route`. Columns: interface, destination, gateway, flags, … Addresses are little-endian. */
export function gatewaysIn(routes: string): readonly string[] {
  return routes.split('\n').flatMap((line) => {
    const [, , gateway = '', flags = ''] = line.trim().split(/\s+/);
    if (!/^[0-9a-f]{8}$/i.test(gateway) || !(Number.parseInt(flags, 16) & RTF_GATEWAY)) return [];
    return [[...Buffer.from(gateway, 'hex')].reverse().join('.')];
  });
}

/** The gateways in Linux's `/proc/net/ipv6_route`. Columns: destination, length, source, length, next hop, metric, references, uses, flags, … */
export function gateways6In(routes: string): readonly string[] {
  return routes.split('\n').flatMap((line) => {
    const [, , , , hop = '', , , , flags = ''] = line.trim().split(/\s+/);
    if (!/^[0-9a-f]{32}$/i.test(hop) || !(Number.parseInt(flags, 16) & RTF_GATEWAY)) return [];
    // The URL parser writes the short form (RFC 5952), as Node does for clients' addresses.
    return [new URL(`http://[${hop.replace(/(.{4})(?=.)/g, '$1:')}]`).hostname.slice(1, -1)];
  });
}
