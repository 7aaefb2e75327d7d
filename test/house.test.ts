import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { describe, expect, test } from 'vitest';

const SOURCE = join(import.meta.dirname, '..', 'src');
const MOST_LINES = 400;
/** A file that is shorter is read together with whatever imports it, unless several files do. */
const FEW_LINES = 35;

/** Every TypeScript file but the page's types, by its path from `src`, with its text. */
const files = new Map(
  readdirSync(SOURCE, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ts') && !path.startsWith(join('admin', 'page')))
    .map((path) => [path, readFileSync(join(SOURCE, path), 'utf8')]),
);

const linesOf = (text: string): number => text.split('\n').length - 1;

function importersOf(path: string): readonly string[] {
  return [...files].flatMap(([importer, text]) => {
    const imported = [...text.matchAll(/(?:from |import\()'(\.[^']+)'/g)].map(([, specifier = '']) =>
      relative(SOURCE, join(SOURCE, dirname(importer), specifier)),
    );
    return imported.includes(path) ? [importer] : [];
  });
}

describe('src', () => {
  test('has only cli.ts and folders at its top', () => {
    expect(
      readdirSync(SOURCE, { withFileTypes: true }).flatMap((entry) => (entry.isFile() ? [entry.name] : [])),
    ).toEqual(['cli.ts']);
  });

  test(`has no file of more than ${MOST_LINES} lines`, () => {
    expect([...files].filter(([, text]) => linesOf(text) > MOST_LINES).map(([path]) => path)).toEqual([]);
  });

  test(`has no file of fewer than ${FEW_LINES} lines that only one other file imports`, () => {
    const short = [...files].filter(([, text]) => linesOf(text) < FEW_LINES).map(([path]) => path);
    expect(short.length).toBeGreaterThan(0);
    expect(short.filter((path) => importersOf(path).length < 2)).toEqual([]);
  });

  test('has few files, of more than 120 lines on average', () => {
    const lines = [...files.values()].reduce((sum, text) => sum + linesOf(text), 0);
    expect(files.size).toBeLessThanOrEqual(176);
    expect(lines / files.size).toBeGreaterThan(120);
  });

  test('loads no schema of the admin API while it runs: it uses only their types', () => {
    const schemas = ['schemas', 'views', 'availability-views'].map((name) => join('admin', `${name}.ts`));
    const loaded = [...files].flatMap(([path, text]) => {
      const imports = /^(import|export)(?! type\b)[^;]*?from '([^']*\/(schemas|(availability-)?views)\.ts)'/gm;
      return schemas.includes(path) ? [] : [...text.matchAll(imports)].map(([found]) => [path, found]);
    });
    expect(loaded).toEqual([]);
  });
});
