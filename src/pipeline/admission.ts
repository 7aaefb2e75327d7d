import { readFileSync } from 'node:fs';
import type { Clock } from '../lib/clock.ts';
import { type Rate, TokenBucket, TokenBuckets } from '../lib/token-bucket.ts';
import type { Emit, Limit } from '../streams/events.ts';

/** How much is let in; asked anew each time. */
export interface AdmissionLimits {
  readonly connections: number;
  readonly connectionsPerAddress: number;
  readonly handshakes: Rate;
  readonly handshakesPerAddress: Rate;
}

/** Tells of one limit again after so long, however often it is reached meanwhile. */
const TOLD_AGAIN_AFTER_MS = 60_000;

/** Counts what is let in, in all and from each address, and says what is too much. */
export class Admission {
  readonly #clock: Clock;
  readonly #terms: () => AdmissionLimits;
  readonly #emit: Emit;
  #connections = 0;
  readonly #perNetwork = new Map<string, number>();
  readonly #handshakes: TokenBucket;
  readonly #handshakesPerNetwork = new TokenBuckets();
  readonly #toldAt = new Map<Limit, number>();

  constructor(clock: Clock, terms: () => AdmissionLimits, emit: Emit) {
    this.#clock = clock;
    this.#terms = terms;
    this.#emit = emit;
    this.#handshakes = new TokenBucket(terms().handshakes, clock.now());
  }

  get connections(): number {
    return this.#connections;
  }

  /**
   * Takes a connection in.
   *
   * @param address undefined where it is a proxy's, and says nothing of the client's.
   * @returns what is to be called when it has closed; undefined when there are too many.
   */
  admitConnection(address: string | undefined): (() => void) | undefined {
    const { connections, connectionsPerAddress } = this.#terms();
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
    this.#connections += 1;
    if (network !== undefined) this.#perNetwork.set(network, ofNetwork + 1);
    return () => this.#closed(network);
  }

  /** @returns whether a handshake from there may be read now. */
  admitHandshake(address: string): boolean {
    const { handshakes, handshakesPerAddress } = this.#terms();
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
    const isNews = now - (this.#toldAt.get(limit) ?? Number.NEGATIVE_INFINITY) >= TOLD_AGAIN_AFTER_MS;
    if (isNews) this.#toldAt.set(limit, now);
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
 * Whom an address stands for: an IPv4 address for itself, an IPv6 address for its /64, of which every host has as many as
 * it likes.
 *
 * @param address without brackets and port, as Node has it.
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

/** For what is open beside clients' connections: listeners, files, the admin server's clients, Redis. */
const RESERVED = 128;
/** A client's connection, and that to Headscale. */
const PER_CONNECTION = 2;

/** How many connections the limit of open files leaves room for; undefined where it is not known. */
export function connectionCapacity(limits = readLimits()): number | undefined {
  const soft = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
  return soft === undefined ? undefined : Math.max(1, Math.floor((Number(soft) - RESERVED) / PER_CONNECTION));
}

function readLimits(): string {
  try {
    return readFileSync('/proc/self/limits', 'utf8');
  } catch {
    return '';
  }
}
