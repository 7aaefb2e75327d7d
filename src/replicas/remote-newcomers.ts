import type { MachineKey } from '../identity/keys.ts';
import { type Clock, type Instant, plus } from '../lib/clock.ts';
import type { Registry } from '../streams/registry.ts';
import { isLive, type Stream, type StreamId, setState } from '../streams/stream.ts';
import type { Takeover } from '../takeover/takeover.ts';
import { RENEW_EVERY_MS } from './link.ts';
import type { Message, StreamReport } from './messages.ts';
import { isNewer, type Seniority } from './order.ts';

/** A newcomer of which nothing was heard for so long is taken for gone, and severs nobody any more. */
const STALE_MS = 3 * RENEW_EVERY_MS;
/** What its replica has told of it since is what it is now: it is still there. */
const CONFIRMED_FOR_MS = 1000;

type AboutNewcomer = Extract<Message, { readonly kind: 'contest' | 'left' }>;
type Unsigned<M> = M extends Message ? Omit<M, 'from'> : never;

export interface RemoteNewcomersOptions {
  readonly clock: Clock;
  readonly registry: Registry;
  readonly takeover: Takeover;
  /** Of a stream of ours. */
  seniorityOf(stream: Stream): Seniority;
  /** Has a replica tell anew of its streams of this node: see `ask`. */
  ask(machineKey: MachineKey, replica: string): void;
  say(message: Unsigned<Message>, to: string): void;
}

/** Another replica's newcomer, as far as our old streams have to do with it. */
interface RemoteNewcomer {
  readonly stream: Stream;
  readonly from: string;
  /** Our streams that are older than it. */
  readonly older: Set<Stream>;
  heardOfAt: Instant;
  /** It was there at this moment, or later. */
  confirmedAt: Instant | undefined;
  askedAt: Instant | undefined;
  isCleared: boolean;
}

/** Other replicas' newcomers that contest old streams of ours. Each is let into the takeover like one of our own. */
export class RemoteNewcomers {
  readonly #options: RemoteNewcomersOptions;
  readonly #newcomers = new Map<string, RemoteNewcomer>();

  constructor(options: RemoteNewcomersOptions) {
    this.#options = options;
  }

  heard(message: AboutNewcomer): void {
    const { from } = message;
    if (message.kind === 'left') {
      const remote = this.#newcomers.get(keyOf(from, message.id));
      if (remote !== undefined) this.#end(remote);
      return;
    }
    const now = this.#options.clock.now();
    // A moment of our own clock, which came back to us.
    const askedAt = message.askedAt === undefined || message.askedAt > now ? undefined : (message.askedAt as Instant);
    const remote = this.#newcomers.get(keyOf(from, message.newcomer.id));
    if (remote === undefined) this.#admit(from, message.newcomer, askedAt);
    else this.#update(remote, message.newcomer, askedAt);
  }

  /** Called for every contest that ends. */
  contestEnded({ id, replica }: Stream): void {
    const remote = replica === undefined ? undefined : this.#newcomers.get(keyOf(replica, id));
    if (remote !== undefined) this.#retire(remote);
  }

  forgetStale(): void {
    const oldest = this.#options.clock.now() - STALE_MS;
    for (const remote of [...this.#newcomers.values()]) if (remote.heardOfAt < oldest) this.#end(remote);
  }

  close(): void {
    for (const remote of [...this.#newcomers.values()]) this.#end(remote);
  }

  #admit(from: string, told: StreamReport, askedAt: Instant | undefined): void {
    const { clock, takeover, say, ask } = this.#options;
    const { older, isInDoubt } = this.#olderThan(told, askedAt);
    if (isInDoubt && askedAt === undefined) {
      ask(told.machineKey, from);
      // It comes again with the answer.
      if (older.length === 0) return;
    }
    const now = clock.now();
    const stream = streamOf(from, told, now);
    const remote: RemoteNewcomer = {
      ...{ stream, from, older: new Set(older), isCleared: false },
      ...{ heardOfAt: now, confirmedAt: askedAt, askedAt: undefined },
    };
    this.#newcomers.set(keyOf(from, told.id), remote);
    const clear = (): void => {
      remote.isCleared = true;
      const verdict = [...remote.older].some(isLive) ? 'answered' : 'ended';
      say({ kind: 'clear', id: told.id, verdict }, from);
      this.#retire(remote);
    };
    const member = {
      ...{ stream, evidence: () => undefined, probe() {}, endProbes() {}, sever() {}, forward: clear },
      isThere: () => this.#isThere(remote),
    };
    takeover.admit(member, [], (old) => remote.older.has(old));
    this.#retire(remote);
  }

  #update(remote: RemoteNewcomer, told: StreamReport, askedAt: Instant | undefined): void {
    const { clock, takeover } = this.#options;
    const now = clock.now();
    const { stream, older } = remote;
    remote.heardOfAt = now;
    if (askedAt !== undefined && (remote.confirmedAt ?? askedAt) <= askedAt) remote.confirmedAt = askedAt;
    stream.heardAt = plus(now, -told.heardAgoMs);
    if (stream.firstRecordAt === undefined && told.firstRecordAgoMs !== undefined) {
      stream.firstRecordAt = plus(now, -told.firstRecordAgoMs);
    }
    const before = older.size;
    for (const old of this.#olderThan(told, askedAt).older) older.add(old);
    if (older.size > before) takeover.contestMore(stream, (old) => older.has(old));
    takeover.recorded(stream);
  }

  /**
   * Whether it is known to be there still. What told that it has ended may have been lost, and the stream that would be
   * severed for it may be all that its node has. Where it is not known, its replica is asked, and it is judged anew then.
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

  /** What is in doubt stays out of it. */
  #olderThan(told: StreamReport, askedAt: Instant | undefined) {
    const { registry, seniorityOf, clock } = this.#options;
    const roundTripMs = askedAt === undefined ? undefined : clock.now() - askedAt;
    const older: Stream[] = [];
    let isInDoubt = false;
    for (const stream of registry.ofMachineKey(told.machineKey).filter(isLive)) {
      const newer = isNewer(told, roundTripMs, seniorityOf(stream));
      if (newer === true) older.push(stream);
      isInDoubt ||= newer === undefined;
    }
    return { older, isInDoubt };
  }

  /** Once it contests nothing and waits for nothing it is not needed. */
  #retire(remote: RemoteNewcomer): void {
    const { takeover, say } = this.#options;
    if (!remote.isCleared || takeover.contestsOf(remote.stream).length > 0) return;
    if (this.#end(remote)) say({ kind: 'over', id: remote.stream.id }, remote.from);
  }

  /** @returns whether it was there. */
  #end({ stream, from }: RemoteNewcomer): boolean {
    if (!this.#newcomers.delete(keyOf(from, stream.id))) return false;
    setState(stream, { kind: 'closing', reason: 'client_closed' });
    this.#options.takeover.ending(stream, 'client_closed');
    this.#options.takeover.closed(stream);
    setState(stream, { kind: 'closed', reason: 'client_closed' });
    return true;
  }
}

function keyOf(replica: string, id: StreamId): string {
  return `${replica}/${id}`;
}

function streamOf(replica: string, told: StreamReport, now: Instant): Stream {
  const { id, machineKey, address, remoteAddress, firstRecordAgoMs } = told;
  return {
    ...{ id, machineKey, address, remoteAddress, replica, kind: 'control' },
    openedAt: plus(now, -told.openedAgoMs),
    heardAt: plus(now, -told.heardAgoMs),
    spokenAt: undefined,
    firstRecordAt: firstRecordAgoMs === undefined ? undefined : plus(now, -firstRecordAgoMs),
    ...{ bytesReceived: 0, bytesSent: 0, state: { kind: 'connecting' }, wouldSever: undefined },
  };
}
