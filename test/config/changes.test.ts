import { describe, expect, test } from 'vitest';
import { changesBetween } from '../../src/config/changes.ts';
import { fileKey } from '../../src/config/file.ts';
import { loadConfig } from '../../src/config/load.ts';
import { SETTING_NAMES, SETTINGS, type SettingHelp } from '../../src/config/settings.ts';
import type { Config } from '../../src/config/types.ts';

const config = (text: string, flags: Record<string, unknown> = {}): Config =>
  loadConfig(flags, { path: 'watchdog.yaml', text });
/** Rules by name need a key. */
const withKey = (text: string): Config => config(text, { headscaleApiKeyFile: '/a' });

/** A value that no setting has by default, for each kind of setting. */
const OTHER_VALUES: Readonly<Record<string, unknown>> = {
  '<url>': 'http://127.0.0.1:1',
  '<file>': '/etc/file',
  '<folder>': '/etc/folder',
  '<name>': 'another',
  '<level>': 'error',
  '<address>': '127.0.0.1:1',
  '<addresses>': '10.0.0.1',
  '<host:port>': '127.0.0.1:2',
  '<origin>': 'https://dash.example',
  '<number>': '177',
  '<number|off>': '177',
  '<size>': '128KiB',
  '<duration>': '11s',
  '<duration|off>': '11s',
  '<duration|auto|off>': '1s',
  '<off|report|heal>': 'heal',
  switch: true,
};

describe('changesBetween', () => {
  test('finds no change between equal configurations', () => {
    expect(changesBetween(loadConfig({}), loadConfig({}))).toEqual({ changes: [], needRestart: [] });
    const text = "nodes: [{ name: 'a', user: u, hold: 1s, observe-only: true }]";
    const turned = "nodes: [{ observe-only: true, hold: 1s, user: u, name: 'a' }]";
    expect(changesBetween(withKey(text), withKey(turned))).toEqual({ changes: [], needRestart: [] });
  });

  test('lists every changed setting that a running watchdog applies, as an operator writes it', () => {
    const after = config(`
noise-key: /etc/n
headscale-api-key-file: /etc/a
headscale-oauth-client-file: /etc/o
trusted-proxies: [10.0.0.0/8, "::1"]
acme-webroot: /var/www
silent-after: 10s
gone-after: off
hold: 1500ms
observe-only: true
reconcile: heal
upstream-silent-sever: true
drain: off
metrics: { max-nodes: 0 }
log-level: debug
`);
    expect(changesBetween(loadConfig({}), after)).toEqual({
      changes: [
        'noise-key: none → /etc/n',
        'headscale-api-key-file: none → /etc/a',
        'headscale-oauth-client-file: none → /etc/o',
        'trusted-proxies: 127.0.0.0/8, ::1 → 10.0.0.0/8, ::1',
        'acme-webroot: none → /var/www',
        'silent-after: 30s → 10s',
        'gone-after: 2m → off',
        'hold: auto → 1500ms',
        'observe-only: false → true',
        'reconcile: report → heal',
        'upstream-silent-sever: false → true',
        'drain: 20s → off',
        'metrics.max-nodes: 1000 → 0',
        'log-level: info → debug',
      ],
      needRestart: [],
    });
    expect(changesBetween(config('probe-idle: 5s'), config('probe-idle: off')).changes).toEqual([
      'probe-idle: 5s → off',
    ]);
  });

  test.each(SETTING_NAMES)('lists a change of the setting %s', (name) => {
    const { takes = 'switch' }: SettingHelp = SETTINGS[name];
    const before = { redis: 'redis://127.0.0.1:1', adminTokenFile: '/etc/token' };
    const value =
      name === 'redis' ? 'redis://127.0.0.1:2' : name === 'maxHistoryFileSize' ? '2MiB' : OTHER_VALUES[takes];
    const { changes, needRestart } = changesBetween(loadConfig(before), loadConfig({ ...before, [name]: value }));
    expect([...changes, ...needRestart]).toEqual([expect.stringMatching(new RegExp(`^${fileKey(name)}: .* → .*`))]);
  });

  test('lists changed addresses as settings that need a restart', () => {
    const after = config(
      'upstream: https://hs.example\nlisten: "[::1]:1"\nadmin: "[::1]:2"\nadmin-token-file: t\nsilent-after: 1m',
    );
    expect(changesBetween(loadConfig({}), after)).toEqual({
      changes: ['silent-after: 30s → 1m'],
      needRestart: [
        'upstream: http://127.0.0.1:8080 → https://hs.example',
        'listen: 0.0.0.0:8081 → [::1]:1',
        'admin: 127.0.0.1:9191 → [::1]:2',
        'admin-token-file: none → t',
      ],
    });
  });

  test.each([
    ['hold: auto', "nodes: [{ name: 'a', hold: off }]", 'nodes: 0 rules → 1 rule'],
    ["nodes: [{ name: 'a', hold: off }]", "nodes: [{ name: 'b', hold: off }]", 'nodes: changed'],
    ["nodes: [{ name: 'a', hold: 1s }]", "nodes: [{ name: 'a', hold: 2s }]", 'nodes: changed'],
    [
      "nodes: [{ name: 'a', hold: 1s }, { name: 'b', hold: 1s }]",
      "nodes: [{ name: 'b', hold: 1s }, { name: 'a', hold: 1s }]",
      'nodes: changed',
    ],
  ])('%j to %j: %s', (before, after, text) => {
    expect(changesBetween(withKey(before), withKey(after)).changes).toEqual([text]);
  });
});
