import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import koffi from 'koffi';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../src/lib/clock.ts';
import type { BoundConnection as Connection, DumpFilter, TcpSocket } from '../../src/liveness/inet-diag.ts';
import { loadKernel } from '../../src/liveness/kernel.ts';
import { loadSockDiag, type SockDiag } from '../../src/liveness/sock-diag.ts';
import { actAs } from '../support/effective-user.ts';
import { Harness, until } from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const HAS_IPV6 = Object.values(networkInterfaces()).some((addresses) =>
  addresses?.some(({ address }) => address === '::1'),
);
const NOBODY = 65_534;

/** What a connection is, seen from the server. */
const onServer = (client: Socket): Connection => ({
  local: { address: client.remoteAddress ?? '', port: client.remotePort ?? 0 },
  remote: { address: client.localAddress ?? '', port: client.localPort ?? 0 },
});
const turnedRound = ({ local, remote }: Connection): Connection => ({ local: remote, remote: local });

describe.runIf(process.platform === 'linux')('loadSockDiag, on Linux', () => {
  let sockDiag: SockDiag;
  beforeEach(async () => {
    const loaded = await loadSockDiag(systemClock);
    if (!loaded.ok) throw new Error(loaded.why);
    ({ sockDiag } = loaded);
    harness.defer(() => sockDiag.close());
  });

  function find(connection: Connection): TcpSocket | undefined {
    const result = sockDiag.find(connection);
    if (!result.ok) throw new Error(result.why);
    return result.socket;
  }

  async function dump(filter: DumpFilter): Promise<readonly TcpSocket[]> {
    const result = await sockDiag.dump(filter);
    if (!result.ok) throw new Error(result.why);
    return result.sockets;
  }

  async function serverOn(
    host: string,
  ): Promise<{ readonly server: Server; readonly port: number; readonly accepted: Socket[] }> {
    const accepted: Socket[] = [];
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on('error', () => {});
      accepted.push(socket);
    });
    await new Promise<void>((resolve) => server.listen(0, host, 1024, resolve));
    harness.defer(() => {
      for (const socket of accepted) socket.destroy();
      return new Promise((resolve) => server.close(resolve));
    });
    return { server, port: (server.address() as AddressInfo).port, accepted };
  }

  async function clientOf(
    port: number,
    options: { host?: string; localAddress?: string; localPort?: number } = {},
  ): Promise<Socket> {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true, ...options });
    harness.defer(() => socket.destroy());
    await once(socket, 'connect');
    socket.on('error', () => {});
    return socket;
  }

  const hosts = [
    { name: 'IPv4', listens: '127.0.0.1', host: '127.0.0.1' },
    { name: 'IPv6', listens: '::1', host: '::1' },
    { name: 'IPv4, to a server on ::', listens: '::', host: '127.0.0.1' },
  ].filter(({ listens }) => HAS_IPV6 || !listens.includes(':'));

  describe.each(hosts)('$name', ({ listens, host }) => {
    test('finds both ends of a connection, with their user and evidence; not a stranger, and not who listens', async () => {
      const { port, accepted } = await serverOn(listens);
      const client = await clientOf(port, { host });
      const connection = onServer(client);
      await until(() => accepted.length === 1 && find(connection)?.inode !== 0, 'accepted');
      client.write('hello');
      const clients = turnedRound(connection);
      await until(() => find(clients)?.evidence?.unackedSegments === 0, 'acknowledged');
      const uid = process.getuid?.();
      expect(find(connection)).toMatchObject({ ...connection, state: 'established', uid, interfaceIndex: 0 });
      expect(find(clients)).toMatchObject({ ...clients, state: 'established', uid, evidence: { unsentBytes: 0 } });
      // The SYN counts as one byte.
      expect(find(clients)?.evidence?.ackedBytes).toBe(6);
      expect(find(connection)?.cookie).not.toBe(find(clients)?.cookie);
      const stranger = { ...connection, remote: { ...connection.remote, port: 1 } };
      expect(find(stranger)).toBeUndefined();
      expect(
        find({ local: connection.local, remote: { address: connection.remote.address, port: 0 } }),
      ).toBeUndefined();
    });

    test('a dump by remote address, remote port and local ports has the very same sockets', async () => {
      const { port, accepted } = await serverOn(listens);
      const client = await clientOf(port, { host });
      await until(() => accepted.length === 1, 'accepted');
      const connection = onServer(client);
      const cookie = find(connection)?.cookie;
      expect(cookie).toBeDefined();
      const { remote } = connection;
      const lets = async (filter: DumpFilter): Promise<boolean> => {
        const sockets = await dump(filter);
        // Other programs may have sockets that match as well.
        for (const socket of sockets) {
          expect(filter.localPorts ?? [socket.local.port]).toContain(socket.local.port);
          expect(socket.remote.address).toBe(filter.remoteAddress ?? socket.remote.address);
          expect(socket.remote.port).toBe(filter.remotePort ?? socket.remote.port);
          expect(filter.states ?? [socket.state]).toContain(socket.state);
        }
        return sockets.some((socket) => socket.cookie === cookie);
      };
      expect(await lets({})).toBe(true);
      expect(await lets({ localPorts: [port] })).toBe(true);
      expect(await lets({ localPorts: [port, 1], states: ['established'] })).toBe(true);
      expect(await lets({ localPorts: [1, port, 2], remoteAddress: host })).toBe(true);
      expect(await lets({ localPorts: [1, 2, port], remoteAddress: host, remotePort: remote.port })).toBe(true);
      expect(await lets({ remotePort: remote.port, states: ['established', 'close_wait'] })).toBe(true);
      expect(await lets({ localPorts: [port], states: ['close_wait'] })).toBe(false);
      expect(await lets({ localPorts: [port], remotePort: 1 })).toBe(false);
      expect(await lets({ localPorts: [1, 2, 3], remoteAddress: host })).toBe(false);
      expect(await lets({ localPorts: [1, port, 2], remoteAddress: '192.0.2.7' })).toBe(false);
      expect(await lets({ localPorts: [port], remoteAddress: '2001:db8::7' })).toBe(false);
      expect(await dump({ localPorts: [] })).toEqual([]);
      // The listening socket, only where it is asked for.
      expect(await dump({ localPorts: [port], states: ['listen'] })).toMatchObject([{ state: 'listen' }]);
    });
  });

  test('an address may be written as IPv6 maps it', async () => {
    const { port } = await serverOn('127.0.0.1');
    const connection = onServer(await clientOf(port));
    for (const address of ['::ffff:127.0.0.1', '::FFFF:7f00:1']) {
      const mapped = { local: { ...connection.local, address }, remote: { ...connection.remote, address } };
      expect(find(mapped)).toMatchObject(connection);
    }
  });

  test('a client that has left: CLOSE_WAIT, then no socket; on its own side FIN_WAIT2, then TIME_WAIT without evidence', async () => {
    const { port, accepted } = await serverOn('127.0.0.1');
    const client = await clientOf(port);
    const connection = onServer(client);
    const [before, clientBefore] = [find(connection), find(turnedRound(connection))];
    client.end();
    await until(() => find(connection)?.state === 'close_wait', 'CLOSE_WAIT');
    expect(find(connection)?.cookie).toBe(before?.cookie);
    expect(find(connection)?.evidence).toBeDefined();
    await until(() => find(turnedRound(connection))?.state === 'fin_wait2', 'its FIN is acknowledged');
    expect(find(turnedRound(connection))?.cookie).toBe(clientBefore?.cookie);
    client.destroy();
    await until(() => find(turnedRound(connection))?.inode === 0, 'its process has closed it');
    expect(find(turnedRound(connection))).toMatchObject({
      state: 'fin_wait2',
      uid: undefined,
      cookie: clientBefore?.cookie,
    });
    accepted[0]?.end();
    await until(() => find(connection) === undefined, 'the server has closed it');
    expect(find(turnedRound(connection))).toMatchObject({
      state: 'time_wait',
      timer: 'time_wait',
      uid: undefined,
      evidence: undefined,
      cookie: clientBefore?.cookie,
    });
  });

  test('numbers that are used again: another cookie', async () => {
    const { port, accepted } = await serverOn('127.0.0.1');
    // An address of its own: no other program's connection has the port there.
    const localAddress = '127.0.0.77';
    const first = await clientOf(port, { localAddress });
    const connection = onServer(first);
    const cookie = find(connection)?.cookie;
    expect(cookie).toBeDefined();
    first.resetAndDestroy();
    await until(() => find(connection) === undefined, 'reset');
    await clientOf(port, { localAddress, localPort: connection.remote.port });
    await until(() => accepted.length === 2, 'accepted');
    expect(find(connection)).toMatchObject({ ...connection, state: 'established' });
    expect(find(connection)?.cookie).not.toBe(cookie);
  });

  test('a connection that the server has not accepted yet has no process, and no user', async () => {
    const { port, accepted } = await serverOn('127.0.0.1');
    const libc = koffi.load(null);
    const [AF_INET, SOCK_STREAM] = [2, 1];
    const fd = libc.func('int socket(int, int, int)')(AF_INET, SOCK_STREAM, 0);
    harness.defer(() => libc.func('int close(int)')(fd));
    const address = Buffer.from([AF_INET, 0, port >> 8, port & 0xff, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    // This thread would accept it, but is here.
    expect(libc.func('int connect(int, const void *, uint32_t)')(fd, address, address.length)).toBe(0);
    const name = Buffer.alloc(16);
    libc.func('int getsockname(int, void *, void *)')(fd, name, Buffer.from([16, 0, 0, 0]));
    const connection = {
      local: { address: '127.0.0.1', port },
      remote: { address: '127.0.0.1', port: name.readUInt16BE(2) },
    };
    expect(find(connection)).toMatchObject({ state: 'established', inode: 0, uid: undefined });
    await until(() => accepted.length === 1, 'accepted');
    expect(find(connection)).toMatchObject({ state: 'established', uid: process.getuid?.() });
  });

  test.runIf(process.getuid?.() === 0)('says whose each socket is, to an ordinary user as well', async () => {
    const { port, accepted } = await serverOn('127.0.0.1');
    let connection: Connection;
    actAs(NOBODY);
    try {
      connection = onServer(await clientOf(port));
      await until(() => accepted.length === 1, 'accepted');
      actAs(0);
      const roots = onServer(await clientOf(port));
      await until(() => accepted.length === 2, 'accepted');
      actAs(NOBODY);
      const loaded = await loadSockDiag(systemClock);
      if (!loaded.ok) throw new Error(loaded.why);
      harness.defer(() => loaded.sockDiag.close());
      const uidOf = (each: Connection): number | undefined => {
        const result = loaded.sockDiag.find(each);
        return result.ok ? result.socket?.uid : undefined;
      };
      expect(uidOf(turnedRound(connection))).toBe(NOBODY);
      expect(uidOf(turnedRound(roots))).toBe(0);
      const dumped = await loaded.sockDiag.dump({ remotePort: port, states: ['established'] });
      expect(dumped.ok && dumped.sockets.map(({ uid }) => uid).sort()).toEqual([0, NOBODY]);
    } finally {
      actAs(0);
    }
  });

  test('says whether the owner of a socket has it probed, and when', async () => {
    const { port, accepted } = await serverOn('127.0.0.1');
    const connection = onServer(await clientOf(port));
    await until(() => accepted.length === 1, 'accepted');
    await until(() => find(connection)?.timer === 'none', 'no timer');
    accepted[0]?.setKeepAlive(true, 15_000);
    const probed = find(connection);
    expect(probed?.timer).toBe('keepalive');
    expect(probed?.timerInMs).toBeGreaterThan(10_000);
    expect(probed?.timerInMs).toBeLessThanOrEqual(15_100);
  });

  test('a socket that is bound to an interface is found with that interface, as a dump says it', async () => {
    const { port, accepted } = await serverOn('127.0.0.1');
    const connection = onServer(await clientOf(port));
    await until(() => accepted.length === 1, 'accepted');
    const setsockopt = koffi.load(null).func('int setsockopt(int, int, int, const void *, uint32_t)');
    const [SOL_SOCKET, SO_BINDTODEVICE] = [1, 25];
    const { fd } = (accepted[0] as unknown as { _handle: { fd: number } })._handle;
    const name = Buffer.from('lo\0');
    expect(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, name.length)).toBe(0);
    expect(find(connection)).toBeUndefined();
    const [bound] = await dump({ localPorts: [port], states: ['established'] });
    expect(bound).toMatchObject({ ...connection, interfaceIndex: 1 });
    expect(bound && find(bound)?.cookie).toBe(bound?.cookie);
  });

  test('the evidence is what the owner of the socket reads', async () => {
    const loaded = await loadKernel();
    if (!loaded.ok) throw new Error(loaded.why);
    const { port, accepted } = await serverOn('127.0.0.1');
    const client = await clientOf(port);
    client.pause();
    await until(() => accepted.length === 1, 'accepted');
    const [socket] = accepted;
    if (socket === undefined) throw new Error('nobody came');
    const connection = onServer(client);
    // Until the client's receive window is full.
    await until(() => {
      socket.write(Buffer.alloc(64 * 1024));
      const evidence = find(connection)?.evidence;
      return evidence?.unackedSegments === 0 && evidence.unsentBytes > 0;
    }, 'its window is full');
    const owns = loaded.kernel.evidenceOf(socket);
    expect(owns?.unsentBytes).toBeGreaterThan(0);
    const changing = { receivedAgoMs: expect.any(Number), unansweredProbes: expect.any(Number) };
    expect(find(connection)?.evidence).toEqual({ ...owns, ...changing });
  });

  test('reads many sockets in pieces, and the event loop turns in between', async () => {
    const { port, accepted } = await serverOn('127.0.0.1');
    const clients = 400;
    for (let i = 0; i < clients; i += 100) await Promise.all(Array.from({ length: 100 }, () => clientOf(port)));
    await until(() => accepted.length === clients, 'all accepted');
    let turns = 0;
    let isOver = false;
    const count = (): void => {
      turns++;
      if (!isOver) setImmediate(count);
    };
    setImmediate(count);
    const sockets = await dump({ localPorts: [port], states: ['established'] });
    isOver = true;
    expect(sockets.length).toBe(clients);
    expect(new Set(sockets.map(({ cookie }) => cookie)).size).toBe(clients);
    // A piece of 32 kB has fewer than 100 sockets.
    expect(turns).toBeGreaterThanOrEqual(clients / 100);
    // They have one object for the end that they share.
    expect(new Set(sockets.map(({ local }) => local)).size).toBeLessThan(clients / 10);
  });

  test('is closed with nothing left open, and says so when it is asked again', async () => {
    const result = sockDiag.dump({});
    sockDiag.close();
    expect((await result).ok).toBe(false);
    expect(sockDiag.find(onServer(await clientOf((await serverOn('127.0.0.1')).port))).ok).toBe(false);
  });
});

describe('loadSockDiag', () => {
  test('says why there is none elsewhere', async () => {
    expect(await loadSockDiag(systemClock, 'darwin')).toEqual({
      ok: false,
      code: 'PLATFORM',
      why: 'needs Linux, this is darwin',
    });
  });
});
