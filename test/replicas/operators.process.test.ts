import { afterEach, beforeEach, expect, test } from 'vitest';
import { MessageSigner } from '../../src/replicas/signer.ts';
import { acceptStream, Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { aMachineKey, freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';
import { run } from '../support/process.ts';
import { RedisServer } from '../support/redis.ts';

const [recorded] = initiations;
let harness: Harness;
let redis: RedisServer;

beforeEach(async () => {
  harness = new Harness();
  redis = await RedisServer.start();
  harness.defer(() => redis.close());
});
afterEach(() => harness.closeAll());

interface Shown {
  readonly id: number;
  readonly replica: string | null;
  readonly kind: string;
}

async function streamsOf(admin: string): Promise<readonly Shown[]> {
  const answer = (await (await fetch(`${admin}/streams`)).json()) as { streams: readonly Shown[] };
  return answer.streams;
}

test('each of two watchdogs shows the streams of both, with their replica, and can ask the other to sever one', async () => {
  const upstream = await harness.upstream(acceptStream);
  const one = (replicaName: string) =>
    harness.watchdog(upstream.url, { redis: redis.url, replicaName }, noiseKeyOf(recorded));
  const [a, b] = [await one('a'), await one('b')];
  await until(async () => {
    await harness.upgraded(a.port);
    return a.events.some(({ kind }) => kind === 'redis_up') && b.events.some(({ kind }) => kind === 'redis_up');
  }, 'both have joined');
  const atB = await harness.upgraded(b.port);
  // Each learns of the other when that one says that it is there: at its start, and every five seconds.
  await until(async () => (await streamsOf(a.admin)).some(({ replica }) => replica?.startsWith('b#')), 'A shows B');
  const shown = await streamsOf(a.admin);
  expect(new Set(shown.map(({ replica }) => replica?.slice(0, 2)))).toEqual(new Set(['a#', 'b#']));
  expect((await streamsOf(b.admin)).length).toBe(shown.length);
  const [ofB] = shown.filter(({ replica }) => replica?.startsWith('b#'));
  const sever = (query: string): Promise<Response> =>
    fetch(`${a.admin}/streams/${ofB?.id}/sever?${query}`, { method: 'POST' });
  expect((await sever('replica=nobody')).status).toBe(404);
  expect((await sever(new URLSearchParams({ replica: ofB?.replica ?? '' }).toString())).status).toBe(202);
  await until(
    () => atB.destroyed || atB.readableEnded || b.events.some(({ kind }) => kind === 'stream_closed'),
    'it is severed',
  );
  expect(b.events).toContainEqual(expect.objectContaining({ kind: 'stream_closed', reason: 'severed_by_operator' }));
  expect(a.events.some((event) => event.kind === 'stream_closed')).toBe(false);
});

test('headscale-watchdog sever: an id that two watchdogs have severs nothing, and REPLICA/ID severs that stream', {
  timeout: 120_000,
}, async () => {
  const upstream = await harness.upstream(acceptStream);
  const one = (replicaName: string) =>
    harness.watchdog(upstream.url, { redis: redis.url, replicaName }, noiseKeyOf(recorded));
  const [a, b] = [await one('a'), await one('b')];
  await until(() => [a, b].every(({ events }) => events.some(({ kind }) => kind === 'redis_up')), 'both have joined');
  for (const { port } of [a, b]) await harness.upgraded(port);
  await until(async () => (await streamsOf(a.admin)).length === 2, 'A shows B');
  const command = async (target: string) => {
    const done = run(harness, 'sever', target, '--yes', '--admin', a.admin.replace('http://', ''));
    const { code } = await done.ended;
    return { code, said: `${done.stdout}${done.stderr}` };
  };
  const [ofA, ofB] = (await streamsOf(a.admin)).map(({ replica }) => replica).sort();
  expect(await command('1')).toEqual({
    code: 1,
    said: expect.stringMatching(/several watchdogs have a stream 1: write ([ab])#\w+\/1 or (?!\1)[ab]#\w+\/1\n$/),
  });
  expect(await command('c#1/1')).toMatchObject({ code: 3 });
  expect(await command(`${ofB}/1`)).toMatchObject({
    code: 0,
    said: expect.stringContaining(`${ofB} is asked to sever`),
  });
  const severed = ({ events }: typeof a): boolean => events.some(({ kind }) => kind === 'stream_closed');
  await until(() => severed(b), 'B severs it');
  expect(severed(a)).toBe(false);
  expect(await command(`${ofA}/1`)).toMatchObject({ code: 0, said: expect.stringContaining('stream 1 of') });
  await until(() => severed(a), 'A severs its own');
});

test('a node whose stream is at another watchdog is connected, also for a probe of this one', async () => {
  const upstream = await harness.upstream(acceptStream);
  const one = (replicaName: string) =>
    harness.watchdog(upstream.url, { redis: redis.url, replicaName }, noiseKeyOf(recorded));
  const [a, b] = [await one('a'), await one('b')];
  await until(() => [a, b].every(({ events }) => events.some(({ kind }) => kind === 'redis_up')), 'both have joined');
  const client = harness.client(b.port);
  client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded)}\r\n`));
  expect(await readHead(client)).toBe(SWITCHING);
  const health = async () => (await fetch(`${a.admin}/nodes/mkey:${aMachineKey}/health`)).status;
  await until(async () => (await health()) === 200, 'it is connected');
  const node = await (await fetch(`${a.admin}/nodes/mkey:${aMachineKey}`)).json();
  expect(node).toMatchObject({ state: 'connected', streams: [{ id: 1, replica: expect.stringMatching(/^b#/) }] });
});

test('a watchdog that does not answer is left out after a second', async () => {
  const upstream = await harness.upstream(() => {});
  const a = await harness.watchdog(upstream.url, { redis: redis.url, replicaName: 'a' }, noiseKeyOf(recorded));
  await until(() => a.events.some(({ kind }) => kind === 'redis_up'), 'it has joined');
  const ghost = new MessageSigner('ghost#1', () => noiseKeyOf(recorded));
  const here = ghost.sign({ kind: 'here', from: 'ghost#1' }, undefined) ?? expect.unreachable();
  await redis.command('PUBLISH', 'headscale-watchdog:all', here);
  await redis.command('PUBLISH', 'headscale-watchdog:all', 'rubbish');
  await new Promise((resolve) => setTimeout(resolve, 100));
  const startedAt = performance.now();
  expect(await streamsOf(a.admin)).toEqual([]);
  expect(performance.now() - startedAt).toBeGreaterThan(900);
  expect(a.events.filter(({ kind }) => kind === 'internal_error')).toEqual([]);
  // That rubbish is told, but not each time.
  await redis.command('PUBLISH', 'headscale-watchdog:all', 'rubbish');
  expect(a.events.filter(({ kind }) => kind === 'replica_message_rejected')).toHaveLength(1);
});
