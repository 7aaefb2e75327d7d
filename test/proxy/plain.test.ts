import { type AddressInfo, createServer } from 'node:net';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { Harness, readAll, readHead, SWITCHING, switching, until, upgradeHead } from '../support/harness.ts';

const harness = new Harness();
afterEach(() => {
  vi.unstubAllEnvs();
  return harness.closeAll();
});

/** A watchdog before something that is no HTTP server: it writes down what it is sent, and sends `answer`. */
async function start(answer = 'HTTP/1.1 204 No Content\r\n\r\n', flags: Record<string, unknown> = {}) {
  const sent: string[] = [];
  const upstream = createServer((socket) => {
    socket.on('error', () => {});
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1');
      if (!text.includes('\r\n\r\n') || /^GET \/(key\?v=|version|health)/.test(text)) return;
      if (sent.push(text) === 1 || answer !== '') socket.end(answer, 'latin1');
    });
    socket.on('end', () => socket.end());
    harness.defer(() => socket.destroy());
  });
  await new Promise<void>((resolve) => upstream.listen(0, '127.0.0.1', resolve));
  harness.defer(() => new Promise((resolve) => upstream.close(resolve)));
  const { port, events, watchdog } = await harness.watchdog(
    `http://127.0.0.1:${(upstream.address() as AddressInfo).port}`,
    { trustedProxies: 'none', ...flags },
  );
  harness.defer(() => watchdog.close());
  const asks = async (...lines: readonly string[]): Promise<string> => {
    const client = harness.client(port);
    client.write(`${lines.join('\r\n')}\r\n\r\n`, 'latin1');
    return (await readAll(client)).toString('latin1');
  };
  return { port, sent, events, asks };
}

const CLOSE = 'Connection: close';

describe('a request', () => {
  test.each([
    String.raw`/x\..\api/v1/node`,
    '/x/%2e%2e/api/v1/node',
    '/x/../api',
    "/it's?q='\"<>^`{|}",
    '//api//v1',
    '/x?',
    '/x?a=b#c',
    '/http://other/x?a?b',
    'http://h/x/../y',
  ])('for %j is passed on unchanged', async (target) => {
    const { sent, asks } = await start();
    expect(await asks(`GET ${target} HTTP/1.1`, 'Host: h', CLOSE)).toMatch(/^HTTP\/1\.1 204 /);
    expect(sent[0]).toMatch(/^GET /);
    expect(sent[0]?.split(' ')[1]).toBe(target);
  });

  test('is passed on unchanged, whatever environment variables http-proxy reads', async () => {
    vi.stubEnv('FORCE_FETCH_PATH', 'true');
    const { sent, asks } = await start();
    expect(await asks('GET /x/../y HTTP/1.1', 'Host: h', 'X-oDD: 1', CLOSE)).toMatch(/^HTTP\/1\.1 204 /);
    expect(sent[0]).toMatch(/^GET \/x\/\.\.\/y HTTP\/1\.1\r\nHost: h\r\nX-oDD: 1\r\n/);
  });

  test('OPTIONS * is passed on unchanged', async () => {
    const { sent, asks } = await start();
    await asks('OPTIONS * HTTP/1.1', 'Host: h', CLOSE);
    expect(sent[0]).toMatch(/^OPTIONS \* HTTP\/1\.1\r\n/);
  });

  test('keeps its headers unchanged, except those about the connection', async () => {
    const { sent, asks } = await start();
    const kept = ['Host: h', 'X-oDD: a  b', 'Cookie: 1', 'cookie: 2', 'Authorization: x'];
    const dropped = ['TE: trailers', 'Keep-Alive: 1', 'X-Named: 1', 'Trailer: X', 'Upgrade: h2c', 'Forwarded: for=6'];
    await asks(
      'GET /x HTTP/1.1',
      ...kept,
      ...dropped,
      'Connection: close, x-named, HTTP2-Settings',
      'HTTP2-Settings: A',
    );
    const truths = ['X-Forwarded-For: 127.0.0.1', 'X-Forwarded-Proto: http', 'X-Real-IP: 127.0.0.1'];
    expect(sent[0]?.split('\r\n')).toEqual([
      ...['GET /x HTTP/1.1', ...kept, ...truths, 'X-Forwarded-Host: h', 'Connection: close', '', ''],
    ]);
  });

  test('with HTTP/1.0 and no Host gets an empty Host', async () => {
    const { sent, asks } = await start();
    expect(await asks('GET /x HTTP/1.0')).toMatch(/^HTTP\/1\.1 204 /);
    expect(sent[0]).toMatch(/^GET \/x HTTP\/1\.1\r\nHost: \r\n/);
  });

  test('that expects 100 Continue gets it from the watchdog, and its body is passed on', async () => {
    const { port, sent } = await start();
    const client = harness.client(port);
    client.write(
      'POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\nConnection: close\r\n\r\n',
    );
    expect(await readHead(client)).toMatch(/^HTTP\/1\.1 100 /);
    client.write('body');
    expect((await readAll(client)).toString()).toMatch(/^HTTP\/1\.1 204 /);
    expect(sent[0]).not.toMatch(/expect/i);
  });

  test('with a chunked body is passed on in chunks, without its trailers', async () => {
    const { sent, asks } = await start('');
    const body = '4\r\nbody\r\n0\r\nX-Forwarded-For: 6.6.6.6';
    void asks('POST /x HTTP/1.1', 'Host: h', 'Transfer-Encoding: chunked', 'Trailer: X-Forwarded-For', '', body);
    await until(() => sent.at(-1)?.endsWith('0\r\n\r\n') === true, 'the whole request has come');
    expect(sent.at(-1)).toMatch(/\r\n\r\n4\r\nbody\r\n0\r\n\r\n$/);
    expect(sent.at(-1)).not.toMatch(/6\.6\.6\.6|trailer/i);
  });

  test('with two thousand headers is passed on with all of them', async () => {
    const { sent, asks } = await start();
    const many = Array.from({ length: 2000 }, (_, i) => `x${i}:`);
    await asks('GET /x HTTP/1.1', 'Host: h', ...many, 'X-Last: 1', CLOSE);
    expect(sent[0]).toMatch(/\r\nX-Last: 1\r\n/);
  });

  test('is cancelled when its client leaves', async () => {
    let closed = false;
    const upstream = await harness.upstream(
      () => {},
      (request, response) => {
        if (request.url === '/x') response.on('close', () => (closed = true));
        else response.end();
      },
    );
    const { port, events } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    client.write('GET /x HTTP/1.1\r\nHost: h\r\n\r\n');
    await until(() => upstream.sockets.size > 0, 'it is asked');
    await new Promise((resolve) => setTimeout(resolve, 20));
    client.destroy();
    await until(() => closed, 'Headscale is told');
    expect(events.map(({ kind }) => kind)).not.toContain('upstream_down');
  });
});

describe('an answer', () => {
  test('keeps all headers except those about the connection to Headscale', async () => {
    const lines = [
      'HTTP/1.1 200 Fine \xe9',
      'X-oDD: a  b',
      'Set-Cookie: 1',
      'Set-Cookie: 2',
      'Date: now',
      'Content-Length: 2',
    ];
    const dropped = [
      'Connection: close, x-named',
      'X-Named: 1',
      'Keep-Alive: 1',
      'Proxy-Connection: x',
      'Upgrade: h2c',
    ];
    const { asks } = await start([...lines, ...dropped, '', 'ok'].join('\r\n'));
    expect((await asks('GET /x HTTP/1.1', 'Host: h', CLOSE)).split('\r\n')).toEqual([...lines, CLOSE, '', 'ok']);
  });

  test('loses its trailers', async () => {
    const chunked = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nok\r\n0\r\nX: 1\r\n\r\n';
    const { asks } = await start(chunked);
    const answer = await asks('GET /x HTTP/1.1', 'Host: h', CLOSE);
    expect(answer).toMatch(/\r\n\r\n2\r\nok\r\n0\r\n\r\n$/);
    expect(answer).not.toMatch(/trailer/i);
  });

  test.each([
    ['with another protocol than requested', switching('test')],
    ['without a protocol', 'HTTP/1.1 101 Switching Protocols\r\n\r\n'],
  ])('101 %s becomes a 502, for a plain request and an upgrade, and is reported', async (_what, answer) => {
    const { port, events, asks } = await start(answer);
    expect(await asks('GET /x HTTP/1.1', 'Host: h', CLOSE)).toMatch(/^HTTP\/1\.1 502 /);
    const client = harness.client(port);
    client.write(upgradeHead('/ts2021'));
    expect((await readAll(client)).toString()).toMatch(/^HTTP\/1\.1 502 /);
    const protocol = answer.includes('test') ? 'test' : '';
    expect(events.filter(({ kind }) => kind === 'upstream_protocol_mismatched')).toMatchObject([
      { asked: undefined, switchedTo: protocol, remoteAddress: '127.0.0.1' },
      { asked: 'tailscale-control-protocol', switchedTo: protocol },
    ]);
    expect(events.map(({ kind }) => kind)).not.toContain('upstream_down');
  });

  test('101 to a plain request becomes a 502, whatever protocol it names', async () => {
    const { asks } = await start(SWITCHING);
    expect(await asks('GET /x HTTP/1.1', 'Host: h', CLOSE)).toMatch(/^HTTP\/1\.1 502 /);
  });
});

describe('an upgrade', () => {
  test.each([
    ['control', 'POST', 'tailscale-control-protocol'],
    ['WebSocket', 'GET', 'WebSocket'],
    ['DERP', 'GET', 'DERP'],
  ])('to %s is passed on as an upgrade, without the headers that Connection names', async (_what, method, protocol) => {
    const { sent, asks } = await start('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n');
    const named = ['Connection: Upgrade, X-Named', 'X-Named: 1', 'Keep-Alive: 1', 'Upgrade: h2c'];
    await asks(`${method} /x\\.. HTTP/1.1`, 'Host: h', `Upgrade: ${protocol}`, ...named);
    expect(sent[0]).toMatch(new RegExp(`^${method} /x\\\\\\.\\. HTTP/1\\.1\r\nHost: h\r\n`));
    expect(sent[0]).toMatch(new RegExp(`\r\nUpgrade: ${protocol.toLowerCase()}\r\nConnection: Upgrade\r\n`));
    expect(sent[0]).not.toMatch(/named|keep-alive|h2c/i);
  });

  test.each(['h2c', 'TLS/1.2', 'websocket, derp', ''])('to %j is passed on as a plain request', async (protocol) => {
    const { sent, asks } = await start();
    const answer = await asks('GET /x HTTP/1.1', 'Host: h', 'Connection: Upgrade, close', `Upgrade: ${protocol}`);
    expect(answer).toMatch(/^HTTP\/1\.1 204 /);
    expect(sent[0]).not.toMatch(/upgrade/i);
  });

  test('to an unknown protocol can follow another request on the same connection, as a plain request', async () => {
    const { port, sent } = await start();
    const client = harness.client(port);
    for (const headers of ['', 'Connection: Upgrade\r\nUpgrade: h2c\r\n']) {
      client.write(`GET /x HTTP/1.1\r\nHost: h\r\n${headers}\r\n`);
      expect(await readHead(client)).toMatch(/^HTTP\/1\.1 204 /);
    }
    expect(sent).toHaveLength(2);
  });
});
