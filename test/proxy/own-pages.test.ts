import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Harness, readAll, readHead, switching, upgradeHead } from '../support/harness.ts';

const harness = new Harness();
let webroot: string;
beforeEach(() => {
  webroot = mkdtempSync(join(tmpdir(), 'webroot-'));
  mkdirSync(join(webroot, '.well-known', 'acme-challenge'), { recursive: true });
  writeFileSync(join(webroot, '.well-known', 'acme-challenge', 'a-Token_1'), 'a-Token_1.hash');
  writeFileSync(join(webroot, 'secret'), 'secret');
});
afterEach(async () => {
  await harness.closeAll();
  rmSync(webroot, { recursive: true });
});

/** A watchdog before an upstream that says what it was asked for. */
async function start(flags: Record<string, unknown>) {
  const upstream = await harness.upstream(
    (request, socket) => socket.end(switching(request.headers.upgrade ?? '')),
    (request, response) => response.end(`Headscale: ${request.method} ${request.url}`),
  );
  const { port } = await harness.watchdog(upstream.url, flags);
  const ask = async (line: string, ...headers: readonly string[]): Promise<string> => {
    const client = harness.client(port);
    client.write([`${line} HTTP/1.1`, ...headers, 'Connection: close', '', ''].join('\r\n'));
    return (await readAll(client)).toString();
  };
  return { port, ask };
}

const HOST = 'Host: hs.example:8080';
const REDIRECTING = { listen: 'http://127.0.0.1:0?redirect=true' };

describe('a plain listener', () => {
  test('answers /generate_204 itself, and returns the challenge', async () => {
    const { ask } = await start({});
    expect(await ask('GET /generate_204', HOST)).toMatch(/^HTTP\/1\.1 204 /);
    expect(await ask('GET /generate_204', HOST, 'X-Tailscale-Challenge: ts_hs.example')).toContain(
      'X-Tailscale-Response: response ts_hs.example\r\n',
    );
    expect(await ask('GET /generate_204', HOST, 'X-Tailscale-Challenge: a b')).not.toContain('X-Tailscale-Response');
    expect(await ask('POST /generate_204', HOST, 'Content-Length: 0')).toContain('Headscale: POST /generate_204');
  });

  test('without redirect, passes everything else on', async () => {
    const { ask } = await start({});
    for (const path of ['/', '/key?v=1', '/.well-known/acme-challenge/a-Token_1']) {
      expect(await ask(`GET ${path}`, HOST)).toContain(`Headscale: GET ${path}`);
    }
  });

  test('with redirect, redirects only GET and HEAD to HTTPS', async () => {
    const { ask, port } = await start(REDIRECTING);
    const answer = await ask('GET /register/1?q=%20', HOST);
    expect(answer).toMatch(/^HTTP\/1\.1 302 /);
    expect(answer).toContain('Location: https://hs.example/register/1?q=%20\r\n');
    expect(await ask('HEAD /', 'Host: [2001:db8::1]:80')).toContain('Location: https://[2001:db8::1]/\r\n');
    expect(await ask('POST /machine', HOST, 'Content-Length: 0')).toContain('Headscale: POST /machine');
    const client = harness.client(port);
    client.write(upgradeHead('/ts2021'));
    expect(await readHead(client)).toMatch(/^HTTP\/1\.1 101 /);
    const browser = harness.client(port);
    browser.write(`GET /ts2021 HTTP/1.1\r\n${HOST}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n`);
    expect(await readHead(browser)).toMatch(/^HTTP\/1\.1 101 /);
  });

  test.each(['Host: a b', 'Host: evil.example/x', 'Host: hs.example@evil.example', 'Host:'])(
    'with redirect, never redirects to the host of %j',
    async (host) => {
      const { ask } = await start(REDIRECTING);
      const answer = await ask('GET /', host);
      expect(answer).toMatch(/^HTTP\/1\.1 400 /);
      expect(answer).not.toContain('Location');
    },
  );

  test('does not redirect a client that already uses HTTPS at a trusted proxy', async () => {
    const { ask } = await start({ ...REDIRECTING, trustedProxies: '127.0.0.1' });
    expect(await ask('GET /', HOST, 'X-Forwarded-Proto: https')).toContain('Headscale: GET /');
    expect(await ask('GET /', HOST, 'X-Forwarded-Proto: http')).toMatch(/^HTTP\/1\.1 302 /);
  });

  test('redirects to the port of the TLS listener', async () => {
    const tls = ['cert', 'key'].map((name) => new URL(`../support/tls/${name}.pem`, import.meta.url).pathname);
    const https = `https://127.0.0.1:0?cert=${tls[0]}&key=${tls[1]}`;
    const { ask } = await start({ listen: [REDIRECTING.listen, https] });
    // Port 0 is whatever is free: here only that it is not left out.
    expect(await ask('GET /', HOST)).toContain('Location: https://hs.example:0/\r\n');
  });

  test('answers an ACME challenge from the webroot, even with redirect, and no other file', async () => {
    for (const listen of ['127.0.0.1:0', REDIRECTING.listen]) {
      const { ask } = await start({ listen, acmeWebroot: webroot });
      expect(await ask('GET /.well-known/acme-challenge/a-Token_1', HOST)).toMatch(
        /^HTTP\/1\.1 200 [\s\S]*a-Token_1\.hash$/,
      );
      for (const path of ['other', '..%2f..%2fsecret', '../../secret', '', 'a-Token_1/', '.']) {
        const answer = await ask(`GET /.well-known/acme-challenge/${path}`, HOST);
        expect(answer, path).toMatch(/^HTTP\/1\.1 404 /);
        expect(answer).not.toContain('secret');
      }
    }
  });
});
