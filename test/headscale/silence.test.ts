import { beforeEach, describe, expect, test } from 'vitest';
import { CHECK_AFTER_QUIET_MS, CHECK_TIMEOUT_MS, PendingAnswers } from '../../src/headscale/silence.ts';
import { FakeClock } from '../support/fake-clock.ts';

let clock: FakeClock;
let suspected: number[];
let pending: PendingAnswers;
let begun: number;

const seconds = (): number => (clock.now() - begun) / 1000;

beforeEach(() => {
  clock = new FakeClock();
  begun = clock.now();
  suspected = [];
  pending = new PendingAnswers(clock, () => suspected.push(seconds()));
});

/** A request, and when it was given up. */
function ask() {
  const givenUp: number[] = [];
  return { givenUp, answer: pending.begin(() => givenUp.push(seconds())) };
}

test('silence is noticed within ten seconds, and before any request gives up', () => {
  expect(CHECK_AFTER_QUIET_MS + CHECK_TIMEOUT_MS).toBeLessThan(10_000);
});

describe('PendingAnswers', () => {
  test('if nothing is answered, Headscale is checked after 4 s, and the request gives up after 10 s', () => {
    const { givenUp, answer } = ask();
    answer.sent();
    clock.advance(3999);
    expect(suspected).toEqual([]);
    clock.advance(60_000);
    expect(suspected).toEqual([4]);
    expect(givenUp).toEqual([10]);
    expect(clock.timers).toBe(0);
  });

  test('after the answer, or the end of the request, nothing more happens', () => {
    ask().answer.answered();
    const { givenUp, answer } = ask();
    clock.advance(9999);
    answer.ended();
    clock.advance(60_000);
    expect(givenUp).toEqual([]);
    expect(clock.timers).toBe(0);
  });

  test('a request waits for a slow answer while Headscale answers anything else, up to a minute from when it was sent', () => {
    const { givenUp, answer } = ask();
    clock.advance(5000);
    answer.sent();
    for (let i = 0; i < 64; i++) {
      pending.answered();
      clock.advance(1000);
    }
    expect(givenUp).toEqual([65]);
    expect(suspected).toEqual([4]);
    expect(clock.timers).toBe(0);
  });

  test('a request that takes long to send waits as long as Headscale answers', () => {
    const { givenUp, answer } = ask();
    for (let i = 0; i < 300; i++) {
      pending.answered();
      clock.advance(1000);
    }
    expect(givenUp).toEqual([]);
    answer.ended();
  });

  test("the ten seconds count from Headscale's last sign of life", () => {
    const { givenUp } = ask();
    clock.advance(8000);
    pending.answered();
    clock.advance(9999);
    expect(givenUp).toEqual([]);
    clock.advance(1);
    expect(givenUp).toEqual([18]);
    expect(suspected).toEqual([4, 12]);
  });

  test('after our own process was blocked, answers that arrived meanwhile are read first', () => {
    const { givenUp, answer } = ask();
    clock.stall(120_000);
    expect(givenUp).toEqual([]);
    clock.advance(999);
    answer.answered();
    clock.advance(60_000);
    expect(givenUp).toEqual([]);
    expect(clock.timers).toBe(0);
  });
});
