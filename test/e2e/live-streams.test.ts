import { beforeAll, describe, expect, it } from 'vitest';
import { printFigures, seconds } from './support/figures.ts';
import { Headscale } from './support/headscale.ts';
import { useLab } from './support/lab.ts';
import { Phone } from './support/phone.ts';
import { delay, until } from './support/wait.ts';
import { type Severing, Watchdog } from './support/watchdog.ts';

const SILENT_AFTER_MS = 5_000;
const TALKED_FOR_MS = 12_000;
/** A verdict is due at its moment; the log's clock and a busy machine may add a little. */
const TOLERANCE_MS = 500;

describe('streams with a live client, with --silent-after 5s', () => {
  const here = useLab();
  let watchdog: Watchdog;
  let bystander: Phone;
  let authKey: string;
  beforeAll(async () => {
    const headscale = await Headscale.start(here.lab, { gatherWritesMs: 10 });
    watchdog = await Watchdog.start(here.lab, headscale, '--silent-after', `${SILENT_AFTER_MS / 1000}s`);
    authKey = await headscale.authKey();
    bystander = new Phone(here.lab, 'bystander');
    await bystander.logIn(watchdog.url, authKey);
  });

  const onlyStreamOf = (phone: Phone) => watchdog.onlyStreamFrom(phone.host.address);

  async function severingOf(stream: number): Promise<Severing> {
    const patience = { timeoutMs: 3 * SILENT_AFTER_MS, everyMs: 20 };
    return until('severing', patience, () => watchdog.severings().find((each) => each.stream === stream));
  }

  it('an old stream stays beside a newcomer as long as its client sends, and is severed once it has been silent for 5 s', async () => {
    const untouched = await onlyStreamOf(bystander);
    const phone = new Phone(here.lab, 'talker');
    await phone.logIn(watchdog.url, authKey);
    const old = await onlyStreamOf(phone);
    // The same keys on a second machine: two live clients for one node, and no doubt about either.
    const twin = new Phone(here.lab, 'twin', phone);
    await twin.start();
    await twin.running(10_000);

    const started = performance.now();
    let said = 0;
    while (performance.now() - started < TALKED_FOR_MS) {
      await phone.say(`talker-${++said}`);
      await delay(1_000);
      expect((await onlyStreamOf(phone)).id).toBe(old.id);
    }
    expect(watchdog.severings()).toEqual([]);

    const severing = await severingOf(old.id);
    printFigures('a live old stream, --silent-after 5s', [
      ['talked beside its newcomer', `${seconds(TALKED_FOR_MS)}, ${said} times, not severed`],
      ['last heard → severed', seconds(severing.silentMs)],
    ]);
    expect(severing.silentMs).toBeGreaterThanOrEqual(SILENT_AFTER_MS);
    expect(severing.silentMs).toBeLessThanOrEqual(SILENT_AFTER_MS + TOLERANCE_MS);
    expect((await onlyStreamOf(bystander)).id).toBe(untouched.id);
    await Promise.all([phone.shutDown(), twin.shutDown()]);
  });

  it('the stream of a frozen client, whose kernel still answers, is severed after 5 s and not earlier', async () => {
    const untouched = await onlyStreamOf(bystander);
    const phone = new Phone(here.lab, 'frozen');
    await phone.logIn(watchdog.url, authKey);
    const twin = new Phone(here.lab, 'thawed', phone);
    await phone.say('frozen-now');
    await delay(200);
    phone.freeze();
    const old = await onlyStreamOf(phone);
    const lastHeardAt = Date.parse(old.lastHeardAt);
    await twin.start();
    const backMs = await twin.running(10_000);

    const severing = await severingOf(old.id);
    const takenMs = severing.at.getTime() - lastHeardAt;
    printFigures('a frozen client, --silent-after 5s', [
      ['its newcomer: start → Running', seconds(backMs)],
      ['last heard → severed, by the clock', seconds(takenMs)],
    ]);
    expect(takenMs).toBeGreaterThanOrEqual(SILENT_AFTER_MS - 5);
    expect(takenMs).toBeLessThanOrEqual(SILENT_AFTER_MS + TOLERANCE_MS);
    expect(severing.silentMs).toBeGreaterThanOrEqual(SILENT_AFTER_MS);
    expect((await onlyStreamOf(bystander)).id).toBe(untouched.id);
    await phone.vanish();
    await twin.shutDown();
  });

  it('only silent streams were severed', async () => {
    const metrics = await watchdog.metrics();
    expect(metrics.sum('takeovers_total', 'evidence="kernel"')).toBe(0);
    expect(metrics.sum('streams_closed_total', 'reason="severed_dead"')).toBe(0);
    expect(metrics.sum('streams_closed_total', 'reason="severed_silent"')).toBe(
      metrics.sum('takeovers_total', 'evidence="silence"'),
    );
    expect(metrics.streamsUnaccountedFor).toBe(0);
    expect(watchdog.errors()).toEqual([]);
  });
});
