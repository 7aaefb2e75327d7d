import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const PROJECT = join(import.meta.dirname, '..');
const text = readFileSync(join(PROJECT, 'SECURITY.md'), 'utf8');

/** `file`: words; other words */
const claims = [...text.matchAll(/`(test\/[^`]+\.test\.ts)`: ([^|`)\n]+)/g)].flatMap(([, file = '', words = '']) =>
  words.split('; ').map((each) => [file, each.trim()] as const),
);

test.each(claims)('SECURITY.md names a test that exists: %s: %s', (file, words) => {
  expect(existsSync(join(PROJECT, file)), file).toBe(true);
  expect(readFileSync(join(PROJECT, file), 'utf8').replaceAll("\\'", "'")).toContain(words);
});

test('SECURITY.md names tests', () => {
  expect(claims.length).toBeGreaterThan(15);
});

test('SECURITY.md lists exactly the production dependencies, each with a reason', () => {
  const { dependencies } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  const section = text.slice(text.indexOf('## What it is made of'));
  const told = [...section.matchAll(/^\| `([^`]+)`[^|]*\| ([^|]+) \|$/gm)];
  expect(told.map(([, name]) => name).sort()).toEqual(Object.keys(dependencies).sort());
  for (const [, name, why] of told) expect(why?.length, name).toBeGreaterThan(10);
});
