import { describe, expect, test } from 'vitest';
import { nearest } from '../../src/lib/text.ts';

const KNOWN = ['silent-after', 'gone-after', 'hold', 'name', 'nodes', 'node-key'];

describe('nearest', () => {
  test.each([
    ['silent-aftr', 'silent-after'],
    ['silent-afterr', 'silent-after'],
    ['silnet-after', 'silent-after'],
    ['silentAfter', 'silent-after'],
    ['SILENT_AFTER', 'silent-after'],
    ['hodl', 'hold'],
    ['holds', 'hold'],
    ['node', 'nodes'],
    ['after', undefined],
    ['h', undefined],
    ['', undefined],
    ['frobnicate', undefined],
    ['hold'.repeat(100_000), undefined],
  ])('%.20j: %s', (word, expected) => {
    expect(nearest(word, KNOWN)).toBe(expected);
  });
});
