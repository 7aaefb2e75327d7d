import type { Clock, Instant } from '../clock.ts';
import type { MachineKey } from '../identity/keys.ts';
import type { Arrival, Arriving } from '../streams/directory.ts';
import type { Registry } from '../streams/registry.ts';
import { isLive, type Stream, type StreamId } from '../streams/stream.ts';
import type { Announced, Link } from './link.ts';

/** How often is looked after streams that Redis does not know yet. */
export const CATCH_UP_EVERY_MS = 1000;
/** Announced in one go, so that newcomers need not wait behind thousands. */
const CATCH_UP_AT_ONCE = 200;
/** Redis forgets a node whose streams were not announced for a day. */
const ANNOUNCE_AGAIN_MS = 6 * 3_600_000;

/** What Redis knows of one of our streams. */
interface Known {
  readonly order: number;
  readonly at: Instant;
  /** The replicas that judge its node's older streams. */
  readonly judges: Set<string>;
}

export interface AnnouncementsParts {
  readonly clock: Clock;
  readonly link: Link;
  readonly registry: Registry;
  /** Another replica has an older stream of its node. */
  older(stream: Stream, replica: string): void;
  /** Another replica has a newer stream of that node than ours, which is of this order. */
  newer(machineKey: MachineKey, order: number, replica: string): void;
}

/** Which of our streams Redis knows. */
export class Announcements {
  readonly #parts: AnnouncementsParts;
  readonly #known = new Map<StreamId, Known>();
  #catchingUp = false;

  constructor(parts: AnnouncementsParts) {
    this.#parts = parts;
  }

  of(id: StreamId): Known | undefined {
    return this.#known.get(id);
  }

  /** Those whose node's older streams others judge. */
  judged(): readonly StreamId[] {
    return [...this.#known].filter(([, { judges }]) => judges.size > 0).map(([id]) => id);
  }

  /** Announces a newcomer, and reads what is known of it elsewhere. Rejects when Redis does not answer in time. */
  async ask({ id, machineKey, ephemeral }: Arriving): Promise<Arrival> {
    const { link } = this.#parts;
    const [announced, replayed] = await Promise.all([link.announce(machineKey, id, 0), link.hasSeen(ephemeral)]);
    if (replayed) {
      await link.withdraw(machineKey, id);
      return { replayed, elsewhere: [] };
    }
    this.#know(id, announced);
    const older = announced.others.filter(({ order }) => order <= announced.order).map(({ replica }) => replica);
    return { replayed, elsewhere: await this.#alive(machineKey, older) };
  }

  /** @returns who judged its node's older streams. */
  withdraw(machineKey: MachineKey, id: StreamId): readonly string[] {
    const known = this.#known.get(id);
    if (known === undefined) return [];
    this.#known.delete(id);
    // Where Redis is away, the lease or the next newcomer will tell that it is gone.
    this.#parts.link.withdraw(machineKey, id).catch(() => {});
    return [...known.judges];
  }

  /** Redis may know nothing of us. */
  beginAnew(): void {
    this.#known.clear();
    this.catchUp().catch(() => {});
  }

  /** What was announced long ago will be announced again. */
  forgetOld(): void {
    const longAgo = this.#parts.clock.now() - ANNOUNCE_AGAIN_MS;
    for (const [id, { at, judges }] of this.#known) if (at < longAgo && judges.size === 0) this.#known.delete(id);
  }

  /** Announces the streams that Redis does not know: opened while it was away, or forgotten by it. */
  async catchUp(): Promise<void> {
    const { registry, link } = this.#parts;
    if (!link.isUp || this.#catchingUp) return;
    this.#catchingUp = true;
    try {
      const unknown: Stream[] = [];
      for (const stream of registry.all()) {
        if (stream.machineKey !== undefined && isLive(stream) && !this.#known.has(stream.id)) unknown.push(stream);
        if (unknown.length === CATCH_UP_AT_ONCE) break;
      }
      await Promise.all(unknown.map((stream) => this.#announceLate(stream)));
    } finally {
      this.#catchingUp = false;
    }
  }

  /** Of two replicas that were cut off from each other each may have a stream of one node: the newer one contests the older. */
  async #announceLate(stream: Stream): Promise<void> {
    const { clock, link, older, newer } = this.#parts;
    const { id, machineKey } = stream;
    if (machineKey === undefined) return;
    const announced = await link.announce(machineKey, id, clock.now() - stream.openedAt);
    if (!isLive(stream)) {
      await link.withdraw(machineKey, id);
      return;
    }
    this.#know(id, announced);
    const { order, others } = announced;
    const named = others.map(({ replica }) => replica);
    const alive = new Set(await this.#alive(machineKey, named));
    for (const other of others) {
      if (!alive.has(other.replica)) continue;
      if (other.order <= order) older(stream, other.replica);
      else newer(machineKey, order, other.replica);
    }
  }

  #know(id: StreamId, { order }: Announced): void {
    this.#known.set(id, { order, at: this.#parts.clock.now(), judges: new Set() });
  }

  /** Those of the replicas that are there; what the others left behind is taken out. */
  async #alive(machineKey: MachineKey, replicas: readonly string[]): Promise<readonly string[]> {
    const { link } = this.#parts;
    const asked = [...new Set(replicas)].map(async (replica) => ({ replica, isAlive: await link.isAlive(replica) }));
    const answers = await Promise.all(asked);
    for (const { replica, isAlive } of answers) if (!isAlive) link.forget(machineKey, replica).catch(() => {});
    return answers.filter(({ isAlive }) => isAlive).map(({ replica }) => replica);
  }
}
