import { beforeAll, describe, expect, it } from 'vitest';
import { type Certificate, certificateFor, listenWithTls } from '../support/certificate.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { expectEvidenceFrom } from '../support/fronts.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import {
  caddy,
  documentedCaddy,
  documentedNginx,
  haproxyHttp,
  haproxyTcp,
  nginx,
  type ProxyProgram,
  startProxy,
} from '../support/proxies.ts';
import { delay, until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const SILENT_AFTER_MS = 4_000;
/** A newcomer proves itself for a second, and both verdict and log take a moment. */
const TOLERANCE_MS = 3_000;

interface Setup {
  readonly proxy: ProxyProgram;
  /** What the proxy connects to; each watchdog listens plainly as well, for nobody but the tests. */
  readonly watchdogListens: 'plainly' | 'proxy-protocol' | 'proxy-protocol and TLS';
  readonly scheme: 'http' | 'https';
}

const SETUPS: readonly Setup[] = [
  { proxy: nginx, watchdogListens: 'plainly', scheme: 'https' },
  { proxy: caddy, watchdogListens: 'plainly', scheme: 'https' },
  { proxy: documentedNginx, watchdogListens: 'plainly', scheme: 'https' },
  { proxy: documentedCaddy, watchdogListens: 'plainly', scheme: 'https' },
  { proxy: haproxyHttp, watchdogListens: 'plainly', scheme: 'https' },
  { proxy: haproxyTcp('send-proxy'), watchdogListens: 'proxy-protocol', scheme: 'http' },
  { proxy: haproxyTcp('send-proxy-v2'), watchdogListens: 'proxy-protocol and TLS', scheme: 'https' },
];

describe.concurrent('behind another proxy; Headscale 0.29.2', () => {
  const here = useLab();
  let headscale: Headscale;
  let certificate: Certificate;
  beforeAll(async () => {
    certificate = await certificateFor(here.lab);
    headscale = await Headscale.start(here.lab, { gatherWritesMs: 10 });
  });

  async function start({ proxy, watchdogListens, scheme }: Setup) {
    const { lab } = here;
    const { address } = lab.server;
    const [port, listen] = [lab.port(), `${address}:${lab.port()}`];
    const flags = ['--trusted-proxies', address, '--silent-after', `${SILENT_AFTER_MS}ms`];
    if (watchdogListens === 'proxy-protocol') flags.push('--listen', `http://${address}:${port}?proxy-protocol=true`);
    if (watchdogListens === 'proxy-protocol and TLS') {
      flags.push('--listen', listenWithTls(lab, port, certificate, '&proxy-protocol=true'));
    }
    const watchdog = await Watchdog.start(lab, headscale, ...flags);
    const target = watchdogListens === 'plainly' ? new URL(watchdog.url).host : `${address}:${port}`;
    await startProxy(lab, proxy, { listen, watchdog: target, certificate });
    return { watchdog, url: `${scheme}://${listen}` };
  }

  it.each(SETUPS)(
    '$proxy.name: a phone logs in, its old stream is severed when it is back, and /streams shows its own address',
    async (setup) => {
      const { watchdog, url } = await start(setup);
      const phone = new Phone(here.lab, `phone-${SETUPS.indexOf(setup)}`);
      await phone.logIn(url, await headscale.authKey());
      const old = await watchdog.onlyStreamFrom(phone.host.address);
      await phone.vanish();
      await delay(1_000);
      await phone.start();
      const backMs = await phone.running(20_000);

      const patience = { timeoutMs: SILENT_AFTER_MS + 15_000, everyMs: 20 };
      const severing = await until('severing', patience, () =>
        watchdog.severings().find(({ stream }) => stream === old.id),
      );
      const stream = await watchdog.onlyStreamFrom(phone.host.address);
      const metrics = await watchdog.metrics();
      printFigures(`behind ${setup.proxy.name}`, [
        ['its streams come from', `${old.remoteAddress}, then ${stream.remoteAddress}`],
        ['start → Running', seconds(backMs)],
        ['last heard → severed', `${seconds(severing.silentMs)}, as ${severing.reason}`],
      ]);
      for (const each of [old, stream]) {
        expect(each.state).toBe('open');
        expectEvidenceFrom({ by: setup.watchdogListens === 'plainly' ? 'address' : 'port', user: 'root' }, each);
      }
      if (severing.reason === 'silent') expect(severing.silentMs).toBeGreaterThanOrEqual(SILENT_AFTER_MS);
      expect(severing.silentMs).toBeLessThanOrEqual(Math.max(SILENT_AFTER_MS, 1_000 + backMs) + TOLERANCE_MS);
      expect(metrics.sum('takeovers_total')).toBe(1);
      expect((await headscale.connections()).get(phone.name)).toBe(1);
      expect(watchdog.errors()).toEqual([]);
      await phone.shutDown();
    },
  );
});
