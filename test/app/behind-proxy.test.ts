import { connect, createServer, type Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { type Clock, systemClock } from '../../src/lib/clock.ts';
import { loadSockDiag } from '../../src/liveness/sock-diag.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { Harness, readHead, SWITCHING, type TestWatchdog, until, upgradeHead } from '../support/harness.ts';
import { get, scrape } from '../support/http.ts';
import { freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const [recorded] = initiations;
const hasSockDiag = (await loadSockDiag(systemClock)).ok;

interface Shown {
  readonly evidence: unknown;
  readonly kernel: unknown;
  readonly remoteAddress: string;
}

/**
 * A reverse proxy that keeps its connection to the watchdog when its client leaves, as a real one does when the client vanishes
 * and nothing tells. It differs from real ones in that a vanished client can be seen at once: on the loopback, a FIN comes.
 */
async function startProxy(port: number, headersFor: (client: Socket) => string): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (client) => {
    const upstream = connect({ port, host: '127.0.0.1' });
    for (const socket of [client, upstream]) sockets.add(socket.on('error', () => {}));
    client.once('data', (head) => {
      const text = head.toString('latin1');
      upstream.write(text.replace('\r\n\r\n', `\r\n${headersFor(client)}\r\n`), 'latin1');
      client.on('data', (chunk) => upstream.write(chunk));
    });
    upstream.on('data', (chunk) => client.write(chunk));
    upstream.on('close', () => client.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  harness.defer(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

const byPort = ({ remoteAddress, remotePort }: Socket) =>
  `X-Forwarded-For: ${remoteAddress}\r\nX-Real-Port: ${remotePort}\r\n`;
const byAddress = ({ remoteAddress }: Socket) => `X-Forwarded-For: ${remoteAddress}\r\n`;

/** A node behind the proxy, whose address is `localAddress`. */
async function opens(port: number, localAddress: string): Promise<Socket> {
  const client = connect({ port, host: '127.0.0.1', localAddress });
  client.on('error', () => {});
  harness.defer(() => client.destroy());
  client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded)}\r\n`));
  expect(await readHead(client)).toMatch(/^HTTP\/1\.1 101 /);
  return client;
}

/** Two addresses from which nothing else on this machine connects, as other tests do from 127.0.0.2. */
const [HERE, THERE] = ['77', '78'].map(
  (last) => `127.${64 + (process.pid % 64)}.${(process.pid >> 6) % 256}.${last}`,
) as [string, string];

async function behind(
  headersFor: (client: Socket) => string,
  trustedProxies = '127.0.0.1',
  clock: Clock = systemClock,
) {
  const { url } = await harness.upstream((_request, socket) => {
    socket.on('error', () => {});
    socket.on('end', () => socket.end()).resume();
    socket.write(SWITCHING);
  });
  const flags = { trustedProxies, goneAfter: '30s' };
  const watchdog = await harness.watchdog(url, flags, noiseKeyOf(recorded), { clock });
  return { watchdog, port: await startProxy(watchdog.port, headersFor) };
}

const streams = async ({ admin }: TestWatchdog) =>
  (JSON.parse((await get(`${admin}/streams`)).text) as { streams: Shown[] }).streams;

const hasLeft = ({ kernel }: Shown): boolean => (kernel as { ended?: boolean } | null)?.ended === true;

describe.runIf(hasSockDiag)('behind a proxy on this machine', () => {
  test.each([
    ['port', byPort],
    ['address', byAddress],
  ])(
    'the client has left the proxy, and the node comes back: its old stream ends, by %s, and is no takeover',
    async (by, headersFor) => {
      const { watchdog, port } = await behind(headersFor);
      const old = await opens(port, HERE);
      expect(await streams(watchdog)).toMatchObject([{ evidence: { source: 'proxy', by, reason: null } }]);
      const found = expect.objectContaining({ kind: 'proxy_sockets_found', address: '127.0.0.1', by });
      // By address alone, the next survey tells.
      if (by === 'port') expect(watchdog.events).toContainEqual(found);
      old.end();
      await until(() => old.closed || old.readableEnded || old.writableFinished, 'the FIN is sent');
      await opens(port, THERE);
      const ofKind = (wanted: string) => watchdog.events.filter(({ kind }) => kind === wanted);
      await until(() => ofKind('stream_closed').length > 0, 'the old stream has ended');
      expect(ofKind('stream_closed')).toMatchObject([{ reason: 'client_left', stream: { id: 1 } }]);
      expect(ofKind('contest_ended')).toMatchObject([{ verdict: 'left' }]);
      expect(ofKind('stream_severed')).toEqual([]);
      const metrics = await scrape(watchdog.admin);
      expect(metrics.get('headscale_watchdog_contests_total{verdict="left"}')).toBe(1);
      expect(metrics.get('headscale_watchdog_contests_total{verdict="dead"}')).toBe(0);
      expect(metrics.get('headscale_watchdog_takeovers_total{evidence="kernel"}')).toBe(0);
    },
  );

  test('a live client, and a newcomer of its node: both stay', async () => {
    const { watchdog, port } = await behind(byPort);
    await opens(port, HERE);
    await opens(port, THERE);
    await new Promise((resolve) => setTimeout(resolve, 600));
    expect(watchdog.events.filter(({ kind }) => kind === 'stream_severed')).toEqual([]);
    expect(await streams(watchdog)).toHaveLength(2);
  });

  test('a client that has left its proxy has no round trip any more, although its stream is still open', async () => {
    const clock = new FakeClock();
    const { watchdog, port } = await behind(byPort, '127.0.0.1', clock);
    const client = await opens(port, HERE);
    const roundTrips = async (): Promise<number> =>
      [...(await scrape(watchdog.admin)).keys()].filter((name) =>
        name.startsWith('headscale_watchdog_node_rtt_seconds'),
      ).length;
    clock.advance(4000);
    await until(async () => (await roundTrips()) === 1, 'a survey has seen the client');
    client.end();
    await until(() => client.writableFinished, 'the FIN is sent');
    clock.advance(4000);
    await until(async () => (await streams(watchdog)).some(hasLeft), 'a survey has seen that it left');
    expect(await roundTrips()).toBe(0);
    expect(await streams(watchdog)).toHaveLength(1);
  });

  test('two proxies in a row: no evidence, and the reason is shown', async () => {
    const { watchdog, port } = await behind(
      ({ remoteAddress }) => `X-Forwarded-For: 192.0.2.9, ${remoteAddress}\r\n`,
      '127.0.0.0/8',
    );
    await opens(port, HERE);
    expect(await streams(watchdog)).toMatchObject([
      { remoteAddress: '192.0.2.9', kernel: null, evidence: { source: 'none', reason: 'several_proxies' } },
    ]);
  });

  test('a proxy that names a port which its client does not have: no evidence', async () => {
    const { watchdog, port } = await behind(({ remoteAddress }) => `X-Forwarded-For: ${remoteAddress}:1\r\n`);
    await opens(port, HERE);
    expect(await streams(watchdog)).toMatchObject([{ evidence: { source: 'none', reason: 'socket_not_found' } }]);
  });
});
