import type { Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { drainTermsOf } from '../../src/app/shutdown.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { acceptStream, closed, Harness, readAll, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { get } from '../support/http.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

async function bench(flags: Record<string, unknown> = {}) {
  const asked: (() => void)[] = [];
  const upstream = await harness.upstream(acceptStream, (request, response) => {
    if (request.url === '/half') {
      response.write('half');
      asked.push(() => void response.end('whole'));
    } else if (request.url === '/slow') asked.push(() => void response.end('at last'));
    else response.end('{}');
  });
  const clock = new FakeClock();
  const started = await harness.watchdog(upstream.url, flags, undefined, {
    clock,
    kernel: { ok: false, why: 'a test' },
  });
  const told = <K extends WatchdogEvent['kind']>(kind: K) =>
    started.events.filter((event): event is Extract<WatchdogEvent, { kind: K }> => event.kind === kind);
  const opens = async (): Promise<Socket> => {
    const client = await harness.upgraded(started.port, '/ts2021');
    client.resume();
    return client;
  };
  /** Lets time pass, and what falls due in it happen. */
  const pass = async (ms: number, streamsClosed: number): Promise<void> => {
    clock.advance(ms);
    await until(() => told('stream_closed').length >= streamsClosed, `${streamsClosed} streams are closed`);
    expect(told('stream_closed')).toHaveLength(streamsClosed);
  };
  return { ...started, clock, told, opens, pass, asked };
}

describe('Watchdog.drain', () => {
  test('ends the streams evenly and in order, then closes; meanwhile /readyz says so, and nobody can connect', async () => {
    const { watchdog, admin, port, told, opens, pass, clock } = await bench({ drain: '8s' });
    for (let i = 0; i < 4; i += 1) await opens();
    const drained = watchdog.drain();
    expect(told('drain_started')).toEqual([{ kind: 'drain_started', streams: 4, overMs: 8000, isShortened: false }]);
    await pass(0, 1);
    const ready = await get(`${admin}/readyz`);
    expect(ready.status).toBe(503);
    expect(JSON.parse(ready.text)).toMatchObject({ ready: false, draining: true });
    const late = harness.client(port);
    await closed(late);
    expect(late.bytesRead).toBe(0);
    await pass(1999, 1);
    await pass(1, 2);
    await pass(2000, 3);
    await pass(2000, 4);
    await drained;
    expect(told('stream_closed').map(({ stream, reason }) => [stream.id, reason])).toEqual(
      [1, 2, 3, 4].map((id) => [id, 'shutdown']),
    );
    expect(told('drain_ended')).toEqual([{ kind: 'drain_ended', tookMs: 6000 }]);
    await expect(get(`${admin}/readyz`)).rejects.toThrow();
    expect(clock.timers).toBe(0);
  });

  test('before a drain, /readyz says draining: false', async () => {
    const { admin } = await bench();
    expect(JSON.parse((await get(`${admin}/readyz`)).text)).toMatchObject({ ready: true, draining: false });
  });

  test('a close during the drain ends all streams at once, and with them the drain', async () => {
    const { watchdog, told, opens, pass, clock } = await bench();
    for (let i = 0; i < 3; i += 1) await opens();
    const drained = watchdog.drain();
    await pass(0, 1);
    await watchdog.close();
    await drained;
    expect(told('stream_closed')).toHaveLength(3);
    expect(clock.timers).toBe(0);
  });

  test('with drain off, all streams end at once', async () => {
    const { watchdog, told, opens, pass } = await bench({ drain: 'off' });
    for (let i = 0; i < 3; i += 1) await opens();
    const drained = watchdog.drain();
    await pass(0, 3);
    await drained;
    expect(told('drain_ended')).toEqual([{ kind: 'drain_ended', tookMs: 0 }]);
  });

  test('with drain off, a request in progress still has a second to finish', async () => {
    const { watchdog, port, asked, clock, told } = await bench({ drain: 'off' });
    const clients = [harness.client(port), harness.client(port)];
    for (const client of clients) client.write('GET /slow HTTP/1.1\r\nHost: h\r\n\r\n');
    await until(() => asked.length === 2, 'Headscale is asked');
    const drained = watchdog.drain();
    clock.advance(999);
    asked[0]?.();
    const answers = clients.map(async (client) => {
      const answer = (await readAll(client)).toString();
      client.end();
      return answer;
    });
    expect(await Promise.race(answers)).toContain('at last');
    clock.advance(1);
    await drained;
    expect((await Promise.all(answers)).filter((answer) => answer !== '')).toHaveLength(1);
    expect(told('drain_ended')).toEqual([{ kind: 'drain_ended', tookMs: 1000 }]);
  });

  test('a request in progress may finish, with Connection: close, and then the drain ends', async () => {
    const { watchdog, port, asked, clock } = await bench();
    const client = harness.client(port);
    client.write('GET /slow HTTP/1.1\r\nHost: h\r\n\r\n');
    await until(() => asked.length === 1, 'Headscale is asked');
    const drained = watchdog.drain();
    clock.advance(9000);
    asked[0]?.();
    const answer = (await readAll(client)).toString();
    expect(answer).toMatch(/^HTTP\/1\.1 200 /);
    expect(answer).toMatch(/connection: close/i);
    expect(answer).toContain('at last');
    client.end();
    await drained;
  });

  test('a request with half its answer may finish, and then its connection is closed without waiting for the client', async () => {
    const { watchdog, port, asked, clock } = await bench();
    const client = harness.client(port);
    let answer = '';
    client.on('data', (chunk) => {
      answer += chunk;
    });
    client.write('GET /half HTTP/1.1\r\nHost: h\r\n\r\n');
    await until(() => answer.includes('half'), 'half of it has come');
    const drained = watchdog.drain();
    asked[0]?.();
    await until(() => answer.endsWith('0\r\n\r\n'), 'all of it has come');
    expect(answer).toContain('whole');
    clock.advance(250);
    await until(() => client.readableEnded, 'its connection is ended');
    client.end();
    await drained;
    expect(clock.timers).toBe(0);
  });

  test('a request that comes during the drain is answered with Connection: close', async () => {
    const { watchdog, port } = await bench();
    const client = harness.client(port);
    client.write('GET /key HTT');
    await until(() => client.bytesWritten > 0 && !client.connecting, 'it is connected');
    await get(`http://127.0.0.1:${port}/version`);
    const drained = watchdog.drain();
    client.write('P/1.1\r\nHost: h\r\n\r\n');
    expect((await readAll(client)).toString()).toMatch(/^HTTP\/1\.1 200 [\s\S]*connection: close\r\n/i);
    client.end();
    await drained;
  });

  test('the drain does not wait longer for a request that Headscale does not answer', async () => {
    const { watchdog, port, asked, clock, told } = await bench();
    const client = harness.client(port);
    client.write('GET /slow HTTP/1.1\r\nHost: h\r\n\r\n');
    await until(() => asked.length === 1, 'Headscale is asked');
    const drained = watchdog.drain();
    clock.advance(19_999);
    expect(client.destroyed).toBe(false);
    client.on('end', () => client.end()).resume();
    clock.advance(1);
    await drained;
    await closed(client);
    expect(told('drain_ended')).toEqual([{ kind: 'drain_ended', tookMs: 20_000 }]);
  });

  test('a stream that opens during the drain, on an older connection, is served until the end of the drain', async () => {
    const { watchdog, port, clock, opens, pass, told } = await bench({ drain: '10s' });
    await opens();
    const early = harness.client(port);
    early.write(upgradeHead('/ts2021').slice(0, 20));
    await until(() => early.bytesWritten === 20 && !early.connecting, 'it is connected');
    await get(`http://127.0.0.1:${port}/version`);
    const drained = watchdog.drain();
    await pass(0, 1);
    early.write(upgradeHead('/ts2021').slice(20));
    expect(await readHead(early)).toBe(SWITCHING);
    early.resume();
    clock.advance(9999);
    expect(told('stream_closed')).toHaveLength(1);
    await pass(1, 2);
    await drained;
  });
});

describe('drainTermsOf', () => {
  test.each([
    [20_000, false, { overMs: 20_000, isShortened: false }],
    [20_000, true, { overMs: 5000, isShortened: true }],
    [3000, true, { overMs: 3000, isShortened: false }],
    [0, true, { overMs: 0, isShortened: false }],
  ])('a drain of %d ms, inherited sockets: %s', (drainMs, hasInherited, terms) => {
    expect(drainTermsOf(drainMs, hasInherited)).toEqual(terms);
  });
});
