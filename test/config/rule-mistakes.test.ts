import { describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { UsageError } from '../../src/lib/errors.ts';

/** What an operator reads, a problem a line; with an API key, so that rules may be by name. */
function told(text: string, flags: Record<string, unknown> = { headscaleApiKeyFile: '/a' }): string {
  try {
    loadConfig(flags, { path: 'watchdog.yaml', text });
  } catch (error) {
    if (error instanceof UsageError) return error.problems.join('\n');
    throw error;
  }
  return '';
}

describe('loadConfig reports each mistake in a rule with its place and what to write instead', () => {
  test('rules without a condition or without a setting', () => {
    expect(
      told('nodes:\n  - name: a\n  - hold: off\n  - {}\n  -\n  - word\n  - { nam: a, hold: off }\n'),
    ).toMatchInlineSnapshot(`
      "watchdog.yaml:2:5: a rule must say what is different for these nodes: add one of silent-after, gone-after, probe-idle, hold, observe-only, offline-after
      watchdog.yaml:3:5: a rule must say which nodes it is about: add one of name, user, machine-key, node-key
      watchdog.yaml:4:5: a rule must say which nodes it is about: add one of name, user, machine-key, node-key
      watchdog.yaml:5:4: a rule: has no value: write { name: 'router-*', silent-after: 10s }, or remove the line
      watchdog.yaml:6:5: a rule: 'word' cannot be used here: write { name: 'router-*', silent-after: 10s }
      watchdog.yaml:7:7: 'nam' is not a setting here: did you mean name?"
    `);
  });

  test('rules by name, user or node key without an API key or an OAuth client', () => {
    const text = `nodes:
  - { machine-key: mkey:${'a1'.repeat(32)}, hold: off }
  - { hold: off, user: alice, name: 'r-*' }
  - name: 'r-*'
    machine-key: mkey:${'a1'.repeat(32)}
    hold: off
  - { node-key: nodekey:${'a1'.repeat(32)}, hold: off }
`;
    expect(told(text, {})).toMatchInlineSnapshot(`
      "watchdog.yaml:3:24: user: needs headscale-api-key-file or headscale-oauth-client-file, since only Headscale knows users: set one, or write machine-key instead
      watchdog.yaml:4:11: name: needs headscale-api-key-file or headscale-oauth-client-file, since only Headscale knows names: set one, or write machine-key instead
      watchdog.yaml:7:17: node-key: needs headscale-api-key-file or headscale-oauth-client-file, since only Headscale knows node keys: set one, or write machine-key instead"
    `);
    expect(told(text, { headscaleApiKeyFile: '/a' })).toBe('');
    expect(told(`headscale-api-key-file: /a\n${text}`, {})).toBe('');
    expect(told(`headscale-oauth-client-file: /a\n${text}`, {})).toBe('');
  });

  test('more than 500 rules, reported at the first surplus one', () => {
    const rules = (count: number, more = ''): string =>
      `nodes:\n${`  - { machine-key: mkey:${'a1'.repeat(32)}, hold: off }\n`.repeat(count)}${more}`;
    expect(told(rules(500))).toBe('');
    expect(told(rules(502, '  - { frobnicate: 1 }\n'))).toMatchInlineSnapshot(
      `"watchdog.yaml:502:5: a rule too many, 500 at most: write one rule for many nodes, by user or by a name like 'router-*'"`,
    );
  });
});
