import { beforeAll, describe, expect, it } from 'vitest';
import { type Certificate, certificateFor } from '../support/certificate.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { nginx, startProxy } from '../support/proxies.ts';
import { until } from '../support/wait.ts';
import { command, Watchdog } from '../support/watchdog.ts';

/** As nginx does by default: neither HTTP/1.1 nor Upgrade are passed on. */
const forgetful = {
  ...nginx,
  name: 'nginx without Upgrade',
  configuration: (...given: Parameters<typeof nginx.configuration>) =>
    nginx.configuration(...given).replace(/ *proxy_http_version.*\n| *proxy_set_header (Upgrade|Connection) .*\n/g, ''),
};

describe('nginx in front, without any flag for it; Headscale 0.29.2', () => {
  const here = useLab();
  let headscale: Headscale;
  let certificate: Certificate;
  beforeAll(async () => {
    certificate = await certificateFor(here.lab);
    headscale = await Headscale.start(here.lab, { gatherWritesMs: 10 });
  });

  it('on the same machine: nodes log in, each with its own address, and there is no warning', async () => {
    const { lab } = here;
    const [port, listen] = [lab.port(), `${lab.server.address}:${lab.port()}`];
    const watchdog = await Watchdog.start(lab, headscale, '--listen', `127.0.0.1:${port}`);
    await startProxy(lab, nginx, { listen, watchdog: `127.0.0.1:${port}`, certificate });
    const phones = [new Phone(lab, 'phone-a'), new Phone(lab, 'phone-b'), new Phone(lab, 'phone-c')];
    for (const phone of phones) await phone.logIn(`https://${listen}`, await headscale.authKey());
    for (const phone of phones) {
      expect(await watchdog.onlyStreamFrom(phone.host.address)).toMatchObject({ state: 'open' });
    }
    expect(watchdog.warnings()).toEqual([]);
    for (const phone of phones) await phone.shutDown();
  });

  it('elsewhere, at a private address: the log, a metric, /overview and check warn of it, with the flag to set', async () => {
    const { lab } = here;
    const host = await lab.network.addHost('proxy');
    const listen = `${host.address}:${lab.port()}`;
    const watchdog = await Watchdog.start(lab, headscale);
    await startProxy(lab, nginx, { listen, watchdog: new URL(watchdog.url).host, certificate, host });
    const phone = new Phone(lab, 'phone-d');
    await phone.logIn(`https://${listen}`, await headscale.authKey());
    expect(await watchdog.onlyStreamFrom(host.address)).toMatchObject({ state: 'open' });
    const flag = `set --trusted-proxies ${host.address}.`;
    const told = watchdog.warnings();
    expect(told).toMatchObject([{ remoteAddress: host.address, msg: expect.stringContaining(flag) }]);
    expect((await watchdog.metrics()).sum('untrusted_proxies')).toBe(1);
    const { body } = await lab.reach.get(watchdog.admin, '/overview');
    expect(JSON.parse(body).frontProxies).toMatchObject([{ sentence: expect.stringContaining(flag) }]);
    const where = ['--upstream', headscale.url, '--listen', new URL(watchdog.url).host, '--admin', watchdog.admin];
    expect((await command(lab, 'check', ...where)).stdout).toMatch(
      /^warn {2}\[HSW_PROXY_NOT_TRUSTED\] proxies in front: .*--trusted-proxies/m,
    );
    await phone.shutDown();
  });

  it('without Upgrade: no node can log in, and the warning says how to configure the proxy', async () => {
    const { lab } = here;
    const [port, listen] = [lab.port(), `${lab.server.address}:${lab.port()}`];
    const watchdog = await Watchdog.start(lab, headscale, '--listen', `127.0.0.1:${port}`);
    await startProxy(lab, forgetful, { listen, watchdog: `127.0.0.1:${port}`, certificate });
    const phone = new Phone(lab, 'phone-e');
    const login = phone.logIn(`https://${listen}`, await headscale.authKey()).catch(() => undefined);
    const line = await until('telling', { timeoutMs: 30_000 }, () => watchdog.logged('upgrade_header_lost')[0]);
    expect(line).toMatchObject({ level: 40, msg: expect.stringContaining('proxy_http_version 1.1') });
    expect((await watchdog.metrics()).sum('upgrade_headers_lost_total', 'header="upgrade"')).toBeGreaterThan(0);
    await phone.shutDown();
    await login;
  });
});
