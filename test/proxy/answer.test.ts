import { afterEach, describe, expect, test } from 'vitest';
import { closeReason, Harness, readAll, readHead, SWITCHING, upgradeHead } from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

describe('Tunnel, answers', () => {
  test('an answer other than 101 is passed on completely, and then the connection closes: a second request never reaches Headscale', async () => {
    const seen: string[] = [];
    const upstream = await harness.upstream(
      (request, socket) => {
        seen.push(request.url ?? '');
        const body = 'x'.repeat(100_000);
        socket.write(`HTTP/1.1 403 Not You\r\nX-Kept: yes\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
      },
      (request, response) => {
        seen.push(request.url ?? '');
        response.end();
      },
    );
    const { port, events } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    client.write(upgradeHead('/ts2021'));
    const head = await readHead(client);
    client.write('GET /secret HTTP/1.1\r\nHost: head.example\r\n\r\n');
    const body = await readAll(client);
    client.end();
    expect(head).toMatch(/^HTTP\/1\.1 403 Not You\r\n/);
    expect(head).toContain('X-Kept: yes');
    expect(head.toLowerCase()).toContain('connection: close');
    expect(body.length).toBe(100_000);
    expect(seen.filter((url) => !/^\/(key|version)/.test(url))).toEqual(['/ts2021']);
    expect(await closeReason(events)).toBe('upstream_refused');
  });

  test.each([
    ['a length', 'Content-Length: 5\r\n\r\nhello'],
    ['chunks', 'Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n'],
  ])('an upgrade with a body (%s) is a plain request, and the connection can be used again', async (_what, rest) => {
    const upgrades: string[] = [];
    const upstream = await harness.upstream(
      (request) => void upgrades.push(request.url ?? ''),
      (request, response) => void request.pipe(response),
    );
    const { port } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    client.write(`POST /api HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n${rest}`);
    client.write('GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n');
    const answers = (await readAll(client)).toString();
    expect(answers.match(/HTTP\/1\.1 200 /g)).toHaveLength(2);
    expect(answers).toContain('hello');
    expect(upgrades).toEqual([]);
  });

  test('an answer that Node cannot write becomes a 502, and nothing is left open', async () => {
    const upstream = await harness.upstream((_request, socket) => void socket.end('HTTP/1.1 099 Odd\r\n\r\n'));
    const { port, events } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    client.write(upgradeHead('/ts2021'));
    expect((await readAll(client)).toString()).toMatch(/^HTTP\/1\.1 502 /);
    client.end();
    expect(await closeReason(events)).toBe('upstream_unreachable');
  });

  test('a POST without Content-Length can be an upgrade', async () => {
    let chunked: string | undefined = 'not asked';
    const upstream = await harness.upstream((request, socket) => {
      chunked = request.headers['transfer-encoding'];
      socket.end(`${SWITCHING}hello`);
    });
    const { port } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    client.write(
      'POST /ts2021 HTTP/1.1\r\nHost: h\r\nUpgrade: tailscale-control-protocol\r\nConnection: Upgrade\r\n\r\n',
    );
    expect(await readHead(client)).toMatch(/ 101 /);
    expect((await readAll(client)).toString()).toBe('hello');
    expect(chunked).toBeUndefined();
  });
});
