import { type Clock, type Instant, plus } from '../../src/lib/clock.ts';

interface Pending {
  readonly at: Instant;
  readonly fire: () => void;
}

/** Virtual time: nothing moves until `advance` says so. */
export class FakeClock implements Clock {
  #now = 1_000_000 as Instant;
  readonly #pending = new Set<Pending>();

  now(): Instant {
    return this.#now;
  }

  after(delayMs: number, fire: () => void) {
    const pending: Pending = { at: plus(this.#now, Math.max(0, delayMs)), fire };
    this.#pending.add(pending);
    return { cancel: () => void this.#pending.delete(pending) };
  }

  dateOf(instant: Instant): Date {
    return new Date(instant);
  }

  /** Lets `ms` milliseconds pass, firing what falls due on the way in its order. */
  advance(ms: number): void {
    const end = plus(this.#now, ms);
    for (;;) {
      const next = [...this.#pending].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (next === undefined) break;
      this.#pending.delete(next);
      this.#now = next.at;
      next.fire();
    }
    this.#now = end;
  }

  /** Lets `ms` milliseconds pass in which nothing runs: what fell due fires afterwards, late, and once. */
  stall(ms: number): void {
    this.#now = plus(this.#now, ms);
    for (const pending of [...this.#pending].filter(({ at }) => at <= this.#now).sort((a, b) => a.at - b.at)) {
      this.#pending.delete(pending);
      pending.fire();
    }
  }

  /** In how many milliseconds the next timer is due; undefined where there is none. */
  nextInMs(): number | undefined {
    let next = Number.POSITIVE_INFINITY;
    for (const { at } of this.#pending) if (at < next) next = at;
    return next === Number.POSITIVE_INFINITY ? undefined : next - this.#now;
  }

  /** How many timers are set: none may be left when all has ended. */
  get timers(): number {
    return this.#pending.size;
  }
}
