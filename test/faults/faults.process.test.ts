import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { Harness, readAll, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { freePort, runWith, type Surroundings } from '../support/process.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

/** Streams that are to be lost by no fault. */
const BYSTANDERS = 20;

/** A watchdog in a process of its own. */
async function startWatchdog(upstream: string, surroundings: Surroundings = {}) {
  const [port, adminPort] = [await freePort(), await freePort()];
  // With a file, SIGHUP reloads it.
  const file = join(harness.folder(), 'watchdog.yaml');
  writeFileSync(file, 'silent-after: 30s\n');
  const where = ['--listen', `127.0.0.1:${port}`, '--admin', `127.0.0.1:${adminPort}`];
  const flags = ['--upstream', upstream, ...where, '--config', file];
  const process = runWith(harness, surroundings, 'serve', ...flags, '--drain', 'off', '--trusted-proxies', 'none');
  const admin = `http://127.0.0.1:${adminPort}`;
  const isReady = (): Promise<boolean> =>
    fetch(`${admin}/healthz`).then(
      () => true,
      () => false,
    );
  await until(isReady, 'the watchdog answers');
  return { ...process, port, admin };
}

async function echoes(client: Socket): Promise<boolean> {
  if (client.destroyed || !client.writable) return false;
  const asked = `are you there? ${Math.random()}`;
  const answer = once(client, 'data').then(([chunk]) => String(chunk) === asked);
  client.write(asked);
  return Promise.race([answer, once(client, 'close').then(() => false)]);
}

async function bystanders(port: number): Promise<readonly Socket[]> {
  const clients: Socket[] = [];
  for (let i = 0; i < BYSTANDERS; i++) clients.push(await harness.upgraded(port));
  return clients;
}

/** How many of them are lost. */
async function lost(clients: readonly Socket[]): Promise<number> {
  const answers = await Promise.all(clients.map(echoes));
  return answers.filter((isThere) => !isThere).length;
}

async function echoUpstream(): Promise<{ readonly url: string }> {
  return harness.upstream((_request, socket, head) => {
    socket.on('error', () => {}).on('end', () => socket.end());
    socket.write(SWITCHING);
    socket.write(head);
    socket.pipe(socket);
  });
}

/** An upstream in a process of its own. */
async function startEcho(port: number) {
  const main = join(import.meta.dirname, '..', 'support', 'echo-main.ts');
  const child = spawn(process.execPath, ['--import', 'tsx', main, String(port)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(child, 'close');
  harness.defer(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  await once(child.stdout, 'data');
  return { child, ended };
}

async function statusOf(port: number): Promise<string> {
  const client = harness.client(port);
  client.write(upgradeHead('/other'));
  const head = await readHead(client);
  client.destroy();
  return head.split(' ')[1] ?? '';
}

describe('Headscale', () => {
  test('is killed and started again: clients get 502 meanwhile, and then everything works as before', async () => {
    const upstreamPort = await freePort();
    const { child, ended } = await startEcho(upstreamPort);
    const { port } = await startWatchdog(`http://127.0.0.1:${upstreamPort}`);
    const clients = await bystanders(port);
    child.kill('SIGKILL');
    await ended;
    await until(() => clients.every((client) => client.destroyed || client.readableEnded), 'its streams end');
    expect(await statusOf(port)).toBe('502');
    await startEcho(upstreamPort);
    await until(async () => (await statusOf(port)) === '101', 'it is there again');
    expect(await lost(await bystanders(port))).toBe(0);
  });

  test('hangs for a while: no stream is lost, and what was sent meanwhile arrives', async () => {
    const upstreamPort = await freePort();
    const { child } = await startEcho(upstreamPort);
    const { port } = await startWatchdog(`http://127.0.0.1:${upstreamPort}`);
    const clients = await bystanders(port);
    child.kill('SIGSTOP');
    const answers = Promise.all(clients.map(echoes));
    await new Promise((resolve) => setTimeout(resolve, 3000));
    child.kill('SIGCONT');
    expect((await answers).every(Boolean)).toBe(true);
    expect(await lost(clients)).toBe(0);
  });

  test('hangs for long: this is noticed, requests end with 504, streams stay, and afterwards everything works', async () => {
    const upstreamPort = await freePort();
    const { child } = await startEcho(upstreamPort);
    const { port, admin } = await startWatchdog(`http://127.0.0.1:${upstreamPort}`);
    const clients = await bystanders(port);
    const upstream = async () =>
      ((await (await fetch(`${admin}/readyz`)).json()) as { upstream: { up: boolean | null; silentOn: string | null } })
        .upstream;
    await until(async () => (await upstream()).up === true, 'it is up');
    child.kill('SIGSTOP');
    const plain = fetch(`http://127.0.0.1:${port}/key?v=1`).then(({ status }) => status);
    const upgrade = statusOf(port);
    await until(async () => (await upstream()).silentOn === 'requests', 'it is noticed');
    expect(await plain).toBe(504);
    expect(await upgrade).toBe('504');
    child.kill('SIGCONT');
    await until(async () => (await upstream()).up === true, 'it is up again');
    expect(await statusOf(port)).toBe('101');
    expect(await lost(clients)).toBe(0);
  });

  test('disappears from DNS: streams stay, and a new one gets 502', async () => {
    const folder = harness.folder();
    const gone = join(folder, 'gone');
    const preload = join(import.meta.dirname, '..', 'support', 'dns-that-goes.mjs');
    const env = { DNS_GONE: gone, NODE_OPTIONS: `--import ${preload}` };
    const upstreamPort = new URL((await echoUpstream()).url).port;
    const { port } = await startWatchdog(`http://headscale.test:${upstreamPort}`, { env });
    const clients = await bystanders(port);
    writeFileSync(gone, '');
    expect(await statusOf(port)).toBe('502');
    expect(await lost(clients)).toBe(0);
    rmSync(gone);
    await until(async () => (await statusOf(port)) === '101', 'the name is back');
    expect(await lost(clients)).toBe(0);
  });

  test.each([
    ['garbage', 'no HTTP at all\r\n\r\n', '502'],
    ['half an answer', 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf', '200'],
    ['half a head', 'HTTP/1.1 101 Switching Pro', '502'],
    ['nothing', '', '502'],
  ])(
    'answers with %s: that client gets an error or is disconnected, and no other stream is lost',
    async (_what, answer, status) => {
      let isBroken = false;
      const { port: echoPort } = new URL((await echoUpstream()).url);
      const { connect } = await import('node:net');
      const server = createServer((socket) => {
        socket.on('error', () => {});
        if (isBroken) {
          socket.end(answer);
          socket.resume();
          return;
        }
        const echo = connect(Number(echoPort), '127.0.0.1');
        echo.on('error', () => socket.destroy()).on('close', () => socket.destroy());
        socket.on('close', () => echo.destroy());
        socket.pipe(echo).pipe(socket);
      });
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      harness.defer(() => new Promise((resolve) => server.close(resolve)));
      const upstreamPort = (server.address() as { port: number }).port;
      const { port } = await startWatchdog(`http://127.0.0.1:${upstreamPort}`);
      const clients = await bystanders(port);
      isBroken = true;
      const client = harness.client(port);
      client.write(upgradeHead('/other'));
      expect((await readAll(client)).toString()).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
      expect(await lost(clients)).toBe(0);
    },
  );

  test('answers slowly: that client waits, and no other does', async () => {
    let slow: Socket | undefined;
    const upstream = await harness.upstream((request, socket) => {
      socket.on('error', () => {}).on('end', () => socket.end());
      if (request.url === '/slow') slow = socket as Socket;
      else socket.pipe(socket);
      if (request.url !== '/slow') socket.write(SWITCHING);
    });
    const { port } = await startWatchdog(upstream.url);
    const clients = await bystanders(port);
    const waiting = harness.client(port);
    waiting.write(upgradeHead('/slow'));
    await until(() => slow !== undefined, 'it has been asked');
    const startedAt = performance.now();
    expect(await lost(clients)).toBe(0);
    // Nobody waits for the slow one: it would be for good.
    expect(performance.now() - startedAt).toBeLessThan(30_000);
    await new Promise((resolve) => setTimeout(resolve, 2000));
    slow?.write(SWITCHING);
    expect(await readHead(waiting)).toMatch(/ 101 /);
  });
});

describe('clients', () => {
  test('a client that never reads delays no other, and memory stays bounded', async () => {
    const upstream = await harness.upstream((request, socket) => {
      socket.on('error', () => {}).on('end', () => socket.end());
      socket.write(SWITCHING);
      if (request.url !== '/flood') socket.pipe(socket);
      else {
        const flood = (): void => {
          while (socket.write(Buffer.alloc(64 * 1024)));
        };
        socket.on('drain', flood);
        flood();
      }
    });
    const { port, admin } = await startWatchdog(upstream.url);
    const clients = await bystanders(port);
    const residentMb = async (): Promise<number> => {
      const text = await (await fetch(`${admin}/metrics`)).text();
      return Number(/^process_resident_memory_bytes (\d+)/m.exec(text)?.[1]) / 1e6;
    };
    const before = await residentMb();
    for (let i = 0; i < 10; i++) {
      const deaf = harness.client(port);
      deaf.pause();
      deaf.write(upgradeHead('/flood'));
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
    expect(await lost(clients)).toBe(0);
    expect((await residentMb()) - before).toBeLessThan(60);
  });

  test('a client that sends one byte at a time is served', async () => {
    const { url } = await echoUpstream();
    const { port } = await startWatchdog(url);
    const clients = await bystanders(port);
    const slow = harness.client(port);
    for (const byte of upgradeHead('/other')) {
      slow.write(byte);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(await readHead(slow)).toMatch(/ 101 /);
    expect(await lost([...clients, slow])).toBe(0);
  });

  test('a thousand resets in a second, before, during and after the upgrade, do no harm', async () => {
    const { url } = await echoUpstream();
    const { port, admin } = await startWatchdog(url);
    const clients = await bystanders(port);
    for (let i = 0; i < 1000; i++) {
      const client = harness.client(port);
      if (i % 3 > 0) client.write(upgradeHead('/other'));
      const delayMs = i % 3 === 2 ? 20 : 0;
      client.once('connect', () => setTimeout(() => client.resetAndDestroy(), delayMs));
    }
    expect(await lost(clients)).toBe(0);
    const open = async (): Promise<number> =>
      ((await (await fetch(`${admin}/streams`)).json()) as { total: number }).total;
    await until(async () => (await open()) === BYSTANDERS, 'nothing is left of them');
    expect(await lost(clients)).toBe(0);
  });
});

describe('the machine', () => {
  test('a full disk under the log has no other effect', async () => {
    const { url } = await echoUpstream();
    const full = openSync('/dev/full', 'w');
    try {
      const { port, child } = await startWatchdog(url, { stdout: full });
      const clients = await bystanders(port);
      for (let i = 0; i < 5; i++) child.kill('SIGHUP');
      expect(await lost(clients)).toBe(0);
      expect(child.exitCode).toBeNull();
    } finally {
      closeSync(full);
    }
  });

  test('a log that nobody reads any more has no other effect', async () => {
    const { url } = await echoUpstream();
    const { port, child } = await startWatchdog(url);
    child.stdout?.destroy();
    const clients = await bystanders(port);
    for (let i = 0; i < 5; i++) child.kill('SIGHUP');
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(await lost(clients)).toBe(0);
    expect(child.exitCode).toBeNull();
  });
});

describe('SIGTERM', () => {
  test.each([
    ['with no stream', async () => {}],
    ['with open streams', async (port: number) => void (await bystanders(port))],
    [
      'with one that is half closed',
      async (port: number) => {
        const client = await harness.upgraded(port);
        client.end();
      },
    ],
    [
      'in the middle of a head',
      async (port: number) => {
        const client = harness.client(port);
        client.write('POST /ts2021 HTTP/1.1\r\n');
        await once(client, 'connect');
      },
    ],
  ])('%s: the process soon exits with 0', async (_state, enter) => {
    const { url } = await echoUpstream();
    const { port, child, ended } = await startWatchdog(url);
    await enter(port);
    const startedAt = performance.now();
    child.kill('SIGTERM');
    expect(await ended).toEqual({ code: 0, signal: null });
    // Without end, if it waited for its clients; how soon it is by the clock, stopping.test.ts says.
    expect(performance.now() - startedAt).toBeLessThan(15_000);
  });

  test('while Headscale does not answer an upgrade: the process soon exits with 0', async () => {
    const upstream = await harness.upstream((_request, socket) => void socket.on('error', () => {}).resume());
    const { port, child, ended } = await startWatchdog(upstream.url);
    harness.client(port).write(upgradeHead('/other'));
    await until(() => upstream.sockets.size > 0, 'it has been asked');
    child.kill('SIGTERM');
    expect(await ended).toEqual({ code: 0, signal: null });
  });

  test('twice, during a drain: the process ends at once', async () => {
    const { url } = await echoUpstream();
    const [port, adminPort] = [await freePort(), await freePort()];
    const flags = ['--upstream', url, '--listen', `127.0.0.1:${port}`, '--admin', `127.0.0.1:${adminPort}`];
    const { child, ended } = runWith(harness, {}, 'serve', ...flags, '--drain', '60s', '--trusted-proxies', 'none');
    await until(
      () =>
        fetch(`http://127.0.0.1:${adminPort}/healthz`).then(
          () => true,
          () => false,
        ),
      'it answers',
    );
    await bystanders(port);
    child.kill('SIGTERM');
    await new Promise((resolve) => setTimeout(resolve, 500));
    const startedAt = performance.now();
    child.kill('SIGTERM');
    expect(await ended).toEqual({ code: 0, signal: null });
    // The drain would take a minute.
    expect(performance.now() - startedAt).toBeLessThan(30_000);
  });

  test('during the start: the process ends, and listens nowhere', async () => {
    const { child, ended } = runWith(harness, {}, 'serve', '--listen', '127.0.0.1:0', '--admin', '127.0.0.1:0');
    await new Promise((resolve) => setTimeout(resolve, 100));
    child.kill('SIGTERM');
    await ended;
    expect(child.exitCode === 0 || child.signalCode === 'SIGTERM').toBe(true);
  });
});
