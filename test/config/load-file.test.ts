import { resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { SETTING_NAMES } from '../../src/config/settings.ts';
import type { Config } from '../../src/config/types.ts';
import { UsageError } from '../../src/lib/errors.ts';

const KEY = 'a1'.repeat(32);
/** With an API key, so that rules may be by name. */
const load = (text: string, flags: Record<string, unknown> = {}): Config =>
  loadConfig({ headscaleApiKeyFile: '/a', ...flags }, { path: 'watchdog.yaml', text });

/** What an operator reads, a problem a line. */
function told(text: string, flags: Record<string, unknown> = {}): string {
  try {
    load(text, flags);
  } catch (error) {
    if (error instanceof UsageError) return error.problems.join('\n');
    throw error;
  }
  return '';
}

describe('loadConfig, a valid file', () => {
  test.each(['# nothing yet\n', '---\n', '\ufeff#', '{}', '~'])('%j sets nothing', (text) => {
    expect(loadConfig({}, { path: 'watchdog.yaml', text })).toEqual({
      ...loadConfig({}),
      file: resolve('watchdog.yaml'),
    });
  });

  test('has a key for every flag', () => {
    const config = load(
      `
upstream: https://hs.example
noise-key: /var/lib/headscale/noise_private.key
headscale-api-key-file: /etc/watchdog/api.key
headscale-oauth-client-file: /etc/watchdog/oauth.secret
listen: :80
admin: '[::1]:9'
admin-token-file: admin.token
admin-read-token-file: read.token
admin-cors-origin: [https://Dash.example:443, 'http://127.0.0.1:3000/']
silent-after: 10s
gone-after: 60s
probe-idle: 20s
hold: off
observe-only: true
reconcile: off
offline-after: 3m
upstream-silent-sever: true
drain: 5s
redis: rediss://watchdog@redis.example:6380/2
redis-password-file: redis.password
redis-ca-file: ca.pem
redis-prefix: home
replica-name: left
max-connections: 1000
max-connections-per-address: 900
max-handshakes: 30
max-handshakes-per-address: 20
max-streams-per-node: 8
max-held: 70
max-header-size: 32KiB
header-timeout: 9s
max-body-size: 1MiB
body-timeout: 90s
max-early-size: 8KiB
max-history: 500
max-history-file-size: 2MiB
history-file: /var/lib/watchdog/history.jsonl
upstream-rate: 20
upstream-burst: 40
metrics: { max-nodes: 50 }
log-level: warn
`,
      { headscaleApiKeyFile: undefined },
    );
    expect(config).toEqual({
      file: resolve('watchdog.yaml'),
      upstream: new URL('https://hs.example'),
      noiseKeyFile: '/var/lib/headscale/noise_private.key',
      apiKeyFile: '/etc/watchdog/api.key',
      oauthClientFile: '/etc/watchdog/oauth.secret',
      listen: [{ host: '::', port: 80, tls: undefined, redirect: false, proxyProtocol: false }],
      trustedProxies: ['127.0.0.0/8', '::1'],
      acmeWebroot: undefined,
      admin: { host: '::1', port: 9 },
      adminTokenFile: 'admin.token',
      adminReadTokenFile: 'read.token',
      adminCorsOrigins: ['https://dash.example', 'http://127.0.0.1:3000'],
      places: {
        policy: {
          ...{ silentAfterMs: 'watchdog.yaml:11', goneAfterMs: 'watchdog.yaml:12', probeIdleMs: 'watchdog.yaml:13' },
          ...{ hold: 'watchdog.yaml:14', observeOnly: 'watchdog.yaml:15', offlineAfterMs: 'watchdog.yaml:17' },
        },
        rules: [],
      },
      policy: {
        silentAfterMs: 10_000,
        goneAfterMs: 60_000,
        probeIdleMs: 20_000,
        hold: { kind: 'off' },
        observeOnly: true,
        offlineAfterMs: 180_000,
      },
      rules: [],
      reconcile: 'off',
      notify: [],
      upstreamSilentSever: true,
      drainMs: 5000,
      redis: {
        url: {
          ...{ kind: 'one', nodes: [{ host: 'redis.example', port: 6380 }], isTls: true },
          ...{ username: 'watchdog', db: 2, masterName: undefined },
        },
        ...{ passwordFile: 'redis.password', caFile: 'ca.pem', prefix: 'home', replicaName: 'left' },
      },
      limits: {
        ...{ connections: 1000, connectionsPerAddress: 900 },
        handshakes: { perSecond: 30, burst: 300 },
        handshakesPerAddress: { perSecond: 20, burst: 200 },
        ...{ streamsPerNode: 8, held: 70, headerBytes: 32_768, headerMs: 9000, bodyBytes: 1_048_576, bodyMs: 90_000 },
        ...{ earlyBytes: 8192, history: 500, historyFileBytes: 2 * 1024 ** 2 },
      },
      pace: { perSecond: 20, burst: 40 },
      historyFile: '/var/lib/watchdog/history.jsonl',
      metricsMaxNodes: 50,
      logLevel: 'warn',
    });
    expect(SETTING_NAMES).toHaveLength(43);
  });

  test('reads rules in their order, each with only its own settings', () => {
    const { rules } = load(`
nodes:
  - name: 'router-*'
    probe-idle: 15s
    gone-after: 40s
  - user: alice
    machine-key: mkey:${KEY}
    node-key: nodekey:${KEY}
    hold: 1s
  - { name: "*", silent-after: 1m, observe-only: false }
`);
    expect(rules).toEqual([
      { match: { name: 'router-*' }, policy: { goneAfterMs: 40_000, probeIdleMs: 15_000 } },
      { match: { user: 'alice', machineKey: KEY, nodeKey: KEY }, policy: { hold: { kind: 'at most', ms: 1000 } } },
      { match: { name: '*' }, policy: { silentAfterMs: 60_000, observeOnly: false } },
    ]);
    expect(Object.keys(rules[0]?.policy ?? {})).toEqual(['goneAfterMs', 'probeIdleMs']);
  });

  test('reads CRLF, non-ASCII characters, and off as a word, even after %YAML 1.1', () => {
    expect(load('silent-after: 10s\r\nnodes:\r\n  - name: büro-*\r\n    hold: off\r\n')).toMatchObject({
      policy: { silentAfterMs: 10_000 },
      rules: [{ match: { name: 'büro-*' }, policy: { hold: { kind: 'off' } } }],
    });
    expect(load('%YAML 1.1\n---\ngone-after: off\n').policy.goneAfterMs).toBe(0);
  });
});

describe('loadConfig, flags and file together', () => {
  test('a flag wins over the file, and a rule wins over both', () => {
    const text = 'silent-after: 5s\ngone-after: 60s\nnodes: [{ name: a, silent-after: 20s }]';
    const config = load(text, { silentAfter: '10s' });
    expect(config.policy).toMatchObject({ silentAfterMs: 10_000, goneAfterMs: 60_000 });
    expect(config.rules[0]?.policy).toEqual({ silentAfterMs: 20_000 });
  });

  test('a flag wins over the file even if its value is the default', () => {
    expect(load('silent-after: 5s', { silentAfter: '30s' }).policy.silentAfterMs).toBe(30_000);
  });

  test('--observe-only applies to every node, whatever a rule says', () => {
    const text = 'nodes: [{ name: a, observe-only: false }, { name: b, observe-only: true }, { name: c, hold: off }]';
    const config = load(text, { observeOnly: true });
    expect(config.policy.observeOnly).toBe(true);
    expect(config.rules.map(({ policy }) => ({ ...config.policy, ...policy }).observeOnly)).toEqual([true, true, true]);
  });

  test("a rule can switch off the file's observe-only", () => {
    const config = load('observe-only: true\nnodes: [{ name: a, observe-only: false }]');
    expect(config.policy.observeOnly).toBe(true);
    expect(config.rules[0]?.policy.observeOnly).toBe(false);
  });

  test('reports the mistakes of both: first the flags, then the file in its order', () => {
    const text = 'nodes:\n  - hodl: off\nlog-level: loud\nlisten: x\nfoo: 1\n';
    expect(told(text, { admin: 'y', hold: '9s' })).toMatchInlineSnapshot(`
      "--admin: 'y' is not HOST:PORT: write 127.0.0.1:9191
      --hold: '9s' is too long: write 5s or less, since a client gives up after ten
      watchdog.yaml:2:5: 'hodl' is not a setting here: did you mean hold?
      watchdog.yaml:3:12: log-level: 'loud' is unknown: write one of debug, info, warn, error, silent
      watchdog.yaml:4:9: listen: 'x' is not HOST:PORT: write 0.0.0.0:8081
      watchdog.yaml:5:1: 'foo' is not a setting here: write one of upstream, noise-key, headscale-api-key-file, headscale-oauth-client-file, listen, trusted-proxies, admin, admin-token-file, silent-after, gone-after, probe-idle, hold, observe-only, reconcile, upstream-silent-sever, max-connections, max-connections-per-address, max-handshakes, max-handshakes-per-address, max-streams-per-node, max-held, max-header-size, header-timeout, max-body-size, body-timeout, max-early-size, upstream-rate, upstream-burst, max-history, max-history-file-size, redis, redis-password-file, redis-ca-file, redis-prefix, replica-name, offline-after, admin-read-token-file, admin-cors-origin, acme-webroot, drain, history-file, log-level, metrics, nodes, notify"
    `);
  });

  test('reports a mistake in the file even if a flag overrides that setting', () => {
    expect(told('silent-after: x', { silentAfter: '10s' })).toMatchInlineSnapshot(
      `"watchdog.yaml:1:15: silent-after: 'x' is not a duration: write 1500ms, 30s, 2m or 1h"`,
    );
  });

  test('reports settings that contradict each other at the one that the operator gave', () => {
    expect(told('listen: 0.0.0.0:8080')).toMatchInlineSnapshot(
      `"watchdog.yaml:1:9: listen: '0.0.0.0:8080' is upstream's address, http://127.0.0.1:8080: choose another, or set upstream to Headscale's listen_addr"`,
    );
    expect(told('listen: 0.0.0.0:1', { upstream: 'http://127.0.0.1:1' })).toMatchInlineSnapshot(
      `"--upstream: 'http://127.0.0.1:1' is the watchdog's own listen: name Headscale's listen_addr"`,
    );
    expect(told('admin: 127.0.0.1:1\nupstream: http://127.0.0.1:1')).toMatchInlineSnapshot(
      `"watchdog.yaml:2:11: upstream: 'http://127.0.0.1:1' is the watchdog's own admin: name Headscale's listen_addr"`,
    );
    expect(told('probe-idle: 30s', { goneAfter: 'off' })).toMatchInlineSnapshot(
      `"watchdog.yaml:1:13: probe-idle: 30s needs a gone-after of 40s or more, and it is off: write off, or change gone-after"`,
    );
    expect(told('gone-after: 20s', { probeIdle: '30s' })).toMatchInlineSnapshot(
      `"--probe-idle: 30s needs a gone-after of 40s or more, and it is 20s: write 10s or less, or off, or change gone-after"`,
    );
  });

  test('reports a rule that contradicts the settings for all nodes, but no rule that changes none of them', () => {
    const text = `
probe-idle: 30s
nodes:
  - { name: a, gone-after: 30s }
  - { name: b, probe-idle: 2m }
  - { name: c, gone-after: 20s, probe-idle: off }
  - { name: d, gone-after: off }
  - { name: e, gone-after: 20s, probe-idle: 10s }
`;
    expect(told(text)).toMatchInlineSnapshot(`
      "watchdog.yaml:4:28: gone-after: 30s is too short for probe-idle, 30s: write 40s or more, or change probe-idle
      watchdog.yaml:5:28: probe-idle: 2m needs a gone-after of 130s or more, and it is 2m: write 110s or less, or off, or change gone-after
      watchdog.yaml:7:28: gone-after: off means that probe-idle, 30s, has no effect: write 40s or more, or set probe-idle to off"
    `);
    expect(told('probe-idle: 30s\ngone-after: 20s\nnodes: [{ name: a, hold: off }]')).toMatchInlineSnapshot(
      `"watchdog.yaml:1:13: probe-idle: 30s needs a gone-after of 40s or more, and it is 20s: write 10s or less, or off, or change gone-after"`,
    );
  });
});
