import { describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { parseDuration, parseHostPort } from '../../src/config/schema.ts';
import { UsageError } from '../../src/errors.ts';

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
      listen: { host: '0.0.0.0', port: 8081 },
      admin: { host: '127.0.0.1', port: 9191 },
      silentAfterMs: 30_000,
      hold: { kind: 'auto' },
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
    expect(loadConfig({ hold }).hold).toEqual(expected);
  });

  test('tells every mistake at once, each with flag, value and cure', () => {
    const problems = problemsOf({
      upstream: 'headscale:8080',
      listen: '0.0.0.0',
      admin: '127.0.0.1:99999',
      silentAfter: '30',
      hold: '1 s',
      logLevel: 'loud',
      noiseKey: '',
    });
    expect(problems).toHaveLength(7);
    expect(problems.join('\n')).toMatchInlineSnapshot(`
      "--upstream: 'headscale:8080' is not a URL of Headscale: write http://HOST:PORT or https://HOST:PORT
      --noise-key: needs the path of a file
      --listen: '0.0.0.0' is not HOST:PORT: write 0.0.0.0:8081, [::1]:8081 or :8081
      --admin: '127.0.0.1:99999' is not HOST:PORT: write 0.0.0.0:8081, [::1]:8081 or :8081
      --silent-after: '30' is not a duration: write 1500ms, 30s, 2m or 1h
      --hold: '1 s' is neither a duration nor 'auto' nor 'off': write 1500ms, auto or off
      --log-level: 'loud' is none of debug, info, warn, error, silent"
    `);
  });

  test.each([
    ['http://h:1/path', 'more than a host'],
    ['http://user:secret@h:1', 'more than a host'],
    ['http://h:1?x', 'more than a host'],
    ['ftp://h:1', 'is not a URL of Headscale'],
  ])('refuses the upstream %s', (upstream, why) => {
    expect(problemsOf({ upstream })).toEqual([expect.stringContaining(why)]);
  });

  test('refuses a threshold below a second and a hold above five', () => {
    expect(problemsOf({ silentAfter: '999ms' })).toHaveLength(1);
    expect(problemsOf({ hold: '5001ms' })).toHaveLength(1);
    expect(problemsOf({ silentAfter: '1s', hold: '5s' })).toEqual([]);
  });
});

describe('loadConfig, addresses together', () => {
  test.each([
    [{ upstream: 'http://127.0.0.1:8081' }, '--upstream', 'own --listen'],
    [{ upstream: 'http://localhost:9191' }, '--upstream', 'own --admin'],
    [{ upstream: 'http://192.0.2.1:8081', listen: '192.0.2.1:8081' }, '--upstream', 'own --listen'],
    [{ listen: ':9191' }, '--admin', 'the same port as --listen'],
  ])('refuses %o', (flags, flag, why) => {
    expect(problemsOf(flags)).toEqual([expect.stringMatching(new RegExp(`^${flag}: .*${why}`))]);
  });

  test('takes the same port elsewhere', () => {
    expect(problemsOf({ upstream: 'http://192.0.2.1:8081' })).toEqual([]);
    expect(problemsOf({ listen: '192.0.2.1:80', admin: '127.0.0.1:80', upstream: 'http://192.0.2.2:80' })).toEqual([]);
  });
});

describe('parseDuration', () => {
  test.each([
    ['1500ms', 1500],
    ['30s', 30_000],
    ['1.5s', 1500],
    ['2m', 120_000],
    ['1h', 3_600_000],
    ['', undefined],
    ['s', undefined],
    ['-1s', undefined],
    ['1d', undefined],
    ['1s ', undefined],
  ])('%j is %s', (text, ms) => {
    expect(parseDuration(text)).toBe(ms);
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
