import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { closeReason, Harness, readAll, until, upgradeHead } from '../support/harness.ts';
import { get, scrape } from '../support/http.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

/** A machine that accepts connections, on which nobody ever says anything. */
async function mute() {
  const sockets = new Set<Socket>();
  let said = '';
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
    socket.on('data', (chunk) => {
      said += chunk.toString('latin1');
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  harness.defer(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  return { host: `127.0.0.1:${(server.address() as { port: number }).port}`, said: () => said };
}

const silences = (events: readonly WatchdogEvent[]) => events.filter(({ kind }) => kind === 'upstream_silent');

const plain = (path: string, more = ''): string =>
  `GET ${path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n${more}\r\n`;

describe('if Headscale accepts connections and never answers', () => {
  test('this is noticed, reported once, and shown', async () => {
    const { host } = await mute();
    const { admin, events } = await harness.watchdog(`http://${host}`);
    await until(() => silences(events).length > 0, 'it is noticed');
    expect(silences(events)).toMatchObject([{ upstream: `http://${host}`, silence: { on: 'requests' } }]);
    const ready = JSON.parse((await get(`${admin}/readyz`)).text) as { upstream: object };
    expect(ready.upstream).toMatchObject({ up: false, silentOn: 'requests' });
    const metrics = await scrape(admin);
    expect(metrics.get('headscale_watchdog_upstream_silent')).toBe(1);
    expect(metrics.get('headscale_watchdog_upstream_up')).toBe(0);
  });

  test('is noticed too when it sends its answer byte by byte, without end', async () => {
    const upstream = await harness.upstream(
      (_request, socket) => socket.destroy(),
      (_request, response) => {
        const dripping = setInterval(() => response.write(' '), 500);
        response.on('close', () => clearInterval(dripping));
      },
    );
    const { events } = await harness.watchdog(upstream.url);
    await until(() => silences(events).length > 0, 'it is noticed');
  });

  test.each([
    ['a plain request', plain('/health')],
    ['a plain request that expects 100 Continue', plain('/health2', 'Expect: 100-continue\r\n')],
    ['a control stream', upgradeHead('/ts2021')],
    ['another upgrade', upgradeHead('/derp')],
  ])('%s ends with 504 after ten seconds, and not before', async (_what, head) => {
    const clock = new FakeClock();
    const { host, said } = await mute();
    const { port, admin, events } = await harness.watchdog(`http://${host}`, {}, undefined, { clock });
    const client = harness.client(port);
    let answer = '';
    client.on('data', (chunk) => {
      answer += chunk.toString('latin1').replace('HTTP/1.1 100 Continue\r\n\r\n', '');
    });
    client.write(head);
    await until(() => said().includes(head.split(' ')[1] as string), 'Headscale has it');
    clock.advance(9999);
    // What has been written to the client by now has arrived before this.
    await get(`${admin}/healthz`);
    expect([answer, client.readableEnded]).toEqual(['', false]);
    clock.advance(1);
    await until(() => client.readableEnded, 'it has its answer');
    expect(answer).toMatch(/^HTTP\/1\.1 504 [\s\S]*\nHeadscale does not answer\.\n/);
    client.destroy();
    if (head.includes('Upgrade')) expect(await closeReason(events)).toBe('upstream_unanswered');
  });

  test('a TLS handshake with Headscale that never ends gives 504 too', async () => {
    const { host } = await mute();
    const { port, events } = await harness.watchdog(`https://${host}`);
    const [client, other] = [harness.client(port), harness.client(port)];
    client.write(plain('/health'));
    other.write(upgradeHead('/ts2021'));
    const answers = await Promise.all([client, other].map(readAll));
    for (const answer of answers) expect(answer.toString()).toMatch(/^HTTP\/1\.1 504 /);
    for (const each of [client, other]) each.destroy();
    await until(() => silences(events).length > 0, 'it is noticed');
  });
});

describe('a slow answer', () => {
  test('is passed on after 50 s, while Headscale answers others', async () => {
    const clock = new FakeClock();
    let answer = (): void => {};
    const upstream = await harness.upstream(
      (_request, socket) => socket.destroy(),
      (request, response) => {
        if (request.url === '/slow') answer = () => void response.end('slow but sure');
        else response.end('{}');
      },
    );
    const { port, url } = await harness.watchdog(upstream.url, {}, undefined, { clock });
    const client = harness.client(port);
    const asked = once(upstream.server, 'request');
    client.write(plain('/slow'));
    await asked;
    for (let second = 0; second < 50; second += 5) {
      clock.advance(5000);
      expect((await get(`${url}/health`)).status).toBe(200);
    }
    answer();
    expect((await readAll(client)).toString()).toMatch(/slow but sure/);
  });
});
