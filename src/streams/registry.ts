import type { MachineKey } from '../identity/keys.ts';
import type { Instant } from '../lib/clock.ts';
import type { Stream, StreamId } from './stream.ts';

/** All streams that are not closed, by id and by machine key, in the order in which they were opened. */
export class Registry {
  readonly #byId = new Map<StreamId, Stream>();
  readonly #byKey = new Map<MachineKey, Stream[]>();
  #lastId = 0;

  nextId(): StreamId {
    this.#lastId += 1;
    return this.#lastId as StreamId;
  }

  /** The number of the newest stream. */
  get lastId(): StreamId {
    return this.#lastId as StreamId;
  }

  /** Goes on after the numbers of an earlier run, or of another process. */
  resume(lastId: number): void {
    this.#lastId = Math.max(this.#lastId, lastId);
  }

  add(stream: Stream): void {
    this.#byId.set(stream.id, stream);
    if (stream.machineKey === undefined) return;
    const siblings = this.#byKey.get(stream.machineKey);
    // A stream that waited longer for Redis than a newer one is added after it.
    if (siblings) siblings.splice(siblings.findLastIndex(({ id }) => id < stream.id) + 1, 0, stream);
    else this.#byKey.set(stream.machineKey, [stream]);
  }

  remove(stream: Stream): void {
    this.#byId.delete(stream.id);
    if (stream.machineKey === undefined) return;
    const rest = this.ofMachineKey(stream.machineKey).filter((other) => other !== stream);
    if (rest.length > 0) this.#byKey.set(stream.machineKey, rest);
    else this.#byKey.delete(stream.machineKey);
  }

  get(id: StreamId): Stream | undefined {
    return this.#byId.get(id);
  }

  all(): IterableIterator<Stream> {
    return this.#byId.values();
  }

  /** A node's streams, oldest first. */
  ofMachineKey(key: MachineKey): readonly Stream[] {
    return this.#byKey.get(key) ?? [];
  }

  /** When Headscale last sent anything on any stream. */
  get lastSpokenAt(): Instant | undefined {
    let last: Instant | undefined;
    for (const { spokenAt } of this.#byId.values()) {
      if (spokenAt !== undefined && (last === undefined || spokenAt > last)) last = spokenAt;
    }
    return last;
  }

  /** Whether at least `many` machine keys have a stream from this address. */
  isShared(address: string, many: number): boolean {
    const keys = new Set<MachineKey>();
    for (const stream of this.#byId.values()) {
      if (stream.address === address && stream.machineKey !== undefined) keys.add(stream.machineKey);
      if (keys.size >= many) return true;
    }
    return false;
  }

  get size(): number {
    return this.#byId.size;
  }
}
