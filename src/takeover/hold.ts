import type { MachineKey } from '../identity/keys.ts';
import type { Clock, Instant, Timer } from '../lib/clock.ts';
import type { ReleaseReason } from '../streams/events.ts';
import type { Stream } from '../streams/stream.ts';

/** How long a newcomer is held where no verdict takes longer. With holding off, old streams are asked as eagerly. */
export const USUAL_HOLD_MS = 1500;
/** A client gives up on its control connection after ten seconds, and may have to wait for its turn as well. */
export const LONGEST_HOLD_MS = 5000;

/** What a newcomer waits for: an old stream, or a replica, by its name, that has some. */
export type Awaited = Stream | string;

/**
 * A newcomer kept back from Headscale while its old streams are asked: until each has ended
 * or answered, and for `holdMs` at most.
 */
export class Hold {
  readonly #since: Instant;
  readonly #waitsFor: Set<Awaited>;
  readonly #timer: Timer;
  readonly #clock: Clock;
  readonly #onRelease: (why: ReleaseReason, heldMs: number) => void;
  #answers = 0;
  #over = false;

  constructor(parts: {
    readonly clock: Clock;
    readonly awaited: Iterable<Awaited>;
    readonly holdMs: number;
    readonly onRelease: (why: ReleaseReason, heldMs: number) => void;
  }) {
    this.#clock = parts.clock;
    this.#since = parts.clock.now();
    this.#waitsFor = new Set(parts.awaited);
    this.#onRelease = parts.onRelease;
    this.#timer = parts.clock.after(parts.holdMs, () => this.release('hold_over'));
  }

  get since(): Instant {
    return this.#since;
  }

  oldAnswered(old: Awaited): void {
    if (this.#waitsFor.delete(old)) this.#answers += 1;
    this.#releaseWhenDone();
  }

  /** It has lost, whatever it answered before: Headscale has it until its connection has closed. */
  waitFor(old: Stream): void {
    this.#waitsFor.add(old);
  }

  /** The old stream's connection to Headscale has closed. */
  oldClosed(old: Awaited): void {
    this.#waitsFor.delete(old);
    this.#releaseWhenDone();
  }

  release(why: ReleaseReason): void {
    if (this.#over) return;
    this.drop();
    this.#onRelease(why, this.#clock.now() - this.#since);
  }

  /** Ends the hold without forwarding anything: the newcomer itself has left. */
  drop(): void {
    this.#over = true;
    this.#timer.cancel();
  }

  #releaseWhenDone(): void {
    if (this.#waitsFor.size > 0) return;
    this.release(this.#answers > 0 ? 'old_streams_answered' : 'old_streams_ended');
  }
}

/** The holds of a node's newcomers, by its machine key; of few nodes at once. */
export class Holds {
  readonly #byKey = new Map<MachineKey, Set<Hold>>();

  get size(): number {
    let size = 0;
    for (const holds of this.#byKey.values()) size += holds.size;
    return size;
  }

  of({ machineKey }: Stream): readonly Hold[] {
    return machineKey === undefined ? [] : [...(this.#byKey.get(machineKey) ?? [])];
  }

  add({ machineKey }: Stream, hold: Hold): void {
    if (machineKey !== undefined) this.#byKey.set(machineKey, (this.#byKey.get(machineKey) ?? new Set()).add(hold));
  }

  remove({ machineKey }: Stream, hold: Hold): void {
    const holds = machineKey === undefined ? undefined : this.#byKey.get(machineKey);
    holds?.delete(hold);
    if (machineKey !== undefined && holds?.size === 0) this.#byKey.delete(machineKey);
  }
}
