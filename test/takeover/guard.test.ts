import { describe, expect, test } from 'vitest';
import type { Instant } from '../../src/clock.ts';
import { Guard } from '../../src/takeover/guard.ts';
import { ALICE, BOB } from './takeover-bench.ts';

const MINUTE = 60_000;
const at = (minutes: number): Instant => (minutes * MINUTE) as Instant;

/** Severings by rule 2, minute by minute: `A>B` is A's newcomer over B's old stream. */
function play(guard: Guard, turns: readonly string[], everyMinutes = 1, loserAnswers = true) {
  return turns.map((turn, i) => {
    const [winner, loser] = turn.split('>') as [string, string];
    return guard.note(ALICE, { at: at(i * everyMinutes), loser, winner, loserAnswers });
  });
}

describe('Guard', () => {
  test('three severings between two addresses in turn: a duplicate, at rest for fifteen minutes', () => {
    const guard = new Guard();
    const told = play(guard, ['A>B', 'B>A', 'A>B']);
    expect(told).toEqual([undefined, undefined, { addresses: ['B', 'A'], restMs: 15 * MINUTE }]);
    expect(guard.restsUntil(ALICE, at(3))).toBe(at(17));
    expect(guard.restsUntil(ALICE, at(16.9))).toBe(at(17));
    expect(guard.restsUntil(ALICE, at(17))).toBeUndefined();
    expect(guard.restsUntil(BOB, at(3))).toBeUndefined();
    expect(guard.restsUntil(undefined, at(3))).toBeUndefined();
    expect([guard.resting(at(3)), guard.resting(at(17))]).toEqual([1, 0]);
  });

  test.each([
    ['two are not enough', ['A>B', 'B>A'], 1],
    ['a third address breaks the turn', ['A>B', 'B>A', 'C>B'], 1],
    ['a phone that wanders on: its newcomer is always somewhere else', ['B>A', 'C>B', 'D>C', 'E>D'], 1],
    ['always the same winner: not in turn', ['A>B', 'A>B', 'A>B'], 1],
    ['too slow: not within five minutes', ['A>B', 'B>A', 'A>B'], 2.6],
  ])('no duplicate: %s', (_criterion, turns, everyMinutes) => {
    const guard = new Guard();
    expect(play(guard, turns, everyMinutes).every((told) => told === undefined)).toBe(true);
    expect(guard.resting(at(10))).toBe(0);
  });

  test('just within five minutes', () => {
    expect(play(new Guard(), ['A>B', 'B>A', 'A>B'], 2.5)[2]).toBeDefined();
  });

  test('behind one NAT: two machines if the severed one was there each time, one that reconnects if not', () => {
    expect(play(new Guard(), ['A>A', 'A>A', 'A>A'])[2]).toEqual({ addresses: ['A', 'A'], restMs: 15 * MINUTE });
    expect(play(new Guard(), ['A>A', 'A>A', 'A>A', 'A>A'], 1, false).every((told) => told === undefined)).toBe(true);
  });

  test('on loopback a proxy answers for whoever is behind it: no duplicate', () => {
    for (const proxy of ['127.0.0.1', '[::1]']) {
      const turn = `${proxy}>${proxy}`;
      expect(play(new Guard(), [turn, turn, turn, turn]).every((told) => told === undefined)).toBe(true);
    }
  });

  test('two addresses count without evidence, too', () => {
    expect(play(new Guard(), ['A>B', 'B>A', 'A>B'], 1, false)[2]).toBeDefined();
  });

  test('after the rest it counts from nothing', () => {
    const guard = new Guard();
    play(guard, ['A>B', 'B>A', 'A>B']);
    const turn = { loser: 'A', winner: 'B', loserAnswers: true };
    expect(guard.note(ALICE, { at: at(18), ...turn })).toBeUndefined();
    expect(guard.restsUntil(ALICE, at(18))).toBeUndefined();
  });

  test('each key for itself', () => {
    const guard = new Guard();
    play(guard, ['A>B', 'B>A']);
    expect(guard.note(BOB, { at: at(2), loser: 'B', winner: 'A', loserAnswers: true })).toBeUndefined();
  });
});
