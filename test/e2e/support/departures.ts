import { beforeAll, describe, expect, it } from 'vitest';
import { expectGone } from './bystander.ts';
import { printFigures, seconds } from './figures.ts';
import { expectEvidenceFrom, type Front, startBehind } from './fronts.ts';
import { Headscale } from './headscale.ts';
import { type Lab, useLab } from './lab.ts';
import { Phone } from './phone.ts';
import { shownOffline } from './vanishing.ts';
import { delay, until } from './wait.ts';

const LEAVING = 2;
const GONE_AFTER_MS = 30_000;
/** What was said last is on its way no longer than this. */
const SAID_ALL_AFTER_MS = 2_000;
const GIVE_UP_MS = 180_000;
/** Headscale says something to each client at least that often, and shows a node offline some time after its stream has ended. */
const HEADSCALE = { speaksWithinMs: 59_000, waitsMs: 16_000 };

export const OFFLINE_WITHIN_MS = HEADSCALE.speaksWithinMs + GONE_AFTER_MS + HEADSCALE.waitsMs;

/** A watchdog behind a proxy, with phones that will leave. */
async function setUp(lab: Lab, headscale: Headscale, front: Front, name: string) {
  const { watchdog, url } = await startBehind(lab, front, headscale, '--gone-after', `${GONE_AFTER_MS}ms`);
  const phones = Array.from({ length: LEAVING }, (_, i) => new Phone(lab, `${name}-leaves-${i}`));
  const authKey = await headscale.authKey();
  for (const phone of phones) await phone.logIn(url, authKey);
  return { watchdog, phones };
}

/**
 * Phones vanish together for good. Nobody stays, for what a living client says of itself Headscale tells all others: nothing but
 * its own rhythm is to show that somebody is gone.
 */
export function describeDepartures(fronts: readonly Front[], offlineWithinMs: number): void {
  describe.concurrent(`phones vanish for good behind a proxy, --gone-after ${GONE_AFTER_MS / 1_000}s; Headscale 0.29.2`, () => {
    const here = useLab();
    let headscale: Headscale;
    /** Nobody falls silent before all are there. */
    let settingUp = fronts.length;
    beforeAll(async () => {
      headscale = await Headscale.start(here.lab, { gatherWritesMs: 10 });
    });

    it.each(fronts)(`$name: shown offline within ${offlineWithinMs / 1_000} s`, { timeout: 300_000 }, async (front) => {
      const { lab } = here;
      const name = `front-${fronts.indexOf(front)}`;
      const { watchdog, phones } = await setUp(lab, headscale, front, name).finally(() => settingUp--);
      await until('all to be there', { timeoutMs: 120_000 }, () => (settingUp === 0 ? true : undefined));
      for (const phone of phones) phone.freeze();
      await delay(SAID_ALL_AFTER_MS);
      const streams = await Promise.all(phones.map(({ host }) => watchdog.onlyStreamFrom(host.address)));
      const ids = await Promise.all(phones.map(async (phone) => (await headscale.node(phone.name)).id));
      const vanishedAt = await Promise.all(phones.map((phone) => phone.vanish()));
      const offlineAt = await shownOffline(headscale, ids, GIVE_UP_MS);

      const onlineMs = ids.map((id, i) => (offlineAt.get(id) ?? Number.NaN) - (vanishedAt[i] ?? Number.NaN));
      const unheardMs = watchdog.severings().map(({ kernel }) => kernel?.receivedAgoMs ?? Number.NaN);
      printFigures(`behind ${front.name}: vanished → shown offline by Headscale 0.29.2`, [
        [`--gone-after ${GONE_AFTER_MS / 1_000}s`, seconds(...onlineMs)],
        ['their kernels unheard when their streams ended', seconds(...unheardMs)],
      ]);
      for (const stream of streams) expectEvidenceFrom(front, stream);
      for (const each of unheardMs) expect(each).toBeGreaterThanOrEqual(GONE_AFTER_MS);
      for (const each of onlineMs) expect(each).toBeLessThanOrEqual(offlineWithinMs);
      await expectGone(watchdog, LEAVING);
    });
  });
}
