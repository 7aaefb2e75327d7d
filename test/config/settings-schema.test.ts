import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv } from 'ajv';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parse, parseAllDocuments, stringify } from 'yaml';
import { fileKey } from '../../src/config/file.ts';
import { loadConfig } from '../../src/config/load.ts';
import { type Form, Invalid } from '../../src/config/readers.ts';
import { SINGLE_SETTINGS } from '../../src/config/settings.ts';
import { UsageError } from '../../src/lib/errors.ts';
import { settingsReference, settingsSchema } from './settings-schema.ts';

const PROJECT = join(import.meta.dirname, '..', '..');
const SCHEMA = 'deploy/watchdog.schema.json';

const validate = new Ajv({ strict: true, allowUnionTypes: true, strictRequired: false, strictTypes: false }).compile(
  settingsSchema(),
);
const schemaAccepts = (text: string): boolean =>
  validate(parse(text, { schema: 'core', uniqueKeys: false }) as unknown);

/** The problems that the watchdog finds. The flags are what a file may rely on. */
function problemsOf(text: string): readonly string[] {
  try {
    loadConfig({ headscaleApiKeyFile: '/a', adminTokenFile: '/t' }, { path: 'w.yaml', text });
    return [];
  } catch (error) {
    if (error instanceof UsageError) return error.problems;
    throw error;
  }
}

/** The settings in the repository: files of their own, those in Kubernetes objects, and those in the docs. */
function samples(): readonly (readonly [where: string, text: string])[] {
  const deploy = readdirSync(join(PROJECT, 'deploy'), { recursive: true, encoding: 'utf8' })
    // Helm's templates are no YAML before Helm has filled them in.
    .filter((name) => /\.ya?ml$/.test(name) && !name.includes('/templates/'))
    .map((name) => join('deploy', name));
  const docs = readdirSync(join(PROJECT, 'docs')).map((name) => join('docs', name));
  const pages = ['README.md', ...docs.filter((name) => name.endsWith('.md'))];
  return [
    ...deploy.flatMap((name) => settingsIn(name, readFileSync(join(PROJECT, name), 'utf8'))),
    ...pages.flatMap((name) =>
      [...readFileSync(join(PROJECT, name), 'utf8').matchAll(/```ya?ml\n([\s\S]*?)```/g)].flatMap(([, block = '']) =>
        settingsIn(name, block),
      ),
    ),
  ];
}

const OWN_KEYS = new Set(Object.keys((settingsSchema() as { properties: object }).properties));

/** A document counts as settings if most of its keys are. The settings in a ConfigMap are a text. */
function settingsIn(where: string, text: string): readonly (readonly [string, string])[] {
  return parseAllDocuments(text).flatMap((document) => {
    const value = 'toJS' in document ? (document.toJS() as unknown) : undefined;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return [];
    const keys = Object.keys(value);
    if (keys.filter((key) => OWN_KEYS.has(key)).length * 2 > keys.length) return [[where, String(document)] as const];
    const { data = {} } = value as { data?: Record<string, unknown> };
    return Object.entries(data).flatMap(([name, inner]) =>
      name === 'watchdog.yaml' ? [[`${where} ${name}`, String(inner)] as const] : [],
    );
  });
}

describe('the schema of the settings file', () => {
  test(`${SCHEMA} is made from the table of settings (vitest -u writes it anew)`, async () => {
    await expect(`${JSON.stringify(settingsSchema(), undefined, 2)}\n`).toMatchFileSnapshot(join(PROJECT, SCHEMA));
  });

  test('the docs have its reference, every key with its value and its default', () => {
    const page = readFileSync(join(PROJECT, 'docs', 'configuration.md'), 'utf8');
    const [, section = ''] = /\n## Every key of the file\n([\s\S]*?)(?:\n## |$)/.exec(page) ?? [];
    expect(section).toContain(`\n${settingsReference()}\n`);
  });

  test('accepts every sample in the repository, and so does the watchdog', () => {
    const found = samples();
    expect(found.length).toBeGreaterThan(7);
    for (const [where, text] of found) {
      expect([where, schemaAccepts(text), validate.errors]).toEqual([where, true, null]);
      expect([where, problemsOf(text)]).toEqual([where, []]);
    }
  });
});

const LIMITS = (form: Form): readonly number[] =>
  form.kind === 'number' ? [form.least - 1, form.least, form.most, form.most + 1] : [];

/** Values that are right, nearly right and wrong, for a setting that accepts `form`. */
function valuesFor(form: Form): fc.Arbitrary<unknown> {
  const number = fc.oneof(fc.nat({ max: 200 }), fc.nat({ max: 100_000_000 }), fc.constantFrom(0, 1, ...LIMITS(form)));
  const zeros = fc.constantFrom('', '', '', '0', '000');
  const unit = fc.constantFrom('ms', 's', 'm', 'h', 'd', 'B', 'KiB', 'MiB', 'GiB', 'kb', '');
  const host = fc.constantFrom('127.0.0.1', 'hs.example', '[::1]', '::1', '', 'a b', 'a/b', '[x]', 'user@h');
  const port = fc.oneof(
    fc.constantFrom(0, 1, 80, 65_535, 65_536, 99_999, '080', '000080', '', 'x'),
    fc.nat({ max: 70_000 }),
  );
  const scheme = fc.constantFrom(
    'http://',
    'https://',
    'HTTP://',
    'ftp://',
    'redis://',
    'rediss://',
    'redis+cluster://',
    'redis+sentinel://',
    '',
  );
  const path = fc.constantFrom('', '/', '/0', '/12', '/mymaster', '/mymaster/3', '/x/y/z', '?q=1', '#x', '/00000');
  const kinds: Record<Form['kind'], fc.Arbitrary<unknown>> = {
    duration: fc.tuple(zeros, number, unit).map((parts) => parts.join('')),
    hold: fc.tuple(zeros, number, unit).map((parts) => parts.join('')),
    size: fc.tuple(zeros, number, unit).map((parts) => parts.join('')),
    number: fc.oneof(
      number,
      fc.tuple(zeros, number).map((parts) => parts.join('')),
      fc.double(),
    ),
    boolean: fc.boolean(),
    words: fc.constantFrom(...(form.kind === 'words' ? form.words : []), 'OFF', 'debugs'),
    text: fc.string(),
    'plain name': fc.oneof(fc.stringMatching(/^[\w.:-]{0,62}$/), fc.string()),
    'secret file': fc.constantFrom(
      '/run/key',
      'mkey:x',
      './mkey:x',
      ' HSKEY-x',
      'a'.repeat(64),
      'F'.repeat(64),
      'abcde.abcdefghijklmnopqrstuv',
      'x.y',
      'x PrivKey:',
      'tk_x',
      'whsec_',
      '',
    ),
    key: fc
      .tuple(fc.constantFrom('mkey:', 'nodekey:', 'MKEY:', ''), fc.stringMatching(/^[0-9a-fA-F]{63,65}$/))
      .map((parts) => parts.join('')),
    address: fc.tuple(host, fc.constantFrom(':', ':', ':', ''), port).map((parts) => parts.join('')),
    'upstream URL': fc
      .tuple(scheme, host, fc.option(port, { nil: undefined }), path)
      .map(([a, b, c, d]) => `${a}${b}${c === undefined ? '' : `:${c}`}${d}`),
    'notify URL': fc.tuple(scheme, host, path).map((parts) => parts.join('')),
    'Redis URL': fc
      .tuple(
        scheme,
        fc.constantFrom('', 'w@', 'w%40@', 'w:p@'),
        fc.constantFrom('r', 'r:1', 'r:1,s', '[::1]:1', '', 'r:x'),
        path,
      )
      .map((parts) => parts.join('')),
  };
  return fc.oneof(
    { weight: 6, arbitrary: kinds[form.kind] },
    fc.constantFrom('off', 'auto', 'none', true, false, '', 'true', '1.5s', '0.5s', 1.5, 'x'),
    fc.string(),
    fc.integer(),
  );
}

/** The schema does not compare fractions exactly, and URLs are what URL parsers make of them. */
const isFraction = (value: unknown): boolean => /^\d+\.\d+(ms|s|m|h)$/.test(String(value));

describe('each setting by itself', () => {
  const table = Object.entries(SINGLE_SETTINGS) as readonly [
    string,
    { read: ((given: unknown) => unknown) & { form: Form } },
  ][];
  const properties = (settingsSchema() as { properties: Record<string, object> }).properties;

  test.each(table)(
    '%s: the schema accepts what the watchdog accepts, and refuses what it refuses',
    (name, { read }) => {
      const schema =
        name === 'metricsMaxNodes'
          ? (properties.metrics as { properties: Record<string, object> }).properties['max-nodes']
          : properties[fileKey(name)];
      const accepts = new Ajv().compile(schema ?? false);
      fc.assert(
        fc.property(valuesFor(read.form), (value) => {
          const isRight = !(read(value) instanceof Invalid);
          if (isRight || !isFraction(value)) expect([value, accepts(value)]).toEqual([value, isRight]);
        }),
        { numRuns: 150 },
      );
    },
  );
});

/** A file with every kind of thing in it. */
const WHOLE = {
  upstream: 'http://127.0.0.1:8082',
  'noise-key': '/var/lib/headscale/noise_private.key',
  listen: [
    '0.0.0.0:8080',
    'http://[::]:80?redirect=true',
    'https://0.0.0.0:443?cert=/c&key=/k&proxy-protocol=true',
    { address: '127.0.0.1:444', cert: '/c', key: '/k', 'proxy-protocol': false, redirect: false },
    { address: '127.0.0.1:81', redirect: true },
  ],
  'trusted-proxies': ['127.0.0.1', '10.0.0.0/8, fd00::/8', '2001:db8::1'],
  'admin-cors-origin': 'https://dash.example',
  'silent-after': '10s',
  'observe-only': false,
  'max-held': 5,
  metrics: { 'max-nodes': 50 },
  nodes: [
    { name: 'router-*', 'silent-after': '5s', hold: 'off' },
    { 'machine-key': `mkey:${'a'.repeat(64)}`, 'observe-only': true },
  ],
  notify: [
    { url: 'https://ntfy.example/topic', format: 'ntfy', events: ['node.*', 'takeover'], nodes: { user: 'alice' } },
    { url: 'https://u:p@hooks.example', events: 'upstream.down', nodes: [{ name: 'a' }, { user: 'b', name: 'c' }] },
  ],
};

/** What a problem says that several settings or flags make together. */
const OF_SEVERAL =
  /the same port as|is upstream's address|watchdog's own|names no topic|needs a token: add|has its secret in the URL|proxy-protocol needs trusted-proxies/;

type Path = readonly (string | number)[];

function pathsIn(value: unknown, path: Path = []): readonly Path[] {
  if (typeof value !== 'object' || value === null) return [path];
  return [path, ...Object.entries(value).flatMap(([key, inner]) => pathsIn(inner, [...path, key]))];
}

/** A copy with one place changed. */
function changed(value: unknown, [key, ...rest]: Path, change: (old: unknown) => unknown): unknown {
  if (key === undefined) return change(value);
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<string | number, unknown>;
  copy[key] = changed(copy[key], rest, change);
  return copy;
}

const GONE = Symbol('gone');
const withoutGone = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.filter((each) => each !== GONE).map(withoutGone);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, inner]) => (inner === GONE ? [] : [[key, withoutGone(inner)]])),
  );
};

const CHANGES: Readonly<Record<string, (old: unknown) => unknown>> = {
  removed: () => GONE,
  'in a list': (old) => [old],
  'in a mapping': (old) => ({ key: old }),
  'with another key': (old) => (typeof old === 'object' && !Array.isArray(old) ? { ...old, frobnicate: 1 } : 'x'),
  'with a key of another place': (old) =>
    typeof old === 'object' && !Array.isArray(old) ? { ...old, 'silent-after': '7s' } : old,
  'an empty list': () => [],
  'an empty mapping': () => ({}),
  nothing: () => null,
  ...Object.fromEntries(
    [
      0,
      7,
      true,
      false,
      'x',
      '',
      'off',
      'none',
      '30s',
      'https://0.0.0.0:443',
      'http://h:1?cert=/c',
      '10.0.0.0/0',
      '1.2.3',
    ].map((value) => [JSON.stringify(value), () => value]),
  ),
};

describe('a whole file', () => {
  test('with every kind of thing in it is accepted by both', () => {
    expect(problemsOf(stringify(WHOLE))).toEqual([]);
    expect([schemaAccepts(stringify(WHOLE)), validate.errors]).toEqual([true, null]);
  });

  test.each(Object.keys(CHANGES))('in which one place is %s: both refuse it, or neither', (change) => {
    for (const path of pathsIn(WHOLE).slice(1)) {
      const text = stringify(withoutGone(changed(WHOLE, path, CHANGES[change] as (old: unknown) => unknown)));
      const problems = problemsOf(text).filter((problem) => !OF_SEVERAL.test(problem));
      const where = `${path.join('.')} ${change}: ${problems.join('\n')}`;
      expect([where, schemaAccepts(text)]).toEqual([where, problems.length === 0]);
    }
  });
});
