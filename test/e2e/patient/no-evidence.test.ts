import { beforeAll, describe, expect, it } from 'vitest';
import { certificateFor } from '../support/certificate.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { expectNoEvidence } from '../support/fronts.ts';
import { Headscale } from '../support/headscale.ts';
import { type Lab, useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { plainCaddy, plainHaproxyHttp, startProxy } from '../support/proxies.ts';
import { delay, until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const SILENT_AFTER_MS = 6_000;
const AWAY_MS = 1_000;
/** A newcomer proves itself for a second, and both verdict and log take a moment. */
const TOLERANCE_MS = 3_000;

interface Setup {
  readonly name: string;
  readonly reason: string;
  /** Starts what is between the phones and the watchdog. */
  readonly start: (lab: Lab, headscale: Headscale) => Promise<{ readonly watchdog: Watchdog; readonly url: string }>;
}

const FLAGS = ['--silent-after', `${SILENT_AFTER_MS}ms`];

const SETUPS: readonly Setup[] = [
  {
    name: 'Caddy on another host',
    reason: 'proxy_elsewhere',
    start: async (lab, headscale) => {
      const host = await lab.network.addHost('proxy');
      const listen = `${host.address}:${lab.port()}`;
      const watchdog = await Watchdog.start(lab, headscale, '--trusted-proxies', host.address, ...FLAGS);
      const between = { listen, watchdog: new URL(watchdog.url).host, certificate: await certificateFor(lab), host };
      await startProxy(lab, plainCaddy('Caddy elsewhere', 'header_up X-Real-Port {remote_port}'), between);
      return { watchdog, url: `http://${listen}` };
    },
  },
  {
    name: 'HAProxy before Caddy, both on this host',
    reason: 'several_proxies',
    start: async (lab, headscale) => {
      const { address } = lab.server;
      const [outer, inner] = [`${address}:${lab.port()}`, `${address}:${lab.port()}`];
      const certificate = await certificateFor(lab, 'two-hops');
      const watchdog = await Watchdog.start(lab, headscale, '--trusted-proxies', address, ...FLAGS);
      const second = plainCaddy('Caddy behind HAProxy', 'trusted_proxies private_ranges');
      await startProxy(lab, second, { listen: inner, watchdog: new URL(watchdog.url).host, certificate });
      await startProxy(lab, plainHaproxyHttp('HAProxy before Caddy'), { listen: outer, watchdog: inner, certificate });
      return { watchdog, url: `http://${outer}` };
    },
  },
];

// Headscale tells the dead stream of its node's return at once: if anything were known, the stream would be ended sooner.
describe.concurrent('where the proxy in front cannot be seen, or is not the nearest to the clients; Headscale 0.29.2', () => {
  const here = useLab();
  let headscale: Headscale;
  beforeAll(async () => {
    headscale = await Headscale.start(here.lab, { gatherWritesMs: 10 });
  });

  it.each(SETUPS)('$name: nothing is known, the reason is shown, and rule 2 takes over', async (setup) => {
    const { lab } = here;
    const { watchdog, url } = await setup.start(lab, headscale);
    const phone = new Phone(lab, `phone-${SETUPS.indexOf(setup)}`);
    await phone.logIn(url, await headscale.authKey());
    const old = await watchdog.onlyStreamFrom(phone.host.address);
    await phone.vanish();
    await delay(AWAY_MS);
    await phone.start();
    const backMs = await phone.running(20_000);
    const patience = { timeoutMs: SILENT_AFTER_MS + 15_000, everyMs: 20 };
    const severing = await until('severing', patience, () => watchdog.severings()[0]);

    const stream = await watchdog.onlyStreamFrom(phone.host.address);
    printFigures(`behind ${setup.name}`, [
      ['start → Running', seconds(backMs)],
      ['last heard → severed', `${seconds(severing.silentMs)}, as ${severing.reason}`],
    ]);
    for (const each of [old, stream]) expectNoEvidence(each, setup.reason);
    expect(severing).toMatchObject({ stream: old.id, reason: 'silent' });
    expect(severing.silentMs).toBeGreaterThanOrEqual(SILENT_AFTER_MS);
    expect(severing.silentMs).toBeLessThanOrEqual(Math.max(SILENT_AFTER_MS, AWAY_MS + backMs) + TOLERANCE_MS);
    expect((await watchdog.metrics()).sum('takeovers_total', 'evidence="kernel"')).toBe(0);
    expect(watchdog.errors()).toEqual([]);
    await phone.shutDown();
  });
});
