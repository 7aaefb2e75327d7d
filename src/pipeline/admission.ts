import { readFileSync } from 'node:fs';
import type { Clock } from '../lib/clock.ts';
import { type Rate, TokenBucket, TokenBuckets } from '../lib/token-bucket.ts';
import type { Emit, Limit } from '../streams/events.ts';

/** The current limits, read again each time. */
export interface AdmissionLimits {
  readonly connections: number;
  readonly connectionsPerAddress: number;
  readonly handshakes: Rate;
  readonly handshakesPerAddress: Rate;
}

/** A limit that is reached again is news only after this long. */
const REPORT_AGAIN_AFTER_MS = 60_000;

/** Counts connections and handshakes, in total and per address, and refuses those above a limit. */
export class Admission {
  readonly #clock: Clock;
  readonly #limits: () => AdmissionLimits;
  readonly #emit: Emit;
  #connections = 0;
  readonly #perNetwork = new Map<string, number>();
  readonly #handshakes: TokenBucket;
  readonly #handshakesPerNetwork = new TokenBuckets();
  readonly #reportedAt = new Map<Limit, number>();

  constructor(clock: Clock, limits: () => AdmissionLimits, emit: Emit) {
    this.#clock = clock;
    this.#limits = limits;
    this.#emit = emit;
    this.#handshakes = new TokenBucket(limits().handshakes, clock.now());
  }

  get connections(): number {
    return this.#connections;
  }

  /**
   * Admits a connection.
   *
   * @param address undefined for a trusted proxy, whose address does not identify the client.
   * @returns a function to call when the connection has closed; undefined when the connection must be refused.
   */
  admitConnection(address: string | undefined): (() => void) | undefined {
    const { connections, connectionsPerAddress } = this.#limits();
    if (this.#connections >= connections) {
      this.limitReached('connections', address, `there are ${this.#connections} already`);
      return undefined;
    }
    const network = address === undefined ? undefined : networkOf(address);
    const ofNetwork = network === undefined ? 0 : (this.#perNetwork.get(network) ?? 0);
    if (ofNetwork >= connectionsPerAddress) {
      this.limitReached('connections_per_address', address, `there are ${ofNetwork} from ${network} already`);
      return undefined;
    }
    return this.#count(network);
  }

  /** Counts a connection that another process has admitted, whatever the limits are. See `admitConnection`. */
  adopt(address: string | undefined): () => void {
    return this.#count(address === undefined ? undefined : networkOf(address));
  }

  #count(network: string | undefined): () => void {
    this.#connections += 1;
    if (network !== undefined) this.#perNetwork.set(network, (this.#perNetwork.get(network) ?? 0) + 1);
    return () => this.#closed(network);
  }

  /** @returns whether a handshake from this address may be read now. */
  admitHandshake(address: string): boolean {
    const { handshakes, handshakesPerAddress } = this.#limits();
    const now = this.#clock.now();
    if (!this.#handshakesPerNetwork.take(networkOf(address), handshakesPerAddress, now)) {
      this.limitReached('handshakes_per_address', address, `more than ${handshakesPerAddress.perSecond} a second`);
      return false;
    }
    if (this.#handshakes.take(handshakes, now)) return true;
    this.limitReached('handshakes', address, `more than ${handshakes.perSecond} a second`);
    return false;
  }

  limitReached(limit: Limit, address: string | undefined, why: string): void {
    const now = this.#clock.now();
    const isNews = now - (this.#reportedAt.get(limit) ?? Number.NEGATIVE_INFINITY) >= REPORT_AGAIN_AFTER_MS;
    if (isNews) this.#reportedAt.set(limit, now);
    this.#emit({ kind: 'limit_reached', limit, address, detail: why, isNews });
  }

  #closed(network: string | undefined): void {
    this.#connections -= 1;
    if (network === undefined) return;
    const left = (this.#perNetwork.get(network) ?? 1) - 1;
    if (left > 0) this.#perNetwork.set(network, left);
    else this.#perNetwork.delete(network);
  }
}

/**
 * The network for which an address counts: an IPv4 address itself, or the /64 of an IPv6 address, because a host can use any
 * address of its /64.
 *
 * @param address without brackets and port, as Node gives it.
 */
export function networkOf(address: string): string {
  if (!address.includes(':') || address.includes('.')) return address;
  const [head = '', tail] = address.split('::', 2);
  const before = head === '' ? [] : head.split(':');
  const after = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = tail === undefined ? 0 : Math.max(0, 8 - before.length - after.length);
  const groups = [...before, ...Array.from({ length: zeros }, () => '0'), ...after];
  const prefix = groups.slice(0, 4).map((group) => Number.parseInt(group, 16).toString(16));
  return `${prefix.join(':')}::/64`;
}

/** Descriptors for everything else: listeners, files, clients of the admin server, Redis. */
const RESERVED = 128;
/** One descriptor for the client's connection, one for the connection to Headscale. */
const PER_CONNECTION = 2;

/** How many connections the limit of open files allows (man 2 getrlimit, RLIMIT_NOFILE). Undefined if it is not known. */
export function connectionCapacity(limits = readLimits()): number | undefined {
  const most = descriptorLimit(limits);
  return most === undefined ? undefined : Math.max(1, Math.floor((most - RESERVED) / PER_CONNECTION));
}

/** How many files this process may have open. Undefined if it is not known. */
export function descriptorLimit(limits = readLimits()): number | undefined {
  const soft = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
  return soft === undefined ? undefined : Number(soft);
}

function readLimits(): string {
  try {
    return readFileSync('/proc/self/limits', 'utf8');
  } catch {
    return '';
  }
}
