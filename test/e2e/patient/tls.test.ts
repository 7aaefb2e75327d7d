import { connect } from 'node:tls';
import { beforeAll, describe, expect, it } from 'vitest';
import { expectGone } from '../support/bystander.ts';
import { type Certificate, certificateFor, listenWithTls, replace } from '../support/certificate.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { ROUNDS, restartCleanly, vanishAndReturn } from '../support/rounds.ts';
import { delay, until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const SLOWEST_MS = 1_200;
const SILENT_AFTER_MS = 4_000;
const TOLERANCE_MS = 500;
const GONE_AFTER_MS = 15_000;
const PROBE_IDLE_MS = 5_000;

describe.concurrent('the watchdog speaks TLS with clients; Headscale 0.29.2', () => {
  const here = useLab();
  let headscale: Headscale;
  let certificate: Certificate;
  let authKey: string;
  beforeAll(async () => {
    certificate = await certificateFor(here.lab);
    headscale = await Headscale.start(here.lab, { gatherWritesMs: 10 });
    authKey = await headscale.authKey();
  });

  async function start(...flags: readonly string[]) {
    const port = here.lab.port();
    const watchdog = await Watchdog.start(
      here.lab,
      headscale,
      '--listen',
      listenWithTls(here.lab, port, certificate),
      ...flags,
    );
    return { watchdog, port, url: `https://${here.lab.server.address}:${port}` };
  }

  it('a phone that vanished and comes back is Running at once by rule 1, in each round', async () => {
    const { watchdog, url } = await start();
    const phone = new Phone(here.lab, 'over-tls');
    await phone.logIn(url, authKey);
    const floorMs = await restartCleanly(phone, 3);
    const backMs = await vanishAndReturn(phone, ROUNDS, async () => {});
    await until('the last takeover', { timeoutMs: 5_000 }, async () => {
      const metrics = await watchdog.metrics();
      return metrics.sum('takeovers_total', 'evidence="kernel"') === ROUNDS ? true : undefined;
    });
    const verdictMs = watchdog.logged('contest_ended').map(({ lastedMs }) => Number(lastedMs));
    printFigures('TLS at the watchdog, Headscale 0.29.2', [
      ['clean restart: start → Running', seconds(...floorMs)],
      ['vanished and back: start → Running', seconds(...backMs)],
      ['newcomer → the old stream severed', seconds(...verdictMs)],
    ]);
    expect((await watchdog.onlyStreamFrom(phone.host.address)).kernel).not.toBeNull();
    expect(Math.max(...backMs)).toBeLessThanOrEqual(SLOWEST_MS);
    expect(Math.max(...verdictMs)).toBeLessThanOrEqual(SLOWEST_MS);
    expect(watchdog.errors()).toEqual([]);
    await phone.shutDown();
  });

  it('the stream of a frozen phone is severed by rule 2 once it is silent', async () => {
    const { watchdog, url } = await start('--silent-after', `${SILENT_AFTER_MS}ms`);
    const phone = new Phone(here.lab, 'frozen');
    await phone.logIn(url, authKey);
    const twin = new Phone(here.lab, 'thawed', phone);
    await phone.say('frozen-now');
    await delay(200);
    phone.freeze();
    const old = await watchdog.onlyStreamFrom(phone.host.address);
    await twin.start();
    await twin.running(10_000);
    const patience = { timeoutMs: 3 * SILENT_AFTER_MS, everyMs: 20 };
    const severing = await until('severing', patience, () =>
      watchdog.severings().find(({ stream }) => stream === old.id),
    );
    printFigures('a frozen client over TLS', [['last heard → severed', seconds(severing.silentMs)]]);
    expect(severing.silentMs).toBeGreaterThanOrEqual(SILENT_AFTER_MS);
    expect(severing.silentMs).toBeLessThanOrEqual(SILENT_AFTER_MS + TOLERANCE_MS);
    await twin.shutDown();
  });

  it('the stream of a phone that does not come back is closed as gone', async () => {
    const times = ['--probe-idle', `${PROBE_IDLE_MS}ms`, '--gone-after', `${GONE_AFTER_MS}ms`];
    const { watchdog, url } = await start(...times);
    const phone = new Phone(here.lab, 'leaves');
    await phone.logIn(url, authKey);
    await delay(2_000);
    const vanishedAt = await phone.vanish();
    await until('gone', { timeoutMs: 40_000 }, async () =>
      (await watchdog.streams()).length === 0 ? true : undefined,
    );
    const goneMs = performance.now() - vanishedAt;
    printFigures('vanished for good over TLS', [[times.join(' '), `${seconds(goneMs)} → its stream ended`]]);
    expect(goneMs).toBeGreaterThanOrEqual(GONE_AFTER_MS - 2_500);
    expect(goneMs).toBeLessThanOrEqual(PROBE_IDLE_MS + GONE_AFTER_MS + 3_000);
    await expectGone(watchdog, 1);
  });

  /** The name on the certificate that a newcomer is shown. */
  function shownAt(port: number): Promise<string> {
    const { lab } = here;
    return new Promise((resolve, reject) => {
      const socket = connect({ socket: lab.reach.connect(`${lab.server.address}:${port}`), rejectUnauthorized: false });
      socket.on('error', reject).on('secureConnect', () => {
        resolve(String(socket.getPeerCertificate().subject.CN));
        socket.destroy();
      });
    });
  }

  it('a replaced certificate is used for new connections, and open streams stay', async () => {
    const { lab } = here;
    const renewable = await certificateFor(lab, 'renewable');
    replace(renewable, certificate);
    const port = lab.port();
    const watchdog = await Watchdog.start(lab, headscale, '--listen', listenWithTls(lab, port, renewable));
    const phone = new Phone(lab, 'stays');
    await phone.logIn(`https://${lab.server.address}:${port}`, authKey);
    const open = await watchdog.onlyStreamFrom(phone.host.address);
    expect(await shownAt(port)).toBe('server');
    replace(renewable, await certificateFor(lab, 'renewed'));
    const started = performance.now();
    await until(
      'the new certificate',
      { timeoutMs: 10_000 },
      async () => (await shownAt(port)) === 'renewed' || undefined,
    );
    printFigures('a certificate is replaced', [['files written → shown', seconds(performance.now() - started)]]);
    await phone.say('still-here');
    await delay(1_000);
    const { id, state, lastHeardAt } = await watchdog.onlyStreamFrom(phone.host.address);
    expect({ id, state }).toEqual({ id: open.id, state: 'open' });
    expect(Date.parse(lastHeardAt)).toBeGreaterThan(Date.parse(open.lastHeardAt));
    expect(watchdog.logged('key_file_reloaded')).toHaveLength(1);
    expect(watchdog.errors()).toEqual([]);
    await phone.shutDown();
  });
});
