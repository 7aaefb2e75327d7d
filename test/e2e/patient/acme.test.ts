import { X509Certificate } from 'node:crypto';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { describe, expect, it } from 'vitest';
import { certificateFor } from '../support/certificate.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { type Lab, useLab } from '../support/lab.ts';
import { onHost } from '../support/network.ts';
import { ended } from '../support/reach.ts';
import { until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const DOMAIN = 'hs.tailnet.test';

/** Pebble, an ACME server, for which every name is the lab's server, and lego, which asks it for certificates. */
class Acme {
  readonly #lab: Lab;
  readonly #folder: string;
  readonly #ca: string;

  private constructor(lab: Lab, folder: string, ca: string) {
    this.#lab = lab;
    this.#folder = folder;
    this.#ca = ca;
  }

  /** @param httpPort where it looks for answers to HTTP-01 challenges. */
  static async start(lab: Lab, httpPort: number): Promise<Acme> {
    const { address } = lab.server;
    const own = await certificateFor(lab, 'pebble');
    const folder = lab.folder('acme');
    const pebble = {
      ...{ listenAddress: `${address}:14000`, managementListenAddress: `${address}:15000` },
      ...{ certificate: own.certFile, privateKey: own.keyFile, httpPort, tlsPort: 5001 },
    };
    writeFileSync(join(folder, 'pebble.json'), JSON.stringify({ pebble }));
    const noServers = ['-http01', '', '-https01', '', '-tlsalpn01', ''];
    const names = [
      '-dns01',
      `${address}:8053`,
      '-management',
      `${address}:8055`,
      '-defaultIPv4',
      address,
      '-defaultIPv6',
      '',
    ];
    lab.start('challtestsrv', onHost(lab.server, 'pebble-challtestsrv', ...names, ...noServers));
    const child = lab.start(
      'pebble',
      onHost(lab.server, 'pebble', '-config', join(folder, 'pebble.json'), '-dnsserver', `${address}:8053`),
      // Not to wait up to 15 s before each validation, and not to refuse a twentieth of all requests.
      { PEBBLE_VA_NOSLEEP: '1', PEBBLE_WFE_NONCEREJECT: '0', PEBBLE_AUTHZREUSE: '0' },
    );
    const acme = new Acme(lab, folder, own.certFile);
    await until('pebble', { timeoutMs: 60_000, giveUp: () => ended(child) }, () => listens(lab, `${address}:14000`));
    return acme;
  }

  readonly certFile = (): string => join(this.#folder, 'certificates', `${DOMAIN}.crt`);
  readonly keyFile = (): string => join(this.#folder, 'certificates', `${DOMAIN}.key`);

  /** Asks for the certificate, or for another in its place. */
  async lego(webroot: string, ...command: readonly string[]): Promise<void> {
    const { address } = this.#lab.server;
    const where = ['--server', `https://${address}:14000/dir`, '--path', this.#folder, '--accept-tos'];
    const what = ['--email', 'operator@tailnet.test', '--domains', DOMAIN, '--http', '--http.webroot', webroot];
    const child = this.#lab.start('lego', onHost(this.#lab.server, 'lego', ...where, ...what, ...command), {
      LEGO_CA_CERTIFICATES: this.#ca,
    });
    if ((await child.ended()) !== 0) throw new Error(child.tail());
  }

  /** Asks with certbot, as docs/tls.md does. @returns the folder with its `fullchain.pem` and `privkey.pem`. */
  async certbot(webroot: string): Promise<string> {
    const folders = ['config', 'work', 'logs'].flatMap((name) => [
      `--${name}-dir`,
      join(this.#folder, `certbot-${name}`),
    ]);
    const where = ['--server', `https://${this.#lab.server.address}:14000/dir`, '--no-verify-ssl', '--non-interactive'];
    const who = ['--agree-tos', '--register-unsafely-without-email'];
    const asked = ['certonly', '--webroot', '-w', webroot, '-d', DOMAIN];
    const child = this.#lab.start(
      'certbot',
      onHost(this.#lab.server, 'certbot', ...asked, ...where, ...who, ...folders),
    );
    if ((await child.ended()) !== 0) throw new Error(child.tail());
    return join(this.#folder, 'certbot-config', 'live', DOMAIN);
  }

  serial(): string {
    return serialIn(this.certFile());
  }
}

function serialIn(file: string): string {
  return new X509Certificate(readFileSync(file)).serialNumber;
}

async function listens(lab: Lab, target: string): Promise<true | undefined> {
  return (await serialShown(lab, target)) === undefined ? undefined : true;
}

/** The serial number of the certificate that is shown there. */
function serialShown(lab: Lab, target: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ socket: lab.reach.connect(target), rejectUnauthorized: false });
    socket.on('error', () => resolve(undefined)).on('close', () => resolve(undefined));
    socket.on('secureConnect', () => {
      resolve(socket.getPeerCertificate().serialNumber);
      socket.destroy();
    });
  });
}

describe('lego and certbot ask an ACME server (Pebble) for a certificate', () => {
  const here = useLab();

  it('the watchdog serves their answers on plain HTTP in spite of the redirect, uses the certificate, and renews it without a restart', async () => {
    const { lab } = here;
    const { address } = lab.server;
    const headscale = await Headscale.start(lab);
    const [httpPort, httpsPort] = [lab.port(), lab.port()];
    const acme = await Acme.start(lab, httpPort);
    const webroot = lab.folder('webroot');
    const plain = ['--acme-webroot', webroot, '--listen', `http://${address}:${httpPort}?redirect=true`];
    const first = await Watchdog.start(lab, headscale, ...plain);
    const askedAt = performance.now();
    await acme.lego(webroot, 'run');
    const issuedMs = performance.now() - askedAt;
    const live = await acme.certbot(webroot);
    const certbotMs = performance.now() - askedAt - issuedMs;
    await first.stop();

    const tls = `https://${address}:${httpsPort}?cert=${acme.certFile()}&key=${acme.keyFile()}`;
    const certbotsPort = lab.port();
    const certbots = `https://${address}:${certbotsPort}?cert=${live}/fullchain.pem&key=${live}/privkey.pem`;
    const watchdog = await Watchdog.start(lab, headscale, ...plain, '--listen', tls, '--listen', certbots);
    expect(await serialShown(lab, `${address}:${certbotsPort}`)).toBe(serialIn(join(live, 'fullchain.pem')));
    const issued = acme.serial();
    expect(await serialShown(lab, `${address}:${httpsPort}`)).toBe(issued);
    await acme.lego(webroot, 'renew', '--days', '10000', '--no-random-sleep');
    const renewed = acme.serial();
    const renewedAt = performance.now();
    const shown = async () => (await serialShown(lab, `${address}:${httpsPort}`)) === renewed || undefined;
    await until('the renewed certificate', { timeoutMs: 60_000 }, shown);
    printFigures('lego, certbot and Pebble', [
      ['lego: asked → issued', seconds(issuedMs)],
      ['certbot: asked → issued', seconds(certbotMs)],
      ['renewed → shown', seconds(performance.now() - renewedAt)],
    ]);
    expect(renewed).not.toBe(issued);
    expect(statSync(acme.keyFile()).mode & 0o077).toBe(0);
    expect((await lab.reach.get(`${address}:${httpPort}`, '/elsewhere')).status).toBe(302);
    expect(watchdog.errors()).toEqual([]);
  });
});
