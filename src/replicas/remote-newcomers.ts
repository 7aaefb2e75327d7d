import type { MachineKey } from '../identity/keys.ts';
import { type Clock, type Instant, plus } from '../lib/clock.ts';
import type { Registry } from '../streams/registry.ts';
import { isLive, type Stream, type StreamId, setState } from '../streams/stream.ts';
import type { Takeover } from '../takeover/takeover.ts';
import { RENEW_EVERY_MS } from './link.ts';
import type { Message, StreamReport } from './messages.ts';
import { isNewer, type Seniority } from './order.ts';

/** A newcomer without a report for this long counts as gone, and no longer severs anything. */
const STALE_MS = 3 * RENEW_EVERY_MS;
/** How long a newcomer counts as present after its replica has confirmed it. */
const CONFIRMED_FOR_MS = 1000;

type AboutNewcomer = Extract<Message, { readonly kind: 'contest' | 'left' }>;
type Unsigned<M> = M extends Message ? Omit<M, 'from'> : never;

interface RemoteNewcomersOptions {
  readonly clock: Clock;
  readonly registry: Registry;
  readonly takeover: Takeover;
  /** Returns how old one of our streams is. */
  seniorityOf(stream: Stream): Seniority;
  /** Asks a replica for a new report on its streams of this node: see the `ask` message. */
  ask(machineKey: MachineKey, replica: string): void;
  send(message: Unsigned<Message>, to: string): void;
  /** Whether another process of this replica may have streams of the newcomer's node. */
  isShared(): boolean;
}

/** Another replica's newcomer that contests old streams of ours. */
interface RemoteNewcomer {
  readonly stream: Stream;
  readonly from: string;
  /** Our streams that are older than this one. */
  readonly older: Set<Stream>;
  reportedAt: Instant;
  /** The latest moment at which it was certainly still there. */
  confirmedAt: Instant | undefined;
  askedAt: Instant | undefined;
  isCleared: boolean;
}

/** Other replicas' newcomers that contest old streams of ours. Each takes part in the takeover like one of our own. */
export class RemoteNewcomers {
  readonly #options: RemoteNewcomersOptions;
  readonly #newcomers = new Map<string, RemoteNewcomer>();

  constructor(options: RemoteNewcomersOptions) {
    this.#options = options;
  }

  has(from: string, id: StreamId): boolean {
    return this.#newcomers.has(keyOf(from, id));
  }

  heard(message: AboutNewcomer): void {
    const { from } = message;
    if (message.kind === 'left') {
      const remote = this.#newcomers.get(keyOf(from, message.id));
      if (remote !== undefined) this.#end(remote);
      return;
    }
    const now = this.#options.clock.now();
    // This is an instant of our own clock: the other replica sent it back unchanged.
    const askedAt = message.askedAt === undefined || message.askedAt > now ? undefined : (message.askedAt as Instant);
    const remote = this.#newcomers.get(keyOf(from, message.newcomer.id));
    if (remote === undefined) this.#admit(from, message.newcomer, askedAt);
    else this.#update(remote, message.newcomer, askedAt);
  }

  /** To be called for every contest that ends. */
  contestEnded({ id, replica }: Stream): void {
    const remote = replica === undefined ? undefined : this.#newcomers.get(keyOf(replica, id));
    if (remote !== undefined) this.#retire(remote);
  }

  forgetStale(): void {
    const oldest = this.#options.clock.now() - STALE_MS;
    for (const remote of [...this.#newcomers.values()]) if (remote.reportedAt < oldest) this.#end(remote);
  }

  close(): void {
    for (const remote of [...this.#newcomers.values()]) this.#end(remote);
  }

  #admit(from: string, report: StreamReport, askedAt: Instant | undefined): void {
    const { clock, takeover, send, ask } = this.#options;
    const { older, isInDoubt } = this.#olderThan(report, askedAt);
    if (isInDoubt && askedAt === undefined) {
      ask(report.machineKey, from);
      // The answer to `ask` reports it again.
      if (older.length === 0) return;
    }
    const now = clock.now();
    const stream = streamOf(from, report, now);
    const remote: RemoteNewcomer = {
      ...{ stream, from, older: new Set(older), isCleared: false },
      ...{ reportedAt: now, confirmedAt: askedAt, askedAt: undefined },
    };
    this.#newcomers.set(keyOf(from, report.id), remote);
    const clear = (): void => {
      remote.isCleared = true;
      const verdict = [...remote.older].some(isLive) ? 'answered' : 'ended';
      send({ kind: 'clear', id: report.id, verdict }, from);
      this.#retire(remote);
    };
    const member = {
      ...{ stream, evidence: () => undefined, probe() {}, stopProbing() {}, sever() {}, forward: clear },
      isThere: () => this.#isThere(remote),
    };
    takeover.admit(member, [], (old) => remote.older.has(old));
    this.#retire(remote);
  }

  #update(remote: RemoteNewcomer, report: StreamReport, askedAt: Instant | undefined): void {
    const { clock, takeover } = this.#options;
    const now = clock.now();
    const { stream, older } = remote;
    remote.reportedAt = now;
    if (askedAt !== undefined && (remote.confirmedAt ?? askedAt) <= askedAt) remote.confirmedAt = askedAt;
    stream.heardAt = plus(now, -report.heardAgoMs);
    if (stream.firstRecordAt === undefined && report.firstRecordAgoMs !== undefined) {
      stream.firstRecordAt = plus(now, -report.firstRecordAgoMs);
    }
    const before = older.size;
    for (const old of this.#olderThan(report, askedAt).older) older.add(old);
    if (older.size > before) takeover.contestAlso(stream, (old) => older.has(old));
    takeover.firstRecord(stream);
  }

  /**
   * Whether the newcomer is certainly still there. The message about its end may have been lost, and severing the old stream
   * would then leave the node with no stream at all. If it is not certain, this asks the replica; its answer leads to a new judgement.
   */
  #isThere(remote: RemoteNewcomer): boolean {
    const { clock, ask } = this.#options;
    const { stream, from, confirmedAt, askedAt } = remote;
    const now = clock.now();
    if (confirmedAt !== undefined && now - confirmedAt <= CONFIRMED_FOR_MS) return true;
    if (stream.machineKey === undefined || (askedAt !== undefined && now - askedAt < CONFIRMED_FOR_MS)) return false;
    remote.askedAt = now;
    ask(stream.machineKey, from);
    return false;
  }

  /** Finds our streams that are certainly older. Those in doubt are left out. */
  #olderThan(report: StreamReport, askedAt: Instant | undefined) {
    const { registry, seniorityOf, clock } = this.#options;
    const roundTripMs = askedAt === undefined ? undefined : clock.now() - askedAt;
    const older: Stream[] = [];
    let isInDoubt = false;
    for (const stream of registry.ofMachineKey(report.machineKey).filter(isLive)) {
      const newer = isNewer(report, roundTripMs, seniorityOf(stream));
      if (newer === true) older.push(stream);
      isInDoubt ||= newer === undefined;
    }
    return { older, isInDoubt };
  }

  /** Drops a newcomer that contests nothing and waits for nothing any more. */
  #retire(remote: RemoteNewcomer): void {
    const { takeover, send, isShared } = this.#options;
    if (!remote.isCleared || takeover.contestsOf(remote.stream).length > 0) return;
    // The other process may still need to hear about it. Its replica reports it again and again, until a later `over`.
    if (this.#end(remote) && !isShared()) send({ kind: 'over', id: remote.stream.id }, remote.from);
  }

  /** @returns whether it was still known. */
  #end({ stream, from }: RemoteNewcomer): boolean {
    if (!this.#newcomers.delete(keyOf(from, stream.id))) return false;
    setState(stream, { kind: 'closing', reason: 'client_closed' });
    this.#options.takeover.streamEnding(stream, 'client_closed');
    this.#options.takeover.upstreamClosed(stream);
    setState(stream, { kind: 'closed', reason: 'client_closed' });
    return true;
  }
}

function keyOf(replica: string, id: StreamId): string {
  return `${replica}/${id}`;
}

function streamOf(replica: string, report: StreamReport, now: Instant): Stream {
  const { id, machineKey, address, remoteAddress, firstRecordAgoMs } = report;
  return {
    ...{ id, machineKey, address, remoteAddress, replica, kind: 'control' },
    openedAt: plus(now, -report.openedAgoMs),
    heardAt: plus(now, -report.heardAgoMs),
    spokenAt: undefined,
    firstRecordAt: firstRecordAgoMs === undefined ? undefined : plus(now, -firstRecordAgoMs),
    ...{ bytesReceived: 0, bytesSent: 0, state: { kind: 'connecting' }, wouldSever: undefined },
  };
}
