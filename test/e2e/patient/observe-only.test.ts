import { beforeAll, describe, expect, it } from 'vitest';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { delay, until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

// With a hold, which Headscale 0.29 would not get by itself.
const FLAGS = ['--observe-only', '--silent-after', '5s', '--gone-after', '10s', '--hold', '1500ms'];
/** Headscale speaks within 59 s, nobody acknowledges it for 10 s, and every stream is looked at once in 4 s. */
const GONE_WITHIN_MS = 59_000 + 10_000 + 2 * 4_000 + 2_000;
const SILENT_WITHIN_MS = 15_000;

describe(`${FLAGS.join(' ')}; Headscale 0.29.2`, () => {
  const here = useLab();
  let headscale: Headscale;
  let watchdog: Watchdog;
  let authKey: string;
  beforeAll(async () => {
    headscale = await Headscale.start(here.lab);
    watchdog = await Watchdog.start(here.lab, headscale, ...FLAGS);
    authKey = await headscale.authKey();
  });

  async function loggedIn(name: string) {
    const phone = new Phone(here.lab, name);
    await phone.logIn(watchdog.url, authKey);
    return { phone, address: phone.host.address, stream: await watchdog.onlyStreamFrom(phone.host.address) };
  }

  async function counted(reason: string, timeoutMs: number): Promise<number> {
    const started = performance.now();
    const counts = async () => (await watchdog.metrics()).sum('would_sever_total', `reason="${reason}"`) || undefined;
    expect(await until(`would_sever_total of ${reason}`, { timeoutMs, everyMs: 200 }, counts)).toBe(1);
    return performance.now() - started;
  }

  it('dead, silent and gone streams are counted and logged, but no stream is severed or held', async () => {
    const gone = await loggedIn('gone');
    const dead = await loggedIn('dead');
    const silent = await loggedIn('silent');
    const twin = new Phone(here.lab, 'twin', silent.phone);
    await silent.phone.say('freezes-now');
    await delay(200);
    silent.phone.freeze();
    await twin.start();
    await twin.running(10_000);
    const silentMs = await counted('silent', SILENT_WITHIN_MS);
    // It has just spoken: by rule 1 it is dead long before rule 2 could call it silent.
    await dead.phone.say('leaves-now');
    await delay(200);
    await dead.phone.vanish();
    await dead.phone.start();
    const backMs = await dead.phone.running(10_000);
    const deadMs = await counted('dead', 10_000);
    await gone.phone.vanish();
    const goneMs = await counted('gone', GONE_WITHIN_MS);

    const metrics = await watchdog.metrics();
    printFigures('--observe-only', [
      ['a newcomer is Running → its old stream would be severed: silent', seconds(silentMs)],
      ['the same for one that vanished: dead', seconds(deadMs)],
      ['its newcomer: start → Running', seconds(backMs)],
      ['vanished for good → it would be severed: gone', seconds(goneMs)],
    ]);
    for (const { address, stream } of [gone, dead, silent]) {
      expect(await watchdog.onlyStreamFrom(address)).toMatchObject({ id: stream.id, state: 'open' });
    }
    for (const phone of [dead.phone, twin]) await watchdog.onlyStreamFrom(phone.host.address);
    expect(metrics.sum('would_sever_total')).toBe(3);
    expect(watchdog.logged('would_sever')).toHaveLength(3);
    expect(metrics.sum('takeovers_total')).toBe(0);
    expect(metrics.sum('hold_seconds_count')).toBe(0);
    expect(watchdog.logged('stream_held')).toEqual([]);
    expect(watchdog.severings()).toEqual([]);
    expect(metrics.streamsUnaccountedFor).toBe(0);
    expect(watchdog.errors()).toEqual([]);
  });
});
