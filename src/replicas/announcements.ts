import type { MachineKey } from '../identity/keys.ts';
import { type Clock, type Instant, plus } from '../lib/clock.ts';
import { hasFields, type JsonFields } from '../lib/json.ts';
import type { Arrival, Arriving } from '../streams/directory.ts';
import type { Registry } from '../streams/registry.ts';
import { isLive, type Stream, type StreamId } from '../streams/stream.ts';
import type { Link } from './link.ts';
import type { Order } from './order.ts';

/** How often streams are announced that Redis does not know yet, and withdrawn that have ended. */
export const CATCH_UP_EVERY_MS = 1000;
/** Announced in one batch. A larger one would keep newcomers waiting. */
const CATCH_UP_BATCH = 200;
/** Redis forgets a node after a day without an announcement. */
const ANNOUNCE_AGAIN_AFTER_MS = 6 * 3_600_000;
/** More ended streams than this stay in Redis, for a day or until a newcomer of their node finds nobody there. */
const MAX_TO_WITHDRAW = 10_000;

/** What Redis knows about one of our streams. */
interface Announcement {
  /** Undefined until Redis has answered. */
  order: Order | undefined;
  /** Whether Redis has this stream, as far as we know. */
  isWritten: boolean;
  /** When it was first announced: on arrival, or later. */
  readonly beganAt: Instant;
  writtenAt: Instant;
  /** The replicas that judge older streams of its node. */
  readonly judges: Set<string>;
}

interface AnnouncementsOptions {
  readonly clock: Clock;
  readonly link: Link;
  readonly registry: Registry;
  /** Another replica also has streams of this node, and ours was announced late: which is older is still to be found out. */
  meet(machineKey: MachineKey, replica: string): void;
}

/** Keeps Redis up to date about our streams. */
export class Announcements {
  readonly #options: AnnouncementsOptions;
  readonly #announced = new Map<StreamId, Announcement>();
  readonly #toWithdraw = new Map<StreamId, MachineKey>();
  #catchingUp = false;

  constructor(options: AnnouncementsOptions) {
    this.#options = options;
  }

  of(id: StreamId): Announcement | undefined {
    return this.#announced.get(id);
  }

  /** The streams for which other replicas judge older ones. */
  judged(): readonly StreamId[] {
    return [...this.#announced].filter(([, { judges }]) => judges.size > 0).map(([id]) => id);
  }

  /** Announces a newcomer, and reads what other replicas know about it. Rejects when Redis does not answer in time. */
  async announceNewcomer({ id, machineKey, ephemeral }: Arriving): Promise<Arrival> {
    const { link } = this.#options;
    // From here on Redis may have the stream, even if its answer gets lost.
    const announcement = this.#announcement(id);
    const [{ order, others }, replayed] = await Promise.all([
      link.announce(machineKey, id, 'arriving'),
      link.hasSeen(ephemeral),
    ]);
    if (replayed) {
      this.withdraw(machineKey, id);
      return { replayed, elsewhere: [] };
    }
    this.#markWritten(announcement, order);
    return { replayed, elsewhere: await this.#replicasToContest(announcement, machineKey, others) };
  }

  /** @returns the replicas that judged older streams of its node. */
  withdraw(machineKey: MachineKey, id: StreamId): readonly string[] {
    const announcement = this.#announced.get(id);
    if (announcement === undefined) return [];
    this.#announced.delete(id);
    void this.#remove(machineKey, id);
    return [...announcement.judges];
  }

  /** What another process of this replica needs to go on with a stream that Redis has. */
  handOver(id: StreamId): JsonFields | undefined {
    const { order, isWritten, beganAt, judges } = this.#announced.get(id) ?? {};
    if (order === undefined || isWritten !== true || beganAt === undefined) return undefined;
    return { order, judges: [...(judges ?? [])], beganAgoMs: this.#options.clock.now() - beganAt };
  }

  /** Goes on with a stream that Redis has. Without an order it will be announced late. */
  takeOver(id: StreamId, known: JsonFields): void {
    const { epoch, place, isExact } = hasFields(known.order) ? known.order : ({} as JsonFields);
    if (typeof epoch !== 'string' || typeof place !== 'number' || typeof isExact !== 'boolean') return;
    const now = this.#options.clock.now();
    const judges = Array.isArray(known.judges) ? known.judges.filter((each) => typeof each === 'string') : [];
    this.#announced.set(id, {
      ...{ order: { epoch, place, isExact }, isWritten: true, writtenAt: now, judges: new Set(judges) },
      beganAt: plus(now, typeof known.beganAgoMs === 'number' ? -known.beganAgoMs : 0),
    });
  }

  /** Announces every stream again: Redis may have forgotten them. */
  announceAll(): void {
    for (const announcement of this.#announced.values()) announcement.isWritten = false;
    this.catchUp().catch(() => {});
  }

  /** Marks streams that were announced long ago to be announced again. */
  refreshOld(): void {
    const longAgo = this.#options.clock.now() - ANNOUNCE_AGAIN_AFTER_MS;
    for (const announcement of this.#announced.values()) {
      if (announcement.writtenAt < longAgo) announcement.isWritten = false;
    }
  }

  /** Withdraws streams that ended while Redis was down, and announces those that it does not know. */
  async catchUp(): Promise<void> {
    const { registry, link } = this.#options;
    if (!link.isUp || this.#catchingUp) return;
    this.#catchingUp = true;
    try {
      const ended = [...this.#toWithdraw].slice(0, CATCH_UP_BATCH);
      await Promise.all(ended.map(([id, machineKey]) => this.#remove(machineKey, id)));
      const unknown: Stream[] = [];
      for (const stream of registry.all()) {
        const isKnown = this.#announced.get(stream.id)?.isWritten === true;
        if (stream.machineKey !== undefined && isLive(stream) && !isKnown) unknown.push(stream);
        if (unknown.length === CATCH_UP_BATCH) break;
      }
      await Promise.all(unknown.map((stream) => this.#announceLate(stream)));
    } finally {
      this.#catchingUp = false;
    }
  }

  async #announceLate({ id, machineKey }: Stream): Promise<void> {
    const { link, meet } = this.#options;
    if (machineKey === undefined) return;
    const announcement = this.#announcement(id);
    const { order, others } = await link.announce(machineKey, id, 'later', announcement.order);
    // The stream has ended meanwhile, and its withdrawal follows the announcement.
    if (this.#announced.get(id) !== announcement) return;
    this.#markWritten(announcement, order);
    for (const replica of await this.#replicasToContest(announcement, machineKey, others)) meet(machineKey, replica);
  }

  /** @returns the replicas to contest. If Redis does not answer, the stream will be announced again. */
  async #replicasToContest(announcement: Announcement, machineKey: MachineKey, others: readonly string[]) {
    try {
      return await this.#alive(machineKey, others);
    } catch (error) {
      announcement.isWritten = false;
      throw error;
    }
  }

  async #remove(machineKey: MachineKey, id: StreamId): Promise<void> {
    try {
      await this.#options.link.withdraw(machineKey, id);
      this.#toWithdraw.delete(id);
    } catch {
      if (this.#toWithdraw.size < MAX_TO_WITHDRAW) this.#toWithdraw.set(id, machineKey);
    }
  }

  #announcement(id: StreamId): Announcement {
    const found = this.#announced.get(id);
    if (found !== undefined) return found;
    const now = this.#options.clock.now();
    const made = { order: undefined, isWritten: false, beganAt: now, writtenAt: now, judges: new Set<string>() };
    this.#announced.set(id, made);
    return made;
  }

  #markWritten(announcement: Announcement, order: Order): void {
    Object.assign(announcement, { order, isWritten: true, writtenAt: this.#options.clock.now() });
  }

  /** @returns the replicas that are alive. What the others left in Redis is removed. */
  async #alive(machineKey: MachineKey, replicas: readonly string[]): Promise<readonly string[]> {
    const { link } = this.#options;
    const asked = replicas.map(async (replica) => ({ replica, isAlive: await link.isAlive(replica) }));
    const answers = await Promise.all(asked);
    for (const { replica, isAlive } of answers) if (!isAlive) link.forget(machineKey, replica).catch(() => {});
    return answers.filter(({ isAlive }) => isAlive).map(({ replica }) => replica);
  }
}
