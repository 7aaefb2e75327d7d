import { describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
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
    'hsapi5e5e',
    '5e5e5e5.5e5e5e5e5e_5e5e5e5e-5e5e5e5e5e5e5e5e5e5e',
  ])('refuses the key %j in place of a path, and does not show it', (secret) => {
    const problem =
      'this is a key, not the path of a file that holds it: write the path, with ./ before it if it only looks like a key';
    expect(problemsOf({ noiseKey: secret, headscaleApiKeyFile: secret })).toEqual([
      `--noise-key: ${problem}`,
      `--headscale-api-key-file: ${problem}`,
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
