import { beforeAll, describe, expect, it } from 'vitest';
import { ControlServer } from '../support/control-server.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { useLab } from '../support/lab.ts';
import { tcpConnections } from '../support/network.ts';
import { Phone } from '../support/phone.ts';
import { ROUNDS, restartCleanly } from '../support/rounds.ts';
import { delay } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const SLOWEST_MS = 1_000;

describe('tailscaled is stopped, which sends a FIN, and started again', () => {
  const here = useLab();
  let server: ControlServer;
  let watchdog: Watchdog;
  beforeAll(async () => {
    server = await ControlServer.start(here.lab, 'refuse');
    watchdog = await Watchdog.start(here.lab, server);
  });

  it('no stream is contested, held or left behind', async () => {
    const phone = new Phone(here.lab, 'phone');
    await phone.logIn(watchdog.url, 'any');

    const startToRunningMs = await restartCleanly(phone, ROUNDS, async () => {
      expect(await watchdog.streams()).toMatchObject([{ kind: 'control', state: 'open', contests: [] }]);
    });

    await delay(500);
    const states = (await tcpConnections(here.lab.server)).map(({ state }) => state);
    const metrics = await watchdog.metrics();
    printFigures('clean restart, with the watchdog', [['start → Running', seconds(...startToRunningMs)]]);
    expect(metrics.sum('contests_total')).toBe(0);
    expect(metrics.sum('takeovers_total')).toBe(0);
    expect(metrics.sum('hold_seconds_count')).toBe(0);
    expect(metrics.streamsUnaccountedFor).toBe(0);
    expect(states).not.toContain('CLOSE-WAIT');
    expect(server.refusals(phone.name)).toBe(0);
    expect(watchdog.errors()).toEqual([]);
    expect(Math.max(...startToRunningMs)).toBeLessThanOrEqual(SLOWEST_MS);
  });
});
