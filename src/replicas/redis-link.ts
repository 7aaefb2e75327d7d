import { Cluster, Redis } from 'ioredis';
import type { Clock, Timer } from '../clock.ts';
import type { RedisTarget } from '../config/redis.ts';
import { reasonOf } from '../errors.ts';
import type { MachineKey } from '../identity/keys.ts';
import type { StreamId } from '../streams/stream.ts';
import { type Announced, type Elsewhere, type Link, type LinkPorts, RENEW_EVERY_MS } from './link.ts';
import { formatMessage, type Message, parseMessage } from './messages.ts';
import { Names } from './names.ts';

/** A newcomer waits so long at most. A Redis that needs more is as good as away. */
const ANSWERS_WITHIN_MS = 250;
const CONNECTS_WITHIN_MS = 2000;
const RECONNECTS_AFTER_MS = { first: 100, most: 2000 };
/** How often a Redis that did not answer in time is tried. */
const TRIES_EVERY_MS = 1000;
/** A node's streams are announced anew well within that. */
const NODE_FORGOTTEN_AFTER_MS = 24 * 3_600_000;
/** A replayer must wait so long, and still has no session. */
const HANDSHAKE_FORGOTTEN_AFTER_MS = 3_600_000;

/**
 * KEYS[1] the node's streams: a hash of `replica/id` → order. ARGV: our field, age in µs, life in ms.
 * Redis' own time decides, in one step for all replicas. Its number has 16 digits, fewer than a double holds.
 */
const ANNOUNCE = `
local time = redis.call('TIME')
local order = string.format('%.0f', time[1] * 1000000 + time[2] - tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], ARGV[1], order)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {order, redis.call('HGETALL', KEYS[1])}
`;

type Commands = (Redis | Cluster) & {
  announceStream(key: string, field: string, ageUs: number, lifeMs: number): Promise<[string, string[]]>;
};

export interface RedisLinkParts extends LinkPorts {
  readonly clock: Clock;
  readonly target: RedisTarget;
  /** This replica's own. */
  readonly name: string;
}

/** Redis, as replicas use it: one connection for questions, one that listens. */
export class RedisLink implements Link {
  readonly #parts: RedisLinkParts;
  readonly #commands: Commands;
  readonly #listening: Redis | Cluster;
  readonly #names: Names;
  /** Undefined until it is known. */
  #isUp: boolean | undefined;
  #isSubscribed = false;
  #wasSlow = false;
  #trying: Timer | undefined;
  #isClosed = false;
  #lastError: string | undefined;

  constructor(parts: RedisLinkParts) {
    this.#parts = parts;
    this.#names = new Names(parts.target.prefix);
    this.#commands = connect(parts.target) as Commands;
    this.#commands.defineCommand('announceStream', { numberOfKeys: 1, lua: ANNOUNCE });
    this.#listening = connect(parts.target);
    for (const connection of [this.#commands, this.#listening]) {
      connection.on('error', (error: unknown) => (this.#lastError = reasonOf(error)));
      connection.on('ready', () => this.#reconsider());
      connection.on('close', () => this.#reconsider());
    }
    this.#listening.on('ready', () => this.#subscribe());
    this.#listening.on('close', () => (this.#isSubscribed = false));
    this.#listening.on('message', (_channel: string, text: string) => this.#heard(text));
  }

  get isUp(): boolean {
    return this.#isUp === true;
  }

  async announce(machineKey: MachineKey, id: StreamId, ageMs: number): Promise<Announced> {
    const key = this.#names.node(machineKey);
    const field = `${this.#parts.name}/${id}`;
    const answer = this.#commands.announceStream(key, field, Math.round(ageMs * 1000), NODE_FORGOTTEN_AFTER_MS);
    const [order, all] = await this.#inTime(answer);
    return { order: Number(order), others: othersIn(all, this.#parts.name) };
  }

  async withdraw(machineKey: MachineKey, id: StreamId): Promise<void> {
    if (this.#isUp) await this.#inTime(this.#commands.hdel(this.#names.node(machineKey), `${this.#parts.name}/${id}`));
  }

  async hasSeen(ephemeral: Buffer): Promise<boolean> {
    const key = this.#names.handshake(ephemeral);
    return (await this.#inTime(this.#commands.set(key, '1', 'PX', HANDSHAKE_FORGOTTEN_AFTER_MS, 'NX'))) === null;
  }

  async forgetHandshake(ephemeral: Buffer): Promise<void> {
    await this.#inTime(this.#commands.del(this.#names.handshake(ephemeral)));
  }

  async forget(machineKey: MachineKey, replica: string): Promise<void> {
    const key = this.#names.node(machineKey);
    const fields = (await this.#inTime(this.#commands.hkeys(key))).filter((field) => replicaIn(field) === replica);
    if (fields.length > 0) await this.#inTime(this.#commands.hdel(key, ...fields));
  }

  async isAlive(replica: string): Promise<boolean> {
    return (await this.#inTime(this.#commands.exists(this.#names.lease(replica)))) === 1;
  }

  async renewLease(): Promise<boolean> {
    const key = this.#names.lease(this.#parts.name);
    const ran = await this.#inTime(this.#commands.set(key, '1', 'PX', 3 * RENEW_EVERY_MS, 'GET'));
    return ran !== null;
  }

  send(message: Message, to?: string): void {
    if (!this.#isUp) return;
    const channel = to === undefined ? this.#names.all : this.#names.replica(to);
    this.#inTime(this.#commands.publish(channel, formatMessage(message))).catch(() => {});
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#trying?.cancel();
    if (this.#isUp) await this.#inTime(this.#commands.del(this.#names.lease(this.#parts.name))).catch(() => {});
    this.#commands.disconnect();
    this.#listening.disconnect();
  }

  #heard(text: string): void {
    const message = parseMessage(text);
    if (message !== undefined && message.from !== this.#parts.name) this.#parts.heard(message);
  }

  async #subscribe(): Promise<void> {
    try {
      await this.#listening.subscribe(this.#names.all, this.#names.replica(this.#parts.name));
      this.#isSubscribed = true;
    } catch (error) {
      this.#lastError = reasonOf(error);
    }
    this.#reconsider();
  }

  /** Notes when there is no answer in time: until one comes, nobody waits for it any more. */
  async #inTime<T>(answer: Promise<T>): Promise<T> {
    try {
      return await answer;
    } catch (error) {
      this.#lastError = reasonOf(error);
      if (/timed out/i.test(this.#lastError)) this.#slow();
      throw error;
    }
  }

  #slow(): void {
    this.#wasSlow = true;
    this.#reconsider();
    this.#tryAgain();
  }

  #tryAgain(): void {
    if (this.#isClosed) return;
    this.#trying?.cancel();
    this.#trying = this.#parts.clock.after(TRIES_EVERY_MS, () => {
      this.#commands.ping().then(
        () => {
          this.#wasSlow = false;
          this.#reconsider();
        },
        () => this.#tryAgain(),
      );
    });
  }

  /** For the first time: it is neither up nor down yet. */
  #isConnecting(): boolean {
    return this.#isUp === undefined && this.#lastError === undefined && !this.#isReady();
  }

  #isReady(): boolean {
    return this.#commands.status === 'ready' && this.#isSubscribed && !this.#wasSlow && !this.#isClosed;
  }

  #reconsider(): void {
    const isUp = this.#isReady();
    if (isUp === this.#isUp || this.#isConnecting()) return;
    this.#isUp = isUp;
    if (!this.#isClosed) this.#parts.changed(isUp, isUp ? undefined : (this.#lastError ?? 'it closed the connection'));
    if (isUp) this.#lastError = undefined;
  }
}

function connect({ kind, nodes, tls, username, password, db, masterName }: RedisTarget): Redis | Cluster {
  const options = {
    ...{ username, password, connectTimeout: CONNECTS_WITHIN_MS, commandTimeout: ANSWERS_WITHIN_MS },
    // Without a connection there is no answer: whoever asks goes on alone.
    ...{ enableOfflineQueue: false, maxRetriesPerRequest: 0, autoResubscribe: false, protocol: 2 as const },
    // Redis 7.0 and older know no CLIENT SETINFO, and would be told of it at each connection.
    disableClientInfo: true,
    retryStrategy: backOff,
    ...(tls === undefined ? {} : { tls }),
  };
  const addresses = nodes.map(({ host, port }) => ({ host, port }));
  switch (kind) {
    case 'cluster': {
      const { retryStrategy: _alone, enableOfflineQueue, ...redisOptions } = options;
      return new Cluster(addresses, { redisOptions, clusterRetryStrategy: backOff, enableOfflineQueue: false });
    }
    case 'sentinel':
      return new Redis({
        ...options,
        ...{ db, sentinels: addresses, name: masterName ?? '', sentinelRetryStrategy: backOff },
        ...(tls === undefined ? {} : { enableTLSForSentinelMode: true, sentinelTLS: tls }),
      });
    case 'one':
      return new Redis({ ...options, ...addresses[0], db });
    default:
      return kind satisfies never;
  }
}

function backOff(times: number): number {
  return Math.min(RECONNECTS_AFTER_MS.first * 2 ** Math.min(times, 10), RECONNECTS_AFTER_MS.most);
}

/** Of field and value in turn, those that are not ours. */
function othersIn(all: readonly string[], own: string): readonly Elsewhere[] {
  const others: Elsewhere[] = [];
  for (let i = 0; i + 1 < all.length; i += 2) {
    const replica = replicaIn(all[i] ?? '');
    if (replica !== undefined && replica !== own) others.push({ replica, order: Number(all[i + 1]) });
  }
  return others;
}

function replicaIn(field: string): string | undefined {
  return /^(.+)\/\d+$/.exec(field)?.[1];
}
