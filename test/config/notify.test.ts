import { describe, expect, test } from 'vitest';
import { changesBetween } from '../../src/config/changes.ts';
import { loadConfig } from '../../src/config/load.ts';
import { formatTarget } from '../../src/config/notify.ts';
import { NOTICE_TYPES } from '../../src/config/types.ts';
import { UsageError } from '../../src/lib/errors.ts';

const load = (text: string, flags: Record<string, unknown> = { headscaleApiKeyFile: '/a' }) =>
  loadConfig(flags, { path: 'w.yaml', text });

function told(text: string, flags?: Record<string, unknown>): string {
  try {
    load(text, flags);
  } catch (error) {
    if (error instanceof UsageError) return error.problems.join('\n');
    throw error;
  }
  return '';
}

describe('notify:', () => {
  test('reads targets, with their defaults', () => {
    const { notify, policy, rules } = load(`offline-after: 5m
nodes: [{ name: 'phone-*', offline-after: off }]
notify:
  - url: https://hooks.example/a
  - url: https://ntfy.sh/topic
    format: ntfy
    secret-file: /etc/token
    events: [node.off*, takeover, 'UPSTREAM.*']
    nodes:
      - name: 'router-*'
        user: alice
      - node-key: nodekey:${'a1'.repeat(32)}
`);
    expect(notify).toEqual([
      {
        ...{ url: new URL('https://hooks.example/a'), format: 'standard', secretFile: undefined, nodes: undefined },
        types: NOTICE_TYPES.filter((type) => type !== 'takeover'),
      },
      {
        ...{ url: new URL('https://ntfy.sh/topic'), format: 'ntfy', secretFile: '/etc/token' },
        types: ['node.offline', 'upstream.down', 'upstream.up', 'takeover'],
        nodes: [{ name: 'router-*', user: 'alice' }, { nodeKey: 'a1'.repeat(32) }],
      },
    ]);
    expect(policy.offlineAfterMs).toBe(300_000);
    expect(rules[0]?.policy).toEqual({ offlineAfterMs: 0 });
    expect(load('notify: { url: http://h/a }').notify).toHaveLength(1);
    expect(load('upstream: http://h:1').notify).toEqual([]);
    expect(load('upstream: http://h:1').policy.offlineAfterMs).toBe(120_000);
  });

  test('reports every mistake, with line and column and what to write', () => {
    expect(
      told(`notify:
  - events: [node.ofline]
    nodes: []
  - url: ftp://h/a
    format: nfty
    evnts: [node.offline]
  - { url: https://h/, format: ntfy, events: [] }
  - { url: https://h/a, format: gotify, events: frobnicate }
  - { url: https://h/a, format: slack, secret-file: /f, events: [[a]] }
  - { url: https://u:p@h/a, format: text, secret-file: /f, nodes: [{}] }
  - { url: https://h/a, nodes: router-1, events: }
  - { url: https://h/a, nodes: { nmae: a }, secret-file: 7 }
  -
  - { url: https://h/a, url: https://h/b }
`),
    ).toMatchInlineSnapshot(`
      "w.yaml:2:14: events: 'node.ofline' is no event: did you mean node.offline?
      w.yaml:3:12: nodes: the list is empty: write a condition, or remove the line
      w.yaml:4:10: url: this is not a URL for notifications: write https://HOST/PATH
      w.yaml:5:13: format: 'nfty' is unknown: write one of standard, ntfy, gotify, slack, discord, text
      w.yaml:6:5: 'evnts' is not a setting here: did you mean events?
      w.yaml:7:12: url: names no topic: write https://ntfy.sh/TOPIC
      w.yaml:7:46: events: names no event: write one of node.offline, node.online, node.duplicate, node.expiring, node.disagrees, upstream.down, upstream.up, key.mismatch, takeover
      w.yaml:8:5: gotify needs a token: add secret-file: FILE, a file with the token of the application
      w.yaml:8:49: events: 'frobnicate' is no event: write one of node.offline, node.online, node.duplicate, node.expiring, node.disagrees, upstream.down, upstream.up, key.mismatch, takeover, or a pattern like node.*
      w.yaml:9:53: secret-file: slack has its secret in the URL: remove secret-file
      w.yaml:9:66: events: a list cannot be used here: write a single value, or a list of them
      w.yaml:10:12: url: has a user, and secret-file holds a token, but only one of them can be sent: remove the other
      w.yaml:10:68: nodes: has no condition: write one like { name: 'router-*' }
      w.yaml:11:32: nodes: 'router-1' cannot be used here: write conditions like { name: 'router-*' }, or a list of them
      w.yaml:11:42: events: has no value: write a single value, or a list of them, or remove the line
      w.yaml:12:34: 'nmae' is not a setting here: did you mean name?
      w.yaml:12:58: secret-file: '7' is a number to YAML: put it in quotes, '7'
      w.yaml:13:4: notify: has no value: write a list of targets, each like - { url: https://ntfy.sh/TOPIC, format: ntfy }, or remove the line
      w.yaml:14:25: 'url' is set twice, first in line 14: remove one"
    `);
  });

  test('conditions by name, user or node key need an API key', () => {
    expect(told("notify: { url: https://h/a, nodes: { name: 'r-*' } }", {})).toMatchInlineSnapshot(
      `"w.yaml:1:44: name: needs headscale-api-key-file or headscale-oauth-client-file, since only Headscale knows names: set one, or write machine-key instead"`,
    );
    expect(told(`notify: { url: https://h/a, nodes: { machine-key: mkey:${'a1'.repeat(32)} } }`, {})).toBe('');
  });

  test('fifty targets at most', () => {
    const targets = (count: number): string => `notify:\n${'  - url: https://h/a\n'.repeat(count)}`;
    expect(told(targets(50))).toBe('');
    expect(told(targets(51))).toBe('w.yaml:52:5: a target too many, 50 at most: remove some');
  });
});

describe('secrets in URLs', () => {
  test.each([
    'https://SECRET@h/a',
    'https://user:SECRET@h/a',
    'https://h/services/SECRET',
    'https://h/a?token=SECRET',
    'https://h/a#SECRET',
  ])('%s is shown without them', (url) => {
    const [target] = load(`notify: { url: '${url}' }`).notify;
    expect(target && formatTarget(target)).toBe('standard, https://h/…');
  });

  test.each([
    'notify: https://h/SECRET',
    'notify: [https://h/SECRET]',
    'notify: { url: [https://h/SECRET] }',
    'notify: { url: ftp://h/SECRET }',
    'notify: { url: https//h/SECRET }',
    'notify: { https://h/SECRET }',
    'notify: [{ url: https://h/a, events: https://h/SECRET }]',
    'notify: [{ url: https://h/a, nodes: https://h/SECRET }]',
    'notify: [{ url: https://h/SECRET, frmat: ntfy }]',
    'notify: [{ url: https://h/SECRET, format: ntfy, secret-file: [x] }]',
    'notify: [{ url: https://h/a, format: https://h/SECRET }]',
    'notify: [{ url: https://h/a, secret-file: whsec_SECRET }]',
    'notify: [{ url: https://h/a, secret-file: tk_SECRET }]',
    'nodes: [https://h/SECRET]',
    'https://h/SECRET',
  ])('no problem shows them: %s', (text) => {
    expect(told(text)).not.toBe('');
    expect(told(text)).not.toContain('SECRET');
  });

  test('a reload tells that targets have changed, and nothing of them', () => {
    const none = load('drain: off');
    const one = load('{ drain: off, notify: { url: https://h/SECRET1 } }');
    const other = load('{ drain: off, notify: { url: https://h/SECRET2 } }');
    expect(changesBetween(none, one).changes).toEqual(['notify: 0 targets → 1 target']);
    expect(changesBetween(one, other).changes).toEqual(['notify: changed']);
    expect(changesBetween(one, load('{ drain: off, notify: { url: https://h/SECRET1 } }')).changes).toEqual([]);
  });
});
