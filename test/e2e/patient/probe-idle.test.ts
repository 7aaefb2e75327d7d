import { describe, expect, it } from 'vitest';
import { LONG } from '../support/build.ts';
import { Bystander, expectGone } from '../support/bystander.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { HaProxy } from '../support/haproxy.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { type Plan, type Vanished, vanishInTurn } from '../support/vanishing.ts';
import { Watchdog } from '../support/watchdog.ts';

const FLAGS = ['--probe-idle', '10s', '--gone-after', '25s'];
const GONE_AFTER_MS = 25_000;
/** Linux rounds up, so the watchdog tells it a second less. */
const SECOND_LESS_MS = 1_000;
/** Headscale is asked four times a second. */
const ASKED_EVERY_MS = 250;
const OFFLINE_WITHIN_MS = 35_000;
/** From when a phone was last heard to its vanishing: what it said last went to and fro. */
const HEARD_BEFORE_MS = 500;

const PLANS: readonly (Plan & { readonly title: string })[] = [
  { title: 'little is sent to them', phones: 4, apartMs: 2_600 },
  { title: 'Headscale goes on telling them things', phones: 4, apartMs: 4_600, toldEveryMs: 3_000 },
];

describe.concurrent.each(PLANS)('phones vanish at different moments, and $title; Headscale 0.29.2', (plan) => {
  const here = useLab();

  it("with --probe-idle 10s --gone-after 25s, each stream is closed after 25 s by Linux's clock, and the node shown offline 10 s later", async () => {
    const headscale = await Headscale.start(here.lab, { gatherWritesMs: 10 });
    const watchdog = await Watchdog.start(here.lab, headscale, ...FLAGS);
    const bystander = await Bystander.logIn(here.lab, headscale, watchdog, 'stays');
    const vanished = await vanishInTurn(here.lab, headscale, watchdog.url, plan);
    const onlineMs = vanished.map(({ shownOnlineMs }) => shownOnlineMs);
    const openMs = vanished.map((each) => openFor(watchdog, each));

    printFigures(`--probe-idle 10s --gone-after 25s; ${plan.title}`, [
      ['vanished → shown offline by Headscale 0.29.2', seconds(...onlineMs)],
      ['vanished → its stream ended', seconds(...openMs)],
    ]);
    for (const each of openMs) {
      expect(each).toBeGreaterThanOrEqual(GONE_AFTER_MS - SECOND_LESS_MS - HEARD_BEFORE_MS);
      expect(each).toBeLessThanOrEqual(GONE_AFTER_MS);
    }
    for (const each of onlineMs) {
      expect(each).toBeLessThanOrEqual(OFFLINE_WITHIN_MS + ASKED_EVERY_MS);
    }
    await bystander.expectUntouched();
    await expectGone(watchdog, plan.phones);
  });
});

/** From its vanishing to the end of its stream, in milliseconds. */
function openFor(watchdog: Watchdog, { address, vanishedAt }: Vanished): number {
  const ended = watchdog.severings().find(({ remoteAddress }) => remoteAddress.startsWith(`${address}:`));
  return (ended?.at.getTime() ?? Number.NaN) - vanishedAt.getTime();
}

describe.runIf(LONG).each(PLANS)("HAProxy in the watchdog's place, and $title; Headscale 0.29.2", (plan) => {
  const here = useLab();

  it('tcp-ut 25s, clitcpka-idle 10s: for comparison', { timeout: 300_000 }, async () => {
    const headscale = await Headscale.start(here.lab, { gatherWritesMs: 10 });
    const { url } = await HaProxy.start(here.lab, headscale);
    const vanished = await vanishInTurn(here.lab, headscale, url, plan);
    const onlineMs = vanished.map(({ shownOnlineMs }) => shownOnlineMs);
    printFigures(`HAProxy with the same settings; ${plan.title}`, [
      ['vanished → shown offline by Headscale 0.29.2', seconds(...onlineMs)],
    ]);
  });
});
