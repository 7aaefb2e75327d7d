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

  test('says for each code the exit code, the status, and whether check finds it', () => {
    const codes = Object.entries<{ exit?: number; status?: number; check?: true }>(ERRORS);
    for (const [code, { exit, status, check = false }] of codes) {
      const seen = rows.find(([, name]) => name === code)?.[2] ?? '';
      expect([code, /exit (\d)/.exec(seen)?.[1]], code).toEqual([code, exit === undefined ? undefined : `${exit}`]);
      expect([code, /\b(\d{3})\b/.exec(seen)?.[1]], code).toEqual([
        code,
        status === undefined ? undefined : `${status}`,
      ]);
      expect([code, /\bcheck\b/.test(seen)]).toEqual([code, check]);
      if (exit === undefined && status === undefined) expect(seen, code).toMatch(/^log\b/);
    }
  });
});
