import type { Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { fakeKernel } from '../support/fake-kernel.ts';
import { Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { aMachineKey, freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';
import { RedisServer } from '../support/redis.ts';

const [recorded] = initiations;
const RECORD = Buffer.from([4, 0, 2, 1, 2]);

let harness: Harness;
let redis: RedisServer;

beforeEach(async () => {
  harness = new Harness();
  redis = await RedisServer.start();
  harness.defer(() => redis.close());
});
afterEach(() => harness.closeAll());

/** Two watchdogs, A and B, before one upstream. */
async function replicas(flags: Record<string, unknown> = {}) {
  const seen: string[] = [];
  let count = 0;
  const upstream = await harness.upstream((_request, socket) => {
    const id = ++count;
    seen.push(`open ${id}`);
    socket.on('error', () => {}).on('close', () => seen.push(`closed ${id}`));
    socket.on('end', () => socket.end()).resume();
    socket.write(SWITCHING);
  });
  const { kernel, dead, alive } = fakeKernel();
  const one = async (name: string) => {
    const settings = { hold: '1500ms', redis: redis.url, replicaName: name, ...flags };
    const watchdog = await harness.watchdog(upstream.url, settings, noiseKeyOf(recorded), { kernel });
    const told = <K extends WatchdogEvent['kind']>(kind: K) =>
      watchdog.events.filter((event): event is Extract<WatchdogEvent, { kind: K }> => event.kind === kind);
    const isUp = (): boolean =>
      watchdog.events.filter(({ kind }) => kind === 'redis_up' || kind === 'redis_down').at(-1)?.kind === 'redis_up';
    await until(isUp, `${name} has joined`);
    const opens = (handshake = freshHandshake(recorded)): Socket => {
      const client = harness.client(watchdog.port);
      client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${handshake}\r\n`));
      return client;
    };
    return { ...watchdog, told, isUp, opens };
  };
  return { seen, dead, alive, a: await one('a'), b: await one('b') };
}

async function isOpen(client: Socket): Promise<void> {
  expect(await readHead(client)).toMatch(/ 101 /);
}

/** Redis has been told: what comes next finds it. */
async function announced(streams: number): Promise<void> {
  await until(async () => {
    const keys = (await redis.command('KEYS', 'headscale-watchdog:node:*'))
      .split('\r\n')
      .filter((line) => line.startsWith('headscale'));
    const fields = await Promise.all(keys.map((key) => redis.command('HKEYS', key)));
    return (fields.join().match(/#\w+\/\d+/g) ?? []).length === streams;
  }, `Redis knows ${streams} streams`);
}

/** Opens a stream that waits for nothing: by how long one takes on this machine as busy as it is. */
async function opensAtOnce(open: () => Socket, usualMs: number): Promise<void> {
  const startedAt = performance.now();
  await isOpen(open());
  expect(performance.now() - startedAt).toBeLessThan(200 + 10 * usualMs);
}

describe('two replicas', () => {
  test('a dead stream at one replica is severed for a newcomer at the other, and Headscale sees it close first', async () => {
    const { a, b, seen, dead } = await replicas();
    const old = a.opens();
    await isOpen(old);
    await announced(1);
    dead.add(old.localPort);
    const startedAt = performance.now();
    await isOpen(b.opens());
    // Each verdict waits for an event, and the reason below says for which.
    expect(performance.now() - startedAt).toBeLessThan(30_000);
    expect(seen).toEqual(['open 1', 'closed 1', 'open 2']);
    expect(a.told('stream_severed')).toMatchObject([
      { reason: 'dead', newcomer: { id: 1, replica: expect.stringMatching(/^b#/) } },
    ]);
    expect(b.told('stream_released')).toMatchObject([{ reason: 'old_streams_ended' }]);
    await announced(1);
  });

  test('an old stream that answers stays, and the newcomer waits only for that answer', async () => {
    const { a, b, seen, alive } = await replicas();
    const old = a.opens();
    await isOpen(old);
    await announced(1);
    alive.add(old.localPort);
    const startedAt = performance.now();
    await isOpen(b.opens());
    // Each verdict waits for an event, and the reason below says for which.
    expect(performance.now() - startedAt).toBeLessThan(30_000);
    expect(b.told('stream_released')).toMatchObject([{ reason: 'old_streams_answered' }]);
    expect(seen).toEqual(['open 1', 'open 2']);
    expect(a.told('stream_severed')).toEqual([]);
  });

  test('a silent old stream is severed one second after the first record of the newcomer at the other replica', async () => {
    const { a, b, alive } = await replicas({ silentAfter: '1s' });
    const old = a.opens();
    await isOpen(old);
    await announced(1);
    alive.add(old.localPort);
    await new Promise((resolve) => setTimeout(resolve, 1100));
    const newcomer = b.opens();
    await isOpen(newcomer);
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(a.told('stream_severed')).toEqual([]);
    newcomer.write(RECORD);
    const recordedAt = performance.now();
    await until(() => a.told('stream_severed').length === 1, 'the old stream is severed');
    expect(performance.now() - recordedAt).toBeGreaterThan(950);
    expect(a.told('stream_severed')).toMatchObject([{ reason: 'silent' }]);
    expect(b.told('stream_severed')).toEqual([]);
  });

  test('if no other replica has a stream of its node, a newcomer waits only for one answer of Redis', async () => {
    const { b } = await replicas();
    await isOpen(b.opens());
    expect(b.told('stream_held')).toEqual([]);
  });

  test('a handshake that one replica has seen gives no identity at the other', async () => {
    const { a, b } = await replicas();
    const handshake = freshHandshake(recorded);
    await isOpen(a.opens(handshake));
    await announced(1);
    await isOpen(b.opens(handshake));
    expect(b.told('handshake_checked')).toMatchObject([{ result: 'replayed' }]);
    expect(a.told('contest_opened')).toEqual([]);
    await announced(1);
  });

  test('a handshake that Headscale never saw, because its client left while it was held, still identifies its node at the other', async () => {
    const { a, b } = await replicas({ hold: '5s' });
    await isOpen(a.opens());
    const handshake = freshHandshake(recorded);
    const held = a.opens(handshake);
    await until(() => a.told('stream_held').length === 1, 'it is held');
    held.destroy();
    await until(() => a.told('stream_closed').length === 1, 'it has left');
    await isOpen(b.opens(handshake));
    expect(b.told('handshake_checked')).toMatchObject([{ result: 'identified' }]);
  });

  test('a contest ends when the newcomer at the other replica ends, and nothing is left of it', async () => {
    const { a, b, alive } = await replicas();
    const old = a.opens();
    await isOpen(old);
    await announced(1);
    alive.add(old.localPort);
    const newcomer = b.opens();
    await isOpen(newcomer);
    expect(a.told('contest_opened')).toHaveLength(1);
    newcomer.end();
    await until(() => a.told('contest_ended').length === 1, 'the contest has ended');
    expect(a.told('contest_ended')).toMatchObject([{ verdict: 'newcomer_ended' }]);
  });
});

describe('while Redis is away', () => {
  test('killed during a hundred contests: no stream is lost or severed, and every newcomer is forwarded', async () => {
    const { a, b, alive } = await replicas({ maxStreamsPerNode: '64' });
    const machines = Array.from({ length: 100 }, () => generateNoiseKey());
    const olds = machines.map((machine) => a.opens(freshHandshake(recorded, machine)));
    await Promise.all(olds.map(isOpen));
    await announced(100);
    // They answer, but late: the contests are under way when Redis goes.
    const newcomers = machines.map((machine) => b.opens(freshHandshake(recorded, machine)));
    await until(() => a.told('contest_opened').length > 20, 'contests are under way');
    await redis.kill();
    for (const old of olds) alive.add(old.localPort);
    await Promise.all(newcomers.map(isOpen));
    // The hold, and no more.
    expect(b.told('stream_held').filter(({ atMostMs }) => atMostMs > 1500)).toEqual([]);
    expect([...a.told('stream_severed'), ...b.told('stream_severed')]).toEqual([]);
    expect([...olds, ...newcomers].every((client) => !client.destroyed)).toBe(true);
    await until(() => !a.isUp() && !b.isUp(), 'both have noticed');
    await redis.start();
    await until(() => a.isUp() && b.isUp(), 'both are back');
    await announced(200);
    expect([...a.told('stream_severed'), ...b.told('stream_severed')]).toEqual([]);
  });

  test("killed: each replica goes on alone at once and no stream is lost; afterwards they know each other's streams again", async () => {
    const { a, b, seen, dead } = await replicas();
    const beganAt = performance.now();
    const old = a.opens();
    await isOpen(old);
    const usualMs = performance.now() - beganAt;
    // Without Redis they are told apart by their ages, where these are seconds apart.
    await new Promise((resolve) => setTimeout(resolve, 2500));
    await redis.kill();
    await until(() => !a.isUp() && !b.isUp(), 'both have noticed');
    await opensAtOnce(() => b.opens(), usualMs);
    expect(seen).toEqual(['open 1', 'open 2']);
    await redis.start();
    await until(() => a.isUp() && b.isUp(), 'both are back');
    await announced(2);
    // The newer one, at B, has contested the older one by now: its client vanishes.
    dead.add(old.localPort);
    await until(() => a.told('stream_severed').length === 1, 'the old stream is severed');
    await until(() => seen.includes('closed 1'), 'Headscale sees it close');
    expect(seen).toEqual(['open 1', 'open 2', 'closed 1']);
  });

  test('killed while a node moves from A to B and back to A: afterwards the newest stream stays, and the one at B is severed', async () => {
    const { a, b } = await replicas({ silentAfter: '3s', hold: 'off' });
    const machine = generateNoiseKey();
    const opens = async (at: typeof a): Promise<Socket> => {
      const client = at.opens(freshHandshake(recorded, machine));
      await isOpen(client);
      client.write(RECORD);
      return client;
    };
    const first = await opens(a);
    const speaking = setInterval(() => first.write(RECORD), 500);
    harness.defer(() => clearInterval(speaking));
    // So many that the newest are announced a second after the oldest.
    const others = Array.from({ length: 199 }, () => a.opens(freshHandshake(recorded, generateNoiseKey())));
    await Promise.all(others.map(isOpen));
    await redis.kill();
    await until(() => !a.isUp() && !b.isUp(), 'both have noticed');
    const inBetween = await opens(b);
    await new Promise((resolve) => setTimeout(resolve, 2500));
    const newest = await opens(a);
    await new Promise((resolve) => setTimeout(resolve, 3500));
    await redis.start();
    await until(() => b.told('stream_severed').length === 1, 'the one in between is severed');
    await announced(201);
    expect(b.told('stream_severed')).toMatchObject([
      { reason: 'silent', newcomer: { replica: expect.stringMatching(/^a#/) } },
    ]);
    expect(a.told('stream_severed')).toEqual([]);
    expect([first, inBetween, newest].map((client) => client.readableEnded || client.destroyed)).toEqual([
      false,
      true,
      false,
    ]);
  });

  test('frozen: the first newcomer waits a quarter of a second at most, and the next ones do not wait', async () => {
    const { b } = await replicas();
    const beganAt = performance.now();
    await isOpen(b.opens(freshHandshake(recorded, generateNoiseKey())));
    const usualMs = performance.now() - beganAt;
    redis.freeze();
    await opensAtOnce(() => b.opens(), usualMs + 250);
    await until(() => !b.isUp(), 'it has noticed');
    await opensAtOnce(() => b.opens(), usualMs);
    redis.thaw();
    await until(() => b.isUp(), 'it is back');
  });

  test('emptied: the streams are announced again when the lease is renewed', async () => {
    const { a } = await replicas();
    await isOpen(a.opens());
    await announced(1);
    await redis.command('FLUSHALL');
    await announced(1);
  });

  test('what a dead replica has left in Redis severs and holds nothing after its lease has expired', async () => {
    const { b } = await replicas();
    await redis.command('HSET', `headscale-watchdog:node:{${aMachineKey}}`, 'gone#1/7', '1');
    await isOpen(b.opens());
    expect(b.told('stream_held')).toEqual([]);
    await announced(1);
  });
});
