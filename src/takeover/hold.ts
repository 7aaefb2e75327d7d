import type { MachineKey } from '../identity/keys.ts';
import type { Clock, Instant, Timer } from '../lib/clock.ts';
import type { ReleaseReason } from '../streams/events.ts';
import type { Stream } from '../streams/stream.ts';

/** How long a newcomer is usually held. Old streams are probed eagerly for as long, even when holding is off. */
export const USUAL_HOLD_MS = 1500;

/** What a held newcomer waits for: an old stream, or the name of a replica that has old streams. */
export type WaitedFor = Stream | string;

/**
 * Keeps a newcomer back from Headscale until each of its old streams has ended or its client has answered a probe, but no
 * longer than `holdMs`.
 */
export class Hold {
  readonly #since: Instant;
  readonly #waitingFor: Set<WaitedFor>;
  readonly #timer: Timer;
  readonly #clock: Clock;
  readonly #onRelease: (why: ReleaseReason, heldMs: number) => void;
  #answers = 0;
  #over = false;

  constructor(options: {
    readonly clock: Clock;
    readonly waitFor: Iterable<WaitedFor>;
    readonly holdMs: number;
    readonly onRelease: (why: ReleaseReason, heldMs: number) => void;
  }) {
    this.#clock = options.clock;
    this.#since = options.clock.now();
    this.#waitingFor = new Set(options.waitFor);
    this.#onRelease = options.onRelease;
    this.#timer = options.clock.after(options.holdMs, () => this.release('hold_over'));
  }

  get since(): Instant {
    return this.#since;
  }

  oldAnswered(old: WaitedFor): void {
    if (this.#waitingFor.delete(old)) this.#answers += 1;
    this.#releaseWhenDone();
  }

  /** The old stream has lost, even if it answered before. The newcomer now waits until Headscale's connection has closed. */
  waitFor(old: Stream): void {
    this.#waitingFor.add(old);
  }

  /** The connection of the old stream to Headscale has closed. */
  oldClosed(old: WaitedFor): void {
    this.#waitingFor.delete(old);
    this.#releaseWhenDone();
  }

  release(why: ReleaseReason): void {
    if (this.#over) return;
    this.cancel();
    this.#onRelease(why, this.#clock.now() - this.#since);
  }

  /** Ends the hold without forwarding: the newcomer itself has left. */
  cancel(): void {
    this.#over = true;
    this.#timer.cancel();
  }

  #releaseWhenDone(): void {
    if (this.#waitingFor.size > 0) return;
    this.release(this.#answers > 0 ? 'old_streams_answered' : 'old_streams_ended');
  }
}

/** All holds, by the machine key of their newcomer. */
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
