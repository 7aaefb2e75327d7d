import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { LONG, PROJECT } from '../support/build.ts';
import { type Child, jsonLines } from '../support/child.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { onHost } from '../support/network.ts';
import { Phone } from '../support/phone.ts';
import { until } from '../support/wait.ts';
import { command, Watchdog } from '../support/watchdog.ts';

const [NODES, TIMES] = LONG ? [300, 10] : [8, 3];
/** They come and go while streams are handed over. */
const RESTLESS = 4;

describe('hand-overs, Headscale 0.29.2', () => {
  const here = useLab();

  it(`of ${NODES} nodes and a tailscaled, ${TIMES} times: no stream ends, and a phone that vanished comes back before, during and after`, async () => {
    const { lab } = here;
    const headscale = await Headscale.start(lab);
    const watchdog = await Watchdog.start(lab, headscale);
    const authKey = await headscale.authKey();
    const crowd = async (name: string, count: number): Promise<Child> => {
      const program = join(PROJECT, 'test', 'e2e', 'support', 'many-nodes-main.ts');
      const given = ['--import', 'tsx', program, watchdog.url, String(count), authKey];
      return lab.start(name, onHost(await lab.network.addHost(name), process.execPath, ...given));
    };
    const openStreams = async () => (await watchdog.streams()).filter(({ state }) => state === 'open');
    const haveStreams = (count: number) =>
      until(`${count} streams`, { timeoutMs: 180_000, everyMs: 250 }, async () =>
        (await openStreams()).length === count ? true : undefined,
      );
    const nodes = await crowd('nodes', NODES);
    await haveStreams(NODES);
    // Headscale is busy until then.
    await until('all nodes have their map', { timeoutMs: 180_000 }, () =>
      jsonLines(nodes.stdout).at(-1)?.running === NODES ? true : undefined,
    );
    const phone = new Phone(lab, 'phone');
    await phone.logIn(watchdog.url, authKey);
    const idle = new Phone(lab, 'idle');
    await idle.logIn(watchdog.url, authKey);
    await haveStreams(NODES + 2);
    const returned: number[] = [];
    const vanishAndReturn = async (): Promise<void> => {
      await phone.vanish();
      await phone.start();
      returned.push(await phone.running(60_000));
      await watchdog.onlyStreamFrom(phone.host.address);
    };
    await vanishAndReturn();
    const keptBefore = new Map((await openStreams()).map(({ id, machineKey }) => [id, machineKey]));
    const said = nodes.stdout.length;
    // On a busy machine, some nodes need several tries until they are logged in.
    const openedBefore = watchdog.logged('stream_opened').length;
    const restless = await crowd('restless', RESTLESS);

    const tookMs: number[] = [];
    for (let i = 0; i < TIMES; i++) {
      const began = performance.now();
      const handing = command(lab, 'handover', '--admin', watchdog.admin);
      if (i === 1) await vanishAndReturn();
      const { code, said: told } = await handing;
      expect([code, told]).toEqual([0, expect.stringMatching(/^handed over to process \d+ in .*, \d+ cannot go$/)]);
      tookMs.push(performance.now() - began);
      restless.signal('SIGUSR2');
    }
    await vanishAndReturn();
    printFigures(`hand-overs of ${NODES} nodes`, [
      ['each', seconds(...tookMs)],
      ['start → Running before, during, after', seconds(...returned)],
    ]);

    // Those that nobody disturbed have the streams that they had, and have noticed nothing.
    const phoneKey = (await watchdog.onlyStreamFrom(phone.host.address)).machineKey;
    const kept = new Map((await openStreams()).map(({ id, machineKey }) => [id, machineKey]));
    for (const [id, machineKey] of keptBefore) {
      if (machineKey !== phoneKey) expect([id, kept.get(id)]).toEqual([id, machineKey]);
    }
    expect(jsonLines(nodes.stdout.slice(said))).toEqual([]);
    expect((await idle.status()).BackendState).toBe('Running');
    const reconnected = watchdog
      .logged('stream_opened')
      .slice(openedBefore)
      .filter(({ machineKey }) => {
        return machineKey !== phoneKey && [...keptBefore.values()].includes(String(machineKey));
      });
    expect(reconnected).toEqual([]);
    expect(watchdog.severings().filter(({ reason }) => reason !== 'dead')).toEqual([]);
    expect(watchdog.errors()).toEqual([]);
    expect((await watchdog.metrics()).sum('handovers_total')).toBe(TIMES);
  }, 600_000);
});
