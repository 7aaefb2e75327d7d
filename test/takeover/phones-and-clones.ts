import { type Instant, plus } from '../../src/lib/clock.ts';
import { isLive } from '../../src/streams/stream.ts';
import { ALICE, Bench, type FakePeer } from './takeover-bench.ts';

export type Random = () => number;

/** Numbers from 0 to 1 that a seed decides (mulberry32). */
export function randomOf(seed: number): Random {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function pick<T>(random: Random, ...of: readonly T[]): T {
  return of[Math.floor(random() * of.length)] as T;
}

function between(random: Random, from: number, to: number): number {
  return from + random() * (to - from);
}

/** As many short ones as long ones, by their orders of magnitude. */
function spread(random: Random, from: number, to: number): number {
  return from * (to / from) ** random();
}

const GATEWAY = '172.18.0.1';
const SECOND_MS = 1000;
const MINUTE_MS = 60_000;
const NEVER_MS = 1e12;

/** A machine that moves from network to network. Whatever it left is silent from then on. */
export interface PhoneReport {
  readonly is: string;
  readonly flagged: boolean;
  /** Of the streams that had two newer ones with sessions: for how long the slowest was open after it was due. */
  readonly thirdOpenForMs: number;
}

type Addresses = (flip: number) => string;

function addressesOf(random: Random, bench: Bench): { readonly name: string; readonly at: Addresses } {
  const name = pick(
    random,
    'two addresses',
    'two addresses',
    'one address',
    'a gateway',
    'ever new ones',
    'home, and new ones',
  );
  if (name === 'a gateway') bench.untelling.add(GATEWAY);
  const fresh = (flip: number): string => `2001:db8::${flip.toString(16)}`;
  const at: { readonly [name: string]: Addresses } = {
    'two addresses': (flip) => `192.0.2.${flip % 2}`,
    'one address': () => '192.0.2.7',
    'a gateway': () => GATEWAY,
    'ever new ones': fresh,
    'home, and new ones': (flip) => (flip % 2 === 0 ? '192.0.2.1' : fresh(flip)),
  };
  return { name, at: at[name] as Addresses };
}

/** How long it stays where it is, from 5 s to 10 min. */
function staysOf(random: Random): { readonly name: string; readonly next: (flip: number) => number } {
  const [shortest, longest] = [5 * SECOND_MS, 10 * MINUTE_MS];
  const [one, other] = [spread(random, shortest, longest), spread(random, shortest, longest)];
  const exact = (ms: number): number => Math.max(shortest, ms + between(random, -100, 100));
  const kind = pick(random, 'every', 'every', 'in turn', 'about every', 'at any time');
  const next = {
    every: () => exact(one),
    'in turn': (flip: number) => exact(flip % 2 === 0 ? one : other),
    'about every': () => Math.min(longest, Math.max(shortest, -one * Math.log(1 - random()))),
    'at any time': () => spread(random, shortest, longest),
  }[kind];
  return { name: `${kind} ${Math.round(one / 100) / 10} s (${Math.round(other / 100) / 10} s)`, next };
}

export function playPhone(seed: number, flips: number, forMs: number): PhoneReport {
  const random = randomOf(seed);
  const bench = new Bench(random);
  bench.silentAfterMs = pick(random, 30_000, 30_000, 30_000, 5000, 60_000);
  const hasEvidence = random() < 0.3;
  const [addresses, stays] = [addressesOf(random, bench), staysOf(random)];
  const peers: FakePeer[] = [];
  const end = plus(bench.clock.now(), forMs);
  for (let flip = 0; flip < flips && bench.clock.now() < end; flip++) {
    const peer = bench.opens(ALICE, addresses.at(flip), (made) => {
      made.line.evidenceIsThere = hasEvidence;
    });
    peers.push(peer);
    const stayMs = stays.next(flip);
    // The login, and a word now and then.
    for (let spokenMs = between(random, 100, 2000); spokenMs < stayMs; spokenMs += between(random, 60_000, 500_000)) {
      const speaks = (): void => {
        if (isLive(peer.stream)) peer.speaks();
      };
      bench.clock.after(spokenMs, speaks);
    }
    bench.clock.advance(stayMs);
    peer.line.vanished = true;
  }
  return {
    is: `seed ${seed}: ${addresses.name}, ${stays.name}, silent after ${bench.silentAfterMs / 1000} s${hasEvidence ? ', with evidence' : ''}`,
    flagged: bench.kinds().includes('machine_key_duplicated'),
    thirdOpenForMs: Math.max(0, ...peers.map((peer, i) => overdueMs(peer, peers[i + 2], bench))),
  };
}

/** For how long a stream was open although it was silent and a second newer one had settled. */
function overdueMs({ stream, severedAt }: FakePeer, secondNewer: FakePeer | undefined, bench: Bench): number {
  const { firstRecordAt } = secondNewer?.stream ?? {};
  if (firstRecordAt === undefined) return 0;
  const dueAt = Math.max(firstRecordAt + 1000, stream.heardAt + bench.silentAfterMs);
  const openUntil = severedAt ?? (isLive(stream) ? bench.clock.now() : dueAt);
  return openUntil - dueAt;
}

export interface ClonesReport {
  readonly is: string;
  /** Since the second machine came; undefined: never. */
  readonly flaggedAfterMs: number | undefined;
  readonly severed: number;
  /** What part of the time the worse off of the two had a stream. */
  readonly connected: number;
  readonly longestWithoutMs: number;
  /** How long half of the streams that were severed had lasted at least. */
  readonly medianLifeMs: number;
  readonly rests: readonly number[];
}

/** One machine of a pair: whenever its stream is severed it dials again, as tailscaled does. */
class Machine {
  peer: FakePeer | undefined;
  readonly #bench: Bench;
  readonly #random: Random;
  readonly #address: string;
  readonly #hasEvidence: boolean;
  readonly #quietMs: number;
  #failures: number;
  #lostAt: Instant;
  withoutMs = 0;
  longestWithoutMs = 0;
  readonly livesMs: number[] = [];

  constructor(bench: Bench, random: Random, address: string, hasEvidence: boolean, quietMs: number) {
    this.#bench = bench;
    this.#random = random;
    this.#address = address;
    this.#hasEvidence = hasEvidence;
    this.#quietMs = quietMs;
    this.#failures = Math.floor(between(random, 0, 15));
    this.#lostAt = bench.clock.now();
  }

  start(): void {
    this.#lostAt = this.#bench.clock.now();
    this.dial();
  }

  dial(): void {
    const { clock } = this.#bench;
    const peer = this.#bench.opens(ALICE, this.#address, (made) => {
      made.line.evidenceIsThere = this.#hasEvidence;
      const sever = made.sever.bind(made);
      made.sever = (because) => {
        sever(because);
        this.#lose(made);
      };
    });
    this.peer = peer;
    const withoutMs = clock.now() - this.#lostAt;
    this.withoutMs += withoutMs;
    this.longestWithoutMs = Math.max(this.longestWithoutMs, withoutMs);
    this.#talk(peer, between(this.#random, 100, 2000));
  }

  #lose(peer: FakePeer): void {
    const { clock } = this.#bench;
    this.livesMs.push(clock.now() - peer.stream.openedAt);
    this.#lostAt = clock.now();
    this.#failures += 1;
    // Tailscale's backoff, and what dialling takes.
    const backoffMs = Math.min(30_000, 10 * this.#failures ** 2) * between(this.#random, 0.5, 1.5);
    clock.after(backoffMs + between(this.#random, 50, 1000), () => this.dial());
  }

  #talk(peer: FakePeer, afterMs: number): void {
    this.#bench.clock.after(afterMs, () => {
      if (!isLive(peer.stream)) return;
      peer.speaks();
      this.#talk(peer, between(this.#random, 0.5, 1.5) * this.#quietMs);
    });
  }
}

export function playClones(seed: number, forMs: number): ClonesReport {
  const random = randomOf(seed);
  const bench = new Bench(random);
  bench.silentAfterMs = pick(random, 30_000, 30_000, 30_000, 5000, 60_000);
  const where = pick(random, 'two addresses', 'two addresses', 'one NAT', 'a gateway');
  if (where === 'a gateway') bench.untelling.add(GATEWAY);
  const [one, other] = {
    'two addresses': ['192.0.2.1', '192.0.2.2'],
    'one NAT': ['192.0.2.7', '192.0.2.7'],
    'a gateway': [GATEWAY, GATEWAY],
  }[where] as [string, string];
  const hasEvidence = random() < 0.5;
  // Where nothing tells them apart they must be silent to be in each other's way.
  const quietMs = where === 'two addresses' ? pick(random, NEVER_MS, 5 * MINUTE_MS, 8 * SECOND_MS) : NEVER_MS;
  const machines = [one, other].map((address) => new Machine(bench, random, address, hasEvidence, quietMs));
  const [first, second] = machines as [Machine, Machine];
  first.start();
  bench.clock.advance(spread(random, 1000, 10 * MINUTE_MS));
  const startedAt = bench.clock.now();
  second.start();
  const rests: number[] = [];
  let flaggedAfterMs: number | undefined;
  bench.heard = (event) => {
    if (event.kind !== 'machine_key_duplicated') return;
    flaggedAfterMs ??= bench.clock.now() - startedAt;
    rests.push(event.restMs);
  };
  bench.clock.advance(forMs);
  const lives = machines.flatMap(({ livesMs }) => livesMs).sort((a, b) => a - b);
  return {
    is: `seed ${seed}: ${where}, speaking every ${quietMs / 1000} s, silent after ${bench.silentAfterMs / 1000} s${hasEvidence ? ', with evidence' : ''}`,
    flaggedAfterMs,
    severed: lives.length,
    connected: 1 - Math.max(...machines.map(({ withoutMs }) => withoutMs)) / forMs,
    longestWithoutMs: Math.max(...machines.map(({ longestWithoutMs }) => longestWithoutMs)),
    medianLifeMs: lives[Math.floor(lives.length / 2)] ?? forMs,
    rests,
  };
}
