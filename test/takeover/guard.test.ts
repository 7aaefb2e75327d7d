import { describe, expect, test } from 'vitest';
import { type Instant, plus } from '../../src/lib/clock.ts';
import { type Duplicate, Guard } from '../../src/takeover/guard.ts';
import { ALICE, BOB } from './takeover-bench.ts';

const MINUTE = 60_000;
const GATEWAY = '172.18.0.1';

interface Round {
  /** Who is severed, and comes back. */
  readonly loser: string;
  readonly winner: string;
  readonly back?: string;
  readonly backAfterMs?: number;
  readonly answers?: boolean | undefined;
  readonly others?: number;
}

/** Time that passes, and what a guard says to what happens meanwhile. */
class Play {
  now = 1_000_000 as Instant;
  readonly guard = new Guard({ random: () => 0.5, isTelling: (address) => address !== GATEWAY });

  pass(ms: number): void {
    this.now = plus(this.now, ms);
  }

  /** Rule 2 severs when it may and half a minute has passed; who has lost comes back. */
  round({ loser, winner, back = loser, backAfterMs = 500, answers, others = 1 }: Round): Duplicate | undefined {
    this.pass(30_000);
    this.now = this.guard.suspendedUntil(ALICE, this.now) ?? this.now;
    const turn = { at: this.now, loser, winner, loserAnswers: answers };
    this.guard.severed(ALICE, turn);
    this.pass(backAfterMs);
    return this.guard.sessionBegan(ALICE, { address: back, openedAt: this.now, others }, this.now);
  }

  /** Clones take turns. @returns in which round they were found. */
  rounds(
    times: number,
    more: Omit<Partial<Round>, 'loser' | 'winner'> = {},
    addresses = ['A', 'B'],
  ): number | undefined {
    for (let i = 1; i <= times; i++) {
      const [loser, winner] = (i % 2 === 1 ? addresses : [...addresses].reverse()) as [string, string];
      const shown = this.round({ loser, winner, ...more });
      if (shown !== undefined) return i;
    }
    return undefined;
  }
}

describe('Guard', () => {
  test.each([
    ['two addresses', ['A', 'B'], undefined, 8],
    ["two addresses, and the loser's kernel answers", ['A', 'B'], true, 4],
    ['one NAT', ['A', 'A'], undefined, 8],
    ['an address that identifies no machine', [GATEWAY, GATEWAY], undefined, 8],
    ["an address that identifies no machine, where a proxy's kernel answers", [GATEWAY, GATEWAY], true, 8],
  ])('finds two machines that come back promptly each time: %s', (_where, addresses, answers, inRound) => {
    const play = new Play();
    expect(play.rounds(20, { answers }, addresses)).toBe(inRound);
    expect(play.guard.suspendedUntil(ALICE, play.now)).toBe(plus(play.now, MINUTE));
    expect([play.guard.foundCount(play.now), play.guard.suspendedUntil(BOB, play.now)]).toEqual([1, undefined]);
  });

  test('delays nothing before the second prompt return, and then each severing by another time', () => {
    const play = new Play();
    const putOff: number[] = [];
    for (let i = 0; i < 7; i++) {
      play.rounds(1);
      putOff.push(Math.round(((play.guard.suspendedUntil(ALICE, play.now) ?? play.now) - play.now) / 1000));
    }
    expect(putOff).toEqual([0, 23, 45, 90, 23, 45, 90]);
    expect(play.guard.foundCount(play.now)).toBe(0);
  });

  test('from the first delay on, two machines are suspected; no longer once the count starts again, it is found, or a minute has passed', () => {
    const play = new Play();
    play.rounds(1);
    expect(play.guard.suspectedSince(ALICE, play.now)).toBeUndefined();
    play.rounds(1);
    const since = play.now;
    play.rounds(2);
    expect(play.guard.suspectedSince(ALICE, play.now)).toBe(since);
    const until = play.guard.suspendedUntil(ALICE, play.now) ?? play.now;
    expect(play.guard.suspectedSince(ALICE, plus(until, MINUTE - 1))).toBe(since);
    expect(play.guard.suspectedSince(ALICE, plus(until, MINUTE))).toBeUndefined();
    play.rounds(20);
    expect([play.guard.isFound(ALICE, play.now), play.guard.suspectedSince(ALICE, play.now)]).toEqual([
      true,
      undefined,
    ]);
    const other = new Play();
    other.rounds(4);
    other.guard.foundDead(ALICE);
    expect(other.guard.suspectedSince(ALICE, other.now)).toBeUndefined();
  });

  test.each([
    ['it comes back from another address', { back: 'C' }],
    ['it comes back later than a clone would', { backAfterMs: 20_000 }],
    ["the loser's kernel did not answer", { answers: false }],
  ])('after any number of prompt returns, one other return starts the count again: %s', (_criterion, once) => {
    const play = new Play();
    expect(play.rounds(7)).toBeUndefined();
    expect(play.round({ loser: 'B', winner: 'A', ...once })).toBeUndefined();
    expect(play.guard.suspendedUntil(ALICE, play.now)).toBeUndefined();
    expect(play.rounds(7)).toBeUndefined();
    expect(play.rounds(1)).toBe(1);
  });

  test('a stream that comes during the delay has moved, so the delayed severing is due', () => {
    const play = new Play();
    play.rounds(5);
    play.pass(1000);
    expect(play.guard.suspendedUntil(ALICE, play.now)).toBeDefined();
    expect(play.guard.sessionBegan(ALICE, { address: 'A', openedAt: play.now, others: 2 }, play.now)).toBeUndefined();
    expect(play.guard.suspendedUntil(ALICE, play.now)).toBeUndefined();
  });

  test('a severing after which nobody comes back starts the count again', () => {
    const play = new Play();
    play.rounds(7);
    play.guard.severed(ALICE, { at: plus(play.now, 120_000), loser: 'B', winner: 'A', loserAnswers: undefined });
    play.pass(300_000);
    expect(play.rounds(7)).toBeUndefined();
  });

  test('a dead stream starts the count again', () => {
    const play = new Play();
    play.rounds(7);
    play.guard.foundDead(ALICE);
    expect(play.guard.suspendedUntil(ALICE, play.now)).toBeUndefined();
    expect(play.rounds(7)).toBeUndefined();
  });

  test.each([1, 2, 3, 5, 7])(
    'what it knows after %i rounds goes on in another process with another clock',
    (rounds) => {
      const [old, same] = [new Play(), new Play()];
      old.rounds(rounds);
      same.rounds(rounds);
      const next = new Play();
      next.now = plus(old.now, 5_000_000);
      next.guard.remember(JSON.parse(JSON.stringify(old.guard.remembered(old.now))), next.now);
      const sinceOf = ({ guard, now }: Play) => {
        const since = guard.suspectedSince(ALICE, now);
        return since && now - since;
      };
      expect(sinceOf(next)).toBe(sinceOf(same));
      const turns = rounds % 2 === 1 ? ['B', 'A'] : ['A', 'B'];
      const found = same.rounds(20, {}, turns);
      expect(found).toBe(8 - rounds);
      expect(next.rounds(20, {}, turns)).toBe(found);
      // A finding goes on, too.
      const last = new Play();
      last.guard.remember(JSON.parse(JSON.stringify(next.guard.remembered(next.now))), last.now);
      expect([last.guard.isFound(ALICE, last.now), last.guard.isFound(BOB, last.now)]).toEqual([true, false]);
    },
  );

  test('what another process sends and this one does not understand is left out', () => {
    const { guard, now } = new Play();
    const suspect = { machineKey: `mkey:${'1'.repeat(64)}`, returns: 1 };
    guard.remember([undefined, 7, {}, suspect, { ...suspect, pending: 'x' }], now);
    expect(guard.remembered(now)).toEqual([]);
  });

  test('with more than two streams, it needs twice as many returns', () => {
    expect(new Play().rounds(30, { others: 2 })).toBe(14);
  });

  test('delays are longer for machines that return slowly', () => {
    const play = new Play();
    expect(play.rounds(20, { backAfterMs: 9000 })).toBe(8);
  });

  test('each further finding doubles the suspension, up to fifteen minutes; after a quiet hour it is one minute again', () => {
    const play = new Play();
    expect(play.rounds(20)).toBe(8);
    const restsMs: number[] = [];
    for (let i = 0; i < 6; i++) {
      const shown = play.round({ loser: i % 2 === 0 ? 'A' : 'B', winner: i % 2 === 0 ? 'B' : 'A' });
      restsMs.push((shown?.restMs ?? 0) / MINUTE);
    }
    expect(restsMs).toEqual([2, 4, 8, 15, 15, 15]);
    play.pass(15 * MINUTE + 61 * MINUTE);
    expect(play.guard.foundCount(play.now)).toBe(0);
    expect(play.rounds(20)).toBe(8);
    expect(play.guard.suspendedUntil(ALICE, play.now)).toBe(plus(play.now, MINUTE));
  });

  test('after a finding, the suspension runs to its end, whatever comes', () => {
    const play = new Play();
    play.rounds(8);
    play.pass(10_000);
    expect(play.guard.sessionBegan(ALICE, { address: 'A', openedAt: play.now, others: 2 }, play.now)).toBeUndefined();
    expect(play.guard.suspendedUntil(ALICE, play.now)).toBe(plus(play.now, 50_000));
  });

  test('each key is judged for itself, and old suspicions are forgotten', () => {
    const play = new Play();
    play.rounds(7);
    play.guard.severed(BOB, { at: play.now, loser: 'B', winner: 'A', loserAnswers: true });
    expect(play.guard.sessionBegan(BOB, { address: 'B', openedAt: play.now, others: 1 }, play.now)).toBeUndefined();
    expect([play.guard.isSuspect(ALICE), play.guard.isSuspect(BOB)]).toEqual([true, true]);
    play.pass(20 * MINUTE);
    expect(play.guard.foundCount(play.now)).toBe(0);
    expect([play.guard.isSuspect(ALICE), play.guard.isSuspect(BOB)]).toEqual([false, false]);
  });
});
