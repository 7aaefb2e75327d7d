import { setTimeout as delay } from 'node:timers/promises';

/** @returns whether `promise` was settled within `ms`. */
export async function within(ms: number, promise: Promise<unknown>): Promise<boolean> {
  const over = new AbortController();
  const done = promise.then(
    () => true,
    () => true,
  );
  try {
    return await Promise.race([done, delay(ms, false, { signal: over.signal })]);
  } finally {
    over.abort();
  }
}

export interface Patience {
  readonly timeoutMs: number;
  readonly everyMs?: number;
  /** Ends the waiting with an error at once, when there is nothing left to wait for. */
  readonly giveUp?: () => string | undefined;
}

/**
 * Asks `attempt` until it answers something, errors counting as nothing.
 *
 * @throws after `timeoutMs`, with the last error.
 */
export async function until<T>(
  what: string,
  patience: Patience,
  attempt: () => Promise<T | undefined> | T | undefined,
): Promise<T> {
  const deadline = performance.now() + patience.timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const result = await attempt();
      if (result !== undefined) return result;
      last = undefined;
    } catch (error) {
      last = error;
    }
    const hopeless = patience.giveUp?.();
    if (hopeless !== undefined) throw new Error(`${what}: ${hopeless}`);
    if (performance.now() > deadline) throw new Error(`${what}: not within ${patience.timeoutMs} ms`, { cause: last });
    await delay(patience.everyMs ?? 50);
  }
}

export { delay };
