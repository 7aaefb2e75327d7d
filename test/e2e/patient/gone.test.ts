import { describe, expect, it } from 'vitest';
import { LONG } from '../support/build.ts';
import { Bystander, expectGone } from '../support/bystander.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { type Lab, useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { shownOffline } from '../support/vanishing.ts';
import { until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const GONE_AFTER_MS = LONG ? [30_000, 120_000] : [30_000];
/** Headscale says something to each client at least that often. */
const HEADSCALE_SPEAKS_WITHIN_MS = 59_000;
/** From the end of a node's stream to Headscale's showing it offline. */
const HEADSCALE_WAITS_MS = 12_000;
/** When Headscale has said nothing for so long, nothing that it has yet to say is on its way. */
const CALM_MS = 1_500;

/** A watchdog with this `--gone-after`, and a phone that will leave. */
async function setUp(lab: Lab, headscale: Headscale, goneAfterMs: number) {
  const watchdog = await Watchdog.start(lab, headscale, '--gone-after', `${goneAfterMs}ms`);
  const phone = new Phone(lab, `leaves-${goneAfterMs}`);
  await phone.logIn(watchdog.url, await headscale.authKey());
  return { goneAfterMs, watchdog, phone, id: (await headscale.node(phone.name)).id };
}

async function spokeAt(watchdogs: readonly Watchdog[]): Promise<readonly number[]> {
  const streams = (await Promise.all(watchdogs.map((each) => each.streams()))).flat();
  return streams.map(({ upstreamLastHeardAt }) => Date.parse(upstreamLastHeardAt ?? ''));
}

/** Resolves when Headscale has said nothing on any stream for a moment. */
async function calm(watchdogs: readonly Watchdog[]): Promise<void> {
  await until('calm', { timeoutMs: 30_000, everyMs: 100 }, async () => {
    return Date.now() - Math.max(...(await spokeAt(watchdogs))) > CALM_MS ? true : undefined;
  });
}

/** Resolves when Headscale has said something on every stream since `since`, in the epoch's milliseconds. */
async function allSpokenTo(watchdogs: readonly Watchdog[], since: number): Promise<void> {
  await until('a keepalive for each', { timeoutMs: 65_000, everyMs: 200 }, async () => {
    return Math.min(...(await spokeAt(watchdogs))) > since ? true : undefined;
  });
}

// Nothing but Headscale's own rhythm is to show that somebody is gone. What a living client says of itself Headscale tells all
// others; so those who will stay come when it has spoken of its own accord.
describe('a phone vanishes and never returns; Headscale 0.29.2', () => {
  const here = useLab();

  it('is shown offline after gone-after plus a minute at the latest', { timeout: 300_000 }, async () => {
    const headscale = await Headscale.start(here.lab);
    const cases = [];
    for (const goneAfterMs of GONE_AFTER_MS) cases.push(await setUp(here.lab, headscale, goneAfterMs));
    const watchdogs = cases.map(({ watchdog }) => watchdog);
    const ids = cases.map(({ id }) => id);
    await calm(watchdogs);
    const vanishedAt = await Promise.all(cases.map(({ phone }) => phone.vanish()));
    const offline = shownOffline(headscale, ids, 240_000);
    await allSpokenTo(watchdogs, Date.now());
    const spokenToMs = performance.now() - Math.min(...vanishedAt);
    const bystanders: Bystander[] = [];
    for (const { watchdog, goneAfterMs } of cases) {
      bystanders.push(await Bystander.logIn(here.lab, headscale, watchdog, `stays-${goneAfterMs}`));
    }
    const offlineAt = await offline;

    const tookMs = ids.map((id, i) => (offlineAt.get(id) ?? Number.NaN) - (vanishedAt[i] ?? Number.NaN));
    printFigures('a phone vanishes for good: vanished → shown offline by Headscale 0.29.2', [
      ...cases.map(({ goneAfterMs }, i) => [`--gone-after ${goneAfterMs / 1000}s`, seconds(tookMs[i] ?? 0)] as const),
      ['Headscale had spoken to all', `${seconds(spokenToMs)} after they had vanished`],
    ]);
    for (const [i, { goneAfterMs, watchdog }] of cases.entries()) {
      expect(tookMs[i]).toBeGreaterThanOrEqual(goneAfterMs);
      expect(tookMs[i]).toBeLessThanOrEqual(HEADSCALE_SPEAKS_WITHIN_MS + goneAfterMs + HEADSCALE_WAITS_MS);
      await bystanders[i]?.expectUntouched();
      await expectGone(watchdog, 1);
    }
  });
});
