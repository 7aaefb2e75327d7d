import type { MachineKey } from '../identity/keys.ts';
import type { Clock, Instant } from '../lib/clock.ts';
import type { Arrival, Arriving } from '../streams/directory.ts';
import type { Registry } from '../streams/registry.ts';
import { isLive, type Stream, type StreamId } from '../streams/stream.ts';
import type { Link } from './link.ts';
import type { Order } from './order.ts';

/** How often is looked after streams that Redis does not know yet, and those that it should know no more. */
export const CATCH_UP_EVERY_MS = 1000;
/** Announced in one go, so that newcomers need not wait behind thousands. */
const CATCH_UP_AT_ONCE = 200;
/** Redis forgets a node whose streams were not announced for a day. */
const ANNOUNCE_AGAIN_MS = 6 * 3_600_000;
/** Beyond that they stay in Redis until a newcomer of their node finds nobody there, or for a day. */
const MOST_TO_WITHDRAW = 10_000;

/** One of our streams, as far as Redis has to do with it. */
interface Announcement {
  /** Undefined until Redis has answered. */
  order: Order | undefined;
  /** As far as we know, Redis has it. */
  isWritten: boolean;
  /** When it was first announced: as it arrived, or later. */
  readonly beganAt: Instant;
  writtenAt: Instant;
  /** The replicas that judge its node's older streams. */
  readonly judges: Set<string>;
}

export interface AnnouncementsOptions {
  readonly clock: Clock;
  readonly link: Link;
  readonly registry: Registry;
  /** Another replica has streams of this node too, and one of ours was announced late: who is older is yet to be found out. */
  meet(machineKey: MachineKey, replica: string): void;
}

/** Which of our streams Redis knows. */
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

  /** Those whose node's older streams others judge. */
  judged(): readonly StreamId[] {
    return [...this.#announced].filter(([, { judges }]) => judges.size > 0).map(([id]) => id);
  }

  /** Announces a newcomer, and reads what is known of it elsewhere. Rejects when Redis does not answer in time. */
  async ask({ id, machineKey, ephemeral }: Arriving): Promise<Arrival> {
    const { link } = this.#options;
    // Redis may have it from here on, whether its answer comes or not.
    const announcement = this.#announcement(id);
    const [{ order, others }, replayed] = await Promise.all([
      link.announce(machineKey, id, 'arriving'),
      link.hasSeen(ephemeral),
    ]);
    if (replayed) {
      this.withdraw(machineKey, id);
      return { replayed, elsewhere: [] };
    }
    this.#note(announcement, order);
    return { replayed, elsewhere: await this.#contested(announcement, machineKey, others) };
  }

  /** @returns who judged its node's older streams. */
  withdraw(machineKey: MachineKey, id: StreamId): readonly string[] {
    const announcement = this.#announced.get(id);
    if (announcement === undefined) return [];
    this.#announced.delete(id);
    void this.#remove(machineKey, id);
    return [...announcement.judges];
  }

  /** Redis may know nothing of us. */
  beginAnew(): void {
    for (const announcement of this.#announced.values()) announcement.isWritten = false;
    this.catchUp().catch(() => {});
  }

  /** What was announced long ago will be announced again. */
  renewOld(): void {
    const longAgo = this.#options.clock.now() - ANNOUNCE_AGAIN_MS;
    for (const announcement of this.#announced.values()) {
      if (announcement.writtenAt < longAgo) announcement.isWritten = false;
    }
  }

  /** Withdraws what ended while Redis was away, and announces the streams that it does not know. */
  async catchUp(): Promise<void> {
    const { registry, link } = this.#options;
    if (!link.isUp || this.#catchingUp) return;
    this.#catchingUp = true;
    try {
      const ended = [...this.#toWithdraw].slice(0, CATCH_UP_AT_ONCE);
      await Promise.all(ended.map(([id, machineKey]) => this.#remove(machineKey, id)));
      const unknown: Stream[] = [];
      for (const stream of registry.all()) {
        const isKnown = this.#announced.get(stream.id)?.isWritten === true;
        if (stream.machineKey !== undefined && isLive(stream) && !isKnown) unknown.push(stream);
        if (unknown.length === CATCH_UP_AT_ONCE) break;
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
    // It has ended meanwhile, and was withdrawn behind the announcement.
    if (this.#announced.get(id) !== announcement) return;
    this.#note(announcement, order);
    for (const replica of await this.#contested(announcement, machineKey, others)) meet(machineKey, replica);
  }

  /** Who is to be contested. Where that cannot be found out now, the stream is announced again later. */
  async #contested(announcement: Announcement, machineKey: MachineKey, others: readonly string[]) {
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
      if (this.#toWithdraw.size < MOST_TO_WITHDRAW) this.#toWithdraw.set(id, machineKey);
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

  #note(announcement: Announcement, order: Order): void {
    Object.assign(announcement, { order, isWritten: true, writtenAt: this.#options.clock.now() });
  }

  /** Those of the replicas that are there; what the others left behind is taken out. */
  async #alive(machineKey: MachineKey, replicas: readonly string[]): Promise<readonly string[]> {
    const { link } = this.#options;
    const asked = replicas.map(async (replica) => ({ replica, isAlive: await link.isAlive(replica) }));
    const answers = await Promise.all(asked);
    for (const { replica, isAlive } of answers) if (!isAlive) link.forget(machineKey, replica).catch(() => {});
    return answers.filter(({ isAlive }) => isAlive).map(({ replica }) => replica);
  }
}
