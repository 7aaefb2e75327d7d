import { describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { Notes } from '../../src/history/records.ts';
import { keyOf, nodeOf, notifierBench } from './bench.ts';

const SIXTY = Array.from({ length: 60 }, (_, i) => nodeOf(i + 1));
const ALL = 'notify: [{ url: http://r.example/a, events: "*" }]';
const MINUTE = 60_000;

/** A watchdog that has settled long ago, with these nodes connected. */
async function settled(count: number, text = ALL, listed: Parameters<typeof notifierBench>[1] = SIXTY) {
  const bench = notifierBench(text, listed);
  bench.notifier.nodesListed();
  const streams = Array.from({ length: count }, (_, i) => bench.open(i + 1));
  await bench.pass(5 * MINUTE);
  expect(bench.received).toEqual([]);
  const [first] = streams;
  const leave = (): void => {
    if (first !== undefined) bench.close(first);
  };
  return { ...bench, streams, leave };
}

describe('a node that leaves and comes back', () => {
  test('is told as offline after offline-after, and as online once it has been back for ten seconds', async () => {
    const { leave, open, pass, received } = await settled(2);
    leave();
    await pass(115_000);
    expect(received).toEqual([]);
    await pass(10_000);
    expect(received.map(({ type, text }) => `${type}: ${text}`)).toEqual([
      'node.offline: node-1 is offline: it has had no connection for 2 min.',
    ]);
    expect(received[0]?.data.node).toEqual({
      ...{ machineKey: `mkey:${keyOf(1)}`, id: '1', name: 'node-1', user: 'alice' },
    });
    await pass(30 * MINUTE);
    open(1);
    await pass(9000);
    expect(received).toHaveLength(1);
    await pass(10_000);
    expect(received[1]).toMatchObject({ type: 'node.online', text: 'node-1 is online again.' });
    await pass(30 * MINUTE);
    expect(received).toHaveLength(2);
  });

  test('a phone that flaps is not told while no absence is long enough, and looks at no clock afterwards', async () => {
    const { open, close, pass, received, clock } = await settled(0);
    for (let i = 0; i < 30; i++) {
      const stream = open(7);
      await pass(20_000);
      close(stream);
      await pass(100_000);
    }
    open(7);
    await pass(10 * MINUTE);
    expect(received).toEqual([]);
    expect(clock.timers).toBe(0);
  });

  test('streams that never become a session are no return', async () => {
    const { leave, open, close, pass, types } = await settled(1);
    leave();
    for (let i = 0; i < 20; i++) {
      const refused = open(1, false);
      await pass(5000);
      close(refused);
      await pass(5000);
    }
    expect(types()).toEqual(['node.offline']);
  });

  test('offline-after can differ from node to node, and be off', async () => {
    const rules = `nodes: [{ name: node-1, offline-after: 10s }, { name: node-2, offline-after: off }]\n${ALL}`;
    const { streams, close, pass, received } = await settled(3, rules);
    for (const stream of streams) close(stream);
    await pass(20_000);
    expect(received.map(({ text }) => text)).toEqual(['node-1 is offline: it has had no connection for 10 s.']);
    await pass(20 * MINUTE);
    expect(received.slice(1).map(({ text }) => text)).toEqual([
      'node-3 is offline: it has had no connection for 2 min.',
    ]);
  });

  test('a node that was deleted is not told', async () => {
    const { streams, close, pass, received, world, notifier } = await settled(2);
    for (const stream of streams) close(stream);
    world.listed = SIXTY.slice(1);
    notifier.nodesListed();
    await pass(10 * MINUTE);
    expect(received.map(({ text }) => text)).toEqual(['node-2 is offline: it has had no connection for 2 min.']);
  });

  test('without a list, keys of strangers are not told, and a key with a long session is', async () => {
    const { leave, open, close, pass, received } = await settled(1, ALL, null);
    leave();
    for (let i = 100; i < 200; i++) close(open(i));
    await pass(10 * MINUTE);
    expect(received.map(({ type, text }) => `${type} ${text}`)).toEqual([
      'node.offline mkey:00000000… is offline: it has had no connection for 2 min.',
    ]);
  });

  test('with replicas, a node that went to another one is not offline; one that comes back there is online', async () => {
    const { streams, close, pass, types, world } = await settled(2);
    for (const stream of streams) close(stream);
    world.elsewhere = new Set([keyOf(1)]);
    await pass(5 * MINUTE);
    expect(types()).toEqual(['node.offline']);
    world.elsewhere = new Set([keyOf(1), keyOf(2)]);
    await pass(2 * MINUTE);
    expect(types()).toEqual(['node.offline', 'node.online']);
  });
});

describe('a restart is not sixty messages', () => {
  test('of Headscale: one message about those that did not come back, with a count and names', async () => {
    const { streams, close, open, pass, received, types, down, up } = await settled(60);
    down();
    for (const stream of streams) close(stream);
    await pass(10 * MINUTE);
    expect(types()).toEqual(['upstream.down']);
    up();
    for (let i = 1; i <= 30; i++) open(i);
    await pass(10 * MINUTE);
    expect(types()).toEqual(['upstream.down', 'upstream.up', 'node.offline']);
    expect(received[1]?.text).toBe('Headscale is up again after 10 min.');
    expect(received[2]?.text).toMatch(/^30 nodes are offline: node-31, node-32, .*, node-50 and 10 more\.$/);
    expect(received[2]?.data).toMatchObject({ count: 30 });
    expect(received[2]?.data.nodes).toHaveLength(30);
    for (let i = 31; i <= 60; i++) open(i);
    await pass(5 * MINUTE);
    expect(types().slice(3)).toEqual(['node.online']);
    expect(received[3]?.text).toMatch(/^30 nodes are online again: /);
  });

  test('of Headscale, so short that it is no news: nothing, and one message if nobody comes back', async () => {
    const { streams, close, open, pass, types, received, down, up } = await settled(60);
    for (const stream of streams) close(stream);
    down();
    await pass(8000);
    up();
    const back = streams.map((_, i) => open(i + 1));
    await pass(10 * MINUTE);
    expect(types()).toEqual([]);
    // The nodes leave over twenty seconds, and nobody notices that Headscale is down.
    for (const stream of back) {
      close(stream);
      await pass(333);
    }
    await pass(10 * MINUTE);
    expect(types()).toEqual(['node.offline']);
    expect(received[0]?.text).toMatch(/^60 nodes are offline: /);
  });

  test('of the watchdog: those that were there until just before are expected, who left long ago is not', async () => {
    const bench = notifierBench(ALL, SIXTY);
    const { clock, world, notifier, open, pass, received } = bench;
    const start = clock.dateOf(clock.now()).getTime();
    const lastSeen = (i: number): Date => new Date(start - (i <= 50 ? 60_000 : 3_600_000));
    world.listed = SIXTY.map((node, i) => ({ ...node, online: false, lastSeen: lastSeen(i + 1) }));
    await pass(3000);
    notifier.nodesListed();
    for (let i = 1; i <= 45; i++) open(i);
    await pass(140_000);
    expect(received).toEqual([]);
    await pass(30_000);
    expect(received.map(({ type, text }) => `${type} ${text}`)).toEqual([
      'node.offline 5 nodes are offline: node-46, node-47, node-48, node-49, node-50.',
    ]);
    // It was offline before, so nobody has been told.
    open(55);
    await pass(10 * MINUTE);
    expect(received).toHaveLength(1);
  });

  test('of the watchdog: the streams that it ends itself tell nothing', async () => {
    const { streams, close, pass, received, notifier, closed } = await settled(60);
    notifier.listen({ kind: 'drain_started', streams: 60, overMs: 600_000, isShortened: false });
    for (const stream of streams) close(stream);
    await pass(5 * MINUTE);
    await notifier.close();
    expect(received).toEqual([]);
    expect(closed()).toBe(1);
  });
});

describe('what is told besides', () => {
  test('keys that expire within a week, each once, together', async () => {
    const { world, clock, notifier, pass, received, types } = await settled(0);
    const inDays = (days: number): Date => new Date(clock.dateOf(clock.now()).getTime() + days * 86_400_000);
    const [a, b, c, d] = [nodeOf(1, { expiry: inDays(6) }), nodeOf(2, { expiry: inDays(8) }), nodeOf(3), nodeOf(4)];
    world.listed = [a, b, c, { ...d, expiry: inDays(-1) }];
    notifier.nodesListed();
    await pass(10_000);
    expect(received.map(({ text }) => text)).toEqual([
      expect.stringMatching(/^node-1 has a key that expires in 6 d \(.* UTC\)\.$/),
    ]);
    notifier.nodesListed();
    await pass(10_000);
    expect(types()).toEqual(['node.expiring']);
    world.listed = [
      { ...a, expiry: inDays(1) },
      { ...b, expiry: inDays(2) },
    ];
    notifier.nodesListed();
    await pass(10_000);
    expect(received[1]?.text).toBe('2 nodes have a key that expires within a week: node-1, node-2.');
  });

  test('a key that was told to expire is not told again after a restart, if notes outlive it', async () => {
    const kept = new Map<string, unknown>();
    const restart = async (expiry: Date) => {
      const notes = new Notes((name, value) => kept.set(name, value));
      for (const [name, value] of kept) notes.read(name, JSON.parse(JSON.stringify(value)));
      const { notifier, pass, types } = notifierBench(ALL, [nodeOf(1, { expiry })], notes);
      notifier.nodesListed();
      await pass(10_000);
      return types();
    };
    const expiry = new Date(3 * 86_400_000);
    expect(await restart(expiry)).toEqual(['node.expiring']);
    expect(await restart(expiry)).toEqual([]);
    expect(await restart(new Date(4 * 86_400_000))).toEqual(['node.expiring']);
    // It has been renewed, so nothing needs to be remembered.
    expect(await restart(new Date(400 * 86_400_000))).toEqual([]);
    expect([...kept.values()]).toEqual([null, null, null]);
  });

  test('a duplicate key, but not each time; a wrong Noise key; takeovers for who asks for them', async () => {
    const { notifier, pass, received, open, types } = await settled(0);
    const duplicate = (): void =>
      notifier.listen({
        ...{ kind: 'machine_key_duplicated', machineKey: keyOf(1), addresses: ['192.0.2.1', '192.0.2.2'], restMs: 1 },
      });
    duplicate();
    duplicate();
    const disagreement = 'shown_offline';
    const about = { machineKey: keyOf(5), node: nodeOf(5), disagreement, forMs: 30_000 } as const;
    const rest = { issue: 3428, stream: undefined, lastSignAgoMs: undefined, isEnded: false };
    notifier.listen({ kind: 'node_disagrees', ...about, ...rest });
    notifier.listen({ kind: 'noise_key_checked', matches: true, ours: 'a', upstreams: 'a' });
    notifier.listen({ kind: 'noise_key_checked', matches: false, ours: 'a', upstreams: 'b' });
    const [stream, newcomer] = [open(3), open(3)];
    notifier.listen({
      ...{ kind: 'stream_severed', stream, newcomer, reason: 'silent', silentMs: 45_000, silentAfterMs: 30_000 },
      ...{ contestedMs: 1, kernel: undefined, answers: false },
    });
    await pass(10_000);
    expect(types().sort()).toEqual(['key.mismatch', 'node.disagrees', 'node.duplicate', 'takeover']);
    expect(received.map(({ text }) => text)).toContain(
      'node-1 shares its machine key with another machine (at 192.0.2.1 and 192.0.2.2).',
    );
    expect(received.map(({ text }) => text)).toContain(
      'node-5 is connected, and Headscale shows it as offline, for 30 s already.',
    );
    expect(received.map(({ text }) => text)).toContain(
      'node-3 took over from its old stream, which was silent (its client had sent nothing for 45 s).',
    );
    await pass(30 * MINUTE);
    duplicate();
    await pass(31 * MINUTE);
    duplicate();
    await pass(10_000);
    expect(types().filter((type) => type === 'node.duplicate')).toHaveLength(2);
  });

  test('each target gets its events and its nodes', async () => {
    const text = `notify:
  - { url: http://r.example/routers, events: node.*, nodes: [{ name: node-1 }, { user: bob }] }
  - { url: http://r.example/headscale, events: [upstream.*] }
`;
    const bench = await settled(3, text, [nodeOf(1), nodeOf(2), nodeOf(3, { user: 'bob' })]);
    const { streams, close, pass, received, down } = bench;
    for (const stream of streams) close(stream);
    await pass(3 * MINUTE);
    down();
    await pass(MINUTE);
    expect(received.map(({ url, text: told }) => `${url} ${told}`)).toEqual([
      'http://r.example/routers 2 nodes are offline: node-1, node-3.',
      'http://r.example/headscale Headscale cannot be reached (ECONNREFUSED).',
    ]);
  });
});

describe('a reload', () => {
  test('keeps what waits for an unchanged address, and drops what waits for one that is gone', async () => {
    const two = 'notify: [{ url: http://r.example/a }, { url: http://r.example/SECRET }]';
    const { notifier, world, down, pass, received, events } = await settled(0, two);
    world.status = 500;
    down();
    await pass(20_000);
    expect(notifier.waiting).toBe(2);
    const text = 'notify: [{ url: http://r.example/b }, { url: http://r.example/a, events: [upstream.*] }]';
    world.config = loadConfig({}, { path: 'w.yaml', text });
    notifier.apply();
    expect(notifier.waiting).toBe(1);
    world.status = 200;
    await pass(MINUTE);
    expect(received.map(({ url, type }) => `${url} ${type}`)).toEqual(['http://r.example/a upstream.down']);
    expect(events.filter(({ kind }) => kind === 'notification_dropped')).toMatchObject([
      { target: '2 (standard, http://r.example/…)', reason: 'removed', count: 1 },
    ]);
    expect(JSON.stringify(events)).not.toContain('SECRET');
  });
});

describe('another replica is gone', () => {
  /** Nodes 1 and 2 are here, 3 to 6 were at the other replica, 7 left it a minute before, and 8 ten minutes before. */
  async function withReplicaGone() {
    const bench = await settled(2);
    const { clock, world, notifier, pass } = bench;
    const lastHeardAt = clock.now();
    await pass(16_000);
    const seen = (agoMs: number): Date => new Date(clock.dateOf(lastHeardAt).getTime() - agoMs);
    const agoMs = (i: number): number => (i < 7 ? -10_000 : i === 7 ? MINUTE : 10 * MINUTE);
    world.listed = SIXTY.slice(0, 8).map((node, i) => ({ ...node, online: i < 2, lastSeen: seen(agoMs(i + 1)) }));
    notifier.listen({ kind: 'replica_gone', replica: 'a#1', lastHeardAt });
    notifier.nodesListed();
    return bench;
  }

  test('those of its nodes that do not come back are told, in one message, and no others', async () => {
    const { open, pass, received, world, types } = await withReplicaGone();
    open(3);
    world.elsewhere = new Set([keyOf(4)]);
    await pass(149_000);
    expect(received).toEqual([]);
    await pass(15_000);
    expect(received.map(({ type, text }) => `${type} ${text}`)).toEqual([
      'node.offline 3 nodes are offline: node-5, node-6, node-7.',
    ]);
    world.elsewhere = new Set([keyOf(4), keyOf(5)]);
    open(6);
    await pass(5 * MINUTE);
    expect(types()).toEqual(['node.offline', 'node.online']);
    expect(received[1]?.text).toMatch(/^2 nodes are online again: node-[56], node-[56]\.$/);
  });

  test('only one of the others tells it; what leaves here is told here', async () => {
    const { pass, received, world, leave, notifier } = await withReplicaGone();
    world.isFirst = false;
    leave();
    await pass(10 * MINUTE);
    expect(received.map(({ text }) => text)).toEqual(['node-1 is offline: it has had no connection for 2 min.']);
    // The first one that is left is gone as well.
    world.isFirst = true;
    await pass(MINUTE);
    notifier.nodesListed();
    await pass(10 * MINUTE);
    expect(received).toHaveLength(1);
  });

  test('one that starts again and again puts nothing off', async () => {
    const { pass, types, notifier, clock } = await withReplicaGone();
    for (let i = 0; i < 20; i++) {
      await pass(30_000);
      notifier.listen({ kind: 'replica_gone', replica: `a#${i}`, lastHeardAt: clock.now() });
      notifier.nodesListed();
    }
    expect(types()).toEqual(['node.offline']);
  });

  test('after a start, only one of several replicas tells who has not come back', async () => {
    const { world, notifier, pass, received, clock } = notifierBench(ALL, SIXTY);
    world.isFirst = false;
    world.listed = SIXTY.map((node) => ({ ...node, online: true }));
    notifier.nodesListed();
    await pass(10 * MINUTE);
    expect(received).toEqual([]);
    expect(clock.timers).toBe(0);
  });
});
