import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { programs } from '../support/build.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { type Host, onHost } from '../support/network.ts';
import { ended } from '../support/reach.ts';
import { delay, until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const SLOWEST_MS = 1_200;
const SILENT_AFTER_MS = 4_000;
const TOLERANCE_MS = 500;

describe('a browser client, which uses a WebSocket with the handshake in its query; Headscale 0.29.2', () => {
  const here = useLab();

  it('is identified, and its old stream is severed by rule 1 if it vanished and by rule 2 if it froze', async () => {
    const { lab } = here;
    const headscale = await Headscale.start(lab, { gatherWritesMs: 10 });
    const watchdog = await Watchdog.start(lab, headscale, '--silent-after', `${SILENT_AFTER_MS}ms`);
    const state = join(lab.folder('browser'), 'state');
    const open = async (host: Host, ...authKey: readonly string[]) => {
      const child = lab.start('web-client', onHost(host, programs.webClient, watchdog.url, state, ...authKey));
      await until('a map', { timeoutMs: 10_000, giveUp: () => ended(child) }, () => child.stdout[0]);
      return child;
    };
    const first = await lab.network.addHost('browser');
    const child = await open(first, await headscale.authKey());
    const old = await watchdog.onlyStreamFrom(first.address);
    await delay(2_000);
    await lab.network.cutOff(first);
    await child.end('SIGKILL');
    await lab.network.removeHost(first);
    const second = await lab.network.addHost('browser');
    const back = await open(second);
    const dead = await until('severing', { timeoutMs: 5_000, everyMs: 20 }, () => watchdog.severings()[0]);

    const frozen = await watchdog.onlyStreamFrom(second.address);
    back.signal('SIGSTOP');
    const third = await lab.network.addHost('browser');
    await open(third);
    const silent = await until('severing', { timeoutMs: 15_000, everyMs: 20 }, () => watchdog.severings()[1]);
    const contests = await until('both verdicts', { timeoutMs: 1_000 }, () => {
      const ended = watchdog.logged('contest_ended');
      return ended.length === 2 ? ended : undefined;
    });
    const deadMs = Number(contests[0]?.lastedMs);
    const metrics = await watchdog.metrics();
    printFigures('a browser', [
      ['vanished, back → severed', seconds(deadMs)],
      ['frozen, last heard → severed', seconds(silent.silentMs)],
    ]);
    expect(old.machineKey).toBe((await headscale.node('browser')).machineKey);
    expect(dead.stream).toBe(old.id);
    expect(deadMs).toBeLessThanOrEqual(SLOWEST_MS);
    expect(silent.stream).toBe(frozen.id);
    expect(silent.silentMs).toBeGreaterThanOrEqual(SILENT_AFTER_MS);
    expect(silent.silentMs).toBeLessThanOrEqual(SILENT_AFTER_MS + 2_000 + TOLERANCE_MS);
    expect(metrics.sum('handshakes_total', 'result="identified"')).toBe(3);
    expect(metrics.sum('takeovers_total', 'evidence="kernel"')).toBe(1);
    expect(metrics.sum('takeovers_total', 'evidence="silence"')).toBe(1);
    expect(watchdog.errors()).toEqual([]);
  });
});
