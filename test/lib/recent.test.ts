import { expect, test } from 'vitest';
import { Recent } from '../../src/lib/recent.ts';

test('Recent keeps the last entries, not more than twice as many, and what is set again', () => {
  const LEAST = 100;
  const recent = new Recent<number>(LEAST);
  recent.set('0', 0);
  for (let i = 1; i < 10 * LEAST; i++) {
    recent.set(`${i}`, i);
    if (i % 10 === 0) recent.set('0', 0);
  }
  const kept = Array.from({ length: 10 * LEAST }, (_, i) => i).filter((i) => recent.get(`${i}`) !== undefined);
  const last = Array.from({ length: LEAST - LEAST / 10 }, (_, i) => 9 * LEAST + LEAST / 10 + i);
  expect(kept[0]).toBe(0);
  expect(kept.slice(-last.length)).toEqual(last);
  expect(kept.length).toBeLessThanOrEqual(2 * LEAST);
  expect(new Set(recent.keys())).toEqual(new Set(kept.map(String)));
});

test('without repetitions, Recent keeps at least as many as it should', () => {
  const recent = new Recent<number>(100);
  for (let i = 0; i < 1000; i++) {
    recent.set(`${i}`, i);
    if (i >= 99) expect(recent.get(`${i - 99}`)).toBe(i - 99);
    expect(recent.get(`${i - 200}`)).toBeUndefined();
  }
});
