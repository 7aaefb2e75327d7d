import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parse } from 'yaml';

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

/** What the admin API answers, as docs/api.md shows it. */
function sampleOf(request: string): unknown {
  const [, after = ''] = read('docs/api.md').split(`\n\`GET ${request}\`\n`);
  return JSON.parse(/```json\n([\s\S]*?)```/.exec(after)?.[1] ?? 'null');
}

function at(value: unknown, path: readonly string[]): unknown {
  return path.reduce((inner, key) => (inner as Record<string, unknown> | undefined)?.[key], value);
}

test('the examples for Home Assistant and Homepage read what the admin API answers', () => {
  const page = read('docs/dashboards.md');
  const answers = { health: sampleOf('/nodes/phone/health'), overview: sampleOf('/overview') };
  const templates = [...page.matchAll(/resource: \S*\/(health|overview)\n[\s\S]*?value_json\.([\w.]+)/g)];
  expect(templates.map(([, from]) => from)).toEqual(['health', 'overview']);
  for (const [, from, path = ''] of templates)
    expect(at(answers[from as keyof typeof answers], path.split('.')), path).toBeDefined();
  const homepage = [...page.matchAll(/```yaml\n(- Network[\s\S]*?)```/g)][0]?.[1] ?? '';
  const { mappings } = parse(homepage)[0].Network[0].Headscale.widget;
  expect(mappings).toHaveLength(3);
  for (const { field } of mappings)
    for (const path of Object.entries<string>(field)) expect(at(answers.overview, path)).toBeDefined();
});
