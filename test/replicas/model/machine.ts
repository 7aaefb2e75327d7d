import type { Clock, Instant } from '../../../src/lib/clock.ts';
import { FakeClock } from '../../support/fake-clock.ts';

/** Virtual time of the whole world: what is due happens in its order, and what follows from it at once. */
export class WorldTime {
  readonly #clock = new FakeClock();

  now(): number {
    return this.#clock.now();
  }

  after(delayMs: number, fire: () => void): () => void {
    const timer = this.#clock.after(delayMs, fire);
    return () => timer.cancel();
  }

  async pass(ms: number): Promise<void> {
    const end = this.now() + ms;
    for (;;) {
      const dueInMs = this.#clock.nextInMs();
      if (dueInMs === undefined || this.now() + dueInMs > end) break;
      this.#clock.advance(dueInMs);
      await settle();
    }
    this.#clock.advance(end - this.now());
    await settle();
  }
}

/** Longer than any chain of promises here. */
async function settle(): Promise<void> {
  for (let i = 0; i < 16; i++) await undefined;
}

/** A replica's machine. While it sleeps its clock stands still and nothing runs; its calendar goes on. */
export class Machine implements Clock {
  readonly #time: WorldTime;
  #sleptMs = 0;
  #asleepSince: number | undefined;
  #isDead = false;
  #waiting: (() => void)[] = [];
  /** Its calendar may be set. */
  calendarAheadMs = 0;

  constructor(time: WorldTime) {
    this.#time = time;
  }

  get isAwake(): boolean {
    return this.#asleepSince === undefined && !this.#isDead;
  }

  now(): Instant {
    return ((this.#asleepSince ?? this.#time.now()) - this.#sleptMs) as Instant;
  }

  dateOf(instant: Instant): Date {
    return new Date(this.#time.now() + this.calendarAheadMs - (this.now() - instant));
  }

  after(delayMs: number, fire: () => void) {
    const dueAt = this.now() + Math.max(0, delayMs);
    let isCancelled = false;
    const look = (): void => {
      if (isCancelled) return;
      if (this.now() >= dueAt) fire();
      else this.#time.after(dueAt - this.now(), () => this.run(look));
    };
    this.#time.after(delayMs, () => this.run(look));
    const cancel = (): void => {
      isCancelled = true;
    };
    return { cancel };
  }

  /** Now, or as soon as it has woken up. */
  run(act: () => void): void {
    if (this.isAwake) act();
    else if (!this.#isDead) this.#waiting.push(act);
  }

  sleep(): void {
    if (this.isAwake) this.#asleepSince = this.#time.now();
  }

  wake(): void {
    if (this.#asleepSince === undefined) return;
    this.#sleptMs += this.#time.now() - this.#asleepSince;
    this.#asleepSince = undefined;
    for (const act of this.#waiting.splice(0)) act();
  }

  die(): void {
    this.#isDead = true;
    this.#waiting = [];
  }
}
