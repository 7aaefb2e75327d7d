import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseRedisUrl, redisTargetOf } from '../../src/config/redis.ts';
import type { RedisUrl } from '../../src/config/types.ts';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import { type MachineKey, machineKeyOf, parseMachineKey } from '../../src/identity/keys.ts';
import { systemClock } from '../../src/lib/clock.ts';
import type { Message } from '../../src/replicas/messages.ts';
import { HANDSHAKE_SLOTS, RedisLink } from '../../src/replicas/redis-link.ts';
import type { StreamId } from '../../src/streams/stream.ts';
import { Harness, until } from '../support/harness.ts';
import { aMachineKey } from '../support/initiations.ts';
import { freePort } from '../support/process.ts';
import { RedisServer } from '../support/redis.ts';

const TLS = join(import.meta.dirname, '..', 'support', 'tls');
const machineKey = parseMachineKey(`mkey:${aMachineKey}`) ?? expect.unreachable();
const noiseKey = generateNoiseKey();
const id = (value: number): StreamId => value as StreamId;

let harness: Harness;
beforeEach(() => {
  harness = new Harness();
});
afterEach(() => harness.closeAll());

async function server(...more: readonly string[]): Promise<RedisServer> {
  const redis = await RedisServer.start(more);
  harness.defer(() => redis.close());
  return redis;
}

interface Files {
  readonly passwordFile?: string;
  readonly caFile?: string;
}

/** One replica's, with what it was told. */
function link(url: string, name: string, { passwordFile, caFile }: Files = {}) {
  const heard: Message[] = [];
  const changes: (readonly [isUp: boolean, reason: string | undefined])[] = [];
  const settings = { passwordFile, caFile, prefix: 'headscale-watchdog', replicaName: name };
  const redis = new RedisLink({
    clock: systemClock,
    target: redisTargetOf({ ...settings, url: parseRedisUrl(url) as RedisUrl }),
    ...{ name, noiseKey: () => noiseKey },
    heard: (message) => heard.push(message),
    forged() {},
    changed: (isUp, reason) => changes.push([isUp, reason]),
  });
  harness.defer(() => redis.close());
  return { redis, heard, changes };
}

/** A proxy before Redis, which passes on subscriptions only once `until` says so. @returns its port. */
async function holdingSubscriptions(redisPort: number, until: Promise<unknown>): Promise<number> {
  const proxy = createServer((client) => {
    const upstream = connect(redisPort, '127.0.0.1');
    for (const socket of [client, upstream]) socket.on('error', () => {});
    client.on('close', () => upstream.destroy());
    client.on('data', (bytes) => {
      if (!bytes.includes('subscribe')) upstream.write(bytes);
      else void until.then(() => upstream.write(bytes));
    });
    upstream.pipe(client);
    harness.defer(() => client.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  harness.defer(() => new Promise((resolve) => proxy.close(resolve)));
  return (proxy.address() as AddressInfo).port;
}

/** Everything that replicas ask of Redis, by two of them. */
async function worksAt(url: string, files: Files = {}): Promise<void> {
  const [a, b] = [link(url, 'a', files), link(url, 'b', files)];
  await until(() => a.redis.isUp && b.redis.isUp, `both are up: ${JSON.stringify([a.changes, b.changes])}`);
  expect([a.changes, b.changes]).toEqual([[[true, undefined]], [[true, undefined]]]);

  const first = await a.redis.announce(machineKey, id(1), 'arriving');
  expect(first).toMatchObject({ order: { place: 1, isExact: true }, others: [] });
  const { epoch } = first.order;
  const second = await b.redis.announce(machineKey, id(1), 'arriving');
  expect(second).toEqual({ order: { epoch, place: 2, isExact: true }, others: ['a'] });
  expect((await b.redis.announce(machineKey, id(2), 'later')).order).toEqual({ epoch, place: 3, isExact: false });
  await b.redis.withdraw(machineKey, id(1));
  // It keeps its place, also where another replica has taken it for gone.
  await b.redis.forget(machineKey, 'a');
  expect(await a.redis.announce(machineKey, id(1), 'later', first.order)).toEqual({
    order: first.order,
    others: ['b'],
  });
  for (const each of [a, b]) for (const n of [1, 2]) await each.redis.withdraw(machineKey, id(n));
  // Nothing was left of the node, so that it is counted anew, and no place of before is worth anything.
  const { order } = await a.redis.announce(machineKey, id(1), 'later', first.order);
  expect(order).toMatchObject({ place: 1, isExact: false });
  expect(order.epoch).not.toBe(epoch);
  await b.redis.announce(machineKey, id(2), 'arriving');

  const ephemeral = Buffer.alloc(32, 7);
  expect([await a.redis.hasSeen(ephemeral), await b.redis.hasSeen(ephemeral)]).toEqual([false, true]);
  await a.redis.forgetHandshake(ephemeral);
  expect(await b.redis.hasSeen(ephemeral)).toBe(false);
  expect([await a.redis.renewLease(), await a.redis.renewLease()]).toEqual([false, true]);
  expect([await b.redis.isAlive('a'), await b.redis.isAlive('nobody')]).toEqual([true, false]);

  a.redis.send({ kind: 'here', from: 'a' });
  a.redis.send({ kind: 'sever', from: 'a', id: id(2) }, 'b');
  await until(() => b.heard.length === 2, 'B hears both');
  expect(b.heard.map(({ kind }) => kind).sort()).toEqual(['here', 'sever']);
  expect(a.heard).toEqual([]);
  await a.redis.close();
  expect(await b.redis.isAlive('a')).toBe(false);
}

describe('RedisLink', () => {
  test('works with a single server', async () => worksAt((await server()).url));

  test('Redis keeps a fixed number of handshakes, however many strangers send, and nothing of nodes without streams', {
    timeout: 120_000,
  }, async () => {
    const one = await server();
    const { redis } = link(one.url, 'a');
    await until(() => redis.isUp, 'it is up');
    // On a busy machine some answers may come too late.
    const all = (ask: (i: number) => Promise<unknown>, count: number): Promise<unknown> =>
      Promise.all(Array.from({ length: count }, (_, i) => ask(i).catch(() => {})));
    for (let i = 0; i < 800; i++) await all(() => redis.hasSeen(randomBytes(32)), 100);
    const size = async (): Promise<number> => Number((await one.command('DBSIZE')).slice(1));
    const handshakes = await size();
    expect(handshakes).toBeGreaterThan(HANDSHAKE_SLOTS / 2);
    expect(handshakes).toBeLessThanOrEqual(HANDSHAKE_SLOTS);
    const keys = Array.from({ length: 100 }, () => machineKeyOf(randomBytes(32)));
    const keyOf = (i: number): MachineKey => keys[i] ?? machineKey;
    await all((i) => redis.announce(keyOf(i), id(i + 1), 'arriving'), 100);
    await until(async () => (await size()) === handshakes + 100, 'all are written down');
    await until(async () => {
      await all((i) => redis.withdraw(keyOf(i), id(i + 1)), 100);
      return (await size()) === handshakes;
    }, 'all are withdrawn');
  });

  test('when the watchdog stops, requests to a Redis that does not answer end at once', async () => {
    const one = await server();
    const { redis, changes } = link(one.url, 'a');
    await until(() => redis.isUp, 'it is up');
    one.freeze();
    const asked = redis.announce(machineKey, id(1), 'arriving');
    const closing = redis.close();
    await expect(asked).rejects.toThrow('the watchdog is stopping');
    await closing;
    expect([redis.isUp, changes.length]).toEqual([false, 1]);
    await expect(redis.announce(machineKey, id(2), 'arriving')).rejects.toThrow();
  });

  test('if Redis answers the subscription too late, it subscribes again', async () => {
    const one = await server();
    let answer = (): void => {};
    const port = await holdingSubscriptions(one.port, new Promise<void>((resolve) => (answer = resolve)));
    const { redis, changes } = link(`redis://127.0.0.1:${port}`, 'a');
    await until(() => changes.length > 0, 'it takes Redis for down');
    answer();
    await until(() => redis.isUp, 'it is up');
    expect(changes).toEqual([
      [false, 'Command timed out'],
      [true, undefined],
    ]);
  });

  test('with TLS it trusts the configured authority; without that, it says what is wrong', async () => {
    const port = await freePort();
    await server(
      ...['--tls-port', String(port), '--tls-auth-clients', 'no', '--tls-ca-cert-file', join(TLS, 'cert.pem')],
      ...['--tls-cert-file', join(TLS, 'cert.pem'), '--tls-key-file', join(TLS, 'key.pem')],
    );
    await worksAt(`rediss://127.0.0.1:${port}`, { caFile: join(TLS, 'cert.pem') });
    const { changes } = link(`rediss://127.0.0.1:${port}`, 'c');
    await until(() => changes.length > 0, 'it is refused');
    expect(changes).toEqual([[false, expect.stringMatching(/self-signed certificate/)]]);
  });

  test('the ACL user in docs/replicas.md has all rights that are needed', async () => {
    const docs = readFileSync(join(import.meta.dirname, '..', '..', 'docs', 'replicas.md'), 'utf8');
    const [, rules = ''] = /^user watchdog (.*)$/m.exec(docs) ?? [];
    const redis = await server();
    expect(await redis.command('ACL', 'SETUSER', 'watchdog', ...rules.replace('PASSWORD', 'secret').split(' '))).toBe(
      '+OK\r\n',
    );
    await redis.command('ACL', 'SETUSER', 'default', 'off');
    const folder = harness.folder();
    const passwordFile = join(folder, 'password');
    writeFileSync(passwordFile, 'secret\n', { mode: 0o600 });
    await worksAt(`redis://watchdog@127.0.0.1:${redis.port}`, { passwordFile });
    writeFileSync(passwordFile, 'wrong\n');
    const { changes } = link(`redis://watchdog@127.0.0.1:${redis.port}`, 'c', { passwordFile });
    await until(() => changes.length > 0, 'it is refused');
    expect(changes).toEqual([[false, expect.stringMatching(/WRONGPASS/)]]);
  });

  test('works with a cluster of three', { timeout: 30_000 }, async () => {
    const nodes = [];
    for (let i = 0; i < 3; i++) nodes.push(await server('--cluster-enabled', 'yes'));
    const addresses = nodes.map(({ port }) => `127.0.0.1:${port}`);
    execFileSync('redis-cli', ['--cluster', 'create', ...addresses, '--cluster-yes'], { stdio: 'ignore' });
    const agree = async (node: RedisServer): Promise<boolean> =>
      (await node.command('CLUSTER', 'INFO')).includes('cluster_state:ok');
    for (const node of nodes) await until(() => agree(node), 'the cluster has formed');
    await worksAt(`redis+cluster://${addresses.join(',')}`);
  });

  test('works with sentinels, and goes on with the new master when the old one dies', { timeout: 60_000 }, async () => {
    const master = await server();
    const replica = await server('--replicaof', `127.0.0.1 ${master.port}`);
    const sentinel = await server('--sentinel');
    const monitor = ['SENTINEL', 'MONITOR', 'mymaster', '127.0.0.1', String(master.port), '1'];
    expect(await sentinel.command(...monitor)).toBe('+OK\r\n');
    await sentinel.command('SENTINEL', 'SET', 'mymaster', 'down-after-milliseconds', '500');
    await sentinel.command('SENTINEL', 'SET', 'mymaster', 'failover-timeout', '2000');
    await until(
      async () => (await sentinel.command('SENTINEL', 'REPLICAS', 'mymaster')).includes(`:${replica.port}`),
      'the sentinel knows the replica',
    );
    await worksAt(`redis+sentinel://127.0.0.1:${sentinel.port}/mymaster`);
    const { redis, changes } = link(`redis+sentinel://127.0.0.1:${sentinel.port}/mymaster`, 'c');
    await until(() => redis.isUp, 'C is up');
    await master.kill();
    await until(() => !redis.isUp, 'C notices');
    await until(() => redis.isUp, 'C has found the new master');
    expect(changes.map(([isUp]) => isUp)).toEqual([true, false, true]);
    const before = { epoch: 'of the old master', place: 7, isExact: true };
    expect((await redis.announce(machineKey, id(1), 'later', before)).order).toMatchObject({ isExact: false });
    expect(await replica.command('EXISTS', `headscale-watchdog:node:{${machineKey}}`)).toBe(':1\r\n');
  });
});
