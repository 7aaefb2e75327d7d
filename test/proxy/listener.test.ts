import { connect } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { Harness, readAll, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { get } from '../support/http.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const CLAIMS = [
  'X-Forwarded-For: 6.6.6.6',
  'x-forwarded-for: 6.6.6.7',
  'X-FORWARDED-PROTO: https',
  'X-Forwarded-Host: evil.example',
  'X-Real-IP: 6.6.6.6',
  'True-Client-IP: 6.6.6.6',
  'Forwarded: for=6.6.6.6',
].join('\r\n');

/** The headers that say where a request is from, sorted, as the upstream saw them. */
function origins(rawHeaders: readonly string[]): string[] {
  const lines = rawHeaders.flatMap((name, i) => (i % 2 === 0 ? [`${name.toLowerCase()}: ${rawHeaders[i + 1]}`] : []));
  return lines.filter((line) => /forwarded|real-ip|client-ip/.test(line)).sort();
}

const TRUTH = [
  'x-forwarded-for: 127.0.0.1',
  'x-forwarded-host: head.example',
  'x-forwarded-proto: http',
  'x-real-ip: 127.0.0.1',
];

describe('listener', () => {
  test("an upgrade's forwarding headers are replaced with ours, and all other headers keep name, order and value", async () => {
    let rawHeaders: readonly string[] = [];
    const upstream = await harness.upstream((request, socket) => {
      ({ rawHeaders } = request);
      socket.end(SWITCHING);
    });
    const { port } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    client.write(upgradeHead('/ts2021', `X-oDD-CaSe: a  b\r\n${CLAIMS}\r\nCookie: 1\r\nCookie: 2\r\n`));
    await readHead(client);
    expect(origins(rawHeaders)).toEqual(TRUTH);
    const upgrade = ['Upgrade', 'tailscale-control-protocol', 'Connection', 'Upgrade'];
    expect(rawHeaders.slice(-4)).toEqual(upgrade);
    expect(rawHeaders.slice(0, -12)).toEqual([
      ...['Host', 'head.example', 'Content-Length', '0', 'X-oDD-CaSe', 'a  b', 'Cookie', '1', 'Cookie', '2'],
    ]);
  });

  test('several listeners, over IPv4 and IPv6, lead to the same Headscale', async () => {
    const upstream = await harness.upstream((_request, socket) => socket.on('error', () => {}).write(SWITCHING));
    const { watchdog, events, admin } = await harness.watchdog(upstream.url, { listen: ['127.0.0.1:0', '[::1]:0'] });
    const hosts = ['127.0.0.1', '::1'];
    for (const [i, { address, port }] of watchdog.listenAddresses.entries()) {
      expect(address).toBe(hosts[i]);
      const client = connect({ host: address, port });
      harness.defer(() => client.destroy());
      client.write(upgradeHead('/other'));
      expect(await readHead(client)).toMatch(/^HTTP\/1\.1 101 /);
    }
    const opened = events.flatMap((event) => (event.kind === 'stream_opened' ? [event.stream.remoteAddress] : []));
    expect(opened).toEqual([expect.stringMatching(/^127\.0\.0\.1:\d+$/), expect.stringMatching(/^\[::1\]:\d+$/)]);
    const { listen } = JSON.parse((await get(`${admin}/readyz`)).text) as { readonly listen: readonly object[] };
    expect(listen).toMatchObject(watchdog.listenAddresses);
  });

  test("a plain request's forwarding headers are replaced too, and its answer arrives completely", async () => {
    let rawHeaders: readonly string[] = [];
    const upstream = await harness.upstream(
      () => {},
      (request, response) => {
        if (request.url === '/echo?q=1') ({ rawHeaders } = request);
        response.writeHead(201, { 'X-Answer': 'yes' });
        request.pipe(response);
      },
    );
    const { port } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    client.write(
      `PUT /echo?q=1 HTTP/1.1\r\nHost: head.example\r\n${CLAIMS}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody`,
    );
    const answer = (await readAll(client)).toString();
    expect(answer).toMatch(/^HTTP\/1\.1 201 /);
    expect(answer).toMatch(/x-answer: yes/i);
    expect(answer).toMatch(/body/);
    expect(origins(rawHeaders)).toEqual(TRUTH);
  });

  test('while Headscale is down, plain requests and upgrades get 502 at once, one event is emitted, and /readyz says so; afterwards everything works', async () => {
    const upstream = await harness.upstream(
      (_request, socket) => void socket.end(SWITCHING),
      (_request, response) => void response.end(`{"publicKey":"mkey:${'0'.repeat(64)}"}`),
    );
    const watchdog = await harness.watchdog(upstream.url);
    await until(() => watchdog.events.some((event) => event.kind === 'upstream_up'), 'Headscale is seen to be up');
    upstream.server.closeAllConnections();
    await new Promise((resolve) => upstream.server.close(resolve));

    for (let i = 0; i < 5; i++) {
      const start = performance.now();
      const plain = await fetch(`${watchdog.url}/key?v=142`, { headers: { connection: 'close' } });
      expect(plain.status).toBe(502);
      const client = harness.client(watchdog.port);
      client.write(upgradeHead('/ts2021'));
      expect((await readAll(client)).toString()).toMatch(
        /^HTTP\/1\.1 502 Bad Gateway\r\n[\s\S]*Headscale cannot be reached/,
      );
      client.end();
      expect(performance.now() - start).toBeLessThan(500);
    }
    expect(watchdog.events.filter((event) => event.kind === 'upstream_down')).toHaveLength(1);
    const ready = await fetch(`${watchdog.admin}/readyz`, { headers: { connection: 'close' } });
    expect(ready.status).toBe(200);
    expect(await ready.json()).toMatchObject({
      ready: true,
      upstream: { up: false, detail: expect.stringContaining('ECONNREFUSED') },
    });

    await new Promise<void>((resolve) => upstream.server.listen(upstream.port, '127.0.0.1', resolve));
    await until(() => watchdog.events.at(-1)?.kind === 'upstream_up', 'Headscale is seen to be back');
    const back = await fetch(`${watchdog.url}/key?v=142`, { headers: { connection: 'close' } });
    expect(back.status).toBe(200);
    await back.text();
  });

  test('a request on which Headscale closes the connection gets 502, but Headscale does not count as down', async () => {
    const upstream = await harness.upstream(
      (_request, socket) => void socket.destroy(),
      (request, response) => void (request.url === '/bad' ? response.destroy() : response.end('{}')),
    );
    const { port, url, admin, events } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    client.write(upgradeHead('/ts2021'));
    expect((await readAll(client)).toString()).toMatch(/^HTTP\/1\.1 502 /);
    client.end();
    expect((await fetch(`${url}/bad`, { headers: { connection: 'close' } })).status).toBe(502);
    const ready = async () => (await fetch(`${admin}/readyz`, { headers: { connection: 'close' } })).json();
    await until(async () => ((await ready()) as { upstream: { up: boolean } }).upstream.up, 'Headscale was asked');
    expect(events.map(({ kind }) => kind)).not.toContain('upstream_down');
  });

  test.each([
    ['with Content-Length', 'Content-Length: 100\r\n\r\nhalf'],
    ['in chunks', 'Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n'],
  ])('half an answer (%s) closes the connection, so the client does not wait for the rest', async (_what, rest) => {
    const upstream = await harness.upstream(
      () => {},
      (_request, response) => void response.socket?.end(`HTTP/1.1 200 OK\r\n${rest}`),
    );
    const { port } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    client.write('GET /key HTTP/1.1\r\nHost: h\r\n\r\n');
    expect((await readAll(client)).toString()).toContain('half');
  });

  test.each(['http://[/', 'http://x:99999/', 'http://:80/'])('the target %s gets 400', async (target) => {
    const upstream = await harness.upstream(() => {});
    const { port } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    client.write(`GET ${target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n`);
    expect((await readAll(client)).toString()).toMatch(/^HTTP\/1\.1 400 /);
  });

  test('Upgrade without Connection is no upgrade, as for Headscale, and an unexpected 101 becomes a 502', async () => {
    const seen: (string | undefined)[] = [];
    const upstream = await harness.upstream(
      () => {},
      (request, response) => {
        if (request.url === '/ts2021') seen.push(request.headers.upgrade);
        response.socket?.end(SWITCHING);
      },
    );
    const { port } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    client.write('POST /ts2021 HTTP/1.1\r\nHost: h\r\nUpgrade: test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
    expect((await readAll(client)).toString()).toMatch(/^HTTP\/1\.1 502 /);
    expect(seen).toEqual([undefined]);
  });

  test('a client can send several requests on one connection', async () => {
    const upstream = await harness.upstream(
      () => {},
      (request, response) => void response.end(request.url),
    );
    const { port } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    for (const path of ['/one', '/two']) {
      client.write(`GET ${path} HTTP/1.1\r\nHost: head.example\r\n\r\n`);
      const head = await readHead(client);
      expect(head).toMatch(/^HTTP\/1\.1 200 /);
      expect(head.toLowerCase()).toContain('connection: keep-alive');
      await until(() => client.read() !== null, 'the body has come');
    }
  });

  test('bytes that are not HTTP get 400, and affect no other client', async () => {
    const upstream = await harness.upstream((_request, socket) => void socket.end(SWITCHING));
    const { port } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    client.write('\x16\x03\x01 this is no HTTP\r\n\r\n');
    expect((await readAll(client)).toString()).toMatch(/^HTTP\/1\.1 400 /);
    const next = harness.client(port);
    next.write(upgradeHead('/other'));
    expect(await readHead(next)).toMatch(/ 101 /);
  });
});
