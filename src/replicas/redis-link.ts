import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { Cluster, Redis } from 'ioredis';
import type { RedisTarget } from '../config/redis.ts';
import type { MachineKey } from '../identity/keys.ts';
import type { NoiseKey } from '../identity/noise.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import { reasonOf } from '../lib/errors.ts';
import type { StreamId } from '../streams/stream.ts';
import { type Announced, type Link, type LinkEvents, RENEW_EVERY_MS } from './link.ts';
import type { Message } from './messages.ts';
import type { Order } from './order.ts';
import { MessageSigner } from './signer.ts';

/** A newcomer waits for Redis, so a Redis that needs longer than this counts as down. */
const COMMAND_TIMEOUT_MS = 250;
const CONNECT_TIMEOUT_MS = 2000;
const RECONNECT_AFTER_MS = { first: 100, most: 2000 };
/** How often a Redis that answered too late is tried again. */
const RETRY_SLOW_EVERY_MS = 1000;
/** A node's streams are announced again well before this. */
const NODE_TTL_MS = 24 * 3_600_000;
/** After this a handshake can be replayed, but the replayer still gets no session: it lacks the keys. */
const HANDSHAKE_TTL_MS = 3_600_000;
/** At most this many handshakes are remembered, however many strangers send. */
export const HANDSHAKE_SLOTS = 65_536;

/**
 * Announces a stream, and returns the epoch, the stream's place and the whole hash.
 *
 * KEYS[1]: the node's hash. It maps `replica/id` to a place, and holds `epoch` and `last`, the place assigned last.
 * ARGV: our field, the hash's TTL in ms, a random word, and the epoch and place that the stream had before (or '').
 *
 * The script reads no clock. It begins a new epoch when the hash was lost, and when Redis has another replication history
 * (it restarted from a file, or a replica was promoted): places may then have been assigned that Redis has forgotten.
 */
const ANNOUNCE = `
local all, epoch, last = redis.call('HGETALL', KEYS[1]), false, 0
for i = 1, #all, 2 do
  if all[i] == 'epoch' then epoch = all[i + 1] elseif all[i] == 'last' then last = tonumber(all[i + 1]) end
end
local history = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') or ''
if not epoch or string.sub(epoch, 1, #history) ~= history then
  epoch, last = history .. ARGV[3], 0
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
local place = ARGV[4] == epoch and tonumber(ARGV[5])
if not place then
  place = last + 1
  redis.call('HSET', KEYS[1], 'last', place)
end
redis.call('HSET', KEYS[1], ARGV[1], place)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {epoch, place, all}
`;

/** Removes one field (ARGV[1]), or all fields of a replica (ARGV[1] ends in `/`), and the hash KEYS[1] with its last stream. */
const WITHDRAW = `
local left = 0
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if field == ARGV[1] or (string.sub(ARGV[1], -1) == '/' and string.sub(field, 1, #ARGV[1]) == ARGV[1]) then
    redis.call('HDEL', KEYS[1], field)
  elseif string.find(field, '/', 1, true) then
    left = left + 1
  end
end
if left == 0 then redis.call('DEL', KEYS[1]) end
return left
`;

type Commands = (Redis | Cluster) & {
  announceStream(
    key: string,
    field: string,
    lifeMs: number,
    word: string,
    epoch: string,
    place: number | string,
  ): Promise<[string, number, string[]]>;
  withdrawStreams(key: string, field: string): Promise<number>;
};

export interface RedisLinkOptions extends LinkEvents {
  readonly clock: Clock;
  readonly target: RedisTarget;
  /** The name of this replica. */
  readonly name: string;
  /** The key that all replicas share. */
  noiseKey(): NoiseKey | undefined;
}

/** The link between replicas over Redis: one connection sends commands, another one subscribes to messages. */
export class RedisLink implements Link {
  readonly #options: RedisLinkOptions;
  readonly #commands: Commands;
  readonly #listening: Redis | Cluster;
  readonly #keys: RedisKeys;
  readonly #signer: MessageSigner;
  /** Rejects the requests that are waiting for an answer. */
  readonly #waiting = new Set<(reason: Error) => void>();
  /** Undefined until the first connection has come up or failed. */
  #isUp: boolean | undefined;
  #isSubscribed = false;
  #wasSlow = false;
  #pingTimer: Timer | undefined;
  #subscribeTimer: Timer | undefined;
  #isClosed = false;
  #lastError: string | undefined;

  constructor(options: RedisLinkOptions) {
    this.#options = options;
    const { clock } = options;
    this.#keys = new RedisKeys(options.target.prefix);
    this.#signer = new MessageSigner(options.name, options.noiseKey, clock.dateOf(clock.now()).getTime());
    this.#commands = connect(options.target) as Commands;
    this.#commands.defineCommand('announceStream', { numberOfKeys: 1, lua: ANNOUNCE });
    this.#commands.defineCommand('withdrawStreams', { numberOfKeys: 1, lua: WITHDRAW });
    this.#listening = connect(options.target);
    for (const connection of [this.#commands, this.#listening]) {
      connection.on('error', (error: unknown) => (this.#lastError = reasonOf(error)));
      if (connection instanceof Cluster) connection.on('+node', ignoreLaterErrors);
      else ignoreLaterErrors(connection);
      connection.on('ready', () => this.#updateState());
      connection.on('close', () => this.#updateState());
    }
    this.#listening.on('ready', () => this.#subscribe());
    this.#listening.on('close', () => (this.#isSubscribed = false));
    this.#listening.on('message', (_channel: string, text: string) => this.#heard(text));
  }

  get isUp(): boolean {
    return this.#isUp === true && !this.#isClosed;
  }

  async announce(machineKey: MachineKey, id: StreamId, when: 'arriving' | 'later', before?: Order): Promise<Announced> {
    const key = this.#keys.node(machineKey);
    const word = randomBytes(6).toString('base64url');
    const answer = this.#commands.announceStream(
      key,
      this.#fieldOf(id),
      NODE_TTL_MS,
      word,
      before?.epoch ?? '',
      before?.place ?? '',
    );
    const [epoch, place, all] = await this.#answered(answer);
    const isKept = before !== undefined && before.epoch === epoch && before.place === place;
    const order = { epoch, place, isExact: isKept ? before.isExact : when === 'arriving' };
    return { order, others: othersIn(all, this.#options.name) };
  }

  async withdraw(machineKey: MachineKey, id: StreamId): Promise<void> {
    await this.#answered(this.#commands.withdrawStreams(this.#keys.node(machineKey), this.#fieldOf(id)));
  }

  async hasSeen(ephemeral: Buffer): Promise<boolean> {
    const shown = ephemeral.toString('base64url');
    const setting = this.#commands.set(this.#slotOf(ephemeral), shown, 'PX', HANDSHAKE_TTL_MS, 'GET');
    return (await this.#answered(setting)) === shown;
  }

  async forgetHandshake(ephemeral: Buffer): Promise<void> {
    await this.#answered(this.#commands.del(this.#slotOf(ephemeral)));
  }

  async forget(machineKey: MachineKey, replica: string): Promise<void> {
    await this.#answered(this.#commands.withdrawStreams(this.#keys.node(machineKey), `${replica}/`));
  }

  async isAlive(replica: string): Promise<boolean> {
    return (await this.#answered(this.#commands.exists(this.#keys.lease(replica)))) === 1;
  }

  async renewLease(): Promise<boolean> {
    const key = this.#keys.lease(this.#options.name);
    const ran = await this.#answered(this.#commands.set(key, '1', 'PX', 3 * RENEW_EVERY_MS, 'GET'));
    return ran !== null;
  }

  send(message: Message, to?: string): void {
    const signed = this.isUp ? this.#signer.sign(message, to) : undefined;
    if (signed === undefined) return;
    const channel = to === undefined ? this.#keys.all : this.#keys.replica(to);
    this.#answered(this.#commands.publish(channel, signed)).catch(() => {});
  }

  async close(keepsLease = false): Promise<void> {
    if (this.#isClosed) return;
    const wasUp = this.isUp;
    this.#isClosed = true;
    this.#pingTimer?.cancel();
    this.#subscribeTimer?.cancel();
    // Reject whatever is waiting: a shutdown must not wait for Redis.
    for (const giveUp of [...this.#waiting]) giveUp(new Error('the watchdog is stopping'));
    if (wasUp && !keepsLease)
      await this.#answered(this.#commands.del(this.#keys.lease(this.#options.name))).catch(() => {});
    this.#commands.disconnect();
    this.#listening.disconnect();
  }

  /** The slot depends on a secret, so that nobody can choose which remembered handshake theirs overwrites. */
  #slotOf(ephemeral: Buffer): string {
    return this.#keys.handshake((this.#signer.mac(ephemeral)?.readUInt32BE() ?? 0) % HANDSHAKE_SLOTS);
  }

  #fieldOf(id: StreamId): string {
    return `${this.#options.name}/${id}`;
  }

  #heard(text: string): void {
    const message = this.#signer.verify(text);
    if (message === 'forged') this.#options.forged();
    else if (message !== undefined) this.#options.heard(message);
  }

  async #subscribe(): Promise<void> {
    try {
      await this.#listening.subscribe(this.#keys.all, this.#keys.replica(this.#options.name));
      this.#isSubscribed = true;
    } catch (error) {
      this.#lastError = reasonOf(error);
      this.#subscribeAgain();
    }
    this.#updateState();
  }

  /** A Redis that answered too late keeps its connection, so no new one subscribes. */
  #subscribeAgain(): void {
    if (this.#isClosed) return;
    this.#subscribeTimer?.cancel();
    this.#subscribeTimer = this.#options.clock.after(RETRY_SLOW_EVERY_MS, () => {
      if (this.#listening.status === 'ready' && !this.#isSubscribed) void this.#subscribe();
    });
  }

  /** Waits for an answer. If it comes too late, Redis counts as down until a ping is answered in time. */
  async #answered<T>(answer: Promise<T>): Promise<T> {
    let giveUp: ((reason: Error) => void) | undefined;
    try {
      return await new Promise<T>((resolve, reject) => {
        giveUp = reject;
        this.#waiting.add(reject);
        answer.then(resolve, reject);
      });
    } catch (error) {
      this.#lastError = reasonOf(error);
      if (/timed out/i.test(this.#lastError)) this.#becameSlow();
      throw error;
    } finally {
      if (giveUp !== undefined) this.#waiting.delete(giveUp);
    }
  }

  #becameSlow(): void {
    this.#wasSlow = true;
    this.#updateState();
    this.#pingAgain();
  }

  #pingAgain(): void {
    if (this.#isClosed) return;
    this.#pingTimer?.cancel();
    this.#pingTimer = this.#options.clock.after(RETRY_SLOW_EVERY_MS, () => {
      this.#commands.ping().then(
        () => {
          this.#wasSlow = false;
          this.#updateState();
        },
        () => this.#pingAgain(),
      );
    });
  }

  /** Whether the first connection is still being made: Redis is then neither up nor down. */
  #isConnecting(): boolean {
    return this.#isUp === undefined && this.#lastError === undefined && !this.#isReady();
  }

  #isReady(): boolean {
    return this.#commands.status === 'ready' && this.#isSubscribed && !this.#wasSlow && !this.#isClosed;
  }

  #updateState(): void {
    const isUp = this.#isReady();
    if (isUp === this.#isUp || this.#isConnecting()) return;
    this.#isUp = isUp;
    if (!this.#isClosed)
      this.#options.changed(isUp, isUp ? undefined : (this.#lastError ?? 'it closed the connection'));
    if (isUp) this.#lastError = undefined;
  }
}

function connect({ kind, nodes, tls, username, password, db, masterName }: RedisTarget): Redis | Cluster {
  const options = {
    ...{ username, password, connectTimeout: CONNECT_TIMEOUT_MS, commandTimeout: COMMAND_TIMEOUT_MS },
    // Without a connection a command fails at once, and the watchdog goes on alone.
    ...{ enableOfflineQueue: false, maxRetriesPerRequest: 0, autoResubscribe: false, protocol: 2 as const },
    // Redis 7.0 and older do not know CLIENT SETINFO, and would get it at each connection.
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

/** ioredis listens for one error of a socket. With TLS the server's alert can be a second one, which would crash the process. */
function ignoreLaterErrors(redis: Redis): void {
  redis.on('error', () => {
    const { stream } = redis as unknown as { readonly stream?: Socket };
    stream?.on('error', () => {});
  });
}

function backOff(times: number): number {
  return Math.min(RECONNECT_AFTER_MS.first * 2 ** Math.min(times, 10), RECONNECT_AFTER_MS.most);
}

/** @param all fields and values in turn. @returns the other replicas that have a field. */
function othersIn(all: readonly string[], own: string): readonly string[] {
  const replicas = all.map((field, i) => (i % 2 === 0 ? replicaIn(field) : undefined));
  return [...new Set(replicas)].filter((replica) => replica !== undefined && replica !== own) as string[];
}

function replicaIn(field: string): string | undefined {
  return /^(.+)\/\d+$/.exec(field)?.[1];
}

/** The names of keys and channels. Braces keep everything of one node in one slot of a Redis cluster. */
class RedisKeys {
  readonly #prefix: string;

  constructor(prefix: string) {
    this.#prefix = prefix;
  }

  get all(): string {
    return `${this.#prefix}:all`;
  }

  replica(name: string): string {
    return `${this.#prefix}:to:${name}`;
  }

  lease(name: string): string {
    return `${this.#prefix}:lease:{${name}}`;
  }

  node(machineKey: MachineKey): string {
    return `${this.#prefix}:node:{${machineKey}}`;
  }

  /** @param slot from 0 to `HANDSHAKE_SLOTS` - 1. */
  handshake(slot: number): string {
    return `${this.#prefix}:seen:{${slot}}`;
  }
}
