import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const PROJECT = join(import.meta.dirname, '..');
const docs = readdirSync(join(PROJECT, 'docs')).filter((name) => name.endsWith('.md'));
const pages = [
  'README.md',
  'SECURITY.md',
  'CHANGELOG.md',
  'CONTRIBUTING.md',
  ...docs.map((name) => join('docs', name)),
];
const read = (page: string): string => readFileSync(join(PROJECT, page), 'utf8');

test.each(pages)('every file of src, test and deploy that %s names exists', (page) => {
  for (const [, path = ''] of read(page).matchAll(/`((?:src|test|deploy)\/[\w./-]*)`/g))
    expect(existsSync(join(PROJECT, path)), path).toBe(true);
});

test('the architecture follows a connection through every folder on its way', () => {
  const named = new Set(
    [...read('docs/architecture.md').matchAll(/src\/([a-z]+)\/[\w-]+\.ts/g)].map(([, room]) => room),
  );
  for (const room of [
    'proxy',
    'pipeline',
    'streams',
    'identity',
    'liveness',
    'takeover',
    'replicas',
    'headscale',
    'app',
  ])
    expect([...named], room).toContain(room);
});

test('the architecture shows every folder of src', () => {
  const rooms = readdirSync(join(PROJECT, 'src'), { withFileTypes: true }).filter((entry) => entry.isDirectory());
  for (const { name } of rooms) expect(read('docs/architecture.md')).toContain(`${name}/ `);
});

test('the changelog starts with the version of package.json', () => {
  const { version } = JSON.parse(read('package.json')) as { version: string };
  const [, first] = /^## (.*)$/m.exec(read('CHANGELOG.md')) ?? [];
  expect(first).toContain(version);
});
