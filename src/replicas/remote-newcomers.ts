import type { MachineKey } from '../identity/keys.ts';
import { type Clock, type Instant, plus } from '../lib/clock.ts';
import type { Registry } from '../streams/registry.ts';
import { isLive, type Stream, type StreamId, setState } from '../streams/stream.ts';
import type { Takeover } from '../takeover/takeover.ts';
import { RENEW_EVERY_MS } from './link.ts';
import type { Message, ToldStream } from './messages.ts';
import { isNewer, type Placed } from './order.ts';

/** A newcomer of which nothing was heard for so long is taken for gone, and severs nobody any more. */
const STALE_MS = 3 * RENEW_EVERY_MS;
/** What its replica has told of it since is what it is now: it is still there. */
const CONFIRMED_FOR_MS = 1000;

type AboutNewcomer = Extract<Message, { readonly kind: 'contest' | 'left' }>;
type Unsigned<M> = M extends Message ? Omit<M, 'from'> : never;

export interface ShadowsParts {
  readonly clock: Clock;
  readonly registry: Registry;
  readonly takeover: Takeover;
  /** Of a stream of ours. */
  placeOf(stream: Stream): Placed;
  /** Has a replica tell anew of its streams of this node: see `ask`. */
  ask(machineKey: MachineKey, replica: string): void;
  say(message: Unsigned<Message>, to: string): void;
}

/** Another replica's newcomer, as far as our old streams have to do with it. */
interface Shadow {
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
export class Shadows {
  readonly #parts: ShadowsParts;
  readonly #shadows = new Map<string, Shadow>();

  constructor(parts: ShadowsParts) {
    this.#parts = parts;
  }

  heard(message: AboutNewcomer): void {
    const { from } = message;
    if (message.kind === 'left') {
      const shadow = this.#shadows.get(keyOf(from, message.id));
      if (shadow !== undefined) this.#end(shadow);
      return;
    }
    const now = this.#parts.clock.now();
    // A moment of our own clock, which came back to us.
    const askedAt = message.askedAt === undefined || message.askedAt > now ? undefined : (message.askedAt as Instant);
    const shadow = this.#shadows.get(keyOf(from, message.newcomer.id));
    if (shadow === undefined) this.#admit(from, message.newcomer, askedAt);
    else this.#update(shadow, message.newcomer, askedAt);
  }

  /** Called for every contest that ends. */
  contestEnded({ id, replica }: Stream): void {
    const shadow = replica === undefined ? undefined : this.#shadows.get(keyOf(replica, id));
    if (shadow !== undefined) this.#retire(shadow);
  }

  forgetStale(): void {
    const oldest = this.#parts.clock.now() - STALE_MS;
    for (const shadow of [...this.#shadows.values()]) if (shadow.heardOfAt < oldest) this.#end(shadow);
  }

  close(): void {
    for (const shadow of [...this.#shadows.values()]) this.#end(shadow);
  }

  #admit(from: string, told: ToldStream, askedAt: Instant | undefined): void {
    const { clock, takeover, say, ask } = this.#parts;
    const { older, isInDoubt } = this.#olderThan(told, askedAt);
    if (isInDoubt && askedAt === undefined) {
      ask(told.machineKey, from);
      // It comes again with the answer.
      if (older.length === 0) return;
    }
    const now = clock.now();
    const stream = shadowOf(from, told, now);
    const shadow: Shadow = {
      ...{ stream, from, older: new Set(older), isCleared: false },
      ...{ heardOfAt: now, confirmedAt: askedAt, askedAt: undefined },
    };
    this.#shadows.set(keyOf(from, told.id), shadow);
    const clear = (): void => {
      shadow.isCleared = true;
      const verdict = [...shadow.older].some(isLive) ? 'answered' : 'ended';
      say({ kind: 'clear', id: told.id, verdict }, from);
      this.#retire(shadow);
    };
    const member = {
      ...{ stream, evidence: () => undefined, probe() {}, endProbes() {}, sever() {}, forward: clear },
      isThere: () => this.#isThere(shadow),
    };
    takeover.admit(member, [], (old) => shadow.older.has(old));
    this.#retire(shadow);
  }

  #update(shadow: Shadow, told: ToldStream, askedAt: Instant | undefined): void {
    const { clock, takeover } = this.#parts;
    const now = clock.now();
    const { stream, older } = shadow;
    shadow.heardOfAt = now;
    if (askedAt !== undefined && (shadow.confirmedAt ?? askedAt) <= askedAt) shadow.confirmedAt = askedAt;
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
  #isThere(shadow: Shadow): boolean {
    const { clock, ask } = this.#parts;
    const { stream, from, confirmedAt, askedAt } = shadow;
    const now = clock.now();
    if (confirmedAt !== undefined && now - confirmedAt <= CONFIRMED_FOR_MS) return true;
    if (stream.machineKey === undefined || (askedAt !== undefined && now - askedAt < CONFIRMED_FOR_MS)) return false;
    shadow.askedAt = now;
    ask(stream.machineKey, from);
    return false;
  }

  /** What is in doubt stays out of it. */
  #olderThan(told: ToldStream, askedAt: Instant | undefined) {
    const { registry, placeOf, clock } = this.#parts;
    const roundTripMs = askedAt === undefined ? undefined : clock.now() - askedAt;
    const older: Stream[] = [];
    let isInDoubt = false;
    for (const stream of registry.ofMachineKey(told.machineKey).filter(isLive)) {
      const newer = isNewer(told, roundTripMs, placeOf(stream));
      if (newer === true) older.push(stream);
      isInDoubt ||= newer === undefined;
    }
    return { older, isInDoubt };
  }

  /** Once it contests nothing and waits for nothing it is not needed. */
  #retire(shadow: Shadow): void {
    const { takeover, say } = this.#parts;
    if (!shadow.isCleared || takeover.contestsOf(shadow.stream).length > 0) return;
    if (this.#end(shadow)) say({ kind: 'over', id: shadow.stream.id }, shadow.from);
  }

  /** @returns whether it was there. */
  #end({ stream, from }: Shadow): boolean {
    if (!this.#shadows.delete(keyOf(from, stream.id))) return false;
    setState(stream, { kind: 'closing', reason: 'client_closed' });
    this.#parts.takeover.ending(stream, 'client_closed');
    this.#parts.takeover.closed(stream);
    setState(stream, { kind: 'closed', reason: 'client_closed' });
    return true;
  }
}

function keyOf(replica: string, id: StreamId): string {
  return `${replica}/${id}`;
}

function shadowOf(replica: string, told: ToldStream, now: Instant): Stream {
  const { id, machineKey, address, remoteAddress, firstRecordAgoMs } = told;
  return {
    ...{ id, machineKey, address, remoteAddress, replica, kind: 'control' },
    openedAt: plus(now, -told.openedAgoMs),
    heardAt: plus(now, -told.heardAgoMs),
    spokenAt: undefined,
    firstRecordAt: firstRecordAgoMs === undefined ? undefined : plus(now, -firstRecordAgoMs),
    ...{ bytesReceived: 0, bytesSent: 0, state: { kind: 'connecting' }, spared: undefined },
  };
}
