import { describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { UsageError } from '../../src/lib/errors.ts';

/** What an operator reads, a problem a line; with an API key, so that rules may be by name. */
function told(text: string): string {
  try {
    loadConfig({ headscaleApiKeyFile: '/a' }, { path: 'watchdog.yaml', text });
  } catch (error) {
    if (error instanceof UsageError) return error.problems.join('\n');
    throw error;
  }
  return '';
}

describe('loadConfig reports each mistake of a file with its place and what to write instead', () => {
  test('unknown keys', () => {
    expect(
      told(`upstram: http://h:1
silent-aftr: 30s
silentAfter: 30s
Noise_Key: x
metrics-max-nodes: 3
config: x
metrics: { max-node: 3 }
nodes:
  - { nmae: x, hold: off }
  - { name: x, hold: off, frobnicate: 1, upstream: x }
toString: 1
"": 1
${'x'.repeat(500)}: 1
`),
    ).toMatchInlineSnapshot(
      `
      "watchdog.yaml:1:1: 'upstram' is not a setting here: did you mean upstream?
      watchdog.yaml:2:1: 'silent-aftr' is not a setting here: did you mean silent-after?
      watchdog.yaml:3:1: 'silentAfter' is not a setting here: did you mean silent-after?
      watchdog.yaml:4:1: 'Noise_Key' is not a setting here: did you mean noise-key?
      watchdog.yaml:5:1: 'metrics-max-nodes' is the name of the flag: write metrics: { max-nodes: 1000 }
      watchdog.yaml:6:1: 'config' is only a flag, since it names this file: remove it
      watchdog.yaml:7:12: 'max-node' is not a setting here: did you mean max-nodes?
      watchdog.yaml:9:7: 'nmae' is not a setting here: did you mean name?
      watchdog.yaml:10:27: 'frobnicate' is not a setting here: write one of name, user, machine-key, node-key, silent-after, gone-after, probe-idle, hold, observe-only, offline-after
      watchdog.yaml:10:42: 'upstream' is not a setting here: write one of name, user, machine-key, node-key, silent-after, gone-after, probe-idle, hold, observe-only, offline-after
      watchdog.yaml:11:1: 'toString' is not a setting here: write one of upstream, noise-key, headscale-api-key-file, headscale-oauth-client-file, listen, trusted-proxies, admin, admin-token-file, silent-after, gone-after, probe-idle, hold, observe-only, reconcile, upstream-silent-sever, max-connections, max-connections-per-address, max-handshakes, max-handshakes-per-address, max-streams-per-node, max-held, max-header-size, header-timeout, max-body-size, body-timeout, max-early-size, upstream-rate, upstream-burst, max-history, max-history-file-size, redis, redis-password-file, redis-ca-file, redis-prefix, replica-name, offline-after, admin-read-token-file, admin-cors-origin, acme-webroot, drain, history-file, log-level, metrics, nodes, notify
      watchdog.yaml:12:1: '' is not a setting here: write one of upstream, noise-key, headscale-api-key-file, headscale-oauth-client-file, listen, trusted-proxies, admin, admin-token-file, silent-after, gone-after, probe-idle, hold, observe-only, reconcile, upstream-silent-sever, max-connections, max-connections-per-address, max-handshakes, max-handshakes-per-address, max-streams-per-node, max-held, max-header-size, header-timeout, max-body-size, body-timeout, max-early-size, upstream-rate, upstream-burst, max-history, max-history-file-size, redis, redis-password-file, redis-ca-file, redis-prefix, replica-name, offline-after, admin-read-token-file, admin-cors-origin, acme-webroot, drain, history-file, log-level, metrics, nodes, notify
      watchdog.yaml:13:1: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…' is not a setting here: write one of upstream, noise-key, headscale-api-key-file, headscale-oauth-client-file, listen, trusted-proxies, admin, admin-token-file, silent-after, gone-after, probe-idle, hold, observe-only, reconcile, upstream-silent-sever, max-connections, max-connections-per-address, max-handshakes, max-handshakes-per-address, max-streams-per-node, max-held, max-header-size, header-timeout, max-body-size, body-timeout, max-early-size, upstream-rate, upstream-burst, max-history, max-history-file-size, redis, redis-password-file, redis-ca-file, redis-prefix, replica-name, offline-after, admin-read-token-file, admin-cors-origin, acme-webroot, drain, history-file, log-level, metrics, nodes, notify"
    `,
    );
  });

  test('wrong values', () => {
    expect(
      told(`silent-after: 30
gone-after: true
probe-idle: 1d
hold: 2
listen: 8081
upstream: 3
noise-key: 7
headscale-api-key-file: ""
log-level: off
observe-only: "true"
upstream-silent-sever: yes
metrics:
  max-nodes: 1.5
nodes:
  - { name: 1, user: true, machine-key: nodekey:12, node-key: 'x', silent-after: 5, observe-only: no }
`),
    ).toMatchInlineSnapshot(`
      "watchdog.yaml:1:15: silent-after: '30' has no unit: write 30s, 30ms, 30m or 30h
      watchdog.yaml:2:13: gone-after: 'true' is not a duration: write 1500ms, 30s, 2m or 1h, or off
      watchdog.yaml:3:13: probe-idle: '1d' is not a duration: write 1500ms, 30s, 2m or 1h, or off
      watchdog.yaml:4:7: hold: '2' has no unit: write 2s, 2ms, 2m or 2h
      watchdog.yaml:5:9: listen: '8081' is not HOST:PORT: write 0.0.0.0:8081
      watchdog.yaml:6:11: upstream: '3' is not a URL of Headscale: write http://HOST:PORT or https://HOST:PORT
      watchdog.yaml:7:12: noise-key: '7' is a number to YAML: put it in quotes, '7'
      watchdog.yaml:8:25: headscale-api-key-file: needs the path of a file
      watchdog.yaml:9:12: log-level: 'off' is unknown: write one of debug, info, warn, error, silent
      watchdog.yaml:10:15: observe-only: 'true' is text: write true without quotes
      watchdog.yaml:11:24: upstream-silent-sever: 'yes' cannot be used: write true or false
      watchdog.yaml:13:14: metrics.max-nodes: '1.5' cannot be used: write a whole number from 0 to 100000
      watchdog.yaml:15:13: name: '1' is a number to YAML: put it in quotes, '1'
      watchdog.yaml:15:22: user: 'true' is a boolean to YAML: put it in quotes, 'true'
      watchdog.yaml:15:41: machine-key: 'nodekey:12' is not a machine key: write mkey: and 64 hex digits, 0-9 and a-f
      watchdog.yaml:15:63: node-key: 'x' is not a node key: write nodekey: and 64 hex digits, 0-9 and a-f
      watchdog.yaml:15:82: silent-after: '5' has no unit: write 5s, 5ms, 5m or 5h
      watchdog.yaml:15:99: observe-only: 'no' cannot be used: write true or false"
    `);
  });

  test('values that YAML reads as infinite or not a number', () => {
    expect(
      told(`silent-after: .nan
gone-after: .inf
hold: -.inf
metrics: { max-nodes: .NaN }
upstream: .inf
observe-only: .nan
nodes: [{ machine-key: .nan, hold: .inf }]
`),
    ).toMatchInlineSnapshot(`
      "watchdog.yaml:1:15: silent-after: 'NaN' is not a duration: write 1500ms, 30s, 2m or 1h
      watchdog.yaml:2:13: gone-after: 'Infinity' is not a duration: write 1500ms, 30s, 2m or 1h, or off
      watchdog.yaml:3:7: hold: '-Infinity' is not a duration, 'auto' or 'off': write 1500ms, auto or off
      watchdog.yaml:4:23: metrics.max-nodes: 'NaN' cannot be used: write a whole number from 0 to 100000
      watchdog.yaml:5:11: upstream: 'Infinity' is not a URL of Headscale: write http://HOST:PORT or https://HOST:PORT
      watchdog.yaml:6:15: observe-only: 'NaN' cannot be used: write true or false
      watchdog.yaml:7:24: machine-key: 'NaN' is not a machine key: write mkey: and 64 hex digits, 0-9 and a-f
      watchdog.yaml:7:36: hold: 'Infinity' is not a duration, 'auto' or 'off': write 1500ms, auto or off"
    `);
  });

  test('values of the wrong kind, and keys without a value', () => {
    expect(told('silent-after:\nhold: ~\nnodes:\nmetrics:\n')).toMatchInlineSnapshot(`
      "watchdog.yaml:1:1: silent-after: has no value: write a single value, or remove the line
      watchdog.yaml:2:1: hold: has no value: write a single value, or remove the line
      watchdog.yaml:3:1: nodes: has no value: write a list of rules, each like - { name: 'router-*', silent-after: 10s }, or remove the line
      watchdog.yaml:4:1: metrics: has no value: write metrics: { max-nodes: 1000 }, or remove the line"
    `);
    expect(told('hold: [1s]\nnodes: { name: a }\nmetrics: 3\nadmin: { a: 1 }\n')).toMatchInlineSnapshot(`
      "watchdog.yaml:1:7: hold: a list cannot be used here: write a single value
      watchdog.yaml:2:8: nodes: a mapping cannot be used here: write a list of rules, each like - { name: 'router-*', silent-after: 10s }
      watchdog.yaml:3:10: metrics: '3' cannot be used here: write metrics: { max-nodes: 1000 }
      watchdog.yaml:4:8: admin: a mapping cannot be used here: write a single value"
    `);
    expect(told('nodes: 3\nmetrics: []\n')).toMatchInlineSnapshot(`
      "watchdog.yaml:1:8: nodes: '3' cannot be used here: write a list of rules, each like - { name: 'router-*', silent-after: 10s }
      watchdog.yaml:2:10: metrics: a list cannot be used here: write metrics: { max-nodes: 1000 }"
    `);
  });

  test.each(['', ' \n\t\r\n', '\ufeff', '\n'.repeat(1000)])('an empty file: %j', (text) => {
    expect(told(text)).toBe('watchdog.yaml:1:1: the file is empty: write at least one setting, or remove --config');
  });

  test('a key that comes twice', () => {
    expect(
      told('hold: off\nhold: auto\nfoo: 1\nfoo: 2\nnodes: [{ name: a, "name": b, hold: off }]'),
    ).toMatchInlineSnapshot(`
      "watchdog.yaml:2:1: 'hold' is set twice, first in line 1: remove one
      watchdog.yaml:3:1: 'foo' is not a setting here: write one of upstream, noise-key, headscale-api-key-file, headscale-oauth-client-file, listen, trusted-proxies, admin, admin-token-file, silent-after, gone-after, probe-idle, hold, observe-only, reconcile, upstream-silent-sever, max-connections, max-connections-per-address, max-handshakes, max-handshakes-per-address, max-streams-per-node, max-held, max-header-size, header-timeout, max-body-size, body-timeout, max-early-size, upstream-rate, upstream-burst, max-history, max-history-file-size, redis, redis-password-file, redis-ca-file, redis-prefix, replica-name, offline-after, admin-read-token-file, admin-cors-origin, acme-webroot, drain, history-file, log-level, metrics, nodes, notify
      watchdog.yaml:4:1: 'foo' is set twice, first in line 3: remove one
      watchdog.yaml:5:20: 'name' is set twice, first in line 5: remove one"
    `);
  });

  test('a glob without quotes, which YAML reads as an alias', () => {
    expect(told('nodes:\n  - name: *-router\n    hold: off\n')).toMatchInlineSnapshot(
      `"watchdog.yaml:2:11: name: *-router is a YAML alias, and aliases are not read here: write the value itself; put a name pattern in quotes, '*-router'"`,
    );
    expect(told('nodes:\n  - name: *\n    hold: off\n')).toMatchInlineSnapshot(
      `"watchdog.yaml:2:11: * is a YAML alias, and aliases are not read here: write the value itself; put a name pattern in quotes, '*'"`,
    );
  });

  test('anchors, aliases and merge keys', () => {
    expect(
      told('hold: &h off\nnodes:\n  - &a { name: a, hold: *h }\n  - <<: *a\n    name: b\n'),
    ).toMatchInlineSnapshot(`
      "watchdog.yaml:3:25: hold: *h is a YAML alias, and aliases are not read here: write the value itself; put a name pattern in quotes, '*h'
      watchdog.yaml:4:5: '<<' merges mappings in other YAML files, but not here: write the settings themselves"
    `);
    expect(told('nodes: *a\nmetrics: *b\n*c : 1')).toMatchInlineSnapshot(`
      "watchdog.yaml:1:8: nodes: *a is a YAML alias, and aliases are not read here: write the value itself; put a name pattern in quotes, '*a'
      watchdog.yaml:2:10: metrics: *b is a YAML alias, and aliases are not read here: write the value itself; put a name pattern in quotes, '*b'
      watchdog.yaml:3:1: *c is a YAML alias, and aliases are not read here: write the value itself; put a name pattern in quotes, '*c'"
    `);
  });

  test('a file that is not a mapping', () => {
    for (const text of ['- hold: off\n', 'word\n', '3', '"hold: off"']) {
      expect(told(text)).toBe(
        'watchdog.yaml:1:1: these are not settings: write each on a line of its own, like silent-after: 30s',
      );
    }
    expect(told('[a]: 1\n? { b: c }\n: 2\n: 3\n')).toMatchInlineSnapshot(`
      "watchdog.yaml:1:1: a setting cannot have such a name: write a word before the colon
      watchdog.yaml:2:3: a setting cannot have such a name: write a word before the colon
      watchdog.yaml:4:1: a setting cannot have such a name: write a word before the colon"
    `);
  });

  test('a second document', () => {
    expect(told('hold: off\n---\nhold: auto\n')).toMatchInlineSnapshot(
      `"watchdog.yaml:2:1: a second document begins here: keep one, without a line '---' after it"`,
    );
    expect(told('---\nhold: off\n...\n')).toBe('');
  });

  test('syntax errors, several at once', () => {
    expect(told('hold: [1\nadmin: "\\q"\nlisten: @x\n')).toMatchInlineSnapshot(`
      "watchdog.yaml:2:1: not YAML, flow sequence in block collection must be sufficiently indented and end with a ]: look at the indentation, brackets and quotes here and just above
      watchdog.yaml:3:9: plain value cannot start with reserved character @: put the value in quotes"
    `);
    expect(told('nodes:\n\t- name: x\n')).toMatchInlineSnapshot(
      `"watchdog.yaml:2:1: a tab indents this line: use spaces"`,
    );
    expect(told('listen: [::]:8081\n')).toMatchInlineSnapshot(
      `"watchdog.yaml:1:13: not YAML, unexpected scalar at node end: look at the indentation, brackets and quotes here and just above"`,
    );
    expect(told('a: b: c\n')).toMatchInlineSnapshot(
      `"watchdog.yaml:1:4: nested mappings are not allowed in compact mappings: put a value with ': ' in it in quotes, or begin a new line"`,
    );
    expect(told(' hold: off\nadmin: :2\n')).toMatchInlineSnapshot(
      `"watchdog.yaml:2:1: not YAML, unexpected scalar at node end: look at the indentation, brackets and quotes here and just above"`,
    );
    expect(told('hold: "off\n')).toMatchInlineSnapshot(`"watchdog.yaml:2:1: missing closing "quote: add it"`);
    expect(told('hold: !duration 1s\n')).toMatchInlineSnapshot(
      `"watchdog.yaml:1:7: unresolved tag: !duration: remove it"`,
    );
  });

  test('counts lines and columns as editors do, after CRLF, a byte order mark and non-ASCII characters', () => {
    expect(told('\ufeffhodl: off\r\nnodes:\r\n- {name: "bürö", hodl: off}\r\n')).toMatchInlineSnapshot(`
      "watchdog.yaml:1:1: 'hodl' is not a setting here: did you mean hold?
      watchdog.yaml:3:18: 'hodl' is not a setting here: did you mean hold?"
    `);
  });

  test('each message is one line without control characters, and a long value is cut', () => {
    const text = told(`hold: "\\e[31m\\n\\u2028${'x'.repeat(500)}"`);
    expect(text).toMatch(/^watchdog\.yaml:1:7: hold: '\\u001b\[31m\\n\\u2028x+…' is not a duration/);
    expect(text.length).toBeLessThan(300);
  });

  test('never shows a private key that stands in the wrong place', () => {
    const secret = `privkey:${'5e'.repeat(32)}`;
    for (const text of [
      secret,
      `machine-key: ${secret}`,
      `${secret}: 1`,
      `hold: ${secret}`,
      `a: ${secret} : ${secret}`,
    ]) {
      expect(told(text)).toMatch(/^watchdog\.yaml:1:\d+: /);
      expect(told(text)).not.toContain('5e5e');
    }
    expect(told(`nodes: [{ machine-key: ${secret}, hold: off }]`)).toBe(
      'watchdog.yaml:1:24: machine-key: a private key is not a machine key: write mkey: and 64 hex digits, 0-9 and a-f',
    );
  });

  test('shows a hundred mistakes at most', () => {
    const lines = told('x: 1\n'.repeat(500)).split('\n');
    expect(lines).toHaveLength(101);
    expect(lines.at(-1)).toBe('watchdog.yaml:101:1: and 400 more from here on');
  });
});
