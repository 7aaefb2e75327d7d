import { ClientRequest } from 'node:http';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import fc from 'fast-check';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { FakeClock } from '../support/fake-clock.ts';
import { Harness, readHead, SWITCHING, type TestWatchdog, until, upgradeHead } from '../support/harness.ts';
import { scrape } from '../support/http.ts';
import { freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';
import { redisThatNeverAnswers } from '../support/silent-redis.ts';

const harness = new Harness();
afterEach(() => {
  vi.restoreAllMocks();
  return harness.closeAll();
});

const [recorded] = initiations;
const TLS = join(import.meta.dirname, '..', 'support', 'tls');
const control = (): string => upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded)}\r\n`);

/** A Headscale that does with each request what its path says. */
function headscale() {
  return harness.upstream(
    ({ url }, socket) => {
      socket.on('error', () => {}).on('end', () => socket.end());
      if (url === '/never') return;
      if (url === '/refused') socket.write('HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n');
      else socket.write(SWITCHING);
      if (url === '/half-closed') socket.end();
      socket.resume();
    },
    (request, response) => {
      if (request.url === '/half') response.write('half');
      else if (request.url !== '/never') response.end('{}');
    },
  );
}

const PLAIN = 'GET /key HTTP/1.1\r\nHost: h\r\n\r\n';

/** What a client may have sent when it is to be stopped, and until when it waits before that. */
const STATES = {
  'nothing sent': [''],
  'part of a head': ['GET /ke'],
  'answered, and kept open': [PLAIN, /\{\}/],
  'a request that is not answered': [PLAIN.replace('key', 'never')],
  'half an answer': [PLAIN.replace('key', 'half'), /half/],
  'part of a body': ['POST /never HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nabc'],
  'a body that is too large': ['POST /key HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999999\r\n\r\nabc', / 413 /],
  'an upgrade that is not answered': [upgradeHead('/never')],
  'a refused upgrade': [upgradeHead('/refused'), / 404 [\s\S]*no/],
  'an open tunnel': [upgradeHead('/open'), / 101 /],
  'a tunnel that Headscale has ended': [upgradeHead('/half-closed'), / 101 /],
  'an upgrade with a body': [upgradeHead('/never').replace('Length: 0', 'Length: 3')],
  'a control stream, held, refused or open': [control],
} satisfies Record<string, readonly [string | (() => string), RegExp?]>;
type State = keyof typeof STATES;

/** The ways into a watchdog. */
const LISTENERS = ['plain', 'tls', 'tls, not begun', 'proxy protocol', 'half a PROXY header', 'admin'] as const;

interface Visit {
  readonly state: State;
  readonly by: (typeof LISTENERS)[number];
  /** The client has ended its side. */
  readonly hasEnded: boolean;
}

const visits = fc.array(
  fc.record({
    state: fc.constantFrom(...(Object.keys(STATES) as State[])),
    by: fc.constantFrom(...LISTENERS),
    hasEnded: fc.boolean(),
  }),
  { minLength: 1, maxLength: 8 },
);

/** Brings a client into a state; it then neither leaves nor answers a FIN. */
async function visit({ watchdog }: TestWatchdog, { state, by, hasEnded }: Visit): Promise<void> {
  const [plain, tls, proxy] = watchdog.listenAddresses.map(({ port }) => port);
  const ports = { plain, tls, 'tls, not begun': tls, 'proxy protocol': proxy, 'half a PROXY header': proxy };
  const raw = harness.client((by === 'admin' ? watchdog.adminAddress.port : ports[by]) ?? 0);
  await new Promise((resolve) => raw.once('connect', resolve));
  if (by === 'tls, not begun') return;
  if (by === 'half a PROXY header') {
    raw.write('PROXY TCP4 ');
    return;
  }
  if (by === 'proxy protocol') raw.write('PROXY TCP4 192.0.2.7 192.0.2.1 4000 443\r\n');
  const client = by === 'tls' ? connectTls({ socket: raw, rejectUnauthorized: false }) : raw;
  client.on('error', () => {});
  const [sent, answer]: readonly [string | (() => string), RegExp?] = STATES[state];
  let read = '';
  client.on('data', (chunk) => {
    read += chunk;
  });
  client.write(typeof sent === 'string' ? sent : sent());
  if (answer !== undefined && by !== 'admin')
    await until(() => answer.test(read) || client.destroyed || client.readableEnded, `${state} by ${by}`);
  if (hasEnded) client.end();
}

/** @param later Redis that was late is tried again some time later. */
function joinsRedis({ admin }: TestWatchdog, later: () => void): Promise<void> {
  const joined = async (): Promise<boolean> => {
    later();
    await new Promise((resolve) => setTimeout(resolve, 50));
    return (await scrape(admin)).get('headscale_watchdog_redis_up') === 1;
  };
  return until(joined, 'Redis is joined');
}

describe('a stop', () => {
  test('ends and leaves nothing open, in whatever state the connections are', async () => {
    await fc.assert(
      fc.asyncProperty(visits, fc.boolean(), fc.boolean(), fc.boolean(), async (all, trusts, drains, asksRedis) => {
        const upstream = await headscale();
        const redis = asksRedis ? await redisThatNeverAnswers(harness) : undefined;
        const clock = new FakeClock();
        const started = await harness.watchdog(
          upstream.url,
          {
            listen: [
              '127.0.0.1:0',
              `https://127.0.0.1:0?cert=${join(TLS, 'cert.pem')}&key=${join(TLS, 'key.pem')}`,
              'http://127.0.0.1:0?proxy-protocol=true',
            ],
            trustedProxies: trusts ? '127.0.0.1' : '192.0.2.1',
            ...{
              maxHandshakesPerAddress: '1',
              maxStreamsPerNode: '2',
              upstreamRate: '1',
              upstreamBurst: '1',
              hold: '5s',
              drain: '20s',
            },
            ...(redis === undefined ? {} : { redis: redis.url }),
          },
          noiseKeyOf(recorded),
          { clock },
        );
        if (redis !== undefined) await joinsRedis(started, () => clock.advance(1000));
        await Promise.all(all.map((each) => visit(started, each)));
        const drained = drains ? started.watchdog.drain() : undefined;
        await started.watchdog.close();
        await drained;
        await until(() => upstream.sockets.size === 0, 'Headscale has no connection of ours');
        await until(() => clock.timers === 0, 'no timer is left');
        await harness.closeAll();
      }),
      { numRuns: 30 },
    );
  });

  test("closes a connection to Headscale that Node's HTTP client does not let go of", async () => {
    const upstream = await headscale();
    const clock = new FakeClock();
    const { watchdog, port } = await harness.watchdog(upstream.url, {}, undefined, { clock });
    vi.spyOn(ClientRequest.prototype, 'destroy').mockReturnThis();
    let isAsked = false;
    upstream.server.on('request', ({ url }) => {
      isAsked ||= url === '/never';
    });
    harness.client(port).write(PLAIN.replace('key', 'never'));
    await until(() => isAsked, 'Headscale has the request');
    await watchdog.close();
    await until(() => upstream.sockets.size === 0, 'Headscale has no connection of ours');
  });

  test('ends while a newcomer waits for Redis, and does not accept that newcomer any more', async () => {
    const [upstream, redis] = [await headscale(), await redisThatNeverAnswers(harness)];
    const started = await harness.watchdog(upstream.url, { redis: redis.url }, noiseKeyOf(recorded));
    const { watchdog, port, events } = started;
    await joinsRedis(started, () => {});
    harness.client(port).write(control());
    await until(() => redis.asked() > 0, 'Redis is asked');
    await watchdog.close();
    const count = (of: string): number => events.filter(({ kind }) => kind === of).length;
    expect(count('stream_opened')).toBe(count('stream_closed'));
  });

  test('with drain off, does not wait for refused clients that keep their connection open, also at the admin server', async () => {
    const upstream = await headscale();
    const clock = new FakeClock();
    const flags = { maxHandshakesPerAddress: '1', hold: 'off', drain: 'off' };
    const { watchdog, port, events } = await harness.watchdog(upstream.url, flags, noiseKeyOf(recorded), { clock });
    // However patient the watchdog is with a single client.
    vi.spyOn(Socket.prototype, 'setTimeout').mockReturnThis();
    const refused: Socket[] = [];
    for (let i = 0; i < 15; i += 1) {
      const client = harness.client(port);
      client.write(control());
      if (/ 503 /.test(await readHead(client))) refused.push(client);
    }
    expect(refused).toHaveLength(5);
    const operator = harness.client(watchdog.adminAddress.port);
    operator.write(upgradeHead('/nowhere'));
    expect(await readHead(operator)).toMatch(/ 40\d /);
    const drained = watchdog.drain();
    clock.advance(0);
    await drained;
    // No time has passed: nobody's patience was needed.
    expect(events.filter(({ kind }) => kind === 'drain_ended')).toEqual([{ kind: 'drain_ended', tookMs: 0 }]);
  });

  test('waits for nobody who is refused in the middle of the drain and stays', async () => {
    const upstream = await headscale();
    const clock = new FakeClock();
    const flags = { drain: '20s', headerTimeout: '2m' };
    const { watchdog, port, events } = await harness.watchdog(upstream.url, flags, undefined, { clock });
    vi.spyOn(Socket.prototype, 'setTimeout').mockReturnThis();
    const client = harness.client(port);
    const [head, rest] = [upgradeHead('/refused').slice(0, 10), upgradeHead('/refused').slice(10)];
    client.write(head);
    await harness.upgraded(port, '/open');
    client.resume();
    const drained = watchdog.drain();
    client.write(rest);
    await until(() => events.some(({ kind }) => kind === 'upstream_refused'), 'it is refused');
    const ended = () => events.find(({ kind }) => kind === 'drain_ended') as { tookMs: number } | undefined;
    await until(() => {
      clock.advance(250);
      return ended() !== undefined;
    }, 'the drain has ended');
    await drained;
    expect(ended()?.tookMs).toBeLessThan(20_000);
  });
});
