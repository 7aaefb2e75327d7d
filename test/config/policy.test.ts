import { describe, expect, test } from 'vitest';
import { globMatches, policyFor, policyForAny, ruleFor, type Who } from '../../src/config/policy.ts';
import type { NodePolicy, NodeRule } from '../../src/config/types.ts';
import type { MachineKey, NodeKey } from '../../src/identity/keys.ts';
import type { NodeInfo } from '../../src/identity/node-info.ts';
import { nodeInfo } from '../headscale/node-answers.ts';

const machineKey = 'a'.repeat(64) as MachineKey;
const nodeKey = 'b'.repeat(64) as NodeKey;
const policy: NodePolicy = {
  silentAfterMs: 30_000,
  goneAfterMs: 120_000,
  probeIdleMs: 0,
  hold: { kind: 'auto' },
  observeOnly: false,
  offlineAfterMs: 120_000,
};
const who: Who = { machineKey, node: nodeInfo('a', { nodeKey, name: 'router-1', user: 'alice' }) };
const unknown: Who = { machineKey, node: undefined };

function indexFor(rules: readonly NodeRule['match'][], whom: Who): number | undefined {
  return ruleFor({ rules: rules.map((match) => ({ match, policy: {} })) }, whom)?.index;
}

describe('policyFor', () => {
  test('if no rule matches, it is the policy for all nodes', () => {
    expect(policyFor({ policy, rules: [], apiKeyFile: '/a', oauthClientFile: undefined }, who)).toBe(policy);
    const rules: NodeRule[] = [{ match: { user: 'bob' }, policy: { observeOnly: true } }];
    expect(policyFor({ policy, rules, apiKeyFile: '/a', oauthClientFile: undefined }, who)).toBe(policy);
  });

  test('the first matching rule changes only its own settings', () => {
    const rules: NodeRule[] = [
      { match: { name: 'phone-*' }, policy: { silentAfterMs: 1 } },
      { match: { name: 'router-*' }, policy: { silentAfterMs: 10_000, probeIdleMs: 5000 } },
      { match: { user: 'alice' }, policy: { hold: { kind: 'off' }, silentAfterMs: 2 } },
    ];
    expect(policyFor({ policy, rules, apiKeyFile: '/a', oauthClientFile: undefined }, who)).toEqual({
      ...policy,
      silentAfterMs: 10_000,
      probeIdleMs: 5000,
    });
  });
});

describe('policyForAny', () => {
  const nodes = [who.node, { ...who.node, id: '2', name: 'laptop', user: 'bob' }] as NodeInfo[];
  const rules: NodeRule[] = [
    { match: { user: 'alice' }, policy: { silentAfterMs: 10_000 } },
    { match: { user: 'bob' }, policy: { observeOnly: true } },
    { match: { user: 'carol' }, policy: { silentAfterMs: 90_000 } },
  ];
  const config = { policy, rules, apiKeyFile: '/a', oauthClientFile: undefined };

  test("for one node it is that node's policy; for several nodes of a machine it is the most careful of theirs", () => {
    expect(policyForAny(config, machineKey, nodes.slice(0, 1))).toEqual({ ...policy, silentAfterMs: 10_000 });
    expect(policyForAny(config, machineKey, nodes)).toEqual({ ...policy, observeOnly: true });
  });

  test('if it may be any node, it is the most careful of all rules', () => {
    expect(policyForAny(config, machineKey, undefined)).toEqual({
      ...policy,
      silentAfterMs: 90_000,
      observeOnly: true,
    });
  });
});

const MIN = 60_000;
const other = 'c'.repeat(64) as MachineKey;

describe('policyFor, for a node that Headscale does not list,', () => {
  const careful = (rules: readonly NodeRule[], forAll: Partial<NodePolicy> = {}, whom: Who = unknown): NodePolicy =>
    policyFor({ policy: { ...policy, ...forAll }, rules, apiKeyFile: '/a', oauthClientFile: undefined }, whom);
  const byName = (changes: Partial<NodePolicy>, match: NodeRule['match'] = { name: 'r-*' }): NodeRule => ({
    match,
    policy: changes,
  });

  test('is the policy for all nodes if no rule can apply', () => {
    expect(careful([])).toEqual(policy);
    expect(careful([byName({ observeOnly: true }, { machineKey: other, name: '*' })])).toEqual(policy);
  });

  test('observes only, if any rule that may apply does, or the policy for all nodes', () => {
    expect(careful([byName({}), byName({ observeOnly: true }, { user: 'alice' })]).observeOnly).toBe(true);
    expect(careful([byName({ observeOnly: false })], { observeOnly: true }).observeOnly).toBe(true);
    expect(careful([byName({ hold: { kind: 'off' } })]).observeOnly).toBe(false);
  });

  test('waits as long as the slowest of the rules and the policy for all nodes', () => {
    const rules = [byName({ silentAfterMs: MIN, goneAfterMs: 10_000 }), byName({ silentAfterMs: 1000 }, { nodeKey })];
    expect(careful(rules)).toEqual({ ...policy, silentAfterMs: MIN });
    expect(careful([byName({ goneAfterMs: 10 * MIN })]).goneAfterMs).toBe(10 * MIN);
  });

  test('never ends it as gone, and does not probe it, if any rule that may apply does not', () => {
    const probing = { goneAfterMs: 2 * MIN, probeIdleMs: 10_000 };
    expect(careful([byName({ probeIdleMs: 20_000 })], probing)).toMatchObject({ ...probing, probeIdleMs: 20_000 });
    expect(careful([byName({ probeIdleMs: 0 })], probing)).toMatchObject({ ...probing, probeIdleMs: 0 });
    const never = [byName({ goneAfterMs: 0, probeIdleMs: 0 }), byName({ goneAfterMs: MIN })];
    expect(careful(never, probing)).toMatchObject({ goneAfterMs: 0, probeIdleMs: 0 });
    expect(careful([byName(probing)])).toMatchObject({ goneAfterMs: 2 * MIN, probeIdleMs: 0 });
  });

  test('holds as the policy for all nodes does', () => {
    expect(careful([byName({ hold: { kind: 'off' } })]).hold).toEqual(policy.hold);
  });

  test('ignores the rules after the first one that certainly applies, and the policy for all nodes', () => {
    const sure = byName({ silentAfterMs: 5000, hold: { kind: 'off' } }, { machineKey });
    const after = byName({ observeOnly: true });
    expect(careful([sure, after])).toEqual({ ...policy, ...sure.policy });
    const rules = [byName({ silentAfterMs: 7000, goneAfterMs: MIN }, { machineKey, user: 'alice' }), sure, after];
    expect(careful(rules)).toEqual({ ...policy, silentAfterMs: 7000 });
  });

  test('follows the rules as soon as Headscale lists the node', () => {
    const rules = [byName({ observeOnly: true }), byName({ silentAfterMs: 1000 }, { user: 'alice' })];
    expect(careful(rules, {}, who)).toEqual({ ...policy, silentAfterMs: 1000 });
  });

  test('is the most careful one with an OAuth client in place of the API key too', () => {
    const rules = [byName({ observeOnly: true })];
    const config = { policy, rules, apiKeyFile: undefined, oauthClientFile: '/o' };
    expect(policyFor(config, unknown)).toEqual({ ...policy, observeOnly: true });
    expect(policyFor({ ...config, oauthClientFile: undefined }, unknown)).toEqual(policy);
  });

  test('is the policy for all nodes without a machine key, and follows the rules without an API key', () => {
    const rules = [byName({ observeOnly: true }), byName({ silentAfterMs: 1000 }, { machineKey })];
    expect(careful(rules, {}, { machineKey: undefined, node: undefined })).toEqual(policy);
    expect(policyFor({ policy, rules, apiKeyFile: undefined, oauthClientFile: undefined }, unknown)).toEqual({
      ...policy,
      silentAfterMs: 1000,
    });
  });
});

describe('ruleFor', () => {
  test('returns the first matching rule and its index', () => {
    expect(indexFor([{ user: 'bob' }, { name: 'r*' }, { user: 'alice' }], who)).toBe(1);
    expect(indexFor([{ user: 'bob' }], who)).toBeUndefined();
  });

  test('needs every condition of a rule to match', () => {
    expect(indexFor([{ name: 'router-1', user: 'alice', machineKey, nodeKey }], who)).toBe(0);
    expect(indexFor([{ name: 'router-1', user: 'bob' }], who)).toBeUndefined();
    expect(indexFor([{ machineKey, nodeKey: 'c'.repeat(64) as NodeKey }], who)).toBeUndefined();
    expect(indexFor([{ machineKey: 'c'.repeat(64) as MachineKey, user: 'alice' }], who)).toBeUndefined();
  });

  test('matches a node that Headscale does not list only by its machine key', () => {
    expect(indexFor([{ name: '*' }, { user: 'alice' }, { nodeKey }, { machineKey }], unknown)).toBe(3);
    expect(indexFor([{ machineKey, name: '*' }], unknown)).toBeUndefined();
    expect(indexFor([{ machineKey }], { machineKey: undefined, node: undefined })).toBeUndefined();
  });

  test('compares users exactly: no glob, and case matters', () => {
    expect(indexFor([{ user: 'a*' }, { user: 'Alice' }], who)).toBeUndefined();
  });
});

describe('globMatches', () => {
  test.each([
    ['router-1', 'router-1', true],
    ['router-1', 'router-10', false],
    ['ROUTER-*', 'router-1', true],
    ['router-*', 'Router-1', true],
    ['router-*', 'router-', true],
    ['*', '', true],
    ['*', 'x', true],
    ['**', 'x', true],
    ['?', '', false],
    ['?', 'x', true],
    ['??', 'x', false],
    ['?*', 'x', true],
    ['*?', '', false],
    ['*-gw-?', 'a-gw-b-gw-1', true],
    ['*-gw-?', 'a-gw-10', false],
    ['a*b*c', 'axxbxxbc', true],
    ['a*b*c', 'axxbxxbcd', false],
    ['a.c', 'abc', false],
    ['[ab]', 'a', false],
    ['', '', true],
    ['', 'a', false],
    ['?', '\u{1f4f1}', true],
    ['??', '\u{1f4f1}', false],
    ['*?b', '\u{1f4f1}\u{1f4f1}b', true],
    ['*???', '\u{1f4f1}b', false],
    ['*?aa?', '\u{1f4f1}aab', true],
    ['*\u{1f4f1}', 'a\u{1f4f1}', true],
    ['?\u{1f4f1}', '\u{1f4f2}\u{1f4f1}', true],
  ])('%j on %j: %s', (glob, name, expected) => {
    expect(globMatches(glob, name)).toBe(expected);
  });

  test('agrees with a regular expression on all short globs and names', () => {
    const words = (alphabet: string, length: number): string[] =>
      length === 0
        ? ['']
        : words(alphabet, length - 1).flatMap((word) => [word, ...[...alphabet].map((c) => word + c)]);
    const names = [...new Set(words('ab', 4))];
    for (const glob of new Set(words('ab*?', 4))) {
      const regex = new RegExp(`^${glob.replaceAll('*', '.*').replaceAll('?', '.')}$`);
      const wrong = names.filter((name) => globMatches(glob, name) !== regex.test(name));
      expect(wrong, glob).toEqual([]);
    }
  });

  test('is fast with a glob on which a regular expression would take very long', () => {
    expect(globMatches('*a'.repeat(200), `${'a'.repeat(5000)}b`)).toBe(false);
  });
});
