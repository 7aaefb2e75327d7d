/** A point on the monotonic clock, in milliseconds. Only the difference of two instants means something. */
export type Instant = number & { readonly __brand: 'Instant' };

/** A timer that can be cancelled. To cancel it twice, or after it has fired, does nothing. */
export interface Timer {
  cancel(): void;
}

/** The program reads time only through this. It runs with `systemClock`; tests step a virtual clock. */
export interface Clock {
  /** Monotonic: it does not jump when somebody sets the machine's clock. */
  now(): Instant;
  /** Calls `fire` once, `delayMs` from now. The timer does not keep the process alive. */
  after(delayMs: number, fire: () => void): Timer;
  /** The calendar date of an instant, for people and for Prometheus. */
  dateOf(instant: Instant): Date;
}

/** The instant `ms` milliseconds after `instant`, or before it if `ms` is negative. */
export function plus(instant: Instant, ms: number): Instant {
  return (instant + ms) as Instant;
}

/** A date in milliseconds since 1970, in ISO 8601: `2026-11-27T08:00:00.000Z`. */
export function isoTime(date: number): string {
  return new Date(date).toISOString();
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

/** Waits until `work` is done, but no longer than `ms` milliseconds. */
export function atMost(clock: Clock, ms: number, work: Promise<unknown>): Promise<void> {
  return new Promise((resolve) => {
    const timer = clock.after(ms, resolve);
    void work.then(() => {
      timer.cancel();
      resolve();
    });
  });
}

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
