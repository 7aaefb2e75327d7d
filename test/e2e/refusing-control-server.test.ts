import { beforeAll, describe, expect, it } from 'vitest';
import { ControlServer } from './support/control-server.ts';
import { printFigures, seconds } from './support/figures.ts';
import { useLab } from './support/lab.ts';
import { Phone } from './support/phone.ts';
import { ROUNDS, restartCleanly, vanishAndReturn } from './support/rounds.ts';
import { delay, until } from './support/wait.ts';
import { Watchdog } from './support/watchdog.ts';

const AUTH_KEY = 'any';
const STILL_REFUSED_MS = 60_000;
const SLOWEST_MS = 1_200;

describe('tailscaled vanishes without a FIN and comes back elsewhere; the control server refuses a second stream', () => {
  const here = useLab();
  let server: ControlServer;
  beforeAll(async () => {
    server = await ControlServer.start(here.lab, 'refuse');
  });

  it('without the watchdog, it is still refused after 60 s', async () => {
    const phone = new Phone(here.lab, 'unhelped');
    await phone.logIn(server.url, AUTH_KEY);
    const floorMs = await restartCleanly(phone, 1);
    expect(server.refusals(phone.name)).toBe(0);

    await phone.vanish();
    await phone.start();
    await delay(STILL_REFUSED_MS);

    const { BackendState } = await phone.status();
    const refused = server.refusals(phone.name);
    printFigures('refusing control server, no watchdog', [
      ['clean restart: start → Running', seconds(...floorMs)],
      [`after ${STILL_REFUSED_MS / 1000} s`, `state ${BackendState}, refused ${refused} times`],
    ]);
    expect(BackendState).not.toBe('Running');
    expect(refused).toBeGreaterThanOrEqual(3);
    await phone.shutDown();
  });

  it('with the watchdog, it is Running within 1.2 s in each round and never refused', async () => {
    const watchdog = await Watchdog.start(here.lab, server, '--silent-after', '30s');
    const phone = new Phone(here.lab, 'helped');
    const bystander = new Phone(here.lab, 'bystander');
    await bystander.logIn(watchdog.url, AUTH_KEY);
    await phone.logIn(watchdog.url, AUTH_KEY);
    const untouched = await watchdog.streamsFrom(bystander.host.address);
    expect(untouched).toHaveLength(1);
    const floorMs = await restartCleanly(phone, 2);

    const backMs = await vanishAndReturn(phone, ROUNDS, async () => {
      expect(await watchdog.streamsFrom(phone.host.address)).toMatchObject([{ state: 'open', contests: [] }]);
      const two = async () => ((await watchdog.streams()).length === 2 ? true : undefined);
      await until('one stream for each of the two nodes', { timeoutMs: 1_000 }, two);
    });

    const metrics = await watchdog.metrics();
    const heldMs = (metrics.sum('hold_seconds_sum') / metrics.sum('hold_seconds_count')) * 1000;
    printFigures('refusing control server, with the watchdog', [
      ['clean restart: start → Running', seconds(...floorMs)],
      ['vanished and back: start → Running', seconds(...backMs)],
      ['held, on average', seconds(heldMs)],
      ['refused', String(server.refusals(phone.name))],
    ]);
    expect(server.refusals(phone.name)).toBe(0);
    expect(metrics.sum('takeovers_total', 'evidence="kernel"')).toBe(ROUNDS);
    expect(metrics.sum('takeovers_total', 'evidence="silence"')).toBe(0);
    expect(await watchdog.streamsFrom(bystander.host.address)).toMatchObject(untouched.map(({ id }) => ({ id })));
    expect(metrics.streamsUnaccountedFor).toBe(0);
    expect(watchdog.errors()).toEqual([]);
    expect(Math.max(...backMs)).toBeLessThanOrEqual(SLOWEST_MS);
  });
});
