import { describe, expect, it } from 'vitest';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { type Lab, useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { delay, until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

/** Twice freely, and twice put off, since both kernels answer. */
const SEVERED_BEFORE_THE_GUARD = 4;
const AT_PEACE_MS = 20_000;
/** Severings are put off by a minute and a half in all. */
const TIMEOUT_MS = 240_000;
/** Half a minute past the newcomer's first word, and half a minute more. */
const BOTH_SPEAK_AFTER_MS = 60_000;
/** A verdict is made when one falls due, which is a silence of 5 s after the last one; two are needed. */
const TOLERANCE_MS = 10_000;

/** Two machines with one copied state directory, both running. */
async function startClones(lab: Lab, headscale: Headscale, watchdog: Watchdog): Promise<readonly string[]> {
  const original = new Phone(lab, 'original');
  await original.logIn(watchdog.url, await headscale.authKey());
  const clone = new Phone(lab, 'clone', original);
  await clone.start();
  await clone.running(10_000);
  return [original.host.address, clone.host.address];
}

/** The ids of the only stream from each of `addresses`. */
function idsOf(watchdog: Watchdog, addresses: readonly string[]): Promise<readonly number[]> {
  return Promise.all(addresses.map(async (address) => (await watchdog.onlyStreamFrom(address)).id));
}

async function expectOneDuplicate(watchdog: Watchdog, addresses: readonly string[]): Promise<void> {
  const metrics = await watchdog.metrics();
  const [warning, ...others] = watchdog.warnings();
  expect(String(warning?.msg)).toContain('Duplicate machine key');
  expect(others).toEqual([]);
  for (const address of addresses) expect(JSON.stringify(warning)).toContain(address);
  expect(JSON.stringify(warning)).toMatch(/delete .*tailscaled/i);
  expect(metrics.sum('duplicate_keys')).toBe(1);
  expect(metrics.streamsUnaccountedFor).toBe(0);
  expect(watchdog.errors()).toEqual([]);
}

describe.concurrent('two machines with one copied state directory, --silent-after 5s; Headscale 0.29.2', () => {
  const here = useLab();

  it(
    'they take over from each other four times, then the guard stops that, and both streams stay',
    async () => {
      const headscale = await Headscale.start(here.lab);
      const watchdog = await Watchdog.start(here.lab, headscale, '--silent-after', '5s');
      const addresses = await startClones(here.lab, headscale, watchdog);
      const started = performance.now();

      await until('the guard', { timeoutMs: 180_000 }, () => watchdog.logged('machine_key_duplicated')[0]);
      const guardMs = performance.now() - started;
      // The one severed last comes back, and stays.
      const staying = await until('a stream of each', { timeoutMs: 10_000 }, () => idsOf(watchdog, addresses));
      await delay(AT_PEACE_MS);

      const severed = watchdog.severings().map(({ remoteAddress }) => remoteAddress.replace(/:\d+$/, ''));
      printFigures('two machines with one key, Headscale 0.29.2', [
        ['severed in turn', severed.join(', ')],
        ['both running → the guard', seconds(guardMs)],
        ['severed since', `none in ${seconds(AT_PEACE_MS)}`],
      ]);
      expect(severed).toHaveLength(SEVERED_BEFORE_THE_GUARD);
      for (const [i, address] of severed.entries()) expect(address).toBe(addresses[i % addresses.length]);
      expect(await idsOf(watchdog, addresses)).toEqual(staying);
      expect((await watchdog.metrics()).sum('takeovers_total', 'evidence="silence"')).toBe(SEVERED_BEFORE_THE_GUARD);
      await expectOneDuplicate(watchdog, addresses);
    },
    TIMEOUT_MS,
  );
});

// Headscale 0.23.0 ends a node's first map stream itself as the second comes, within the session, and each clone asks again
// at once: neither connection ever falls silent, and rule 2 has nothing to say.
describe.concurrent('two machines with one copied state directory, --silent-after 5s; Headscale 0.23.0', () => {
  const here = useLab();

  it(
    'no stream is severed, and after both have sent data for a minute the guard reports a duplicate key',
    async () => {
      const headscale = await Headscale.start(here.lab, { version: '0.23.0' });
      const watchdog = await Watchdog.start(here.lab, headscale, '--silent-after', '5s');
      const addresses = await startClones(here.lab, headscale, watchdog);
      const started = performance.now();
      const staying = await idsOf(watchdog, addresses);
      const sentBefore = await headscale.mapResponsesSent();

      await until('the guard', { timeoutMs: 180_000 }, () => watchdog.logged('machine_key_duplicated')[0]);
      const guardMs = performance.now() - started;
      await delay(AT_PEACE_MS);

      const sent = (await headscale.mapResponsesSent()) - sentBefore;
      const watchedMs = performance.now() - started;
      printFigures('two machines with one key, Headscale 0.23.0', [
        ['both running → the guard', seconds(guardMs)],
        ['severed', `none in ${seconds(watchedMs)}`],
        ['map responses that Headscale sent', `${((sent / watchedMs) * 1000).toFixed(0)} a second`],
      ]);
      expect(guardMs).toBeGreaterThanOrEqual(BOTH_SPEAK_AFTER_MS - TOLERANCE_MS);
      expect(guardMs).toBeLessThanOrEqual(BOTH_SPEAK_AFTER_MS + 2 * TOLERANCE_MS);
      expect(watchdog.severings()).toEqual([]);
      expect(await idsOf(watchdog, addresses)).toEqual(staying);
      expect((await watchdog.metrics()).sum('takeovers_total')).toBe(0);
      await expectOneDuplicate(watchdog, addresses);
    },
    TIMEOUT_MS,
  );
});
