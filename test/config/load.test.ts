import { describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { parseHostPort } from '../../src/config/readers.ts';
import { isList, SETTING_NAMES } from '../../src/config/settings.ts';
import { UsageError } from '../../src/lib/errors.ts';

function problemsOf(flags: Record<string, unknown>): readonly string[] {
  try {
    loadConfig(flags);
  } catch (error) {
    if (error instanceof UsageError) return error.problems;
    throw error;
  }
  return [];
}

describe('loadConfig', () => {
  test('without flags gives the defaults', () => {
    expect(loadConfig({})).toEqual({
      upstream: new URL('http://127.0.0.1:8080'),
      noiseKeyFile: undefined,
      apiKeyFile: undefined,
      listen: [{ host: '0.0.0.0', port: 8081, tls: undefined, redirect: false, proxyProtocol: false }],
      trustedProxies: ['127.0.0.0/8', '::1'],
      acmeWebroot: undefined,
      admin: { host: '127.0.0.1', port: 9191 },
      adminTokenFile: undefined,
      adminReadTokenFile: undefined,
      adminCorsOrigins: [],
      policy: {
        silentAfterMs: 30_000,
        goneAfterMs: 120_000,
        probeIdleMs: 0,
        hold: { kind: 'auto' },
        observeOnly: false,
        offlineAfterMs: 120_000,
      },
      rules: [],
      places: {
        policy: {
          ...{ silentAfterMs: 'default', goneAfterMs: 'default', probeIdleMs: 'default', hold: 'default' },
          ...{ observeOnly: 'default', offlineAfterMs: 'default' },
        },
        rules: [],
      },
      reconcile: 'report',
      notify: [],
      upstreamSilentSever: false,
      drainMs: 20_000,
      limits: {
        ...{ connections: 50_000, connectionsPerAddress: 25_000 },
        handshakes: { perSecond: 2000, burst: 20_000 },
        handshakesPerAddress: { perSecond: 1000, burst: 10_000 },
        ...{ streamsPerNode: 64, held: 1000, headerBytes: 16_384, headerMs: 20_000 },
        ...{ bodyBytes: 16 * 1024 ** 2, bodyMs: 60_000, earlyBytes: 65_536, history: 10_000 },
        historyFileBytes: 128 * 1024 ** 2,
      },
      pace: { perSecond: 50, burst: 100 },
      metricsMaxNodes: 1000,
      logLevel: 'info',
    });
  });

  test.each([
    ['1500ms', { kind: 'at most', ms: 1500 }],
    ['2s', { kind: 'at most', ms: 2000 }],
    ['auto', { kind: 'auto' }],
    ['off', { kind: 'off' }],
    ['0s', { kind: 'off' }],
  ])('reads hold %s', (hold, expected) => {
    expect(loadConfig({ hold }).policy.hold).toEqual(expected);
  });

  test('reports every mistake at once, with the flag, the value and what to write instead', () => {
    const problems = problemsOf({
      upstream: 'headscale:8080',
      listen: '0.0.0.0',
      admin: '127.0.0.1:99999',
      silentAfter: '30',
      hold: '1 s',
      logLevel: 'loud',
      noiseKey: '',
      headscaleApiKeyFile: '',
      goneAfter: '5s',
      probeIdle: '3h',
      metricsMaxNodes: 'many',
    });
    expect(problems).toHaveLength(11);
    expect(problems.join('\n')).toMatchInlineSnapshot(`
      "--upstream: 'headscale:8080' is not a URL of Headscale: write http://HOST:PORT or https://HOST:PORT
      --noise-key: needs the path of a file
      --headscale-api-key-file: needs the path of a file
      --admin: '127.0.0.1:99999' is not HOST:PORT: write 127.0.0.1:9191
      --silent-after: '30' has no unit: write 30s, 30ms, 30m or 30h
      --gone-after: '5s' is too short: write 10s or more, or off
      --probe-idle: '3h' is too long: write 2h or less, or off
      --hold: '1 s' is not a duration, 'auto' or 'off': write 1500ms, auto or off
      --metrics-max-nodes: 'many' cannot be used: write a whole number from 0 to 100000
      --log-level: 'loud' is unknown: write one of debug, info, warn, error, silent
      --listen: '0.0.0.0' is not HOST:PORT: write 0.0.0.0:8081"
    `);
  });

  test.each([
    ['http://h:1/path', 'more than a host'],
    ['http://user:secret@h:1', 'more than a host'],
    ['http://h:1?x', 'more than a host'],
    ['ftp://h:1', 'is not a URL of Headscale'],
    ['http:///12', 'is not a URL of Headscale'],
    ['http:// h:1', 'is not a URL of Headscale'],
  ])('refuses the upstream %s', (upstream, why) => {
    expect(problemsOf({ upstream })).toEqual([expect.stringContaining(why)]);
  });

  test('shows no password of an upstream', () => {
    expect(problemsOf({ upstream: 'http://user:secret@h:1' }).join()).not.toContain('secret');
  });

  test.each([
    ['silentAfter', '999ms', '1s', '24h', '86401s'],
    ['goneAfter', '9999ms', '10s', '24h', '25h'],
    ['probeIdle', '4999ms', '5s', '2h', '121m'],
    ['drain', '999ms', '1s', '10m', '601s'],
  ])('accepts %s from its shortest to its longest value', (name, tooShort, shortest, longest, tooLong) => {
    // A gone-after that is out of the way of probe-idle.
    const others = name === 'goneAfter' ? {} : { goneAfter: '24h' };
    expect(problemsOf({ ...others, [name]: tooShort })).toEqual([
      expect.stringContaining(`'${tooShort}' is too short: write ${shortest} or more`),
    ]);
    expect(problemsOf({ ...others, [name]: shortest })).toEqual([]);
    expect(problemsOf({ ...others, [name]: longest })).toEqual([]);
    expect(problemsOf({ ...others, [name]: tooLong })).toEqual([
      expect.stringContaining(`'${tooLong}' is too long: write ${longest} or less`),
    ]);
  });

  test('refuses a hold above five seconds', () => {
    expect(problemsOf({ hold: '5001ms' })).toHaveLength(1);
    expect(problemsOf({ hold: '5s' })).toEqual([]);
  });

  test('reads off as 0 for gone-after, probe-idle and drain, and refuses it for silent-after', () => {
    expect(loadConfig({ drain: 'off' }).drainMs).toBe(0);
    expect(loadConfig({ goneAfter: 'off', probeIdle: 'off' }).policy).toMatchObject({ goneAfterMs: 0, probeIdleMs: 0 });
    expect(problemsOf({ silentAfter: 'off' })).toEqual([
      "--silent-after: 'off' is not a duration: write 1500ms, 30s, 2m or 1h",
    ]);
  });

  test('reads the paths of both keys, both switches and the number of nodes', () => {
    const config = loadConfig({
      noiseKey: '/n',
      headscaleApiKeyFile: '/a',
      observeOnly: true,
      upstreamSilentSever: true,
      metricsMaxNodes: '0',
    });
    expect(config).toMatchObject({
      noiseKeyFile: '/n',
      apiKeyFile: '/a',
      upstreamSilentSever: true,
      metricsMaxNodes: 0,
    });
    expect(config.policy.observeOnly).toBe(true);
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY])('for %d, every setting says what to write instead', (value) => {
    const names = SETTING_NAMES.filter((name) => !isList(name));
    const problems = problemsOf(Object.fromEntries(names.map((name) => [name, value])));
    expect(problems).toHaveLength(names.length);
    for (const problem of problems) expect(problem).toMatch(new RegExp(`'${value}' .*(write|quotes)`));
  });

  test.each(['100001', '-1', '1.5', '', '1e3', '0x10'])('refuses %j as a number of nodes', (metricsMaxNodes) => {
    expect(problemsOf({ metricsMaxNodes })).toEqual([expect.stringMatching(/^--metrics-max-nodes: .* whole number/)]);
  });

  test('ignores a flag that is undefined, and --config', () => {
    expect(loadConfig({ noiseKey: undefined, silentAfter: undefined, config: 'x.yaml' })).toEqual(loadConfig({}));
  });

  test('refuses an unknown flag', () => {
    expect(problemsOf({ silentAftr: '1s' })).toEqual(['--silent-aftr: is not a flag of this program']);
  });
});

describe('loadConfig, probe-idle and gone-after together', () => {
  test.each([
    [{ probeIdle: '2m' }, '2m needs a gone-after of 130s or more, and it is 2m: write 110s or less, or off'],
    [
      { probeIdle: '20001ms', goneAfter: '30s' },
      '20001ms needs a gone-after of 30001ms or more, and it is 30s: write 20s or less, or off',
    ],
    [
      { probeIdle: '10s', goneAfter: '15s' },
      '10s needs a gone-after of 20s or more, and it is 15s: write 5s or less, or off',
    ],
    [{ probeIdle: '10s', goneAfter: '14s' }, '10s needs a gone-after of 20s or more, and it is 14s: write off'],
    [{ probeIdle: '30s', goneAfter: 'off' }, '30s needs a gone-after of 40s or more, and it is off: write off'],
  ])('refuses %o', (flags, start) => {
    expect(problemsOf(flags)).toEqual([`--probe-idle: ${start}, or change gone-after`]);
  });

  test('accepts a probe-idle ten seconds below gone-after, so that one lost probe ends no stream', () => {
    expect(problemsOf({ probeIdle: '20s', goneAfter: '30s' })).toEqual([]);
    expect(problemsOf({ goneAfter: 'off' })).toEqual([]);
  });

  test('reports it together with mistakes in other settings', () => {
    expect(problemsOf({ probeIdle: '2m', listen: 'x', logLevel: 'x' })).toHaveLength(3);
    expect(problemsOf({ probeIdle: '2m', goneAfter: 'x' })).toHaveLength(1);
  });
});

describe('loadConfig, addresses together', () => {
  test.each([
    [{ upstream: 'http://127.0.0.1:8081' }, '--upstream', 'own --listen'],
    [{ upstream: 'http://localhost:9191' }, '--upstream', 'own --admin'],
    [{ upstream: 'http://192.0.2.1:8081', listen: '192.0.2.1:8081' }, '--upstream', 'own --listen'],
    [{ listen: ':9191' }, '--listen', 'the same port as --admin, 9191: choose another'],
    [{ listen: ':1', admin: '127.0.0.1:1' }, '--admin', 'the same port as --listen, 1: choose another'],
    [{ listen: ':8080' }, '--listen', "'\\[::\\]:8080' is upstream's address, http://127.0.0.1:8080: choose another"],
  ])('refuses %o', (flags, flag, why) => {
    expect(problemsOf(flags)).toEqual([expect.stringMatching(new RegExp(`^${flag}: .*${why}`))]);
  });

  test('accepts the same port on another host', () => {
    expect(problemsOf({ upstream: 'http://192.0.2.1:8081' })).toEqual([]);
    expect(problemsOf({ listen: '192.0.2.1:80', admin: '127.0.0.1:80', upstream: 'http://192.0.2.2:80' })).toEqual([]);
  });
});

describe('parseHostPort', () => {
  test.each([
    ['0.0.0.0:80', { host: '0.0.0.0', port: 80 }],
    ['localhost:0', { host: 'localhost', port: 0 }],
    ['[2001:db8::1]:443', { host: '2001:db8::1', port: 443 }],
    [':8081', { host: '::', port: 8081 }],
    ['::1:80', undefined],
    ['h:65536', undefined],
    ['h:', undefined],
    ['h', undefined],
    ['h h:1', undefined],
  ])('%j is %o', (text, expected) => {
    expect(parseHostPort(text)).toEqual(expected);
  });
});

describe('loadConfig, paths of key files', () => {
  test.each([
    `privkey:${'5e'.repeat(32)}`,
    ` privkey:5e5e\n`,
    `./privkey:${'5e'.repeat(32)}`,
    '5e'.repeat(32),
    `mkey:${'5e'.repeat(32)}`,
    `nodekey:${'5e'.repeat(32)}`,
    'hskey-api-5e5e5e5e5e5e-5e5e5e5e5e5e5e5e5e5e5e5e',
    'hskey-auth-5e5e5e-5e5e5e',
    'hskey-client-5e5e5e5e5e5e-5e5e5e5e5e5e5e5e5e5e5e5e',
    'hskey-oauthtok-5e5e5e5e5e5e-5e5e5e5e5e5e5e5e5e5e',
    'hsapi5e5e',
    '5e5e5e5.5e5e5e5e5e_5e5e5e5e-5e5e5e5e5e5e5e5e5e5e',
  ])('refuses the key %j in place of a path, and does not show it', (secret) => {
    const problem =
      'this is a key, not the path of a file that holds it: write the path, with ./ before it if it only looks like a key';
    expect(problemsOf({ noiseKey: secret, headscaleApiKeyFile: secret, headscaleOauthClientFile: secret })).toEqual([
      `--noise-key: ${problem}`,
      `--headscale-api-key-file: ${problem}`,
      `--headscale-oauth-client-file: ${problem}`,
    ]);
  });

  test.each([
    '/var/lib/headscale/noise_private.key',
    'noise_private.key',
    'api.key',
    './hsapi',
    '/etc/headscale-watchdog/hskey-api.key',
    './headscale.an-api-key-for-the-watchdog',
    'headscale.an/api-key-for-the-watchdog',
    `/keys/${'5e'.repeat(32)}`,
  ])('accepts the path %j', (path) => {
    expect(loadConfig({ noiseKey: path, headscaleApiKeyFile: path })).toMatchObject({
      noiseKeyFile: path,
      apiKeyFile: path,
    });
  });

  test("never shows one of Headscale's keys that stands in the wrong place", () => {
    const secret = 'hskey-api-5e5e5e5e5e5e-5e5e5e5e5e5e5e5e5e5e5e5e';
    const problems = problemsOf({ hold: secret, listen: secret, upstream: secret, logLevel: secret }).join('\n');
    expect(problems).toContain("--hold: a key of Headscale is not a duration, 'auto' or 'off'");
    expect(problems).not.toContain('5e5e');
  });
});
