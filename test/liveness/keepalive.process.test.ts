import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { afterEach, describe, expect, test } from 'vitest';
import { type KernelOrNot, loadKernel } from '../../src/liveness/kernel.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { closeReason, Harness, SWITCHING, until, upgradeHead } from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const TLS = new URL('../support/tls/', import.meta.url).pathname;
/** Linux' numbers of timers in /proc/net/tcp, in hundredths of a second. */
const KEEPALIVE = '02';

/** In how many seconds, rounded, Linux probes the connection whose local end and other end have these ports; undefined: never. */
function probesInS(local: number | undefined, remote: number | undefined): number | undefined {
  const ends = [local, remote].map((port) => `:${(port ?? 0).toString(16).toUpperCase().padStart(4, '0')}`);
  for (const line of readFileSync('/proc/net/tcp', 'latin1').split('\n')) {
    const [, from, to, state, , timer] = line.trim().split(/\s+/);
    if (from?.endsWith(ends[0] ?? '') !== true || to?.endsWith(ends[1] ?? '') !== true || state !== '01') continue;
    const [kind, when] = timer?.split(':') ?? [];
    return kind === KEEPALIVE ? Math.ceil(Number.parseInt(when ?? '', 16) / 100) : undefined;
  }
  return undefined;
}

/** A test takes seconds, on a busy machine some more; it must not take for 75 s what is 15 s. */
const about = (seconds: number) => (left: number | undefined) =>
  left !== undefined && left > seconds - 12 && left <= seconds + 1;
const isKeptAlive = about(75);
const isProbedAsByGo = about(15);

async function start(flags: Record<string, unknown> = {}) {
  const upstream = await harness.upstream(
    (_request, socket) => void socket.on('error', () => {}).write(SWITCHING),
    // A request that waits for ever.
    () => {},
  );
  const clock = new FakeClock();
  const watchdog = await harness.watchdog(upstream.url, flags, undefined, { clock });
  const ends = (client: Socket) => [watchdog.port, client.localPort] as const;
  const open = () => watchdog.events.filter(({ kind }) => kind === 'stream_opened').length;
  return { ...watchdog, upstream, clock, ends, open };
}

describe.runIf(process.platform === 'linux')('the standard keepalive, as Linux reports it', () => {
  test.each([
    ['control', '/ts2021', {}],
    ['derp', '/derp', {}],
    ['any other', '/other', {}],
    ['control, behind a proxy', '/ts2021', { trustedProxies: '127.0.0.1' }],
    ['control, observed only', '/ts2021', { observeOnly: true }],
    ['control, gone-after off', '/ts2021', { goneAfter: 'off' }],
  ] as const)('a stream: %s', async (_kind, path, flags) => {
    const { port, ends } = await start(flags);
    const client = await harness.upgraded(port, path);
    await until(() => isKeptAlive(probesInS(...ends(client))), 'keepalive after 75 s');
  });

  test('a stream over TLS', async () => {
    const { port, ends } = await start({ listen: `https://127.0.0.1:0?cert=${TLS}cert.pem&key=${TLS}key.pem` });
    const raw = harness.client(port);
    const client = connectTls({ socket: raw, rejectUnauthorized: false }).on('error', () => {});
    harness.defer(() => client.destroy());
    client.write(upgradeHead('/ts2021'));
    await new Promise((resolve) => client.once('data', resolve));
    await until(() => isKeptAlive(probesInS(...ends(raw))), 'keepalive after 75 s');
  });

  test('a plain request that waits for its answer is probed as often as by Go', async () => {
    const { port, ends } = await start();
    const client = harness.client(port);
    client.write('GET /register/waits HTTP/1.1\r\nHost: head.example\r\n\r\n');
    await until(() => isProbedAsByGo(probesInS(...ends(client))), 'keepalive after 15 s');
  });

  test('a request on a control stream that waits for its answer is probed as often as by Go, until Headscale answers', async () => {
    const { port, ends, clock, upstream } = await start();
    const client = await harness.upgraded(port, '/ts2021');
    client.write(Buffer.alloc(600));
    await until(() => {
      clock.advance(5000);
      return isProbedAsByGo(probesInS(...ends(client)));
    }, 'keepalive after 15 s');
    for (const socket of upstream.sockets) socket.write('its answer');
    await until(() => {
      clock.advance(5000);
      return isKeptAlive(probesInS(...ends(client)));
    }, 'keepalive after 75 s');
  });

  test('HTTP/2 frames that are no requests do not count as requests', async () => {
    const { port, ends, clock } = await start();
    const client = await harness.upgraded(port, '/ts2021');
    client.write(Buffer.alloc(45));
    clock.advance(60_000);
    await until(() => isKeptAlive(probesInS(...ends(client))), 'keepalive after 75 s');
  });

  test('connections to Headscale', async () => {
    const { port, upstream } = await start();
    await harness.upgraded(port, '/ts2021');
    const others = () => [...upstream.sockets].map(({ remotePort }) => probesInS(remotePort, upstream.port));
    await until(() => others().some(isKeptAlive), 'keepalive after 75 s');
  });
});

describe.runIf(process.platform === 'linux')('a client that does not read', () => {
  /** What gone-after tells Linux, and so short that a test can wait for it. */
  const USER_TIMEOUT_MS = 1500;

  test('whose machine answers until Linux gives up is reported as not_reading, not as gone', async () => {
    const loaded = await loadKernel();
    if (!loaded.ok) throw new Error(loaded.why);
    const { kernel } = loaded;
    const clients: Socket[] = [];
    const impatient: KernelOrNot = {
      ok: true,
      kernel: {
        ...kernel,
        applyTimeouts: (socket, timeouts) => {
          if (timeouts.userTimeoutMs === 0) return;
          clients.push(socket);
          kernel.applyTimeouts(socket, { ...timeouts, userTimeoutMs: USER_TIMEOUT_MS });
        },
      },
    };
    const upstream = await harness.upstream((_request, socket) => {
      socket.on('error', () => {}).write(SWITCHING);
      const more = (): unknown => socket.writable && socket.write(Buffer.alloc(256 * 1024), more);
      more();
    });
    const clock = new FakeClock();
    const { port, events } = await harness.watchdog(upstream.url, {}, undefined, { clock, kernel: impatient });
    const client = await harness.upgraded(port, '/ts2021');
    client.pause();
    const isFull = (): boolean => clients.some((socket) => (kernel.evidenceOf(socket)?.unsentBytes ?? 0) > 0);
    await until(isFull, 'its window is full');
    clock.advance(5000);
    await until(() => events.some(({ kind }) => kind === 'stream_closed'), 'Linux gives up');
    expect(await closeReason(events)).toBe('not_reading');
  });
});
