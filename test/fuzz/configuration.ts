import assert from 'node:assert/strict';
import fc from 'fast-check';
import { loadConfig } from '../../src/config/load.ts';
import { kebabCase } from '../../src/config/problems.ts';
import { SETTING_NAMES } from '../../src/config/settings.ts';
import { UsageError } from '../../src/lib/errors.ts';
import { mutated, target } from './target.ts';

const PATH = 'fuzz.yaml';
const KEYS = [
  ...SETTING_NAMES.map(kebabCase),
  'metrics',
  'nodes',
  'max-nodes',
  'name',
  'tls-cert',
  '__proto__',
  '""',
  '*a',
];
const word = fc.oneof(
  fc.constantFrom(
    ...['30s', '2m', '-1s', 'off', 'auto', 'true', 'null', '~', '0x10', '.nan', '.inf', '1e400', '1_000', '0.0.0.0:80'],
    ...[
      'http://h:1',
      'https://[::1]',
      'http://u:p@h',
      ':8081',
      '[::1]:x',
      '10.0.0.0/8',
      '10.0.0.0/99',
      '::/0',
      '!!binary x',
    ],
    ...['&a x', '*a', '"unended', '{', '[a, b', '- ', '|', '>', '%YAML 1.1', '---', '...', '\t', '?', 'mkey:0', "''"],
  ),
  fc.string({ unit: 'binary', maxLength: 20 }),
  fc.double().map(String),
);

const value: fc.Arbitrary<string> = fc.oneof(
  word,
  fc.array(word, { maxLength: 4 }).map((words) => `[${words.join(', ')}]`),
  fc
    .array(fc.tuple(fc.constantFrom(...KEYS), word), { maxLength: 4 })
    .map((entries) => `{ ${entries.map(([key, text]) => `${key}: ${text}`).join(', ')} }`),
);
const line = fc.tuple(fc.constantFrom(...KEYS), value, fc.constantFrom('', '', '  ', '- ', '  - '));
const yaml = fc
  .array(line, { maxLength: 10 })
  .map((lines) => lines.map(([key, text, indent]) => `${indent}${key}: ${text}\n`).join(''));
const text = fc.oneof(
  yaml,
  mutated(yaml.map((each) => Buffer.from(each))).map(String),
  fc.string({ unit: 'binary', maxLength: 200 }),
);
const flagValue = fc.oneof(word, fc.boolean(), fc.array(word, { minLength: 1, maxLength: 3 }), fc.constant(undefined));
const flags = fc.dictionary(fc.oneof(fc.constantFrom(...SETTING_NAMES), fc.string({ maxLength: 8 })), flagValue, {
  maxKeys: 5,
});

/** A configuration, or each mistake with its place; nothing else is thrown. */
export const configuration = target(
  'configuration',
  0.15,
  fc.tuple(fc.option(text, { nil: undefined }), flags),
  ([file, given]) => {
    try {
      const config = loadConfig(given, file === undefined ? undefined : { path: PATH, text: file });
      assert.ok(config.listen.length > 0);
      assert.ok(Number.isFinite(config.policy.silentAfterMs) && config.policy.silentAfterMs > 0);
      assert.ok(Number.isFinite(config.drainMs));
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      assert.ok(error.problems.length > 0);
      for (const problem of error.problems) assert.match(problem, /^(--|fuzz\.yaml:\d+:\d+: ).+/s);
    }
  },
);
