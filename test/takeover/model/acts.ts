import fc from 'fast-check';
import type { MachineKey } from '../../../src/identity/keys.ts';
import { isLive, setState } from '../../../src/streams/stream.ts';
import { ALICE, Bench, BOB, type FakePeer } from '../takeover-bench.ts';
import { Observer } from './observer.ts';

/** Streams of two nodes and of nobody, on virtual time, under an observer's eyes. */
export class Stage {
  readonly bench = new Bench();
  readonly peers: FakePeer[] = [];
  readonly observer = new Observer(this.bench, this.peers);

  constructor() {
    // Headscale's answer and the client's first record are acts of their own.
    this.bench.sessionsOpen = false;
  }

  /** Of the streams that are left, the one that `which` falls on. */
  pick(which: number): FakePeer | undefined {
    const left = this.peers.filter(({ stream }) => isLive(stream));
    return left[which % Math.max(1, left.length)];
  }

  /** All leave; what was under way has come to its end. */
  end(): void {
    for (const peer of this.peers) if (isLive(peer.stream)) peer.leaves();
    // As long as the slowest closing takes, and less than the longest hold.
    this.bench.clock.advance(800);
    this.observer.check();
  }
}

type Deed = (stage: Stage) => void;

class Act implements fc.Command<object, Stage> {
  readonly #name: string;
  readonly #deed: Deed;

  constructor(name: string, deed: Deed) {
    this.#name = name;
    this.#deed = deed;
  }

  check(): boolean {
    return true;
  }

  run(_model: object, stage: Stage): void {
    this.#deed(stage);
    stage.observer.check();
  }

  toString(): string {
    return this.#name;
  }
}

function act<T>(name: string, arbitrary: fc.Arbitrary<T>, deed: (stage: Stage, value: T) => void): fc.Arbitrary<Act> {
  return arbitrary.map((value) => new Act(`${name}(${JSON.stringify(value)})`, (stage) => deed(stage, value)));
}

/** Something that one of the open streams does. */
function actOf<T>(name: string, more: fc.Arbitrary<T>, deed: (peer: FakePeer, value: T, stage: Stage) => void) {
  return act(name, fc.tuple(fc.nat(7), more), (stage, [which, value]) => {
    const peer = stage.pick(which);
    if (peer !== undefined) deed(peer, value, stage);
  });
}

const NODES = { alice: ALICE, bob: BOB, nobody: 'nobody' } as const;
/** More than a newcomer contests would need an eye of its own. */
const MOST_STREAMS = 7;
const nothing = fc.constant(undefined);

const opens = act(
  'opens',
  fc.tuple(fc.constantFrom<keyof typeof NODES>('alice', 'alice', 'alice', 'bob', 'nobody'), fc.nat(2)),
  (stage, [node, address]) => {
    const { peers } = stage;
    if (peers.filter(({ stream }) => isLive(stream)).length >= MOST_STREAMS) return;
    const peer = open(stage, NODES[node], `192.0.2.${address}`);
    if (node === 'nobody' && peer.forwardedAt === undefined) throw new Error('nobody was kept waiting');
  },
);

function open(stage: Stage, node: MachineKey | 'nobody', address: string): FakePeer {
  const { bench, peers, observer } = stage;
  return bench.opens(node, address, (made) => {
    peers.push(made);
    observer.known.set(made.stream, {
      ...{ heardAt: made.stream.openedAt, firstRecordAt: undefined, vanishedAt: undefined, wasOdd: false },
    });
  });
}

/** Alice's clone at the other address comes back, and waits until the one there is now has been severed, if it ever is. */
const comesBack = act('comesBack', fc.nat(3000), (stage, moreMs) => {
  const { bench, peers } = stage;
  const now = peers.findLast(({ stream }) => isLive(stream) && stream.machineKey === ALICE);
  const peer = open(stage, ALICE, now?.stream.address === '192.0.2.0' ? '192.0.2.1' : '192.0.2.0');
  bench.clock.advance(5000);
  takes(peer);
  speak(peer, stage);
  for (let waited = 0; waited < 150 && now !== undefined && isLive(now.stream); waited++) bench.clock.advance(1000);
  bench.clock.advance(moreMs);
});

const isTaken = actOf('isTaken', nothing, takes);

function takes({ stream, forwardedAt }: FakePeer): void {
  if (forwardedAt !== undefined && stream.state.kind === 'connecting') setState(stream, { kind: 'open' });
}

const speaks = actOf('speaks', nothing, (peer, _, stage) => speak(peer, stage));

function speak(peer: FakePeer, { bench, observer }: Stage): void {
  const known = observer.known.get(peer.stream);
  if (known === undefined || known.vanishedAt !== undefined) return;
  known.heardAt = bench.clock.now();
  peer.speaks();
  if (peer.stream.state.kind !== 'open' || known.firstRecordAt !== undefined) return;
  known.firstRecordAt = bench.clock.now();
  observer.came(peer.stream);
  peer.speaksFirst();
}

const acknowledges = actOf('acknowledges', nothing, ({ line }) => {
  if (!line.vanished) acknowledge(line);
});

function acknowledge(line: FakePeer['line']): void {
  Object.assign(line, { unackedSegments: 0, retransmits: 0 });
  line.received();
}

const vanishes = actOf('vanishes', nothing, ({ stream, line }, _, { bench, observer }) => {
  const known = observer.known.get(stream);
  if (known === undefined) return;
  line.vanished = true;
  known.vanishedAt ??= bench.clock.now();
});

/** Data that was sent to it stays unacknowledged, longer and longer; of one that is there a segment may be lost once. */
const retransmits = actOf('retransmits', fc.nat(6), ({ stream, line }, times, { observer }) => {
  const known = observer.known.get(stream);
  if (known !== undefined) known.wasOdd = true;
  if (line.vanished) Object.assign(line, { unackedSegments: 1, retransmits: Math.max(times, line.retransmits) });
  else if (times > 0) Object.assign(line, { unackedSegments: 1, retransmits: 1 });
  else acknowledge(line);
});

const hidesEvidence = actOf('evidenceIsThere', fc.boolean(), ({ stream, line }, isThere, { observer }) => {
  const known = observer.known.get(stream);
  if (known !== undefined) known.wasOdd = true;
  line.evidenceIsThere = isThere;
});

const leaves = actOf(
  'leaves',
  fc.constantFrom('client_closed', 'upstream_closed', 'client_left_early'),
  (peer, reason) => {
    peer.leaves(reason as 'client_closed');
  },
);

const reloads = act(
  'reloads',
  fc.record({
    silentAfterMs: fc.constantFrom(2000, 30_000, 60_000),
    holdMs: fc.constantFrom(0, 500, 1500, 5000),
    observeOnly: fc.constantFrom(false, false, false, true),
    closingTakesMs: fc.constantFrom(0, 2, 700),
  }),
  ({ bench }, terms) => {
    Object.assign(bench, terms);
    bench.takeover.rejudgeAll();
  },
);

const timePasses = act(
  'passes',
  fc.oneof(
    fc.constantFrom(
      1,
      49,
      50,
      150,
      449,
      450,
      451,
      999,
      1000,
      1500,
      3000,
      5000,
      29_000,
      31_000,
      61_000,
      301_000,
      901_000,
    ),
    fc.nat(3000),
  ),
  ({ bench }, ms) => bench.clock.advance(ms),
);

export const acts = fc.commands<object, Stage>(
  [
    ...[opens, opens, opens, isTaken, isTaken, speaks, speaks, speaks, acknowledges, comesBack],
    ...[vanishes, retransmits, hidesEvidence, leaves, reloads, timePasses, timePasses, timePasses, timePasses],
  ],
  { maxCommands: 60, size: 'max' },
);
