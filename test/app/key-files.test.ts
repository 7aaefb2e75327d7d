import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { KeyFiles } from '../../src/app/key-files.ts';
import { formatNoiseKey } from '../../src/identity/noise.ts';
import { StartError } from '../../src/lib/errors.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { initiations } from '../support/initiations.ts';

const [first, second] = initiations;
if (second === undefined || second.serverPublicKey === first.serverPublicKey) throw new Error('needs two servers');

let folder: string;
let noiseKeyFile: string;
let apiKeyFile: string;
let oauthClientFile: string;
let clock: FakeClock;
let events: WatchdogEvent[];
let changed: string[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-keys-'));
  noiseKeyFile = join(folder, 'noise_private.key');
  apiKeyFile = join(folder, 'api.key');
  writeFileSync(noiseKeyFile, first.serverPrivateKey);
  oauthClientFile = join(folder, 'oauth.secret');
  writeFileSync(apiKeyFile, 'an-api-key\n');
  writeFileSync(oauthClientFile, 'a-client-secret\n');
  clock = new FakeClock();
  events = [];
  changed = [];
});
afterEach(() => {
  expect(clock.timers).toBe(0);
  rmSync(folder, { recursive: true });
});

function open() {
  const emit = (event: WatchdogEvent): void => void events.push(event);
  const keys = new KeyFiles({ listen: [], noiseKeyFile, apiKeyFile, oauthClientFile }, { clock, emit });
  keys.onChange({
    noiseKey: () => changed.push('Noise key'),
    credentials: () => changed.push('credentials'),
    certificate: () => {},
    notifySecrets: () => {},
  });
  keys.watch();
  return keys;
}

const publicKeyIn = (keys: KeyFiles): string | undefined => keys.noiseKey && formatNoiseKey(keys.noiseKey);

describe('KeyFiles', () => {
  test('reads both keys, and reads an unchanged file only once', async () => {
    const keys = open();
    expect([publicKeyIn(keys), keys.credentials.apiKey]).toEqual([first.serverPublicKey, 'an-api-key']);
    await keys.look();
    expect([events, changed]).toEqual([[], []]);
    keys.close();
  });

  test('reads a file again when it was changed or replaced', async () => {
    const keys = open();
    const replacement = join(folder, 'new');
    writeFileSync(replacement, second.serverPrivateKey);
    renameSync(replacement, noiseKeyFile);
    await keys.look();
    expect(publicKeyIn(keys)).toBe(second.serverPublicKey);
    expect(events).toEqual([{ kind: 'key_file_reloaded', key: 'Noise key', file: noiseKeyFile }]);
    expect(changed).toEqual(['Noise key']);
    writeFileSync(apiKeyFile, 'another-api-key');
    await keys.look();
    expect(keys.credentials.apiKey).toBe('another-api-key');
    expect(changed).toEqual(['Noise key', 'credentials']);
    keys.close();
  });

  test('a file that can no longer be reached is reported once, and the old key stays', async () => {
    const keys = open();
    const before = keys.noiseKey;
    // As root, any folder may be entered, so a link that leads to itself stands for one that may not.
    rmSync(noiseKeyFile);
    symlinkSync(noiseKeyFile, noiseKeyFile);
    await keys.look();
    await keys.look();
    expect(events).toMatchObject([{ kind: 'key_file_reload_failed' }]);
    expect(keys.noiseKey).toBe(before);
    keys.close();
  });

  test('waits for a Noise key that is not there yet: it looks twice a second, and uses the key once it is there', async () => {
    rmSync(noiseKeyFile);
    const keys = open();
    expect(keys.noiseKey).toBeUndefined();
    const halfASecond = async (): Promise<void> => {
      clock.advance(500);
      // The next look is due once this one is over.
      await vi.waitFor(() => expect(clock.timers).toBe(1));
    };
    await halfASecond();
    expect([events, changed]).toEqual([[], []]);
    // As much as Headscale has written so far.
    writeFileSync(noiseKeyFile, 'privkey:00');
    await halfASecond();
    expect(events).toMatchObject([{ kind: 'key_file_reload_failed' }]);
    writeFileSync(noiseKeyFile, first.serverPrivateKey);
    await halfASecond();
    expect(changed).toEqual(['Noise key']);
    expect(publicKeyIn(keys)).toBe(first.serverPublicKey);
    keys.close();
  });

  test('a reload while the key is not there yet is no mistake, but one to another missing file is', () => {
    rmSync(noiseKeyFile);
    const keys = open();
    const paths = { apiKeyFile, oauthClientFile };
    keys.prepare({ ...paths, noiseKeyFile })();
    expect(() => keys.prepare({ ...paths, noiseKeyFile: `${noiseKeyFile}.other` })).toThrow(StartError);
    writeFileSync(noiseKeyFile, first.serverPrivateKey);
    keys.prepare({ ...paths, noiseKeyFile })();
    rmSync(noiseKeyFile);
    expect(() => keys.prepare({ ...paths, noiseKeyFile })).toThrow(StartError);
    keys.close();
  });

  test('a missing API key is a mistake at once', () => {
    rmSync(apiKeyFile);
    expect(open).toThrow(/api\.key/);
  });

  test.each(['', 'privkey:00', 'nonsense'])(
    'if a file now contains %o, the old key stays in use, and the failure is reported once',
    async (text) => {
      const keys = open();
      writeFileSync(noiseKeyFile, text);
      await keys.look();
      await keys.look();
      expect(publicKeyIn(keys)).toBe(first.serverPublicKey);
      expect(events).toEqual([
        {
          kind: 'key_file_reload_failed',
          code: 'HSW_NOISE_KEY_UNREADABLE',
          detail: expect.stringContaining(noiseKeyFile),
        },
      ]);
      expect(changed).toEqual([]);
      writeFileSync(noiseKeyFile, second.serverPrivateKey);
      await keys.look();
      expect(publicKeyIn(keys)).toBe(second.serverPublicKey);
      keys.close();
    },
  );

  test('if a file is missing for a while, the old key stays in use, and nothing is reported', async () => {
    const keys = open();
    rmSync(noiseKeyFile);
    await keys.look();
    writeFileSync(noiseKeyFile, second.serverPrivateKey);
    await keys.look();
    expect(publicKeyIn(keys)).toBe(second.serverPublicKey);
    expect(events.map(({ kind }) => kind)).toEqual(['key_file_reloaded']);
    keys.close();
  });

  test('prepare() reads new files, but the old keys stay in use until its result is called, or if a file cannot be used', () => {
    const keys = open();
    const other = join(folder, 'other.key');
    expect(() => keys.prepare({ noiseKeyFile: other, apiKeyFile, oauthClientFile })).toThrow(StartError);
    writeFileSync(other, second.serverPrivateKey);
    const use = keys.prepare({ noiseKeyFile: other, apiKeyFile: undefined, oauthClientFile });
    expect([publicKeyIn(keys), keys.credentials.apiKey]).toEqual([first.serverPublicKey, 'an-api-key']);
    use();
    expect([publicKeyIn(keys), keys.credentials.apiKey]).toEqual([second.serverPublicKey, undefined]);
    keys.close();
  });

  test("reads the OAuth client's secret again when its file has changed, and forgets it when the setting is gone", async () => {
    const keys = open();
    expect(keys.credentials.oauthClientSecret).toBe('a-client-secret');
    writeFileSync(oauthClientFile, 'another-secret\n');
    await keys.look();
    expect(keys.credentials).toEqual({ apiKey: 'an-api-key', oauthClientSecret: 'another-secret' });
    expect(changed).toEqual(['credentials']);
    expect(events).toEqual([{ kind: 'key_file_reloaded', key: 'OAuth client', file: oauthClientFile }]);
    writeFileSync(oauthClientFile, 'two\nlines\n');
    await keys.look();
    expect(keys.credentials.oauthClientSecret).toBe('another-secret');
    expect(events[1]).toMatchObject({ kind: 'key_file_reload_failed', code: 'HSW_OAUTH_CLIENT_UNREADABLE' });
    keys.prepare({ noiseKeyFile, apiKeyFile, oauthClientFile: undefined })();
    expect(keys.credentials).toEqual({ apiKey: 'an-api-key', oauthClientSecret: undefined });
    keys.close();
  });

  test('an unusable file is tried again at each look, because its permissions may have changed', async () => {
    const keys = open();
    rmSync(noiseKeyFile);
    mkdirSync(noiseKeyFile);
    await keys.look();
    await keys.look();
    expect(events).toEqual([
      {
        kind: 'key_file_reload_failed',
        code: 'HSW_NOISE_KEY_UNREADABLE',
        detail: expect.stringContaining('is a folder'),
      },
    ]);
    rmSync(noiseKeyFile, { recursive: true });
    writeFileSync(noiseKeyFile, second.serverPrivateKey);
    await keys.look();
    expect(publicKeyIn(keys)).toBe(second.serverPublicKey);
    keys.close();
  });

  test('a path that cannot be read is an error that says what to do', () => {
    noiseKeyFile = join(apiKeyFile, 'not', 'a', 'folder');
    expect(open).toThrow(StartError);
  });

  test('looks for changes every five seconds', async () => {
    const keys = open();
    writeFileSync(apiKeyFile, 'another-api-key');
    clock.advance(4999);
    expect(changed).toEqual([]);
    clock.advance(1);
    await expect.poll(() => changed).toEqual(['credentials']);
    keys.close();
  });

  test('a file that cannot be used at the start is an error that says what to do, and no timer is left', () => {
    writeFileSync(noiseKeyFile, 'nonsense');
    expect(open).toThrow(/--noise-key .*does not hold a Noise key/);
  });
});
