import type { Headscale } from './headscale.ts';
import type { Lab } from './lab.ts';
import { Phone } from './phone.ts';
import { delay, until } from './wait.ts';

/** Headscale hashes the API key for each question, which costs it some 60 ms. */
const ASK_EVERY_MS = 250;
/** What a start sets off, at the client and at Headscale, is over by then. */
const CALM_AFTER_MS = 3_000;
/** From a phone's last words to its vanishing. */
const SPOKE_BEFORE_MS = 200;

/**
 * Waits until Headscale's API has shown all of these nodes offline.
 *
 * @param ids as the API has them.
 * @returns by id when it first showed each offline, as `performance.now()` tells it.
 */
export async function shownOffline(
  headscale: Headscale,
  ids: readonly string[],
  timeoutMs: number,
): Promise<ReadonlyMap<string, number>> {
  const offlineAt = new Map<string, number>();
  return until('all vanished nodes offline', { timeoutMs, everyMs: ASK_EVERY_MS }, async () => {
    const nodes = await headscale.nodes();
    const now = performance.now();
    for (const { id, online } of nodes) {
      if (ids.includes(id) && !online && !offlineAt.has(id)) offlineAt.set(id, now);
    }
    return offlineAt.size === ids.length ? offlineAt : undefined;
  });
}

export interface Plan {
  readonly phones: number;
  /** From one vanishing to the next. */
  readonly apartMs: number;
  /** How often Headscale tells every node something, from the first vanishing on; undefined: never. */
  readonly toldEveryMs?: number;
}

export interface Vanished {
  /** Where it was. */
  readonly address: string;
  readonly vanishedAt: Date;
  /** How long Headscale's API went on showing it online, in milliseconds. */
  readonly shownOnlineMs: number;
}

/** Phones log in at `loginServer`, and vanish one after another, each just after it has spoken. */
export async function vanishInTurn(
  lab: Lab,
  headscale: Headscale,
  loginServer: string,
  { phones: count, apartMs, toldEveryMs }: Plan,
): Promise<readonly Vanished[]> {
  const authKey = await headscale.authKey();
  const subject = new Phone(lab, 'talked-about');
  await subject.logIn(loginServer, authKey);
  const phones = Array.from({ length: count }, (_, i) => new Phone(lab, `leaver-${i}`));
  for (const phone of phones) await phone.logIn(loginServer, authKey);
  await delay(CALM_AFTER_MS);
  const ids = await Promise.all(phones.map(async ({ name }) => (await headscale.node(name)).id));
  const addresses = phones.map(({ host }) => host.address);

  const over = new AbortController();
  const told = toldEveryMs === undefined ? undefined : talk(headscale, subject.name, toldEveryMs, over.signal);
  const offline = shownOffline(headscale, ids, count * apartMs + 90_000);
  try {
    const [vanishedAt, offlineAt] = await Promise.all([vanish(phones, apartMs), offline]);
    return ids.map((id, i) => {
      const at = vanishedAt[i] ?? Number.NaN;
      const shownOnlineMs = (offlineAt.get(id) ?? Number.NaN) - at;
      return { address: addresses[i] ?? '', vanishedAt: new Date(performance.timeOrigin + at), shownOnlineMs };
    });
  } finally {
    over.abort();
    await told;
  }
}

async function vanish(phones: readonly Phone[], apartMs: number): Promise<readonly number[]> {
  const vanishedAt: number[] = [];
  for (const [i, phone] of phones.entries()) {
    if (i > 0) await delay(apartMs - SPOKE_BEFORE_MS);
    await phone.say(`${phone.name}-leaves`);
    await delay(SPOKE_BEFORE_MS);
    vanishedAt.push(await phone.vanish());
  }
  return vanishedAt;
}

/** Has Headscale tell every node something again and again: another name of `subject`. */
async function talk(headscale: Headscale, subject: string, everyMs: number, signal: AbortSignal): Promise<void> {
  const node = await headscale.node(subject);
  for (let n = 1; !signal.aborted; n++) {
    await delay(everyMs, undefined, { signal }).catch(() => {});
    if (!signal.aborted) await headscale.rename(node, `${subject}-${n}`);
  }
}
