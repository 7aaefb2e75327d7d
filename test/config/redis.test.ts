import { describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { formatRedisUrl, parseRedisUrl } from '../../src/config/redis.ts';

describe('parseRedisUrl', () => {
  test.each([
    ['redis://127.0.0.1', { kind: 'one', nodes: [{ host: '127.0.0.1', port: 6379 }], isTls: false, db: 0 }],
    ['rediss://[::1]:7000/3', { kind: 'one', nodes: [{ host: '::1', port: 7000 }], isTls: true, db: 3 }],
    ['redis://watchdog@redis.example', { kind: 'one', username: 'watchdog' }],
    [
      'redis+sentinel://a:26379,b/mymaster/1',
      {
        ...{ kind: 'sentinel', masterName: 'mymaster', db: 1 },
        nodes: [
          { host: 'a', port: 26_379 },
          { host: 'b', port: 26_379 },
        ],
      },
    ],
    ['rediss+cluster://a:7000,b:7001', { kind: 'cluster', isTls: true, masterName: undefined }],
  ])('%s', (text, expected) => {
    expect(parseRedisUrl(text)).toMatchObject(expected);
  });

  test.each([
    ['127.0.0.1:6379', 'is not a URL of Redis'],
    ['http://127.0.0.1', 'is not a URL of Redis'],
    ['redis://user:secret@redis.example', 'holds a password'],
    ['redis://a,b', 'names several servers'],
    ['redis+sentinel://a', 'does not name the master'],
    ['redis://a/main', "ends with 'main'"],
    ['redis+cluster://a/2', 'names a database'],
    ['redis://a:x', 'is not a URL of Redis'],
    ['redis://%zz@h', 'is not percent-encoded: write %25'],
    ['redis+cluster://100%@h', 'is not percent-encoded: write %25'],
    ['redis+sentinel://%ff@h/m', 'is not percent-encoded: write %25'],
  ])('%s: says what is wrong and what to write', (text, problem) => {
    expect(parseRedisUrl(text)).toContain(problem);
  });

  test.each([
    'redis://a:6379',
    'redis://me%40home%25@a:6379',
    'rediss+sentinel://u@a:26379,[::1]:26380/m/2',
    'redis+cluster://a:7000,b:7001',
  ])('reads what formatRedisUrl writes: %s', (text) => {
    const parsed = parseRedisUrl(text);
    expect(typeof parsed === 'string' ? parsed : formatRedisUrl(parsed)).toBe(text);
  });
});

describe('--redis', () => {
  test('a password in the URL is refused and not shown', () => {
    const load = (): unknown => loadConfig({ redis: 'redis://user:hunter2@redis.example' });
    expect(load).toThrow("--redis: 'redis://…@redis.example' holds a password");
    expect(load).not.toThrow('hunter2');
  });

  test('accepts only names that can be part of a key in Redis', () => {
    expect(() => loadConfig({ redis: 'redis://a', redisPrefix: 'a b', replicaName: '{x}' })).toThrow(
      /--redis-prefix: 'a b' is not a name.*\n--replica-name: '\{x\}' is not a name/,
    );
  });

  test('the default prefix is headscale-watchdog, and without --redis no Redis is used', () => {
    expect(loadConfig({ redis: 'redis://a' }).redis).toMatchObject({ prefix: 'headscale-watchdog' });
    expect(loadConfig({}).redis).toBeUndefined();
  });
});
