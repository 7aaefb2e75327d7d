import { writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { closed, Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { get } from '../support/http.ts';
import { freshHandshake, initiations } from '../support/initiations.ts';
import { freePort, run } from '../support/process.ts';
import { headscale, service } from '../support/service.ts';
import { redisThatNeverAnswers } from '../support/silent-redis.ts';

const harness = new Harness();
const [recorded] = initiations;
afterEach(() => harness.closeAll());

const PLAIN = 'GET /key HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n';
const UPGRADE = upgradeHead('/ts2021');

/** A stream whose client notes when it has ended. */
async function stream(port: number): Promise<{ readonly client: Socket; endedAt: number | undefined }> {
  const client = await harness.upgraded(port, '/ts2021');
  const result: { client: Socket; endedAt: number | undefined } = { client, endedAt: undefined };
  client.once('close', () => {
    result.endedAt = performance.now();
  });
  client.on('end', () => client.end()).resume();
  return result;
}

describe('a restart', () => {
  test.each([
    ['20s', 4000, [PLAIN, UPGRADE]],
    // Its streams are ended at once, also one that Headscale is just being asked for.
    ['off', 0, [PLAIN]],
  ])(
    'with socket activation and --drain %s, no new connection is refused or reset, and each is answered as soon as the next process listens',
    async (drain, lastAfter, requests) => {
      const manager = await service(harness, { ports: [0], flags: ['--drain', drain] });
      const port = manager.ports[0] as number;
      const first = await manager.started();
      const old = await Promise.all(Array.from({ length: 20 }, () => stream(port)));
      const load = constantly(port, requests);
      await until(() => load.answered > 10, 'the load runs');
      const stoppedAt = performance.now();
      process.kill(first, 'SIGTERM');
      expect(await manager.end(first)).toBe(0);
      const drainedAfter = performance.now() - stoppedAt;
      await manager.started();
      const downFor = performance.now() - stoppedAt;
      const before = load.answered;
      await until(() => load.answered > before + 50, 'the load is answered again');
      const { opened, failed, slowestMs } = await load.stop();
      console.log(
        `restart, --drain ${drain}: ${opened} connections, ${failed.length} failed, slowest ${Math.round(slowestMs)} ms; drained in ${Math.round(drainedAfter)} ms, listening again after ${Math.round(downFor)} ms`,
      );
      expect(failed).toEqual([]);
      expect(opened).toBeGreaterThan(50);
      // What is beyond that is this machine's.
      expect(slowestMs).toBeLessThan(downFor + 5000);
      // The slowest came when the old one had stopped accepting: it did wait for the new one.
      expect(slowestMs).toBeGreaterThan(drainedAfter - 500);
      const ends = old.map(({ endedAt }) => (endedAt ?? Number.NaN) - stoppedAt);
      expect(Math.max(...ends)).toBeGreaterThan(lastAfter);
      expect(Math.max(...ends)).toBeLessThan(drainedAfter + 1000);
    },
    40_000,
  );

  test('with two services on one socket, the old one drains for its full time while the new one answers', async () => {
    const manager = await service(harness, { ports: [0], flags: ['--drain', '4s'] });
    const port = manager.ports[0] as number;
    const first = await manager.started();
    const old = await Promise.all(Array.from({ length: 10 }, () => stream(port)));
    const load = constantly(port, [PLAIN, UPGRADE]);
    await manager.started();
    process.kill(first, 'SIGTERM');
    expect(await manager.end(first)).toBe(0);
    const { opened, failed, slowestMs } = await load.stop();
    console.log(`overlap: ${opened} connections, ${failed.length} failed, slowest ${Math.round(slowestMs)} ms`);
    expect(failed).toEqual([]);
    expect(opened).toBeGreaterThan(100);
    // More than a client waits for its answer.
    expect(slowestMs).toBeLessThan(10_000);
    await until(() => old.every(({ endedAt }) => endedAt !== undefined), 'the old streams have ended');
  });

  test('SIGTERM ends the streams one by one over --drain, and the log reports start and end', async () => {
    const upstream = await headscale(harness);
    const [port, admin] = await Promise.all([freePort(), freePort()]);
    const where = ['--listen', `127.0.0.1:${port}`, '--admin', `127.0.0.1:${admin}`, '--trusted-proxies', 'none'];
    const serve = run(harness, 'serve', '--upstream', upstream, '--drain', '2s', ...where);
    await until(() => serve.stdout.includes('"listening"'), 'it has started');
    const streams = await Promise.all(Array.from({ length: 4 }, () => stream(port)));
    const stoppedAt = performance.now();
    serve.child.kill('SIGTERM');
    await until(() => serve.stdout.includes('"drain_started"'), 'it drains');
    expect((await get(`http://127.0.0.1:${admin}/readyz`)).status).toBe(503);
    expect(await connectError(port)).toBe('ECONNREFUSED');
    expect(await serve.ended).toEqual({ code: 0, signal: null });
    const ends = streams.map(({ endedAt }) => (endedAt ?? Number.NaN) - stoppedAt).sort((a, b) => a - b);
    for (const [i, end] of ends.entries()) {
      expect(end).toBeGreaterThan(i * 500 - 100);
      // Not with the others at the end of a drain that a busy machine makes longer.
      expect(end).toBeLessThan(i * 500 + 10_000);
    }
    expect(serve.stdout).toMatch(
      /"event":"drain_started","streams":4,"overMs":2000,"msg":"Draining: no new connections/,
    );
    expect(serve.stdout).toMatch(/"event":"drain_ended","tookMs":(1[5-9]|[2-9]\d|\d{3})\d\d/);
  });

  test.each(['SIGTERM', 'SIGINT'] as const)('a second signal, %s, ends everything at once', async (signal) => {
    const upstream = await headscale(harness);
    const port = await freePort();
    const where = ['--listen', `127.0.0.1:${port}`, '--admin', '127.0.0.1:0', '--trusted-proxies', 'none'];
    const serve = run(harness, 'serve', '--upstream', upstream, '--drain', '10m', ...where);
    await until(() => serve.stdout.includes('"listening"'), 'it has started');
    const streams = await Promise.all([stream(port), stream(port)]);
    serve.child.kill('SIGTERM');
    await until(() => streams.some(({ endedAt }) => endedAt !== undefined), 'the first stream has ended');
    expect(streams.filter(({ endedAt }) => endedAt !== undefined)).toHaveLength(1);
    serve.child.kill(signal);
    expect(await serve.ended).toEqual({ code: 0, signal: null });
    await Promise.all(streams.map(({ client }) => closed(client)));
  });

  test('a second signal ends everything at once, even while a newcomer waits for Redis', async () => {
    const [upstream, redis, port] = [await headscale(harness), await redisThatNeverAnswers(harness), await freePort()];
    const folder = harness.folder();
    const keyFile = join(folder, 'noise_private.key');
    writeFileSync(keyFile, `${recorded.serverPrivateKey}\n`, { mode: 0o600 });
    const where = ['--listen', `127.0.0.1:${port}`, '--admin', '127.0.0.1:0', '--noise-key', keyFile];
    const serve = run(harness, 'serve', '--upstream', upstream, '--redis', redis.url, '--drain', '10m', ...where);
    await until(() => serve.stdout.includes('"redis_up"'), 'Redis is joined');
    harness.client(port).write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded)}\r\n`));
    await until(() => redis.asked() > 0, 'Redis is asked');
    serve.child.kill('SIGTERM');
    await until(() => serve.stdout.includes('"drain_started"'), 'it drains');
    serve.child.kill('SIGTERM');
    expect(await serve.ended).toEqual({ code: 0, signal: null });
  });

  test('with --drain off, a stop does not wait for refused clients that keep their connection open', async () => {
    const [upstream, port] = [await headscale(harness), await freePort()];
    const where = ['--listen', `127.0.0.1:${port}`, '--admin', '127.0.0.1:0'];
    const limit = ['--max-handshakes-per-address', '1', '--drain', 'off'];
    const serve = run(harness, 'serve', '--upstream', upstream, ...limit, ...where);
    await until(() => serve.stdout.includes('"listening"'), 'it has started');
    let refused = 0;
    while (refused < 5) {
      const client = harness.client(port);
      client.write(UPGRADE);
      if (/ 503 /.test(await readHead(client))) refused += 1;
    }
    serve.child.kill('SIGTERM');
    expect(await serve.ended).toEqual({ code: 0, signal: null });
    const took = Number(/"event":"drain_ended","tookMs":(\d+)/.exec(serve.stdout)?.[1]);
    console.log(`stop, --drain off, ${refused} clients that were refused and stay: ${took} ms`);
    // They would have been given ten seconds.
    expect(took).toBeLessThan(9000);
  });
});

/** Opens a connection every 20 ms, each with one of the requests in turn, and says how they fared. */
function constantly(port: number, requests: readonly string[]) {
  const failed: string[] = [];
  const pending = new Set<Promise<void>>();
  const load = { opened: 0, answered: 0, slowestMs: 0, failed };
  const open = (): void => {
    const request = requests[load.opened % requests.length] as string;
    load.opened += 1;
    const startedAt = performance.now();
    const one = answered(port, request).then(
      () => {
        load.answered += 1;
        load.slowestMs = Math.max(load.slowestMs, performance.now() - startedAt);
      },
      (error: Error) => void failed.push(error.message),
    );
    pending.add(one);
    void one.finally(() => pending.delete(one));
  };
  const timer = setInterval(open, 20);
  harness.defer(() => clearInterval(timer));
  return Object.assign(load, {
    stop: async () => {
      clearInterval(timer);
      await Promise.all(pending);
      return load;
    },
  });
}

/** Resolves when the answer is there: a page, or the 101 of a stream, which then ends. Throws whatever keeps it away. */
function answered(port: number, request: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1' });
    let answer = '';
    socket.on('data', (chunk) => {
      answer += chunk;
      if (answer === SWITCHING) socket.end();
    });
    socket.on('error', reject);
    socket.on('close', () => {
      if (answer === SWITCHING || /^HTTP\/1\.1 200 [\s\S]*\{\}/.test(answer)) resolve();
      else reject(new Error(`not answered: '${answer}'`));
    });
    socket.write(request);
  });
}

function connectError(port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' }, () => resolve(undefined));
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code));
  });
}
