import { type Clock, type Instant, plus } from '../clock.ts';
import type { Registry } from '../streams/registry.ts';
import { isLive, type Stream, type StreamId, setState } from '../streams/stream.ts';
import type { Takeover } from '../takeover/takeover.ts';
import { RENEW_EVERY_MS } from './link.ts';
import type { Message, ToldStream } from './messages.ts';

/** A newcomer of which nothing was heard for so long is taken for gone, and severs nobody any more. */
const STALE_MS = 3 * RENEW_EVERY_MS;

type AboutNewcomer = Extract<Message, { readonly kind: 'contest' | 'news' | 'left' }>;
type Unsigned<M> = M extends Message ? Omit<M, 'from'> : never;

export interface ShadowsParts {
  readonly clock: Clock;
  readonly registry: Registry;
  readonly takeover: Takeover;
  /** Undefined where Redis has not told. */
  orderOf(id: StreamId): number | undefined;
  say(message: Unsigned<Message>, to: string): void;
}

/** Another replica's newcomer, as far as our old streams have to do with it. */
interface Shadow {
  readonly stream: Stream;
  readonly from: string;
  heardOfAt: Instant;
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
    const id = message.kind === 'left' ? message.id : message.newcomer.id;
    const shadow = this.#shadows.get(keyOf(from, id));
    if (message.kind === 'left') {
      if (shadow !== undefined) this.#end(shadow);
    } else if (shadow !== undefined) this.#update(shadow, message.newcomer);
    else if (message.kind === 'contest') this.#admit(from, message.newcomer);
    else this.#parts.say({ kind: 'over', id }, from);
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

  #admit(from: string, told: ToldStream): void {
    const { clock, takeover, say } = this.#parts;
    const stream = shadowOf(from, told, clock.now());
    const shadow: Shadow = { stream, from, heardOfAt: clock.now(), isCleared: false };
    this.#shadows.set(keyOf(from, told.id), shadow);
    const clear = (): void => {
      shadow.isCleared = true;
      const verdict = this.#olderThan(told).some(isLive) ? 'answered' : 'ended';
      say({ kind: 'clear', id: told.id, verdict }, from);
      this.#retire(shadow);
    };
    const older = new Set(this.#olderThan(told));
    const member = { stream, evidence: () => undefined, probe() {}, endProbes() {}, sever() {}, forward: clear };
    takeover.admit(member, [], (old) => older.has(old));
    this.#retire(shadow);
  }

  #update(shadow: Shadow, told: ToldStream): void {
    const now = this.#parts.clock.now();
    const { stream } = shadow;
    shadow.heardOfAt = now;
    stream.heardAt = plus(now, -told.heardAgoMs);
    if (stream.firstRecordAt !== undefined || told.firstRecordAgoMs === undefined) return;
    stream.firstRecordAt = plus(now, -told.firstRecordAgoMs);
    this.#parts.takeover.recorded(stream);
  }

  #olderThan({ machineKey, order }: ToldStream): readonly Stream[] {
    const { registry, orderOf } = this.#parts;
    return registry.ofMachineKey(machineKey).filter(({ id }) => (orderOf(id) ?? 0) <= order);
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
