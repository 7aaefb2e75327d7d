import fc from 'fast-check';
import type { World } from './world.ts';

type Deed = (world: World) => void | Promise<void>;

class Act implements fc.AsyncCommand<object, World> {
  readonly #name: string;
  readonly #deed: Deed;

  constructor(name: string, deed: Deed) {
    this.#name = name;
    this.#deed = deed;
  }

  check(): boolean {
    return true;
  }

  async run(_model: object, world: World): Promise<void> {
    await this.#deed(world);
    world.check();
  }

  toString(): string {
    return this.#name;
  }
}

function act<T>(
  name: string,
  arbitrary: fc.Arbitrary<T>,
  deed: (world: World, value: T) => void | Promise<void>,
): fc.Arbitrary<Act> {
  return arbitrary.map((value) => new Act(`${name}(${JSON.stringify(value)})`, (world) => deed(world, value)));
}

const nothing = fc.constant(undefined);
const one = fc.nat(2);
const aWhile = fc.oneof(
  fc.constantFrom(1, 3, 50, 250, 400, 1000, 1500, 3000, 5000, 16_000, 31_000, 61_000),
  fc.nat(3000),
);

const opens = act('opens', fc.tuple(one, fc.nat(1)), ({ replicas }, [which, address]) => {
  const replica = replicas[which % replicas.length];
  if (replica?.machine.isAwake) replica.opens(`192.0.2.${address}`);
});
/** The node comes to another replica, and is at home there. */
const moves = act('moves', fc.tuple(one, fc.nat(1), aWhile), async (world, [which, address, ms]) => {
  const { replicas, peers, time } = world;
  const replica = replicas[which % replicas.length];
  if (replica?.machine.isAwake !== true) return;
  replica.opens(`192.0.2.${address}`);
  await time.pass(2500);
  const peer = peers.at(-1);
  if (peer?.replica.machine.isAwake && peer.truth.goneAt === undefined) peer.speaks();
  await time.pass(ms);
});
const speaks = act('speaks', fc.nat(5), (world, which) => {
  const peer = world.pick(which);
  if (peer?.replica.machine.isAwake) peer.speaks();
});
const leaves = act('leaves', fc.nat(5), (world, which) => world.pick(which)?.leaves());
const vanishes = act('vanishes', fc.nat(5), (world, which) => world.pick(which)?.vanishes());
const passes = act('passes', aWhile, ({ time }, ms) => time.pass(ms));

const isCut = act('link is cut', fc.tuple(one, fc.boolean()), ({ replicas }, [which, isCut]) => {
  const link = replicas[which % replicas.length]?.link;
  if (link === undefined) return;
  link.isCut = isCut;
  if (isCut) link.cut();
  else link.connect();
});

/** For so long Redis is away, with all that it had, with less, or with nothing. */
const outage = act(
  'Redis restarts after',
  fc.tuple(aWhile, fc.constantFrom('keeps', 'falls back', 'loses')),
  async ({ replicas, redis, time }, [ms, data]) => {
    for (const { link } of replicas) link.cut();
    if (data !== 'keeps') redis.restart(data === 'loses');
    await time.pass(ms);
    for (const { link } of replicas) link.connect();
  },
);
/** The same, while the node moves on. */
const away = act('Redis is away', fc.boolean(), ({ replicas, redis }, isLost) => {
  if (isLost) redis.restart(true);
  for (const { link } of replicas) {
    link.isCut = true;
    link.cut();
  }
});
const back = act('Redis is back', nothing, ({ replicas }) => {
  for (const { link } of replicas) {
    link.isCut = false;
    link.connect();
  }
});
const copies = act('Redis is copied', nothing, ({ redis }) => redis.copy());
const flushes = act('Redis is emptied', nothing, (world) => {
  if (world.isSteady) return;
  world.isSpared = true;
  world.redis.flush();
});
const freezes = act('Redis is frozen', fc.boolean(), ({ redis }, isFrozen) => {
  if (isFrozen) redis.isFrozen = true;
  else redis.thaw();
});
const setsRedis = act("Redis' clock is set", fc.integer({ min: -100_000, max: 100_000 }), ({ redis }, ms) => {
  redis.calendarAheadMs += ms;
});
const loses = act('messages get lost', fc.boolean(), ({ redis, replicas }, losesMessages) => {
  if (redis.losesMessages && !losesMessages) for (const { link } of replicas) link.cut();
  redis.losesMessages = losesMessages;
  for (const { link } of replicas) link.connect();
});
const delays = act('messages take', fc.constantFrom(1, 1, 200, 3000, 20_000), ({ redis }, ms) => {
  redis.messagesTakeMs = ms;
});

const sleeps = act('machine sleeps', one, (world, which) => {
  if (world.isSteady) return;
  world.isSpared = true;
  world.replicas[which % world.replicas.length]?.machine.sleep();
});
const wakes = act('machine wakes', one, ({ replicas }, which) => replicas[which % replicas.length]?.wakes());
const setsMachine = act(
  "machine's clock is set",
  fc.tuple(one, fc.integer({ min: -100_000, max: 100_000 })),
  async (world, [which, ms]) => {
    const machine = world.replicas[which % world.replicas.length]?.machine;
    if (world.isSteady || machine?.isAwake !== true) return;
    world.isSpared = true;
    machine.calendarAheadMs += ms;
    // Of one that falls asleep before it has noticed nobody could tell how long it slept.
    await world.time.pass(5001);
  },
);
const restarts = act('replica restarts', one, (world, which) => world.restart(which % world.replicas.length));

export const acts = fc.commands<object, World, false>(
  [
    ...[opens, opens, moves, moves, moves, moves, moves, moves, speaks, speaks, leaves, vanishes],
    ...[passes, passes, passes, passes, isCut, outage, away, back, back, copies, flushes, freezes],
    ...[setsRedis, loses, delays, sleeps, wakes, setsMachine, restarts],
  ],
  { maxCommands: 40, size: 'max' },
);
