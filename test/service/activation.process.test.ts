import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { get } from '../support/http.ts';
import { freePort } from '../support/process.ts';
import { service } from '../support/service.ts';
import { ServiceManager } from '../support/service-manager.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-service-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('socket activation', () => {
  test('listens on the inherited sockets, and with the admin server on the one named admin', async () => {
    const manager = await service(harness, { ports: [0, 0], names: 'admin:headscale-watchdog.socket' });
    await manager.started();
    const [admin = 0, port = 0] = manager.ports;
    await harness.upgraded(port, '/ts2021');
    expect(JSON.parse((await get(`http://127.0.0.1:${admin}/readyz`)).text)).toMatchObject({ ready: true });
    const { streams } = JSON.parse((await get(`http://127.0.0.1:${admin}/streams`)).text) as { streams: unknown[] };
    expect(streams).toHaveLength(1);
  });

  test('serves a connection that was made before it started', async () => {
    const manager = await service(harness, { ports: [0] });
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

  test('more sockets than --listen: one line that says what to do, exit 1', async () => {
    const manager = await ServiceManager.with(harness, {
      ports: [0, 0],
      args: ([port]) => ['serve', '--admin', '127.0.0.1:0', '--listen', `127.0.0.1:${port}`],
    });
    expect(await manager.end(await manager.start())).toBe(1);
    expect(manager.output).toMatch(
      /error \[HSW_INHERITED_SOCKET_INVALID\]: 2 sockets were passed in for 1 --listen: add a --listen for each/,
    );
  });

  test('a descriptor that is not a listening socket: one line, exit 1', async () => {
    const manager = await ServiceManager.with(harness, {
      env: { LISTEN_FDS: '1', LISTEN_PID: 'own' },
      args: () => ['serve', '--admin', '127.0.0.1:0', '--listen', '127.0.0.1:0'],
    });
    expect(await manager.end(await manager.start())).toBe(1);
    expect(manager.output).toMatch(
      /error \[HSW_INHERITED_SOCKET_INVALID\]: the socket that was passed in for --listen .* is no listening/,
    );
  });

  test('sockets for another process: it says so and opens its own', async () => {
    const manager = await ServiceManager.with(harness, {
      env: { LISTEN_FDS: '1', LISTEN_PID: '1' },
      args: () => ['serve', '--admin', '127.0.0.1:0', '--listen', '127.0.0.1:0'],
    });
    await manager.started();
    expect(manager.output).toContain('sockets were passed to process 1, but this is process');
  });
});

describe('sd_notify', () => {
  test.each([
    ['a path', () => join(folder, 'notify')],
    ['an abstract name', () => `@headscale-watchdog-test-${process.pid}`],
  ])('to %s: reports ready, signs of life, a reload and stopping', async (_what, address) => {
    const file = join(folder, 'watchdog.yaml');
    writeFileSync(file, 'silent-after: 30s\n');
    const flags = ['--config', file];
    const manager = await service(harness, { ports: [0], notify: address(), env: { WATCHDOG_USEC: '400000' }, flags });
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

  test('a stuck event loop sends no sign of life', async () => {
    const manager = await service(harness, {
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

  test('an invalid NOTIFY_SOCKET: it says so and serves', async () => {
    const manager = await service(harness, { ports: [0], env: { NOTIFY_SOCKET: 'vsock:2:1' } });
    await manager.started();
    expect(manager.output).toContain('the service manager does not hear that the watchdog has started: use Type=exec');
    await harness.upgraded(manager.ports[0] as number, '/ts2021');
  });

  test('a failed start: exit 1, and READY is never sent', async () => {
    const manager = await service(harness, {
      ports: [0],
      notify: join(folder, 'failed'),
      flags: ['--noise-key', folder],
    });
    expect(await manager.end(await manager.start())).toBe(1);
    expect(manager.notified).toEqual([]);
  });
});
