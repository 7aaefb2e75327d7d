import { describe, expect, test } from 'vitest';
import { formatDuration, parseDuration } from '../../src/lib/units.ts';

describe('parseDuration', () => {
  test.each([
    ['1500ms', 1500],
    ['30s', 30_000],
    ['1.5s', 1500],
    ['1.1s', 1100],
    ['2m', 120_000],
    ['1h', 3_600_000],
    ['', undefined],
    ['s', undefined],
    ['-1s', undefined],
    ['1d', undefined],
    ['1s ', undefined],
    ['1.s', undefined],
    ['1e3s', undefined],
  ])('%j is %s', (text, ms) => {
    expect(parseDuration(text)).toBe(ms);
  });
});

describe('formatDuration', () => {
  test.each([
    [0, '0s'],
    [1, '1ms'],
    [1500, '1500ms'],
    [30_000, '30s'],
    [90_000, '90s'],
    [120_000, '2m'],
    [5_400_000, '90m'],
    [3_600_000, '1h'],
    [86_400_000, '24h'],
  ])('%i ms is %s, and back', (ms, text) => {
    expect(formatDuration(ms)).toBe(text);
    expect(parseDuration(text)).toBe(ms);
  });
});
