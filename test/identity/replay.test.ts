import { randomBytes } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { ReplayMemory } from '../../src/identity/replay-memory.ts';

describe('ReplayMemory', () => {
  test('recognises a key that it has seen, and no other', () => {
    const memory = new ReplayMemory();
    const [one, other] = [randomBytes(32), randomBytes(32)];
    expect(memory.hasSeen(one)).toBe(false);
    expect(memory.hasSeen(one)).toBe(true);
    expect(memory.hasSeen(other)).toBe(false);
    expect(memory.hasSeen(Buffer.from(one))).toBe(true);
  });

  test('remembers at least one generation of keys, and at most two', () => {
    const memory = new ReplayMemory(100);
    const keys = Array.from({ length: 300 }, () => randomBytes(32));
    for (const [i, key] of keys.entries()) {
      expect(memory.hasSeen(key)).toBe(false);
      const oldestKept = keys[Math.max(0, i - 99)] as Buffer;
      if (i === 150 || i === 199 || i === 200) expect(memory.hasSeen(oldestKept)).toBe(true);
    }
    expect(memory.hasSeen(keys[0] as Buffer)).toBe(false);
  });

  test('forgets a key on request, however long ago it was seen', () => {
    const memory = new ReplayMemory(10);
    const key = randomBytes(32);
    for (const others of [0, 12]) {
      memory.hasSeen(key);
      for (let i = 0; i < others; i++) memory.hasSeen(randomBytes(32));
      memory.forget(key);
      expect(memory.hasSeen(key)).toBe(false);
    }
  });

  test('a key that comes again is remembered for longer, so repeated attempts gain nothing', () => {
    const memory = new ReplayMemory(10);
    const key = randomBytes(32);
    memory.hasSeen(key);
    for (let i = 0; i < 200; i++) {
      memory.hasSeen(randomBytes(32));
      if (i % 5 === 0) expect(memory.hasSeen(key)).toBe(true);
    }
  });
});
