import { afterEach, describe, expect, test } from 'vitest';
import { closed, Harness, readAll, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

/** A watchdog before an upstream that writes down what it is asked. */
async function start(flags: Record<string, unknown>) {
  const seen: Record<string, string | string[] | undefined>[] = [];
  const upstream = await harness.upstream(
    (request, socket) => {
      seen.push({ ...request.headers, url: request.url });
      socket.on('error', () => {}).write(SWITCHING);
      socket.on('data', (chunk) => socket.write(chunk)).on('end', () => socket.end());
    },
    (request, response) => {
      if (request.url?.startsWith('/asked')) seen.push({ ...request.headers, url: request.url });
      request.resume().on('end', () => response.end('answer'));
    },
  );
  const watchdog = await harness.watchdog(upstream.url, flags);
  const opened = () => watchdog.events.flatMap((event) => (event.kind === 'stream_opened' ? [event.stream] : []));
  const refused = () => watchdog.events.filter((event) => event.kind === 'connection_refused');
  return { ...watchdog, seen, opened, refused };
}

const TRUSTED = { trustedProxies: '127.0.0.1' };
const CLAIMS = 'X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: hs.example\r\n';
/** As nginx asks with the configuration of Headscale's documentation. */
const nginxHead = (path: string): string =>
  `POST ${path} HTTP/1.1\r\nHost: up\r\nUpgrade: tailscale-control-protocol\r\nConnection: keep-alive\r\nContent-Length: 0\r\n${CLAIMS}\r\n`;

describe('behind a trusted proxy', () => {
  test("the client's address is the one that the proxy sends, also for Headscale", async () => {
    // By default: it comes from the loopback.
    const { port, seen, opened } = await start({ trustedProxies: undefined });
    const client = harness.client(port);
    client.write(upgradeHead('/ts2021', CLAIMS));
    expect(await readHead(client)).toMatch(/^HTTP\/1\.1 101 /);
    expect(opened()).toMatchObject([{ address: '203.0.113.7', remoteAddress: '203.0.113.7' }]);
    expect(seen).toMatchObject([
      { 'x-forwarded-for': '203.0.113.7', 'x-real-ip': '203.0.113.7', 'x-forwarded-proto': 'https' },
    ]);
    expect(seen[0]).toMatchObject({ 'x-forwarded-host': 'hs.example' });
  });

  test.each([['X-Real-Port: 4711\r\n'], ['forwarded: for=6.6.6.6\r\nFORWARDED: for="203.0.113.7:4711"\r\n']])(
    "the client's port is shown, and Headscale does not hear it: %j",
    async (more) => {
      const { port, seen, opened } = await start(TRUSTED);
      const client = harness.client(port);
      client.write(upgradeHead('/ts2021', `${CLAIMS}${more}`));
      await readHead(client);
      expect(opened()).toMatchObject([{ address: '203.0.113.7', remoteAddress: '203.0.113.7:4711' }]);
      expect(seen).toMatchObject([{ 'x-forwarded-for': '203.0.113.7' }]);
      expect(seen[0]).not.toHaveProperty('x-real-port');
      expect(seen[0]).not.toHaveProperty('forwarded');
    },
  );

  test('forwarding headers from anybody else are ignored', async () => {
    const { port, seen, opened } = await start({ trustedProxies: '127.0.0.2' });
    const client = harness.client(port);
    client.write(upgradeHead('/ts2021', `${CLAIMS}X-Real-Port: 4711\r\nForwarded: for="203.0.113.7:4711"\r\n`));
    await readHead(client);
    expect(opened()).toMatchObject([
      { address: '127.0.0.1', remoteAddress: expect.stringMatching(/^127\.0\.0\.1:\d+$/) },
    ]);
    expect(seen).toMatchObject([{ 'x-forwarded-for': '127.0.0.1', 'x-forwarded-proto': 'http' }]);
  });

  test('kernel evidence is not used, because it would be about the proxy', async () => {
    const asked: (number | undefined)[] = [];
    const nothing = { applyTimeouts: () => {}, setUserTimeout: () => {}, probe: () => {}, trimMemory: () => {} };
    const evidenceOf = ({ remotePort }: { remotePort?: number | undefined }) => void asked.push(remotePort);
    const kernel = { ok: true as const, kernel: { ...nothing, evidenceOf } };
    const upstream = await harness.upstream((_request, socket) => socket.on('error', () => {}).write(SWITCHING));
    const counts: number[] = [];
    for (const trustedProxies of ['none', undefined, '127.0.0.1']) {
      const watchdog = await harness.watchdog(upstream.url, { trustedProxies }, undefined, { kernel });
      await harness.upgraded(watchdog.port);
      asked.length = 0;
      await fetch(`${watchdog.admin}/streams`, { headers: { connection: 'close' } });
      counts.push(asked.length);
    }
    expect(counts).toEqual([1, 0, 0]);
  });

  test('an upgrade with Connection: keep-alive, as nginx sends it, is accepted, also in pieces', async () => {
    const { port, seen } = await start(TRUSTED);
    for (const size of [1000, 1]) {
      const client = harness.client(port);
      const head = nginxHead('/ts2021');
      for (let at = 0; at < head.length; at += size) client.write(head.slice(at, at + size));
      expect(await readHead(client)).toMatch(/^HTTP\/1\.1 101 /);
      client.end('bytes of the session');
      expect((await readAll(client)).toString()).toBe('bytes of the session');
    }
    expect(seen).toMatchObject([{ connection: 'Upgrade' }, { connection: 'Upgrade' }]);
  });

  test('an upgrade with Connection: keep-alive is accepted from anybody, as by Headscale', async () => {
    const { port, seen } = await start({ trustedProxies: '127.0.0.2' });
    const client = harness.client(port);
    client.write(nginxHead('/ts2021').replace('keep-alive', 'close'));
    expect(await readHead(client)).toMatch(/^HTTP\/1\.1 101 /);
    expect(seen).toMatchObject([{ connection: 'Upgrade', upgrade: 'tailscale-control-protocol' }]);
  });

  test('a connection of an untrusted proxy also carries only one request, so that an upgrade is always the first', async () => {
    const { port, seen } = await start({ trustedProxies: '127.0.0.2' });
    const client = harness.client(port);
    client.write(`GET /asked HTTP/1.1\r\nHost: up\r\n${CLAIMS}\r\n${nginxHead('/ts2021')}`);
    const answer = (await readAll(client)).toString();
    expect(answer).toMatch(/^HTTP\/1\.1 200 [\s\S]*connection: close/i);
    expect(answer.match(/HTTP\/1\.1/g)).toHaveLength(1);
    expect(seen.map(({ url }) => url)).toEqual(['/asked']);
  });

  test('an upgrade that comes second is told to come again on a new connection', async () => {
    const { port, seen } = await start({ trustedProxies: '127.0.0.2' });
    const client = harness.client(port);
    client.write('GET /asked HTTP/1.1\r\nHost: up\r\n\r\n');
    await readHead(client);
    client.write(nginxHead('/ts2021'));
    const answer = (await readAll(client)).toString();
    expect(answer).toMatch(/HTTP\/1\.1 503 [\s\S]*connection: close/i);
    expect(seen.map(({ url }) => url)).toEqual(['/asked']);
  });

  test.each([40_000, 200_000])('a body of %i bytes that arrives with the head is read completely', async (length) => {
    const { port } = await start(TRUSTED);
    const client = harness.client(port);
    client.write(`POST /asked HTTP/1.1\r\nHost: up\r\nContent-Length: ${length}\r\n\r\n${'x'.repeat(length)}`);
    expect((await readAll(client)).toString()).toMatch(/^HTTP\/1\.1 200 /);
  });

  test('a connection carries only one request, so that no upgrade after it is missed', async () => {
    const { port, seen } = await start(TRUSTED);
    const client = harness.client(port);
    const plain = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: up\r\nConnection: keep-alive\r\n\r\n`;
    client.write(`${plain('/asked')}${plain('/asked-again')}`);
    const answer = (await readAll(client)).toString();
    expect(answer).toMatch(/^HTTP\/1\.1 200 [\s\S]*connection: close/i);
    expect(answer.match(/HTTP\/1\.1/g)).toHaveLength(1);
    expect(seen.map(({ url }) => url)).toEqual(['/asked']);
  });
});

const PROXIED = { listen: 'http://127.0.0.1:0?proxy-protocol=true', ...TRUSTED };
const V1 = 'PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n';

describe('with proxy-protocol', () => {
  test("a client's address and port come from the header, however it is split", async () => {
    const { port, opened, seen } = await start(PROXIED);
    for (const size of [1000, 1, 50]) {
      const client = harness.client(port);
      const text = `${V1}${upgradeHead('/ts2021')}`;
      for (let at = 0; at < text.length; at += size) {
        client.write(text.slice(at, at + size));
        if (size > 1) await new Promise((resolve) => setTimeout(resolve, 5));
      }
      expect(await readHead(client)).toMatch(/^HTTP\/1\.1 101 /);
    }
    const from = { address: '203.0.113.7', remoteAddress: '203.0.113.7:50000' };
    expect(opened()).toMatchObject([from, from, from]);
    expect(seen[0]).toMatchObject({ 'x-forwarded-for': '203.0.113.7' });
  });

  test("a proxy's own connection, such as a health check, has the proxy's address", async () => {
    const { port } = await start(PROXIED);
    const client = harness.client(port);
    client.write('PROXY UNKNOWN\r\nGET /health HTTP/1.1\r\nHost: h\r\n\r\n');
    expect(await readHead(client)).toMatch(/^HTTP\/1\.1 200 /);
  });

  test('X-Forwarded-For counts only if the PROXY header names a trusted proxy', async () => {
    const { port, opened } = await start({ ...PROXIED, trustedProxies: '127.0.0.1,10.0.0.0/8' });
    for (const from of ['10.0.0.2', '203.0.113.9']) {
      const client = harness.client(port);
      client.write(`PROXY TCP4 ${from} 192.0.2.1 50000 443\r\n${upgradeHead('/ts2021', CLAIMS)}`);
      await readHead(client);
    }
    expect(opened().map(({ address }) => address)).toEqual(['203.0.113.7', '203.0.113.9']);
  });

  test('an unreadable header closes the connection before anything is read, and is reported once for each address', async () => {
    const { port, seen, refused } = await start(PROXIED);
    for (const text of ['GET /asked HTTP/1.1\r\nHost: h\r\n\r\n', 'PROXY TCP4 a b 1 2\r\n', '\x16\x03\x01']) {
      const client = harness.client(port);
      client.write(text);
      expect((await readAll(client)).toString()).toBe('');
    }
    expect(seen).toEqual([]);
    expect(refused()).toMatchObject([
      { reason: 'bad_proxy_header', address: '127.0.0.1', isNews: true },
      { reason: 'bad_proxy_header', isNews: false },
      { reason: 'bad_proxy_header', isNews: false },
    ]);
  });

  test('a client that is no trusted proxy is refused, whatever header it sends', async () => {
    const { port, seen, refused } = await start({ ...PROXIED, trustedProxies: '127.0.0.2' });
    const client = harness.client(port);
    client.write(`${V1}GET /asked HTTP/1.1\r\nHost: h\r\n\r\n`);
    await until(() => refused().length === 1, 'it is refused');
    expect((await readAll(client)).toString()).toBe('');
    expect(refused()).toMatchObject([{ reason: 'untrusted_proxy', address: '127.0.0.1' }]);
    expect(seen).toEqual([]);
  });

  test('a header at a listener that expects none is reported, with the setting to change', async () => {
    const { port, seen, refused } = await start(TRUSTED);
    for (const header of [V1, '\r\n\r\n\0\r\nQUIT\n!\x11\0\f']) {
      const client = harness.client(port);
      client.write(Buffer.from(`${header}GET /asked HTTP/1.1\r\nHost: h\r\n\r\n`, 'latin1'));
      expect((await readAll(client)).toString()).toBe('');
    }
    expect(seen).toEqual([]);
    const told = { reason: 'unexpected_proxy_header', detail: expect.stringContaining('proxy-protocol=true') };
    expect(refused()).toMatchObject([
      { ...told, isNews: true },
      { ...told, isNews: false },
    ]);
  });

  test('a client that leaves during its header leaves nothing behind', async () => {
    const { port } = await start(PROXIED);
    const client = harness.client(port);
    client.end(V1.slice(0, 10));
    await readAll(client);
    client.destroy();
    await closed(client);
  });
});
