import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { closed, Harness, readHead, SWITCHING, until, upgradeHead } from './support/harness.ts';
import { get } from './support/http.ts';
import { freePort, run } from './support/process.ts';
import { ServiceManager, type Unit } from './support/service-manager.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const PLAIN = 'GET /key HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n';
const UPGRADE = upgradeHead('/ts2021');

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-restarts-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** A Headscale that takes every stream and answers every request. */
async function headscale(): Promise<string> {
  const { url } = await harness.upstream(
    (_request, socket) => {
      socket.on('error', () => {}).on('end', () => socket.end());
      socket.resume().write(SWITCHING);
    },
    (_request, response) => void response.end('{}'),
  );
  return url;
}

interface Service extends Omit<Unit, 'args'> {
  readonly flags?: readonly string[];
  readonly admin?: string;
}

/** A watchdog of which every --listen is a socket of the manager's, but for one named admin. */
async function service({ flags = [], admin = '127.0.0.1:0', ...unit }: Service): Promise<ServiceManager> {
  const upstream = await headscale();
  const names = unit.names?.split(':') ?? [];
  return ServiceManager.with(harness, {
    ...unit,
    args: (ports) => {
      const listens = ports.filter((_, i) => names[i] !== 'admin').map((port) => `127.0.0.1:${port}`);
      const adminPort = ports[names.indexOf('admin')];
      const given = [...listens.flatMap((each) => ['--listen', each]), ...flags];
      return ['serve', '--upstream', upstream, '--admin', adminPort ? `127.0.0.1:${adminPort}` : admin, ...given];
    },
  });
}

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

describe('socket activation', () => {
  test('it listens on the sockets that it is given, the admin server on the one named admin', async () => {
    const manager = await service({ ports: [0, 0], names: 'admin:headscale-watchdog.socket' });
    await manager.started();
    const [admin = 0, port = 0] = manager.ports;
    await stream(port);
    expect(JSON.parse((await get(`http://127.0.0.1:${admin}/readyz`)).text)).toMatchObject({ ready: true });
    const { streams } = JSON.parse((await get(`http://127.0.0.1:${admin}/streams`)).text) as { streams: unknown[] };
    expect(streams).toHaveLength(1);
  });

  test('a connection that was there before it started is served', async () => {
    const manager = await service({ ports: [0] });
    const early = harness.client(manager.ports[0] as number);
    early.write(upgradeHead('/ts2021'));
    await until(() => early.bytesWritten > 0, 'it is connected');
    await manager.started();
    expect(await readHead(early)).toBe(SWITCHING);
  });

  test('a socket on another port than its --listen: one line with both, exit 1', async () => {
    const other = await freePort();
    const manager = await ServiceManager.with(harness, {
      ports: [0],
      args: () => ['serve', '--admin', '127.0.0.1:0', '--listen', `127.0.0.1:${other}`],
    });
    expect(await manager.end(await manager.start())).toBe(1);
    expect(manager.output).toContain(
      `the socket that was passed in for --listen 127.0.0.1:${other}, descriptor 3, listens on 127.0.0.1:${manager.ports[0]}: write ListenStream=${other}`,
    );
  });

  test('more sockets than --listen: one line with the cure, exit 1', async () => {
    const manager = await ServiceManager.with(harness, {
      ports: [0, 0],
      args: ([port]) => ['serve', '--admin', '127.0.0.1:0', '--listen', `127.0.0.1:${port}`],
    });
    expect(await manager.end(await manager.start())).toBe(1);
    expect(manager.output).toMatch(
      /headscale-watchdog: 2 sockets were passed in for 1 --listen: add a --listen for each/,
    );
  });

  test('a descriptor that is no listening socket: one line, exit 1', async () => {
    const manager = await ServiceManager.with(harness, {
      env: { LISTEN_FDS: '1', LISTEN_PID: 'own' },
      args: () => ['serve', '--admin', '127.0.0.1:0', '--listen', '127.0.0.1:0'],
    });
    expect(await manager.end(await manager.start())).toBe(1);
    expect(manager.output).toMatch(/headscale-watchdog: the socket that was passed in for --listen .* is no listening/);
  });

  test('sockets for another process: it says so and listens by itself', async () => {
    const manager = await ServiceManager.with(harness, {
      env: { LISTEN_FDS: '1', LISTEN_PID: '1' },
      args: () => ['serve', '--admin', '127.0.0.1:0', '--listen', '127.0.0.1:0'],
    });
    await manager.started();
    expect(manager.output).toContain('sockets were passed to process 1, and this is');
  });
});

describe('a restart', () => {
  test.each([
    ['20s', 4000, 6000, [PLAIN, UPGRADE]],
    // Its streams are ended at once, also one that Headscale is just being asked for.
    ['off', 0, 1000, [PLAIN]],
  ])(
    'with socket activation and --drain %s, connections opened throughout: none refused, none reset, none waits ten seconds',
    async (drain, lastAfter, lastBefore) => {
      const manager = await service({ ports: [0], flags: ['--drain', drain] });
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
      expect(slowestMs).toBeLessThan(10_000);
      // The slowest came when the old one had stopped accepting: it did wait for the new one.
      expect(slowestMs).toBeGreaterThan(drainedAfter - 500);
      const ends = old.map(({ endedAt }) => (endedAt ?? Number.NaN) - stoppedAt);
      expect(Math.max(...ends)).toBeGreaterThan(lastAfter);
      expect(Math.max(...ends)).toBeLessThan(lastBefore);
    },
    40_000,
  );

  test('into a second service on the same socket: the old one drains whole while the new one answers', async () => {
    const manager = await service({ ports: [0], flags: ['--drain', '4s'] });
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
    expect(slowestMs).toBeLessThan(2000);
    await until(() => old.every(({ endedAt }) => endedAt !== undefined), 'the old streams have ended');
  }, 40_000);

  test('SIGTERM ends the streams one by one over --drain, and tells the log at the start and the end', async () => {
    const upstream = await headscale();
    const [port, admin] = await Promise.all([freePort(), freePort()]);
    const where = ['--listen', `127.0.0.1:${port}`, '--admin', `127.0.0.1:${admin}`];
    const serve = run(harness, 'serve', '--upstream', upstream, '--drain', '2s', ...where);
    await until(() => serve.stdout.includes('"listening"'), 'it has started', 15_000);
    const streams = await Promise.all(Array.from({ length: 4 }, () => stream(port)));
    const stoppedAt = performance.now();
    serve.child.kill('SIGTERM');
    await until(() => serve.stdout.includes('"draining: '), 'it drains');
    expect((await get(`http://127.0.0.1:${admin}/readyz`)).status).toBe(503);
    expect(await connectError(port)).toBe('ECONNREFUSED');
    expect(await serve.ended).toEqual({ code: 0, signal: null });
    const ends = streams.map(({ endedAt }) => (endedAt ?? Number.NaN) - stoppedAt).sort((a, b) => a - b);
    for (const [i, end] of ends.entries()) {
      expect(end).toBeGreaterThan(i * 500 - 100);
      expect(end).toBeLessThan(i * 500 + 1000);
    }
    expect(serve.stdout).toMatch(/"streams":4,"drain":"2s","msg":"draining: no new connections/);
    expect(serve.stdout).toMatch(/"tookMs":1[5-9]\d\d,"msg":"drained/);
  });

  test.each(['SIGTERM', 'SIGINT'] as const)('a second signal, %s, ends now', async (signal) => {
    const upstream = await headscale();
    const port = await freePort();
    const where = ['--listen', `127.0.0.1:${port}`, '--admin', '127.0.0.1:0'];
    const serve = run(harness, 'serve', '--upstream', upstream, '--drain', '10m', ...where);
    await until(() => serve.stdout.includes('"listening"'), 'it has started', 15_000);
    const streams = await Promise.all([stream(port), stream(port)]);
    serve.child.kill('SIGTERM');
    await until(() => streams.some(({ endedAt }) => endedAt !== undefined), 'the first stream has ended');
    expect(streams.filter(({ endedAt }) => endedAt !== undefined)).toHaveLength(1);
    serve.child.kill(signal);
    expect(await serve.ended).toEqual({ code: 0, signal: null });
    await Promise.all(streams.map(({ client }) => closed(client)));
  });
});

describe('sd_notify', () => {
  test.each([
    ['a path', () => join(folder, 'notify')],
    ['an abstract name', () => `@headscale-watchdog-test-${process.pid}`],
  ])('to %s: ready, signs of life, a reload, stopping', async (_what, address) => {
    const manager = await service({ ports: [0], notify: address(), env: { WATCHDOG_USEC: '400000' } });
    const pid = await manager.started();
    const port = manager.ports[0] as number;
    await until(() => manager.notified.includes(`READY=1\nSTATUS=listening on 127.0.0.1:${port}`), 'it is ready');
    const signs = (): number => manager.notified.filter((text) => text === 'WATCHDOG=1').length;
    await until(() => signs() >= 3, 'three signs of life have come');
    const before = manager.notified.length;
    process.kill(pid, 'SIGHUP');
    const since = (): string[] => manager.notified.slice(before).filter((text) => text !== 'WATCHDOG=1');
    await until(() => since().length >= 2, 'the reload is told');
    expect(since()).toEqual([
      expect.stringMatching(/^RELOADING=1\nMONOTONIC_USEC=\d+$/),
      expect.stringMatching(/^READY=1\n/),
    ]);
    process.kill(pid, 'SIGTERM');
    expect(await manager.end(pid)).toBe(0);
    await until(() => manager.notified.some((text) => text.startsWith('STOPPING=1\n')), 'the stop is told');
  });

  test('a loop that is stuck gives no sign of life', async () => {
    const manager = await service({
      ports: [0],
      notify: join(folder, 'stuck'),
      env: { WATCHDOG_USEC: '400000' },
    });
    const pid = await manager.started();
    const signs = (): number => manager.notified.filter((text) => text === 'WATCHDOG=1').length;
    await until(() => signs() >= 2, 'signs of life have come');
    process.kill(pid, 'SIGSTOP');
    await new Promise((resolve) => setTimeout(resolve, 300));
    const before = signs();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    expect(signs()).toBe(before);
    process.kill(pid, 'SIGCONT');
    await until(() => signs() > before, 'they come again');
  });

  test('an address that is none: it says so and serves', async () => {
    const manager = await service({ ports: [0], env: { NOTIFY_SOCKET: 'vsock:2:1' } });
    await manager.started();
    expect(manager.output).toContain('the service manager cannot be told that it has started: use Type=exec');
    await stream(manager.ports[0] as number);
  });

  test('a failed start: exit 1, and no READY', async () => {
    const manager = await service({ ports: [0], notify: join(folder, 'failed'), flags: ['--noise-key', folder] });
    expect(await manager.end(await manager.start())).toBe(1);
    expect(manager.notified).toEqual([]);
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
