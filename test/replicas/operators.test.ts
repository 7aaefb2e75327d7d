import { afterEach, beforeEach, expect, test } from 'vitest';
import { Harness, SWITCHING, until } from '../support/harness.ts';
import { initiations, noiseKeyOf } from '../support/initiations.ts';
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

test('each of two shows the streams of both, says whose each is, and has the other sever its own', async () => {
  const upstream = await harness.upstream((_request, socket) => {
    socket
      .on('error', () => {})
      .on('end', () => socket.end())
      .resume();
    socket.write(SWITCHING);
  });
  const one = (replicaName: string) =>
    harness.watchdog(upstream.url, { redis: redis.url, replicaName }, noiseKeyOf(recorded));
  const [a, b] = [await one('a'), await one('b')];
  await until(async () => {
    await harness.upgraded(a.port);
    return a.events.some(({ kind }) => kind === 'redis up') && b.events.some(({ kind }) => kind === 'redis up');
  }, 'both have joined');
  const atB = await harness.upgraded(b.port);
  // Each learns of the other when that one says that it is there: at its start, and every five seconds.
  await until(
    async () => (await streamsOf(a.admin)).some(({ replica }) => replica?.startsWith('b#')),
    'A shows B',
    8000,
  );
  const shown = await streamsOf(a.admin);
  expect(new Set(shown.map(({ replica }) => replica?.slice(0, 2)))).toEqual(new Set(['a#', 'b#']));
  expect((await streamsOf(b.admin)).length).toBe(shown.length);
  const [ofB] = shown.filter(({ replica }) => replica?.startsWith('b#'));
  const sever = (query: string): Promise<Response> =>
    fetch(`${a.admin}/streams/${ofB?.id}/sever?${query}`, { method: 'POST' });
  expect((await sever('replica=nobody')).status).toBe(404);
  expect((await sever(new URLSearchParams({ replica: ofB?.replica ?? '' }).toString())).status).toBe(202);
  await until(
    () => atB.destroyed || atB.readableEnded || b.events.some(({ kind }) => kind === 'stream closed'),
    'it is severed',
  );
  expect(b.events).toContainEqual(expect.objectContaining({ kind: 'stream closed', reason: 'severed_by_operator' }));
  expect(a.events.some((event) => event.kind === 'stream closed')).toBe(false);
});

test('one that does not answer is left out after a second', async () => {
  const upstream = await harness.upstream(() => {});
  const a = await harness.watchdog(upstream.url, { redis: redis.url, replicaName: 'a' }, noiseKeyOf(recorded));
  await until(() => a.events.some(({ kind }) => kind === 'redis up'), 'it has joined');
  await redis.command('PUBLISH', 'headscale-watchdog:all', JSON.stringify({ kind: 'here', from: 'ghost#1' }));
  await redis.command('PUBLISH', 'headscale-watchdog:all', 'rubbish');
  await new Promise((resolve) => setTimeout(resolve, 100));
  const startedAt = performance.now();
  expect(await streamsOf(a.admin)).toEqual([]);
  expect(performance.now() - startedAt).toBeGreaterThan(900);
  expect(a.events.filter(({ kind }) => kind === 'internal error')).toEqual([]);
});
