import type { Phone } from './phone.ts';
import { delay } from './wait.ts';

/** How long a node is up, and then away, in each round. */
const UP_MS = 1_500;
const AWAY_MS = 1_000;
const GIVE_UP_MS = 20_000;

export const ROUNDS = 5;

/** Measures rounds in which `phone` vanishes and comes back elsewhere, each followed by `check`. */
export async function vanishAndReturn(phone: Phone, rounds: number, check: () => Promise<void>): Promise<number[]> {
  return measure(rounds, check, async () => {
    await phone.vanish();
    await delay(AWAY_MS);
    await phone.start();
    return phone.running(GIVE_UP_MS);
  });
}

/** The floor: the same client, shut down in an orderly way and started again where it was. */
export async function restartCleanly(phone: Phone, rounds: number, check?: () => Promise<void>): Promise<number[]> {
  return measure(rounds, check, async () => {
    await phone.shutDown();
    await phone.start();
    return phone.running(GIVE_UP_MS);
  });
}

async function measure(
  rounds: number,
  check: (() => Promise<void>) | undefined,
  round: () => Promise<number>,
): Promise<number[]> {
  const startToRunningMs: number[] = [];
  for (let done = 0; done < rounds; done++) {
    await delay(UP_MS);
    startToRunningMs.push(await round());
    await check?.();
  }
  return startToRunningMs;
}
