import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { closeReason, Harness, readAll, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { scrape } from '../support/http.ts';

const harness = new Harness();
const fixtures = new URL('../support/tls/', import.meta.url).pathname;
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tls-'));
  use('');
});
afterEach(async () => {
  await harness.closeAll();
  rmSync(folder, { recursive: true });
});

/** Puts a certificate and its key where the watchdog looks for them. */
function use(which: '' | 'renewed-'): void {
  for (const name of ['cert.pem', 'key.pem']) cpSync(join(fixtures, `${which}${name}`), join(folder, name));
}

async function start(options = '', flags: Record<string, unknown> = {}) {
  const seen: Record<string, string | string[] | undefined>[] = [];
  const upstream = await harness.upstream(
    (request, socket) => {
      seen.push(request.headers);
      socket.on('error', () => {}).write(SWITCHING);
      socket.on('data', (chunk) => socket.write(chunk)).on('end', () => socket.end());
    },
    (request, response) => {
      // Not what the watchdog asks of its own accord.
      if (request.headers['x-forwarded-for'] !== undefined) seen.push(request.headers);
      request.pipe(response);
    },
  );
  const listen = `https://127.0.0.1:0?cert=${join(folder, 'cert.pem')}&key=${join(folder, 'key.pem')}${options}`;
  const clock = new FakeClock();
  const watchdog = await harness.watchdog(upstream.url, { listen, ...flags }, undefined, { clock });
  const client = async (more: ConnectionOptions = {}, before?: string): Promise<TLSSocket> => {
    const raw = harness.client(watchdog.port);
    if (before !== undefined) raw.write(before);
    const socket = connect({ socket: raw, servername: 'localhost', rejectUnauthorized: false, ...more });
    socket.on('error', () => {});
    harness.defer(() => socket.destroy());
    await new Promise<void>((resolve) => socket.once('secureConnect', resolve).once('close', () => resolve()));
    return socket;
  };
  return { ...watchdog, seen, clock, client };
}

const kinds = (events: readonly WatchdogEvent[], kind: WatchdogEvent['kind']) =>
  events.filter((event) => event.kind === kind);

describe('a listener with TLS', () => {
  test('carries an upgrade in both directions, tells Headscale that it was HTTPS, and ends after a FIN from each side', async () => {
    const { client, seen, events } = await start();
    const socket = await client({
      ALPNProtocols: ['h2', 'http/1.1'],
      ca: readFileSync(join(fixtures, 'cert.pem')),
      rejectUnauthorized: true,
    });
    expect(socket.alpnProtocol).toBe('http/1.1');
    socket.write(upgradeHead('/ts2021'));
    expect(await readHead(socket)).toMatch(/^HTTP\/1\.1 101 /);
    const sent = Buffer.alloc(3_000_000, 7);
    socket.end(sent);
    expect((await readAll(socket)).equals(sent)).toBe(true);
    expect(seen).toMatchObject([{ 'x-forwarded-proto': 'https', 'x-forwarded-for': '127.0.0.1' }]);
    expect(await closeReason(events)).toBe('client_closed');
  });

  test('an upgrade with a body is read as a plain request, as on a plain listener', async () => {
    const { client } = await start();
    const socket = await client();
    socket.write(
      'POST /echo HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\nConnection: upgrade, close\r\nContent-Length: 4\r\n\r\nbody',
    );
    expect(await readHead(socket)).toMatch(/^HTTP\/1\.1 200 /);
  });

  test('refuses TLS 1.1 and connections without TLS, counts and reports both', async () => {
    const { client, events, port, admin } = await start();
    const old = await client({ maxVersion: 'TLSv1.1', minVersion: 'TLSv1', ciphers: 'DEFAULT@SECLEVEL=0' });
    expect(old.getProtocol()).not.toBe('TLSv1.1');
    const plain = harness.client(port);
    plain.write('GET / HTTP/1.1\r\nHost: h\r\n\r\n');
    await readAll(plain);
    await until(() => kinds(events, 'connection_refused').length === 2, 'both are refused');
    expect(kinds(events, 'connection_refused')).toMatchObject([
      { reason: 'tls_handshake' },
      { reason: 'tls_handshake', address: '127.0.0.1' },
    ]);
    expect((await scrape(admin)).get('headscale_watchdog_connections_refused_total{reason="tls_handshake"}')).toBe(2);
  });

  test('a replaced certificate is used for new connections, and open streams stay', async () => {
    const { client, clock, events, admin } = await start();
    const open = await client();
    open.write(upgradeHead('/other'));
    await readHead(open);
    const before = (await scrape(admin)).get('headscale_watchdog_certificate_expires_timestamp_seconds');
    use('renewed-');
    clock.advance(5000);
    await until(() => kinds(events, 'key_file_reloaded').length > 0, 'it is read again');
    expect(kinds(events, 'key_file_reloaded')).toMatchObject([{ key: 'certificate', file: join(folder, 'cert.pem') }]);
    const next = await client();
    expect(next.getPeerCertificate().subject.CN).toBe('renewed.example');
    open.end('still here');
    expect((await readAll(open)).toString()).toBe('still here');
    const after = (await scrape(admin)).get('headscale_watchdog_certificate_expires_timestamp_seconds');
    expect(after).not.toBe(before);
  });

  test('a new certificate without its key is reported once, and the old one stays in use', async () => {
    const { client, clock, events } = await start();
    cpSync(join(fixtures, 'renewed-cert.pem'), join(folder, 'cert.pem'));
    for (let look = 0; look < 3; look++) {
      clock.advance(5000);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(kinds(events, 'key_file_reload_failed')).toMatchObject([
      { detail: expect.stringContaining('does not belong to the certificate') },
    ]);
    expect((await client()).getPeerCertificate().subject.CN).toBe('localhost');
  });

  test('with the PROXY protocol, the header comes before TLS', async () => {
    const { client, seen, events } = await start('&proxy-protocol=true', { trustedProxies: '127.0.0.1' });
    const socket = await client({}, 'PROXY TCP6 2001:db8::7 2001:db8::1 50000 443\r\n');
    socket.write(upgradeHead('/ts2021'));
    expect(await readHead(socket)).toMatch(/^HTTP\/1\.1 101 /);
    expect(seen).toMatchObject([{ 'x-forwarded-for': '2001:db8::7' }]);
    expect(kinds(events, 'stream_opened')).toMatchObject([{ stream: { remoteAddress: '[2001:db8::7]:50000' } }]);
  });

  test('does not redirect, and leaves /generate_204 to Headscale', async () => {
    const { port, seen } = await start();
    const status = await new Promise<number | undefined>((resolve, reject) => {
      const asking = request({
        port,
        host: '127.0.0.1',
        path: '/generate_204',
        rejectUnauthorized: false,
        agent: false,
      });
      asking.on('response', (response) => resolve(response.resume().statusCode)).on('error', reject);
      asking.end();
    });
    expect([status, seen.length]).toEqual([200, 1]);
  });

  test('a client that leaves during the TLS handshake leaves nothing behind, and a stop waits for no handshake', async () => {
    const { port, events, watchdog } = await start();
    for (const bytes of ['', '\x16\x03\x01\x02\x00']) {
      const leaving = harness.client(port);
      leaving.end(bytes, 'latin1');
      await readAll(leaving);
    }
    expect(kinds(events, 'connection_refused')).toHaveLength(2);
    const staying = harness.client(port);
    staying.write('\x16\x03\x01', 'latin1');
    await new Promise((resolve) => setTimeout(resolve, 50));
    const started = performance.now();
    await watchdog.close();
    expect(performance.now() - started).toBeLessThan(1000);
  });

  test.each([
    [
      'cert=/nowhere.pem&key=KEY',
      /the certificate \/nowhere\.pem: there is no such file; give the path of the certificate/,
    ],
    ['cert=CERT&key=/nowhere.pem', /the key \/nowhere\.pem: there is no such file/],
    ['cert=KEY&key=KEY', /the certificate .* cannot be read: .*PEM/],
    ['cert=CERT&key=CERT', /the key .* cannot be read: .*without a passphrase/],
    ['cert=CERT&key=OTHER', /does not belong to the certificate/],
  ])('%s: the watchdog does not start', async (query, message) => {
    const text = query
      .replace('CERT', join(folder, 'cert.pem'))
      .replaceAll('KEY', join(folder, 'key.pem'))
      .replace('CERT', join(folder, 'cert.pem'))
      .replace('OTHER', join(fixtures, 'renewed-key.pem'));
    await expect(harness.watchdog('http://127.0.0.1:9', { listen: `https://127.0.0.1:0?${text}` })).rejects.toThrow(
      message,
    );
  });
});
