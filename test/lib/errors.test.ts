import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ERRORS } from '../../src/lib/errors.ts';

const page = readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8');
const rows = [...page.matchAll(/^\| `(HSW_\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$/gm)];

describe('docs/errors.md', () => {
  test('has exactly one row for every code', () => {
    expect(rows.map(([, code]) => code).sort()).toEqual(Object.keys(ERRORS).sort());
    expect(page.match(/^\| `/gm)).toHaveLength(rows.length);
  });

  test('says for each code the exit code and the status', () => {
    for (const [code, { exit, status }] of Object.entries<{ exit?: number; status?: number }>(ERRORS)) {
      const seen = rows.find(([, name]) => name === code)?.[2] ?? '';
      expect([code, /exit (\d)/.exec(seen)?.[1]], code).toEqual([code, exit === undefined ? undefined : `${exit}`]);
      expect([code, /\b(\d{3})\b/.exec(seen)?.[1]], code).toEqual([
        code,
        status === undefined ? undefined : `${status}`,
      ]);
      if (exit === undefined && status === undefined) expect(seen, code).toBe('log');
    }
  });
});
