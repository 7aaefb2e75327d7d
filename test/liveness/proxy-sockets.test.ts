import { beforeEach, describe, expect, test } from 'vitest';
import type { ProxiedClient } from '../../src/liveness/proxied-client.ts';
import { type ClientPath, ProxySockets } from '../../src/liveness/proxy-sockets.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { endpoint, FakeSockDiag, QUIET } from '../support/fake-sock-diag.ts';

const [WATCHDOG, PROXY, LISTENER, PHONE] = ['127.0.0.1:8080', '127.0.0.1:50000', '192.0.2.1:443', '203.0.113.7:4711'];
const CADDY = 33;

let clock: FakeClock;
let diag: FakeSockDiag;
let events: WatchdogEvent[];
let proxies: ProxySockets;

beforeEach(() => {
  clock = new FakeClock();
  diag = new FakeSockDiag();
  events = [];
  diag.open(PROXY, WATCHDOG, { uid: CADDY });
  proxies = new ProxySockets({
    clock,
    emit: (event) => events.push(event),
    diag: { ok: true, sockDiag: diag },
    userOf: (uid) => (uid === CADDY ? 'caddy' : String(uid)),
  });
});

function through(client: string, listener?: string): ClientPath {
  const at = client.includes(':') && !client.includes('::') ? endpoint(client) : { address: client, port: undefined };
  const proxy = { local: endpoint(PROXY), remote: endpoint(WATCHDOG) };
  return { kind: 'one_proxy', proxy, client: at, listener: listener === undefined ? undefined : endpoint(listener) };
}

function clientOf(path: ClientPath): ProxiedClient {
  const client = proxies.clientOf(path);
  if (client === undefined) throw new Error('a direct client');
  return client;
}

const reasonOf = (path: ClientPath) => {
  const { source } = clientOf(path);
  return source.kind === 'none' ? source.reason : source.kind;
};

describe('ProxySockets, which socket', () => {
  test('a client that connects to us has no proxy', () => {
    expect(proxies.clientOf({ kind: 'direct' })).toBeUndefined();
    expect(diag.asked).toEqual({ find: 0, list: 0, dump: 0 });
  });

  test("with the client's port: exactly that connection of the proxy, and one short question for each later client", () => {
    diag.open(LISTENER, PHONE, { uid: CADDY });
    diag.open(LISTENER, '203.0.113.8:4712', { uid: CADDY });
    const client = clientOf(through(PHONE));
    expect(client).toMatchObject({ isExact: true, source: { kind: 'proxy', by: 'port', user: 'caddy' } });
    expect(client.sockets()).toEqual([QUIET]);
    const before = { ...diag.asked };
    expect(clientOf(through('203.0.113.8:4712')).sockets()).toEqual([QUIET]);
    expect(diag.asked).toEqual({ ...before, find: before.find + 3 });
  });

  test('with all four numbers, from the PROXY protocol: no search at all', () => {
    diag.open(LISTENER, PHONE, { uid: CADDY });
    expect(clientOf(through(PHONE, LISTENER)).isExact).toBe(true);
    expect(diag.asked.list).toBe(0);
  });

  test("an invented port, and one that belongs to another program's connection: no evidence", () => {
    diag.open(LISTENER, PHONE, { uid: 1000 });
    expect(reasonOf(through(PHONE))).toBe('socket_not_found');
    expect(reasonOf(through(PHONE, LISTENER))).toBe('socket_not_found');
    expect(reasonOf(through('203.0.113.9:1'))).toBe('socket_not_found');
  });

  test("without a port: every connection of the proxy to that address, and none of another program's", () => {
    diag.open(LISTENER, PHONE, { uid: CADDY });
    diag.open(LISTENER, '203.0.113.7:4712', { uid: CADDY });
    diag.open('192.0.2.1:22', '203.0.113.7:4713', { uid: 0 });
    diag.open(LISTENER, '203.0.113.8:4714', { uid: CADDY });
    const client = clientOf(through('203.0.113.7'));
    expect(client).toMatchObject({ isExact: false, source: { by: 'address' } });
    expect(client.sockets()).toHaveLength(2);
  });

  test('the proxy is elsewhere, several proxies, no address, no netlink: no evidence, and the reason', () => {
    const proxy = { local: endpoint('10.0.0.9:1234'), remote: endpoint(WATCHDOG) };
    const client = { address: '203.0.113.7', port: undefined };
    expect(reasonOf({ kind: 'one_proxy', proxy, client, listener: undefined })).toBe('proxy_elsewhere');
    expect(reasonOf({ kind: 'several_proxies', proxy })).toBe('several_proxies');
    expect(reasonOf({ kind: 'address_hidden', proxy })).toBe('address_hidden');
    diag.fails = true;
    expect(reasonOf(through(PHONE))).toBe('netlink_unavailable');
    const blind = { ok: false, code: 'EAFNOSUPPORT', why: 'netlink sockets are forbidden here' } as const;
    const none = new ProxySockets({ clock, emit: (event) => events.push(event), diag: blind });
    expect(none.isAvailable).toBe(false);
    expect(none.clientOf(through(PHONE))?.sockets()).toBeUndefined();
    expect(events.at(-1)).toMatchObject({ reason: 'netlink_unavailable', detail: blind.why });
  });

  test('each finding is reported once for each proxy', async () => {
    diag.open(LISTENER, PHONE, { uid: CADDY });
    for (let i = 0; i < 3; i++) {
      clientOf(through(PHONE));
      clientOf(through('203.0.113.7'));
      clientOf(through('203.0.113.9:1'));
      await proxies.survey();
      clock.advance(4000);
    }
    expect(events).toEqual([
      { kind: 'proxy_sockets_found', address: '127.0.0.1', user: 'caddy', by: 'port' },
      { kind: 'proxy_sockets_hidden', address: '127.0.0.1', reason: 'socket_not_found', detail: undefined },
      { kind: 'proxy_sockets_found', address: '127.0.0.1', user: 'caddy', by: 'address' },
    ]);
  });

  test('a proxy that names an address to which it has no connection, as one behind a CDN: no evidence, once a survey has looked', async () => {
    diag.open(LISTENER, PHONE, { uid: CADDY });
    const [seen, unseen] = [clientOf(through('203.0.113.7')), clientOf(through('198.51.100.1'))];
    await proxies.survey();
    expect(seen.source).toEqual({ kind: 'proxy', by: 'address', user: 'caddy' });
    expect(unseen.source).toEqual({ kind: 'none', reason: 'socket_not_found' });
    expect(events.map((event) => [event.kind, 'reason' in event && event.reason])).toEqual([
      ['proxy_sockets_found', false],
      ['proxy_sockets_hidden', 'socket_not_found'],
    ]);
    // The one that was seen has left. Where the other was not found before, it is found now.
    diag.sockets.clear();
    diag.open(PROXY, WATCHDOG, { uid: CADDY });
    diag.open(LISTENER, '198.51.100.1:5000', { uid: CADDY });
    clock.advance(60_000);
    await proxies.survey();
    expect(seen.source.kind).toBe('proxy');
    expect(unseen.source).toEqual({ kind: 'proxy', by: 'address', user: 'caddy' });
  });
});

describe('ProxySockets, what the socket says', () => {
  test('the connection is gone, or ends: the client has left', () => {
    let socket = diag.open(LISTENER, PHONE, { uid: CADDY });
    const client = clientOf(through(PHONE));
    socket = diag.change(socket, { state: 'close_wait' });
    expect(client.sockets()).toMatchObject([{ ended: true }]);
    diag.sockets.delete(socket);
    expect(client.sockets()).toMatchObject([{ ended: true }]);
  });

  test('the same numbers in use by another client: it is not taken for the one that left', () => {
    const old = diag.open(LISTENER, PHONE, { uid: CADDY });
    const client = clientOf(through(PHONE));
    diag.sockets.delete(old);
    diag.open(LISTENER, PHONE, { uid: CADDY });
    expect(client.sockets()).toMatchObject([{ ended: true }]);
    expect(clientOf(through(PHONE)).sockets()).toEqual([QUIET]);
  });

  test('Linux does not answer any more: nothing is said', () => {
    diag.open(LISTENER, PHONE, { uid: CADDY });
    const [exact, byAddress] = [clientOf(through(PHONE)), clientOf(through('203.0.113.7'))];
    diag.fails = true;
    expect([exact.sockets(), byAddress.sockets()]).toEqual([undefined, undefined]);
  });

  test("when the proxy's next probe is due is part of it", () => {
    diag.open(LISTENER, PHONE, { uid: CADDY, timer: 'keepalive', timerInMs: 4000 });
    expect(clientOf(through(PHONE)).sockets()).toEqual([{ ...QUIET, nextProbeInMs: 4000 }]);
  });

  test('to look through all connections takes a twentieth of the time at most, and several contests share one look', () => {
    const client = clientOf(through('203.0.113.7'));
    diag.onList = () => clock.advance(5);
    client.sockets();
    client.sockets();
    expect(diag.asked.list).toBe(1);
    for (let i = 0; i < 10_000; i++) {
      clock.advance(1);
      proxies.evidenceAt(`203.0.113.${i % 200}`, CADDY);
    }
    expect(diag.asked.list).toBeLessThanOrEqual(1 + (10_000 + 50 * 20) / (5 * 20) + 10);
    expect(diag.asked.list).toBeGreaterThan(50);
  });
});

describe('ProxySockets, the survey', () => {
  const survey = async (client: ProxiedClient, afterMs = 4000) => {
    clock.advance(afterMs);
    await proxies.survey();
    return client.surveyed;
  };

  test('without a client behind a proxy, nothing is asked', async () => {
    await proxies.survey();
    expect(diag.asked.dump).toBe(0);
  });

  test('one dump for all clients, whatever their number; what lasts is counted from the first survey that saw it', async () => {
    const socket = diag.open(LISTENER, PHONE, { uid: CADDY });
    const client = clientOf(through(PHONE));
    const clients = Array.from({ length: 50 }, () => clientOf(through('203.0.113.7')));
    expect(await survey(client)).toEqual([{ evidence: QUIET, unackedForMs: 0, endedForMs: undefined }]);
    const stuck = { ...QUIET, unackedSegments: 1 };
    let changed = diag.change(socket, { evidence: stuck });
    expect(await survey(client)).toMatchObject([{ unackedForMs: 0 }]);
    expect(await survey(client)).toMatchObject([{ unackedForMs: 4000 }]);
    changed = diag.change(changed, { evidence: { ...stuck, ackedBytes: 101 } });
    expect(await survey(client)).toMatchObject([{ unackedForMs: 0 }]);
    diag.change(changed, { state: 'close_wait' });
    expect(await survey(client)).toMatchObject([{ endedForMs: 0 }]);
    expect(await survey(client)).toMatchObject([{ endedForMs: 4000 }]);
    expect(diag.asked.dump).toBe(6);
    expect(clients[0]?.surveyed).toHaveLength(1);
  });

  test('a client whose connection is no longer there, and one whose numbers another has', async () => {
    const socket = diag.open(LISTENER, PHONE, { uid: CADDY });
    const client = clientOf(through(PHONE));
    await survey(client);
    diag.sockets.delete(socket);
    diag.open(LISTENER, PHONE, { uid: CADDY });
    expect(await survey(client)).toMatchObject([{ evidence: { ended: true }, endedForMs: 0 }]);
    expect(await survey(client)).toMatchObject([{ endedForMs: 4000 }]);
  });

  test('a survey that misses a connection once does not count from then on', async () => {
    const socket = diag.open(LISTENER, PHONE, { uid: CADDY });
    const client = clientOf(through(PHONE));
    for (let i = 0; i < 2; i++) {
      diag.sockets.delete(socket);
      expect(await survey(client)).toMatchObject([{ endedForMs: 0 }]);
      diag.sockets.add(socket);
      expect(await survey(client)).toMatchObject([{ endedForMs: undefined }]);
    }
  });

  test('a client that came while the dump was under way is not judged by it', async () => {
    const first = clientOf(through('203.0.113.7'));
    const surveying = proxies.survey();
    diag.open(LISTENER, PHONE, { uid: CADDY });
    const late = clientOf(through(PHONE));
    await surveying;
    expect([first.surveyed, late.surveyed]).toEqual([[], []]);
  });

  test('an IPv6 address that a proxy writes in full is found in its short form', async () => {
    diag.open('2001:db8::1:443', '2001:db8::7:4711', { uid: CADDY });
    const proxy = { local: endpoint(PROXY), remote: endpoint(WATCHDOG) };
    const long = { address: '2001:0db8:0:0:0:0:0:7', port: undefined };
    const client = clientOf({ kind: 'one_proxy', proxy, client: long, listener: undefined });
    expect(await survey(client)).toHaveLength(1);
    expect(client.sockets()).toHaveLength(1);
  });

  test('a failed dump leaves what was known', async () => {
    diag.open(LISTENER, PHONE, { uid: CADDY });
    const client = clientOf(through(PHONE));
    await survey(client);
    diag.fails = true;
    expect(await survey(client)).toMatchObject([{ evidence: QUIET }]);
  });

  test('with many connections on the machine, a survey comes less often, so that it takes a hundredth of the time at most', async () => {
    const client = clientOf(through('203.0.113.7'));
    for (let i = 0; i < 5000; i++) diag.open(LISTENER, `198.51.100.${i % 250}:${1000 + i}`, { uid: CADDY });
    await survey(client);
    await survey(client, 5900);
    expect(diag.asked.dump).toBe(1);
    await survey(client, 200);
    expect(diag.asked.dump).toBe(2);
  });

  test('a dump that has to wait on a busy machine does not delay the next one', async () => {
    const client = clientOf(through('203.0.113.7'));
    const dump = diag.dump.bind(diag);
    diag.dump = (filter) => {
      clock.advance(1000);
      return dump(filter);
    };
    await survey(client);
    await survey(client);
    expect(diag.asked.dump).toBe(2);
  });

  test('thousands of clients at one address, without ports: what was seen there is kept once', async () => {
    const many = 1000;
    for (let i = 0; i < many; i++) diag.open(LISTENER, `203.0.113.7:${1000 + i}`, { uid: CADDY });
    const clients = Array.from({ length: many }, () => clientOf(through('203.0.113.7')));
    const [first, last] = [clients[0] as ProxiedClient, clients.at(-1) as ProxiedClient];
    expect(await survey(first)).toHaveLength(many);
    expect(last.surveyed).toBe(first.surveyed);
    expect(last.sockets()).toBe(first.sockets());
  });

  test('thousands of clients at one address, without ports: a survey looks at each connection once or twice, and the loop turns', async () => {
    const many = 1000;
    let looks = 0;
    for (let i = 0; i < many; i++) {
      const socket = diag.open(LISTENER, `203.0.113.7:${1000 + i}`, { uid: CADDY });
      Object.defineProperty(socket, 'uid', {
        get: () => {
          looks += 1;
          return CADDY;
        },
      });
    }
    const clients = Array.from({ length: many }, () => clientOf(through('203.0.113.7')));
    looks = 0;
    let turns = 0;
    const turn = (): void => {
      turns += 1;
      next = setImmediate(turn);
    };
    let next = setImmediate(turn);
    await survey(clients[0] as ProxiedClient);
    clearImmediate(next);
    expect(looks).toBeLessThan(5 * many);
    expect(turns).toBeGreaterThan(2);
  });

  test('Linux reports only connections on the ports of the proxies, once these are known', async () => {
    diag.open(LISTENER, PHONE, { uid: CADDY });
    const exact = clientOf(through(PHONE));
    await survey(exact);
    expect(diag.ports).toEqual([443]);
    diag.open('192.0.2.1:8443', '203.0.113.8:1', { uid: CADDY });
    const byAddress = clientOf(through('203.0.113.8'));
    await survey(byAddress);
    expect(diag.ports).toBeUndefined();
    expect(await survey(byAddress)).toHaveLength(1);
    expect(diag.ports).toEqual([443, 8443]);
  });

  test("with the proxy's own connections to that address in between, Linux reports all, and the filter stays short", async () => {
    for (let i = 0; i < 100; i++) diag.open(`192.0.2.1:${40_000 + i}`, '203.0.113.8:80', { uid: CADDY });
    const client = clientOf(through('203.0.113.8'));
    await survey(client);
    expect(await survey(client)).toHaveLength(100);
    expect(diag.ports).toBeUndefined();
  });

  test('a client of which nothing was found is looked for on all ports, once a minute', async () => {
    const client = clientOf(through('203.0.113.8'));
    await survey(client);
    diag.open('192.0.2.1:8443', '203.0.113.8:1', { uid: CADDY });
    expect(await survey(client)).toEqual([]);
    expect(await survey(client, 60_000)).toHaveLength(1);
  });

  test('a client whose stream has closed is looked for no longer', async () => {
    const client = clientOf(through('203.0.113.7'));
    client.close();
    await survey(client);
    expect(diag.asked.dump).toBe(0);
  });
});
