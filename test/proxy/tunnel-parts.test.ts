import { createServer } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { Tunnel } from '../../src/proxy/tunnel.ts';
import type { TunnelHandlers } from '../../src/proxy/tunnel-parts.ts';
import { upstreamOf } from '../../src/proxy/upstream.ts';
import type { Stream, StreamId } from '../../src/streams/stream.ts';
import { FakeClock } from '../support/fake-clock.ts';
import {
  closed,
  Harness,
  type OnUpgrade,
  readAll,
  readHead,
  SWITCHING,
  until,
  upgradeHead,
} from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const RECORD = Buffer.from([4, 0, 2, 1, 2]);

/** One tunnel with nothing around it: what it tells is written down, its clock stands still, its sockets can be seen. */
async function tunnelTo(onUpgrade: OnUpgrade, isNotReading = false) {
  const upstream = await harness.upstream(onUpgrade);
  const clock = new FakeClock();
  const told: string[] = [];
  const sockets: Socket[] = [];
  const target = upstreamOf(new URL(upstream.url));
  const ports: TunnelHandlers = {
    clock,
    earlyBytes: () => 64 * 1024,
    upstream: {
      ...target,
      connect: () => {
        const socket = target.connect();
        sockets.push(socket);
        return socket;
      },
    },
    firstRecord: () => told.push('first record'),
    ending: (_stream, reason) => told.push(`ending: ${reason}`),
    upstreamClosed: () => told.push('upstream closed'),
    closed: (_stream, reason) => told.push(`closed: ${reason}`),
    upstreamReached: () => told.push('reached'),
    upstreamFailed: () => told.push('failed'),
    answeredLate: () => told.push('answered late'),
    awaitAnswer: () => ({ sent() {}, answered() {}, ended() {} }),
    upstreamMismatched: () => told.push('misled'),
    upstreamRefused: () => told.push('refused'),
  };
  const now = clock.now();
  const stream: Stream = {
    ...{
      id: 1 as StreamId,
      kind: 'control',
      machineKey: undefined,
      address: '127.0.0.1',
      remoteAddress: '127.0.0.1:1',
      openedAt: now,
    },
    ...{ heardAt: now, spokenAt: undefined, firstRecordAt: undefined, bytesReceived: 0, bytesSent: 0 },
    ...{ state: { kind: 'connecting' }, wouldSever: undefined },
  };
  const server = createServer();
  const made = new Promise<Tunnel>((resolve) => {
    server.on('upgrade', (request, client: Socket, head) => {
      const asked = { protocol: 'tailscale-control-protocol', streamKind: 'control', handshake: undefined } as const;
      const upgrade = { request, asked, client, head, rawHeaders: request.rawHeaders };
      resolve(new Tunnel(stream, upgrade, { beforeSend: () => {}, isNotReading: () => isNotReading }, ports));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  harness.defer(() => new Promise((resolve) => server.close(resolve)));
  const client = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true });
  client.on('error', () => {});
  harness.defer(() => client.destroy());
  client.write(upgradeHead('/ts2021'));
  const tunnel = await made;
  harness.defer(() => tunnel.end('shutdown'));
  return { clock, told, stream, tunnel, client, toUpstream: () => sockets[0] as Socket };
}

const accept: OnUpgrade = (_request, socket) => {
  socket.on('error', () => {});
  socket.write(SWITCHING);
};

describe('Tunnel', () => {
  test("end() closes the connection to Headscale first, and the client's after it", async () => {
    const { tunnel, client, told, toUpstream } = await tunnelTo(accept);
    tunnel.forward();
    await readHead(client);
    const upstream = toUpstream();
    const clientGoneBefore = new Promise<boolean>((resolve) => {
      upstream.prependOnceListener('close', () => resolve(tunnel.client.destroyed));
    });
    told.length = 0;
    tunnel.end('severed_dead');
    expect(await clientGoneBefore).toBe(false);
    await until(() => told.length === 3, 'all is told');
    expect(told).toEqual(['ending: severed_dead', 'upstream closed', 'closed: severed_dead']);
    expect(tunnel.client.destroyed).toBe(true);
  });

  test('a late answer to a request, as for a login, is reported, but not an answer at once or one without a request', async () => {
    let atUpstream: Socket | undefined;
    const { tunnel, client, told, clock, stream } = await tunnelTo((_request, socket) => {
      socket.on('error', () => {});
      socket.write(SWITCHING);
      atUpstream = socket;
    });
    tunnel.forward();
    await readHead(client);
    const exchange = async (bytes: number, waitMs: number): Promise<readonly string[]> => {
      const [received, sent] = [stream.bytesReceived, stream.bytesSent];
      told.length = 0;
      client.write(Buffer.alloc(bytes));
      await until(() => stream.bytesReceived === received + bytes, 'the request has come');
      clock.advance(waitMs);
      atUpstream?.write('answer');
      await until(() => stream.bytesSent > sent, 'it is answered');
      return told.filter((each) => each === 'answered late');
    };
    expect(await exchange(300, 999)).toEqual([]);
    expect(await exchange(300, 60_000)).toEqual(['answered late']);
    expect(await exchange(45, 60_000)).toEqual([]);
  });

  test.each(['client', 'upstream'] as const)(
    'after the %s has left, the other end may be silent for a minute',
    async (who) => {
      let atUpstream: Socket | undefined;
      const { tunnel, client, stream, toUpstream } = await tunnelTo((_request, socket) => {
        socket.on('error', () => {});
        socket.write(SWITCHING);
        atUpstream = socket;
      });
      tunnel.forward();
      await readHead(client);
      (who === 'client' ? client : (atUpstream as Socket)).end();
      await until(() => stream.state.kind === 'closing', 'one end is gone');
      for (const socket of [tunnel.client, toUpstream()]) expect(socket.timeout).toBe(60_000);
      (who === 'client' ? toUpstream() : tunnel.client).emit('timeout');
      await until(() => stream.state.kind === 'closed', 'the stream is closed');
    },
  );

  test.each([
    ['ETIMEDOUT', 'gone', false],
    ['EHOSTUNREACH', 'gone', false],
    ['ENETUNREACH', 'gone', false],
    ['ETIMEDOUT', 'not_reading', true],
    ['ECONNRESET', 'client_error', false],
  ])(
    "if Linux ends a client's connection with %s, the reason is %s, and the upstream connection is reset",
    async (code, reason, answered) => {
      let atUpstream: Socket | undefined;
      const broken: string[] = [];
      const { tunnel, client, stream } = await tunnelTo((_request, socket) => {
        socket.on('error', (error: NodeJS.ErrnoException) => broken.push(error.code ?? ''));
        socket.resume().write(SWITCHING);
        atUpstream = socket;
      }, answered);
      tunnel.forward();
      await readHead(client);
      // On loopback no peer ever vanishes: the error alone stands in for what Linux says when one has.
      tunnel.client.destroy(Object.assign(new Error(`read ${code}`), { code }));
      await until(() => stream.state.kind === 'closed' && atUpstream?.destroyed === true, 'both ends are closed');
      expect(stream.state).toEqual({ kind: 'closed', reason });
      expect(broken).toEqual(['ECONNRESET']);
    },
  );

  test('what the client sends before the 101 is limited: above the limit, reading pauses', async () => {
    let answer: (() => void) | undefined;
    let atUpstream: Promise<Buffer> | undefined;
    const { tunnel, client, stream } = await tunnelTo((_request, socket) => {
      answer = () => {
        socket.write(SWITCHING);
        atUpstream = readAll(socket);
      };
    });
    tunnel.forward();
    const much = Buffer.alloc(8 * 1024 * 1024, 'abcdefghijklm');
    client.end(much);
    await until(() => tunnel.client.isPaused(), 'it is not read on');
    expect(stream.bytesReceived).toBeLessThan(256 * 1024);
    await until(() => answer !== undefined, 'the upgrade has come');
    answer?.();
    await readHead(client);
    expect((await (atUpstream as Promise<Buffer>)).equals(much)).toBe(true);
  });

  test('if Headscale does not read, the client is slowed down', async () => {
    const { tunnel, client, stream } = await tunnelTo((_request, socket) => {
      socket.on('error', () => {});
      socket.write(SWITCHING);
      socket.pause();
    });
    tunnel.forward();
    await readHead(client);
    const much = Buffer.alloc(64 * 1024 * 1024);
    client.write(much);
    await until(() => tunnel.client.isPaused(), 'it is not read on');
    expect(stream.bytesReceived).toBeLessThan(much.length / 2);
  });

  test('the first record counts when it reaches an open session; every byte counts as a sign of life', async () => {
    let answer: (() => void) | undefined;
    const { tunnel, client, clock, told, stream } = await tunnelTo((_request, socket) => {
      answer = () => void socket.resume().write(SWITCHING);
    });
    tunnel.forward();
    clock.advance(700);
    client.write(RECORD);
    await until(() => stream.bytesReceived === RECORD.length, 'the record has come');
    expect(stream.heardAt - stream.openedAt).toBe(700);
    expect(stream.firstRecordAt).toBeUndefined();
    clock.advance(300);
    await until(() => answer !== undefined, 'the upgrade has come');
    answer?.();
    await readHead(client);
    expect(stream.firstRecordAt).toBe(clock.now());
    clock.advance(50);
    client.write(RECORD);
    await until(() => stream.bytesReceived === 2 * RECORD.length, 'the next has come');
    expect(stream.heardAt).toBe(clock.now());
    expect(told.filter((what) => what === 'first record')).toHaveLength(1);
  });

  test('a held stream opens like any other, and a first record after the 101 counts when it is complete', async () => {
    const { tunnel, client, clock, told, stream } = await tunnelTo((_request, socket) => {
      socket.resume().write(SWITCHING);
    });
    stream.state = { kind: 'held', since: clock.now(), until: clock.now() };
    tunnel.forward();
    await readHead(client);
    expect(stream.state.kind).toBe('open');
    expect(told).toEqual(['reached']);
    client.write(RECORD.subarray(0, 4));
    await until(() => stream.bytesReceived === 4, 'a part has come');
    expect(stream.firstRecordAt).toBeUndefined();
    clock.advance(300);
    client.write(RECORD.subarray(4));
    await until(() => told.includes('first record'), 'the rest has come');
    expect(stream.firstRecordAt).toBe(clock.now());
  });

  test('if it ends before Headscale has answered, its upstream connection closes at once, and nothing is left open', async () => {
    let came = false;
    const { tunnel, client, told, toUpstream } = await tunnelTo(() => {
      came = true;
    });
    tunnel.forward();
    await until(() => came, 'the upgrade has come');
    tunnel.end('severed_dead');
    await closed(toUpstream());
    await until(() => told.includes('closed: severed_dead'), 'the stream is closed');
    expect(told).not.toContain('failed');
    client.resume();
    await closed(client.end());
  });

  test('forward() after the end sends nothing to Headscale', async () => {
    const { tunnel, told, toUpstream } = await tunnelTo(accept);
    tunnel.end('client_left_early');
    tunnel.forward();
    await until(() => told.includes('closed: client_left_early'), 'the stream is closed');
    expect(toUpstream()).toBeUndefined();
  });
});
