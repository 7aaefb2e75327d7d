import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { readConfigFile } from '../../src/config/file.ts';
import { readApiKey, readNoiseKey, readOauthClientSecret } from '../../src/config/secrets.ts';
import { formatNoiseKey } from '../../src/identity/noise.ts';
import { StartError } from '../../src/lib/errors.ts';
import { actAs } from '../support/effective-user.ts';
import { initiations } from '../support/initiations.ts';

const folder = mkdtempSync(join(tmpdir(), 'watchdog-read-file-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** A path of its own for each test. */
let files = 0;
const newPath = (): string => join(folder, `file-${++files}`);

function written(content: string): string {
  const path = newPath();
  writeFileSync(path, content);
  return path;
}

function problemOf(read: (path: string) => unknown, path: string): string {
  try {
    read(path);
  } catch (error) {
    if (error instanceof StartError) return error.message;
    throw error;
  }
  return '';
}

/** Nobody's eyes: who runs the tests as root may read everything. */
function withoutRights<T>(act: () => T): T {
  if (process.geteuid?.() !== 0) return act();
  actAs(65_534);
  try {
    return act();
  } finally {
    actAs(0);
  }
}

/** The file behind a descriptor; others of this process may have been closed by now. */
function targetOf(descriptor: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${descriptor}`);
  } catch {
    return '';
  }
}

describe.each([
  ['--config', readConfigFile, 128, 'hold: off\n'],
  ['--noise-key', readNoiseKey, 4, initiations[0].serverPrivateKey],
  ['--headscale-api-key-file', readApiKey, 4, 'abc.def\n'],
  ['--headscale-oauth-client-file', readOauthClientSecret, 4, 'hskey-client-abc-def\n'],
])('the file of %s', (flag, read: (path: string) => unknown, largestKiB, right) => {
  test('may be a link to a regular file', () => {
    const link = newPath();
    symlinkSync(written(right), link);
    expect(problemOf(read, link)).toBe('');
  });

  test('may be as large as the limit, and no larger', () => {
    const largest = largestKiB * 1024;
    expect(problemOf(read, written(right.padEnd(largest)))).toBe('');
    const path = written(right.padEnd(largest + 1));
    const start = `${flag} ${path}: is larger than ${largestKiB} KiB; `;
    expect(problemOf(read, path).slice(0, start.length)).toBe(start);
  });

  test('cannot be a pipe, a device or a socket, and trying one blocks nothing', async () => {
    const pipe = newPath();
    execFileSync('mkfifo', [pipe]);
    const link = newPath();
    symlinkSync(pipe, link);
    const socket = newPath();
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    for (const path of [pipe, link, socket, '/dev/zero', '/dev/null']) {
      expect(problemOf(read, path)).toBe(`${flag} ${path}: is a pipe, a socket or a device; name a regular file`);
    }
    await new Promise((resolve) => server.close(resolve));
  });

  test('if this user may not read it or enter its folder, the error says what to do', () => {
    const file = written(right);
    chmodSync(file, 0o000);
    const closed = newPath();
    mkdirSync(closed);
    writeFileSync(join(closed, 'file'), right);
    chmodSync(closed, 0o000);
    chmodSync(folder, 0o755);
    for (const path of [file, join(closed, 'file'), join(closed, 'none')]) {
      const problem = withoutRights(() => problemOf(read, path));
      expect(problem).toBe(
        `${flag} ${path}: this user may not read it; give it read access, for example through a group`,
      );
    }
    chmodSync(closed, 0o700);
  });

  test('if it is missing or a folder, the error says what to do; other errors are shown as the system gives them', () => {
    const missing = newPath();
    expect(problemOf(read, missing)).toMatch(new RegExp(`^${flag} ${missing}: there is no such file; \\w+`));
    expect(problemOf(read, folder)).toMatch(new RegExp(`^${flag} ${folder}: is a folder; name the file in it`));
    const under = join(written(right), 'x');
    expect(problemOf(read, under)).toMatch(new RegExp(`^${flag} ${under}: ENOTDIR`));
    expect(problemOf(read, `${folder}\0`)).toMatch(/null bytes/);
  });

  test('leaves no file open', () => {
    if (process.platform !== 'linux') return;
    const pipe = newPath();
    execFileSync('mkfifo', [pipe]);
    for (const path of [written(right), written('x'.repeat(200_000)), pipe, folder]) problemOf(read, path);
    const open = readdirSync('/proc/self/fd').map(targetOf);
    expect(open.filter((target) => target.startsWith(folder))).toEqual([]);
  });
});

describe('readNoiseKey', () => {
  test('reads the key', () => {
    const [first] = initiations;
    expect(formatNoiseKey(readNoiseKey(written(`${first.serverPrivateKey}\n`)))).toBe(first.serverPublicKey);
  });

  test('refuses a file that is too large for a key', () => {
    expect(problemOf(readNoiseKey, written('x'.repeat(5000)))).toMatch(
      /: is larger than 4 KiB; so it is not a Noise key: it should read 'privkey:' and 64 hex digits/,
    );
  });

  test('refuses a file without a key, and does not show its content', () => {
    const path = written('privkey:5e5e');
    expect(problemOf(readNoiseKey, path)).toBe(
      `--noise-key ${path}: does not hold a Noise key; it should read 'privkey:' and 64 hex digits, as in the file that Headscale's noise.private_key_path names`,
    );
  });
});
