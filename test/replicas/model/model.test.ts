import fc from 'fast-check';
import { expect, test } from 'vitest';
import { isLive } from '../../../src/streams/stream.ts';
import { acts } from './acts.ts';
import { World } from './world.ts';

const RUNS = Number(process.env.REPLICAS_RUNS ?? 150);
const SEED = Number(process.env.REPLICAS_SEED ?? Math.floor(Math.random() * 2 ** 31));

async function moves(world: World, which: number): Promise<void> {
  world.replicas[which]?.opens('192.0.2.1');
  await world.time.pass(3000);
  world.peers.at(-1)?.speaks();
  await world.time.pass(31_000);
}

function away(world: World, isAway: boolean): void {
  for (const { link } of world.replicas) {
    link.isCut = isAway;
    if (isAway) link.cut();
    else link.connect();
  }
}

test.each([2, 3])(
  'if a node moves from A to B and back while Redis is away, its newest stream stays, with %d replicas',
  async (replicas) => {
    const world = new World(replicas, true);
    await world.time.pass(1000);
    away(world, true);
    for (const which of [0, 1, 0]) await moves(world, which);
    away(world, false);
    await world.time.pass(10_000);
    await world.end();
    expect(world.peers.map(({ stream }) => isLive(stream))).toEqual([false, false, true]);
  },
);

test(`in any sequence of what replicas, Redis and a node may do, no stream is severed for an older one: REPLICAS_RUNS=${RUNS} REPLICAS_SEED=${SEED}`, {
  timeout: 60_000 + RUNS * 200,
}, async () => {
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(2, 3), fc.boolean(), acts, async (replicas, isSteady, commands) => {
      const world = new World(replicas, isSteady);
      await fc.asyncModelRun(() => ({ model: {}, real: world }), commands);
      await world.end();
    }),
    { numRuns: RUNS, seed: SEED },
  );
});
