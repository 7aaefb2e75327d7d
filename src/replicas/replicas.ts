import { randomBytes } from 'node:crypto';
import { formatRedisUrl, redisTargetOf } from '../config/redis.ts';
import type { RedisSettings } from '../config/types.ts';
import type { MachineKey } from '../identity/keys.ts';
import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import type { JsonFields } from '../lib/json.ts';
import { type Arrival, type Arriving, NOWHERE_ELSE, type StreamDirectory } from '../streams/directory.ts';
import type { Emit, WatchdogEvent } from '../streams/events.ts';
import type { Registry } from '../streams/registry.ts';
import { isLive, type Stream, type StreamId } from '../streams/stream.ts';
import type { Takeover } from '../takeover/takeover.ts';
import { Announcements, CATCH_UP_EVERY_MS } from './announcements.ts';
import { type Link, RENEW_EVERY_MS } from './link.ts';
import { Members, sessionKeysOf } from './members.ts';
import type { Message, StreamReport } from './messages.ts';
import { Ages, type Seniority } from './order.ts';
import { RedisLink, type RedisLinkOptions } from './redis-link.ts';
import { RemoteNewcomers } from './remote-newcomers.ts';

/** A node usually has one or two streams, and only its newest can be newer than another replica's. */
const MAX_STREAMS_PER_ANSWER = 8;
/** How often forged messages are reported at most. */
const REPORT_FORGED_EVERY_MS = 60_000;

interface ReplicasOptions {
  readonly clock: Clock;
  readonly name: string;
  readonly link: Link;
  readonly registry: Registry;
  readonly takeover: Takeover;
  readonly emit: Emit;
  /** Whether this process takes over from another one of the same name. */
  readonly isSuccessor?: boolean;
}

/** What other replicas may see and do here. */
interface LocalStreams {
  views(): readonly object[];
  sever(id: StreamId): void;
}

/**
 * Lets several watchdogs act as one. Each announces its streams in Redis and looks there for older streams of a newcomer's
 * node. The replica that has the old stream judges the contest, because it has the socket. Without Redis each goes on alone.
 */
export class Replicas implements StreamDirectory {
  readonly #options: ReplicasOptions;
  readonly #announcements: Announcements;
  readonly #newcomers: RemoteNewcomers;
  readonly members: Members;
  readonly #ages: Ages;
  #local: LocalStreams = { views: () => [], sever() {} };
  #timers: readonly Timer[] = [];
  /** Whether there are two processes of this replica, because of a hand-over. Each answers for its own streams. */
  #isShared: boolean;
  /** Whether this process keeps the lease and answers for the replica. */
  #isMain: boolean;
  settle: () => void = () => {};
  /** Resolves when Redis has answered, or is known to be down. */
  readonly settled = new Promise<void>((resolve) => {
    this.settle = resolve;
  });
  /** Streams that the other process has. They stay in the registry until it shows them. */
  readonly #handedOver = new WeakSet<Stream>();

  constructor(options: ReplicasOptions) {
    this.#options = options;
    const { clock, takeover, link, registry, name, isSuccessor = false } = options;
    this.#isShared = isSuccessor;
    this.#isMain = !isSuccessor;
    this.#ages = new Ages(clock);
    this.#announcements = new Announcements({
      ...{ clock, link, registry },
      meet: (machineKey, replica) => this.#ask(machineKey, replica, true),
    });
    this.#newcomers = new RemoteNewcomers({
      ...{ clock, takeover, registry },
      seniorityOf: (stream) => this.#seniorityOf(stream),
      ask: (machineKey, replica) => this.#ask(machineKey, replica, false),
      send: (message, to) => link.send({ ...message, from: name } as Message, to),
      isShared: () => this.#isShared,
    });
    this.members = new Members({ clock, name, send: (message, to) => link.send(message, to) });
  }

  start(): void {
    this.#every(RENEW_EVERY_MS, () => this.#renew());
    this.#every(CATCH_UP_EVERY_MS, () => this.#announcements.catchUp());
  }

  close(): Promise<void> {
    for (const timer of this.#timers) timer.cancel();
    this.#newcomers.close();
    this.members.close();
    return this.#options.link.close(!this.#isMain);
  }

  announce(newcomer: Arriving): Promise<Arrival> | undefined {
    const { link } = this.#options;
    return link.isUp ? this.#announcements.announceNewcomer(newcomer).catch(() => NOWHERE_ELSE) : undefined;
  }

  contest(newcomer: Stream, elsewhere: readonly string[]): void {
    for (const replica of elsewhere) this.#challenge(newcomer, replica);
  }

  firstRecord(stream: Stream): void {
    this.#updateJudges(stream);
    const { link, name: from, takeover, clock } = this.#options;
    const { machineKey, address, openedAt } = stream;
    if (machineKey === undefined || !takeover.duplicates.isSuspect(machineKey)) return;
    link.send({ kind: 'came', from, machineKey, address, openedAgoMs: clock.now() - openedAt });
  }

  withdraw({ id, machineKey }: Arriving | Stream): void {
    if (machineKey === undefined) return;
    const { link, name } = this.#options;
    for (const judge of this.#announcements.withdraw(machineKey, id))
      link.send({ kind: 'left', from: name, id }, judge);
  }

  handOver(stream: Stream): JsonFields {
    return { ...this.#announcements.handOver(stream.id), isAgeSure: this.#seniorityOf(stream).isAgeSure };
  }

  handedOver(stream: Stream): void {
    this.#handedOver.add(stream);
    this.#announcements.of(stream.id)?.judges.clear();
  }

  takeOver({ id }: Stream, known: JsonFields | undefined): void {
    if (!this.#isShared || known === undefined) return;
    if (known.isAgeSure === false) this.#ages.doubt();
    this.#announcements.takeOver(id, known);
  }

  /** The process before this one has ended. */
  alone(): void {
    this.#isShared = false;
    this.#becomeMain();
  }

  #becomeMain(): void {
    if (this.#isMain) return;
    this.#isMain = true;
    this.#renew().catch(() => {});
  }

  forgetHandshake(ephemeral: Buffer): void {
    const { link } = this.#options;
    // If Redis is down, the same handshake gives no identity for a while, but its connection is still forwarded.
    if (link.isUp) link.forgetHandshake(ephemeral).catch(() => {});
  }

  /** Passes on those of our events that concern other replicas. */
  readonly onEvent = (event: WatchdogEvent): void => {
    const { link, name: from } = this.#options;
    if (event.kind === 'stream_severed' && event.reason === 'silent' && event.stream.machineKey !== undefined) {
      const { machineKey, address: loser } = event.stream;
      const { address: winner } = event.newcomer;
      const isAsked = event.kernel !== undefined;
      link.send({ kind: 'turn', from, machineKey, loser, winner, loserAnswers: event.answers, isAsked });
    } else if (event.kind === 'machine_key_duplicated') {
      const { machineKey, addresses } = event;
      link.send({ kind: 'duplicate', from, machineKey, addresses });
    } else if (event.kind === 'contest_ended') {
      this.#newcomers.contestEnded(event.newcomer);
    } else if (event.kind === 'handover_started') {
      this.#isShared = true;
    } else if (event.kind === 'handover_failed') {
      this.#isShared = false;
    } else if (event.kind === 'handover_ended') {
      this.#isMain = false;
    } else if (event.kind === 'handover_received') {
      this.#becomeMain();
    }
  };

  heard(message: Message): void {
    const { takeover, registry } = this.#options;
    this.members.heardFrom(message.from);
    switch (message.kind) {
      case 'contest': {
        const { id, machineKey } = message.newcomer;
        const isOurs = this.#newcomers.has(message.from, id) || this.#liveHere(machineKey).length > 0;
        // The other process has the streams of this node, and answers.
        if (isOurs || !this.#isShared) this.#newcomers.heard(message);
        return;
      }
      case 'left':
        this.#newcomers.heard(message);
        return;
      case 'clear': {
        const stream = registry.get(message.id);
        if (stream !== undefined) takeover.replicaJudged(stream, message.from, message.verdict);
        return;
      }
      case 'over':
        this.#announcements.of(message.id)?.judges.delete(message.from);
        return;
      case 'ask':
        this.#answer(message);
        return;
      case 'turn':
        takeover.duplicates.severedElsewhere(message.machineKey, {
          ...message,
          loserAnswers: message.isAsked === true ? message.loserAnswers : undefined,
        });
        return;
      case 'came':
        takeover.duplicates.sessionBeganElsewhere(message.machineKey, message.address, message.openedAgoMs);
        return;
      case 'duplicate':
        takeover.duplicates.foundElsewhere(message.machineKey, message.addresses);
        return;
      case 'show':
        if (this.#isMain) this.members.sendStreams(message.from, message.request, this.#local.views());
        return;
      case 'shown':
        this.members.receiveStreams(message);
        return;
      case 'sever':
        this.#local.sever(message.id);
        return;
      case 'here':
        return;
      default:
        message satisfies never;
    }
  }

  get name(): string {
    return this.#options.name;
  }

  /** Lets others see our streams, and sever them. */
  share(local: LocalStreams): void {
    this.#local = local;
  }

  /** @returns the streams of all other replicas that answer, as `/streams` shows them. */
  remoteStreams(): Promise<readonly object[]> {
    return this.#options.link.isUp ? this.members.streams() : Promise.resolve([]);
  }

  /** @returns the machine keys that have a session on another replica that answers. */
  async remoteKeys(): Promise<ReadonlySet<MachineKey>> {
    return sessionKeysOf(await this.remoteStreams());
  }

  /** Asks another replica to sever one of its streams. @returns whether that replica is there. */
  sever(replica: string, id: StreamId): boolean {
    if (!this.members.has(replica)) return false;
    this.#options.link.send({ kind: 'sever', from: this.#options.name, id }, replica);
    return true;
  }

  get isUp(): boolean {
    return this.#options.link.isUp;
  }

  /** Whether this replica acts for all where one is enough. For a moment several may say so, or none. */
  get isFirst(): boolean {
    return this.#isMain && this.members.isFirst;
  }

  /** Redis is up, perhaps after an outage, and may have forgotten this replica. */
  joined(): void {
    const { link, name } = this.#options;
    this.members.heardFromAll();
    if (this.#isMain) {
      link.renewLease().catch(() => {});
      link.send({ kind: 'here', from: name });
    }
    this.#announcements.announceAll();
  }

  /**
   * Has a replica judge its older streams of a newcomer's node, and tells it the newcomer's present state.
   *
   * @param askedAt copied from the `ask` message that this answers.
   */
  #challenge(newcomer: Stream, replica: string, askedAt?: number): void {
    const report = this.#report(newcomer);
    if (report === undefined || !isLive(newcomer)) return;
    this.#announcements.of(newcomer.id)?.judges.add(replica);
    this.#options.link.send({ kind: 'contest', from: this.#options.name, newcomer: report, askedAt }, replica);
  }

  #ask(machineKey: MachineKey, replica: string, inTurn: boolean): void {
    const { link, clock, name: from } = this.#options;
    link.send({ kind: 'ask', from, machineKey, askedAt: clock.now(), inTurn }, replica);
  }

  #answer({ from, machineKey, askedAt, inTurn }: Extract<Message, { readonly kind: 'ask' }>): void {
    const newest = this.#liveHere(machineKey).slice(-MAX_STREAMS_PER_ANSWER);
    for (const stream of newest) this.#challenge(stream, from, askedAt);
    if (inTurn && newest.length > 0) this.#ask(machineKey, from, false);
  }

  #liveHere(machineKey: MachineKey): readonly Stream[] {
    const streams = this.#options.registry.ofMachineKey(machineKey);
    return streams.filter((stream) => isLive(stream) && !this.#handedOver.has(stream));
  }

  #updateJudges(stream: Stream): void {
    for (const judge of this.#announcements.of(stream.id)?.judges ?? []) this.#challenge(stream, judge);
  }

  #report(stream: Stream): StreamReport | undefined {
    const { id, machineKey, address, remoteAddress, heardAt, firstRecordAt } = stream;
    const { order, ...age } = this.#seniorityOf(stream);
    if (order === undefined || machineKey === undefined) return undefined;
    const now = this.#options.clock.now();
    return {
      ...{ id, machineKey, address, remoteAddress, order, ...age, heardAgoMs: now - heardAt },
      firstRecordAgoMs: firstRecordAt === undefined ? undefined : now - firstRecordAt,
    };
  }

  #seniorityOf(stream: Stream): Seniority {
    const announcement = this.#announcements.of(stream.id);
    return { order: announcement?.order, ...this.#ages.of(stream, announcement?.beganAt) };
  }

  async #renew(): Promise<void> {
    const { link, registry, name } = this.#options;
    this.#ages.checkClock();
    this.#newcomers.forgetStale();
    // Without Redis nobody is heard.
    const gone = link.isUp && this.#isMain ? this.members.forgetGone() : [];
    if (this.#isMain) link.send({ kind: 'here', from: name });
    for (const [replica, lastHeardAt] of gone) this.#tellGone(replica, lastHeardAt).catch(() => {});
    for (const id of this.#announcements.judged()) {
      const stream = registry.get(id);
      if (stream !== undefined) this.#updateJudges(stream);
    }
    this.#announcements.refreshOld();
    if (link.isUp && this.#isMain && !(await link.renewLease())) this.joined();
  }

  /** Messages may get lost, so only a lease that is over shows that a replica is gone. */
  async #tellGone(replica: string, lastHeardAt: Instant): Promise<void> {
    const { link, emit } = this.#options;
    if (link.isUp && !(await link.isAlive(replica))) emit({ kind: 'replica_gone', replica, lastHeardAt });
  }

  /** Repeats until `close`. Errors come from Redis, and the link's `changed` event reports those. */
  #every(ms: number, act: () => Promise<void>): void {
    const slot = this.#timers.length;
    const again = (): void => {
      const timers = [...this.#timers];
      timers[slot] = this.#options.clock.after(ms, () => {
        again();
        act().catch(() => {});
      });
      this.#timers = timers;
    };
    again();
  }
}

/**
 * Joins the other watchdogs that use the same Redis. Import this module dynamically: it loads ioredis.
 *
 * @throws StartError when a file that the settings name cannot be used.
 */
export function openReplicas(
  options: Omit<ReplicasOptions, 'name' | 'link' | 'isSuccessor'> &
    Pick<RedisLinkOptions, 'noiseKey'> & {
      /** The name of the process to take over from. The other watchdogs see one member that goes on. */
      readonly predecessor?: string | undefined;
    },
  settings: RedisSettings,
): Replicas {
  const { clock, emit, noiseKey, predecessor } = options;
  const url = formatRedisUrl(settings.url);
  const isSuccessor = predecessor?.startsWith(`${settings.replicaName}#`) === true;
  // Otherwise unique for each start: what an earlier process of the same name left in Redis does not belong to this one.
  const name = isSuccessor ? predecessor : `${settings.replicaName}#${randomBytes(3).toString('hex')}`;
  let reportForgedAt = clock.now();
  const link = new RedisLink({
    ...{ clock, name, noiseKey, target: redisTargetOf(settings) },
    heard: (message) => replicas.heard(message),
    forged: () => {
      if (clock.now() < reportForgedAt) return;
      reportForgedAt = plus(clock.now(), REPORT_FORGED_EVERY_MS);
      emit({ kind: 'replica_message_rejected', url });
    },
    changed: (isUp, reason) => {
      if (isUp) replicas.joined();
      replicas.settle();
      emit(isUp ? { kind: 'redis_up', url } : { kind: 'redis_down', url, detail: reason ?? 'it does not answer' });
    },
  });
  const replicas: Replicas = new Replicas({ ...options, name, link, isSuccessor });
  replicas.start();
  return replicas;
}
