/** A point on the monotonic clock, in milliseconds. Only differences of two instants mean something. */
export type Instant = number & { readonly __brand: 'Instant' };

/** A timer that can be cancelled; cancelling twice, or after it fired, does nothing. */
export interface Timer {
  cancel(): void;
}

/** Time as the program sees it. The real one is `systemClock`; tests step a virtual one. */
export interface Clock {
  /** Monotonic: unmoved by someone who sets the machine's clock. */
  now(): Instant;
  /** Calls `fire` once, `delayMs` from now. Never keeps the process alive by itself. */
  after(delayMs: number, fire: () => void): Timer;
  /** The calendar date of an instant, for people and for Prometheus. */
  dateOf(instant: Instant): Date;
}

/** `instant` moved by `ms` milliseconds (negative: earlier). */
export function plus(instant: Instant, ms: number): Instant {
  return (instant + ms) as Instant;
}

const LONGEST_TIMEOUT_MS = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => performance.now() as Instant,
  after(delayMs, fire) {
    const handle = setTimeout(fire, Math.min(Math.max(0, delayMs), LONGEST_TIMEOUT_MS));
    handle.unref();
    return { cancel: () => clearTimeout(handle) };
  },
  dateOf: (instant) => new Date(Date.now() - (performance.now() - instant)),
};

/** Waits `ms` milliseconds, or until `signal` aborts. */
export async function pause(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const done = (): void => {
      timer.cancel();
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = clock.after(ms, done);
    signal.addEventListener('abort', done);
  });
}
