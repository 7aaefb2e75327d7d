import type { Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import type { WatchdogOptions } from '../src/app/watchdog.ts';
import { connectionCapacity } from '../src/pipeline/admission.ts';
import type { WatchdogEvent } from '../src/streams/events.ts';
import { FakeClock } from './support/fake-clock.ts';
import { Harness, readAll, readHead, SWITCHING, until, upgradeHead } from './support/harness.ts';
import { freshHandshake, initiations, noiseKeyOf } from './support/initiations.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());
const [recorded] = initiations;

async function bench(flags: Record<string, unknown>, options: Partial<WatchdogOptions> = {}) {
  let seen = 0;
  const upstream = await harness.upstream(
    (_request, socket) => {
      seen += 1;
      socket
        .on('error', () => {})
        .on('end', () => socket.end())
        .resume();
      socket.write(SWITCHING);
    },
    (request, response) => {
      request.resume();
      request.on('end', () => response.end('taken'));
    },
  );
  const watchdog = await harness.watchdog(upstream.url, flags, noiseKeyOf(recorded), options);
  const limited = (): unknown =>
    watchdog.events.flatMap((event) => (event.kind === 'limit_reached' ? [event.limit] : []));
  const opens = async (): Promise<[Socket, string]> => {
    const client = harness.client(watchdog.port);
    client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded)}\r\n`));
    return [client, await readHead(client)];
  };
  return { ...watchdog, limited, opens, seen: () => seen };
}

/** A whole Noise record: with it a session begins. */
const RECORD = Buffer.from([4, 0, 2, 1, 2]);

function sessions(events: readonly WatchdogEvent[]): number {
  return events.filter((event) => event.kind === 'stream_opened' && event.stream.firstRecordAt !== undefined).length;
}

async function ask(port: number, text: string): Promise<string> {
  const client = harness.client(port);
  client.write(text);
  return (await readAll(client)).toString();
}

describe('limits', () => {
  test('a connection above --max-connections is closed, and open ones stay', async () => {
    const { port, limited } = await bench({ maxConnections: '10' });
    const open = await Promise.all(Array.from({ length: 10 }, () => harness.upgraded(port)));
    expect(await ask(port, '')).toBe('');
    expect(limited()).toEqual(['connections']);
    expect(open.every((client) => !client.destroyed)).toBe(true);
    open[0]?.destroy();
    await until(
      () =>
        harness.upgraded(port).then(
          () => true,
          () => false,
        ),
      'there is room again',
    );
  });

  test('a connection above --max-connections-per-address is closed', async () => {
    const { port, limited } = await bench({ maxConnectionsPerAddress: '2' });
    await Promise.all([harness.upgraded(port), harness.upgraded(port)]);
    expect(await ask(port, '')).toBe('');
    expect(limited()).toEqual(['connections_per_address']);
  });

  test('a handshake above the limit gets 503 with Retry-After, and Headscale does not see it', async () => {
    const { opens, limited, seen } = await bench({ maxHandshakesPerAddress: '1', hold: 'off' });
    const heads: string[] = [];
    // Ten at once, and one more for each second that this takes.
    while (heads.length < 30 && !heads.at(-1)?.includes(' 503 ')) heads.push((await opens())[1]);
    const head = heads.at(-1);
    expect(head).toMatch(/^HTTP\/1\.1 503 [\s\S]*\r\nRetry-After: 5\r\n/);
    expect(limited()).toEqual(['handshakes_per_address']);
    expect(heads.length).toBeGreaterThan(10);
    expect(seen()).toBe(heads.length - 1);
  });

  test('above --max-streams-per-node the newest stream is accepted, and an older one ends: without a session first, then the longest silent', async () => {
    const { opens, limited, seen, events } = await bench({ maxStreamsPerNode: '3', hold: 'off' });
    const streams: Socket[] = [];
    const ended = (): readonly number[] =>
      events.flatMap((event) =>
        event.kind === 'stream_closed' && event.reason === 'surplus' ? [event.stream.id] : [],
      );
    for (let i = 0; i < 3; i++) {
      const [client, head] = await opens();
      expect(head).toMatch(/ 101 /);
      client.write(RECORD);
      streams.push(client);
      await until(() => sessions(events) === i + 1, 'its session has begun');
    }
    // The first is heard again: the second is now the one longest unheard.
    const [first, second] = events.flatMap((event) => (event.kind === 'stream_opened' ? [event.stream] : []));
    const heardAt = first?.heardAt ?? 0;
    streams[0]?.write(RECORD);
    await until(() => (first?.heardAt ?? 0) > heardAt, 'it is heard');
    expect((await opens())[1]).toMatch(/ 101 /);
    await until(() => ended().length === 1, 'one has ended');
    expect([ended(), limited(), seen()]).toEqual([[second?.id], ['streams_per_node'], 4]);
    // One without a session, but the newest, goes before those that have one.
    expect((await opens())[1]).toMatch(/ 101 /);
    await until(() => ended().length === 2, 'another one has ended');
    expect((await opens())[1]).toMatch(/ 101 /);
    await until(() => ended().length === 3, 'a third one has ended');
    expect(ended()).toEqual([2, 3, 4]);
    expect([streams[0]?.destroyed, first?.state.kind]).toEqual([false, 'open']);
  });

  test('with --observe-only, streams above --max-streams-per-node stay, and each surplus one is reported once', async () => {
    const { opens, limited, seen, events } = await bench({ maxStreamsPerNode: '3', hold: 'off', observeOnly: true });
    const streams: Socket[] = [];
    for (let i = 0; i < 6; i++) {
      const [client, head] = await opens();
      expect(head).toMatch(/ 101 /);
      streams.push(client);
      client.write(RECORD);
      await until(() => sessions(events) === i + 1, 'its session has begun');
    }
    const told = events.flatMap((event) =>
      event.kind === 'would_sever' ? [[event.stream.id, event.reason, event.stream.state.kind]] : [],
    );
    // Those that would be gone already do not count: always three would be left.
    expect(told).toEqual([1, 2, 3].map((id) => [id, 'surplus', 'open']));
    expect([limited(), seen(), streams.filter(({ destroyed }) => destroyed)]).toEqual([[], 6, []]);
    expect(events.filter(({ kind }) => kind === 'stream_closed')).toEqual([]);
  });

  test("with --observe-only, the limits on connections still apply, and a surplus connection ends none of the node's streams", async () => {
    const { port, opens, limited, events } = await bench({
      ...{ maxStreamsPerNode: '2', maxConnectionsPerAddress: '4', hold: 'off', observeOnly: true },
    });
    for (let i = 0; i < 4; i++) expect((await opens())[1]).toMatch(/ 101 /);
    expect(await ask(port, '')).toBe('');
    expect(limited()).toEqual(['connections_per_address']);
    expect(events.filter(({ kind }) => kind === 'stream_closed')).toEqual([]);
  });

  test('a newcomer above --max-held goes to Headscale without a hold', async () => {
    const { opens, limited, events } = await bench({ maxHeld: '0', hold: '5s' });
    await opens();
    expect((await opens())[1]).toMatch(/ 101 /);
    expect(events.some(({ kind }) => kind === 'stream_held')).toBe(false);
    expect(limited()).toEqual(process.platform === 'linux' ? ['held'] : []);
  });

  test('a head that is too large gets 431, and one that is too slow gets 408', async () => {
    const { port } = await bench({ maxHeaderSize: '4KiB', headerTimeout: '2s' });
    const large = await ask(port, `GET /key HTTP/1.1\r\nHost: h\r\nX: ${'x'.repeat(5000)}\r\n\r\n`);
    expect(large).toMatch(/^HTTP\/1\.1 431 /);
    expect(await ask(port, 'GET /key HTTP/1.1\r\nHost: h\r\n')).toMatch(/^HTTP\/1\.1 408 /);
    expect(await ask(port, '')).toMatch(/^HTTP\/1\.1 408 /);
  });

  test('a body that is too large gets 413, with or without Content-Length', async () => {
    const { port, limited } = await bench({ maxBodySize: '64KiB' });
    const most = 64 * 1024;
    const head = 'POST /api HTTP/1.1\r\nHost: h\r\nConnection: close\r\n';
    const told = (length: number): string => `${head}Content-Length: ${length}\r\n\r\n${'x'.repeat(length)}`;
    expect(await ask(port, told(most))).toMatch(/^HTTP\/1\.1 200 [\s\S]*taken/);
    expect(await ask(port, told(most + 1))).toMatch(/^HTTP\/1\.1 413 /);
    const chunk = `${(8192).toString(16)}\r\n${'x'.repeat(8192)}\r\n`;
    const chunked = `${head}Transfer-Encoding: chunked\r\n\r\n`;
    expect(await ask(port, `${chunked}${chunk.repeat(8)}0\r\n\r\n`)).toMatch(/^HTTP\/1\.1 200 [\s\S]*taken/);
    expect(await ask(port, `${chunked}${chunk.repeat(9)}0\r\n\r\n`)).toMatch(/^HTTP\/1\.1 413 /);
    expect(limited()).toEqual(['body', 'body']);
  });

  test('a body that is too slow gets 408', async () => {
    const { port } = await bench({ headerTimeout: '2s', bodyTimeout: '2s' });
    const startedAt = performance.now();
    expect(await ask(port, 'POST /api HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nx')).toMatch(/ 408 /);
    expect(performance.now() - startedAt).toBeGreaterThan(3900);
  });

  test('new control connections go to Headscale one after the other, and one that waits too long gets 503', async () => {
    const clock = new FakeClock();
    const flags = { upstreamRate: '1', upstreamBurst: '1', hold: 'off' };
    const { opens, limited, seen, events } = await bench(flags, { clock });
    const opening = Array.from({ length: 5 }, () => opens());
    await until(() => events.filter(({ kind }) => kind === 'stream_opened').length === 5, 'all have come');
    for (const going of [1, 2, 3, 4]) {
      await until(() => seen() === going, `${going} have gone to Headscale`);
      clock.advance(999);
      expect([seen(), limited()]).toEqual([going, []]);
      clock.advance(1);
    }
    const heads = (await Promise.all(opening)).map(([, head]) => head.slice(9, 12));
    expect(heads.sort()).toEqual(['101', '101', '101', '101', '503']);
    expect(limited()).toEqual(['upstream_rate']);
  });
});

describe('connectionCapacity', () => {
  test('each connection needs two descriptors, and some are reserved for everything else', () => {
    const text = (soft: string): string =>
      `Limit  Soft Limit  Hard Limit  Units\nMax open files            ${soft}  4096  files\n`;
    expect(connectionCapacity(text('1128'))).toBe(500);
    expect(connectionCapacity(text('20'))).toBe(1);
    expect(connectionCapacity('')).toBeUndefined();
  });
});
