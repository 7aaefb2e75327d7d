import { beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../support/build.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import type { HeadscaleVersion } from '../support/headscale-configuration.ts';
import { type Lab, useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { delay, until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

/** How many return, each in a run of its own, beside the others. */
const RUNS = LONG ? 12 : 3;
/** One after the other, so that all start as quickly as one. */
const APART_MS = 1_500;
/** Headscale 0.28 looks once a second for ten seconds whether the node is back, the last time after nine. */
const BACK_AFTER_MS = 9_200;
/** From the start of tailscaled to its stream here. */
const STARTS_WITHIN_MS = 150;
/** By then Headscale has made up its mind. */
const DECIDED_AFTER_MS = 4_000;
/** The list that shows it comes 15 s after the return, the one that proves it 30 s later. */
const TOLD_WITHIN_MS = 70_000;
const STAYS_MS = 15_000;

/** On a busy machine tailscaled may start too late, so it may try again. */
const MOST_TRIES = 4;

interface Return {
  readonly phone: Phone;
  /** From the end of its old stream to the arrival of its new one, as the watchdog logged both. */
  readonly awayMs: number;
  readonly isMissed: boolean;
}

/** Phones that return to this watchdog when Headscale is about to call them offline, each until Headscale misses it. */
async function returnLate(lab: Lab, headscale: Headscale, watchdog: Watchdog, tries: number) {
  const phones = Array.from({ length: RUNS }, (_, i) => new Phone(lab, `late-${lab.port()}-${i}`));
  for (const phone of phones) await phone.logIn(watchdog.url, await headscale.authKey());
  await delay(DECIDED_AFTER_MS);
  const returns = await Promise.all(
    phones.map(async (phone, i) => {
      await delay(i * APART_MS);
      const found: Return[] = [];
      while (found.length < tries && found.at(-1)?.isMissed !== true)
        found.push(await returnOnce(headscale, watchdog, phone));
      return found;
    }),
  );
  return { all: returns.flat(), last: returns.map((each) => each.at(-1) as Return) };
}

async function returnOnce(headscale: Headscale, watchdog: Watchdog, phone: Phone): Promise<Return> {
  const { id: stream } = await watchdog.onlyStreamFrom(phone.host.address);
  await phone.shutDown();
  const ended = await until('its stream has ended', { timeoutMs: 5_000, everyMs: 20 }, () =>
    watchdog.logged('stream_closed').find((each) => each.stream === stream),
  );
  const endedAt = Date.parse(String(ended.time));
  await delay(endedAt + BACK_AFTER_MS - STARTS_WITHIN_MS - Date.now());
  await phone.start();
  await phone.running(20_000);
  const { openedAt } = await watchdog.onlyStreamFrom(phone.host.address);
  await delay(DECIDED_AFTER_MS);
  const isMissed = !(await headscale.node(phone.name)).online;
  return { phone, awayMs: Date.parse(openedAt) - endedAt, isMissed };
}

describe.concurrent('a node that returns when Headscale is about to call it offline', () => {
  const here = useLab();
  const elsewhere = useLab();
  const servers = new Map<HeadscaleVersion, readonly [Headscale, Lab]>();
  beforeAll(async () => {
    servers.set('0.28.0', [await Headscale.start(here.lab, { version: '0.28.0' }), here.lab]);
    servers.set('0.29.2', [await Headscale.start(elsewhere.lab), elsewhere.lab]);
  });

  async function start(version: HeadscaleVersion, reconcile: string) {
    const [headscale, lab] = servers.get(version) ?? [];
    if (headscale === undefined || lab === undefined) throw new Error(`no Headscale ${version}`);
    const flags = ['--headscale-api-key-file', await headscale.apiKeyFile(), '--reconcile', reconcile];
    return { headscale, lab, watchdog: await Watchdog.start(lab, headscale, ...flags) };
  }

  const figures = (version: string, reconcile: string, returns: readonly Return[], tookMs: readonly number[]) =>
    printFigures(
      `back ${BACK_AFTER_MS / 1000} s after the old stream had ended, Headscale ${version}, --reconcile ${reconcile}`,
      [
        ['away', seconds(...returns.map(({ awayMs }) => awayMs))],
        ['shown as offline for good', `${returns.filter(({ isMissed }) => isMissed).length} of ${returns.length}`],
        ...(tookMs.length === 0
          ? []
          : [
              [
                reconcile === 'heal' ? 'stream ended → shown as online' : 'back → reported',
                seconds(...tookMs),
              ] as const,
            ]),
      ],
    );

  it('0.28.0, report: it is reported, and Headscale stays wrong', { timeout: 400_000 }, async () => {
    const { headscale, lab, watchdog } = await start('0.28.0', 'report');
    const { all, last: returns } = await returnLate(lab, headscale, watchdog, MOST_TRIES);
    const missed = returns.filter(({ isMissed }) => isMissed);
    expect(missed.length).toBeGreaterThan(0);

    const toldOf = (name: string) =>
      watchdog.logged('node_disagrees').filter(({ msg }) => String(msg).startsWith(`${name} `));
    const toldAfterMs = await Promise.all(
      missed.map(async ({ phone }) => {
        const told = await until(
          `${phone.name} is reported`,
          { timeoutMs: TOLD_WITHIN_MS },
          () => toldOf(phone.name)[0],
        );
        const stream = await watchdog.onlyStreamFrom(phone.host.address);
        expect(told).toMatchObject({
          reason: 'shown_offline',
          isEnded: false,
          code: 'HSW_NODE_DISAGREES',
          stream: stream.id,
        });
        expect(told.msg).toMatch(
          / is connected \(stream .*\), but Headscale has shown it as offline for [345]\d(\.\d)? s/,
        );
        return Date.parse(String(told.time)) - Date.parse(stream.openedAt);
      }),
    );
    await delay(STAYS_MS);
    const metrics = await watchdog.metrics();
    expect(metrics.sum('nodes_disagreeing', 'reason="shown_offline"')).toBe(missed.length);
    for (const { phone, isMissed } of returns) {
      expect((await headscale.node(phone.name)).online).toBe(!isMissed);
      expect(toldOf(phone.name)).toHaveLength(isMissed ? 1 : 0);
      expect(await watchdog.onlyStreamFrom(phone.host.address)).toMatchObject({ state: 'open' });
    }
    expect(watchdog.severings()).toEqual([]);
    figures('0.28.0', 'report', all, toldAfterMs);
  });

  it('0.28.0, heal: its stream is ended once, and Headscale is right again', { timeout: 400_000 }, async () => {
    const { headscale, lab, watchdog } = await start('0.28.0', 'heal');
    const { all, last: returns } = await returnLate(lab, headscale, watchdog, MOST_TRIES);
    const missed = returns.filter(({ isMissed }) => isMissed);
    expect(missed.length).toBeGreaterThan(0);

    const endedOf = (address: string) =>
      watchdog.severings().filter(({ remoteAddress }) => remoteAddress.startsWith(`${address}:`));
    const healedMs = await Promise.all(
      missed.map(async ({ phone }) => {
        const { address } = phone.host;
        const ended = await until(
          `${phone.name}'s stream is ended`,
          { timeoutMs: TOLD_WITHIN_MS, everyMs: 20 },
          () => endedOf(address)[0],
        );
        expect(ended.reason).toBe('shown_offline');
        await until(`${phone.name} is online`, { timeoutMs: 10_000, everyMs: 20 }, async () =>
          (await headscale.node(phone.name)).online ? true : undefined,
        );
        return Date.now() - ended.at.getTime();
      }),
    );
    await delay(STAYS_MS);
    for (const { phone, isMissed } of returns) {
      expect((await headscale.node(phone.name)).online).toBe(true);
      expect(endedOf(phone.host.address)).toHaveLength(isMissed ? 1 : 0);
      expect(await watchdog.onlyStreamFrom(phone.host.address)).toMatchObject({ state: 'open' });
    }
    expect((await watchdog.metrics()).sum('nodes_disagreeing')).toBe(0);
    figures('0.28.0', 'heal', all, healedMs);
    expect(Math.max(...healedMs)).toBeLessThan(5_000);
  });

  it('0.29.2, heal: it is shown as online, and nothing is ended', { timeout: 400_000 }, async () => {
    const { headscale, lab, watchdog } = await start('0.29.2', 'heal');
    const { all } = await returnLate(lab, headscale, watchdog, 1);
    figures('0.29.2', 'heal', all, []);
    await delay(TOLD_WITHIN_MS - DECIDED_AFTER_MS);
    expect(all.filter(({ isMissed }) => isMissed)).toEqual([]);
    expect(watchdog.logged('node_disagrees')).toEqual([]);
    expect(watchdog.severings()).toEqual([]);
  });
});
