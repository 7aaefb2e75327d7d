import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { formatNoiseKeyFile, generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import { until } from '../support/harness.ts';
import { freePort } from '../support/process.ts';

const PROJECT = join(import.meta.dirname, '..', '..');
let folder = '';

/** As it would be put on a server: built, with the dependencies of production, and no script of any of them run. */
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'installed-'));
  for (const name of ['package.json', 'package-lock.json', 'dist']) {
    cpSync(join(PROJECT, name), join(folder, name), { recursive: true });
  }
  const options = ['ci', '--omit=dev', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  execFileSync('npm', options, { cwd: folder, stdio: 'inherit' });
  execFileSync('chmod', ['755', folder]);
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs until it listens; what it says by then. */
async function listens(program: string, args: readonly string[]): Promise<string> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const closed = once(child, 'close');
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (said += chunk));
  try {
    await until(() => said.includes('"listening"') || child.exitCode !== null, 'it listens', 20_000);
  } finally {
    child.kill('SIGTERM');
    await closed;
  }
  return said;
}

const serve = async (...more: readonly string[]): Promise<string[]> => [
  ...[process.execPath, join(folder, 'dist', 'cli.js'), 'serve', '--upstream', 'http://127.0.0.1:9', ...more],
  ...['--listen', `127.0.0.1:${await freePort()}`, '--admin', `127.0.0.1:${await freePort()}`],
];

describe('the installed watchdog', () => {
  test('is installed without scripts and works, with kernel evidence', async () => {
    const [node = '', ...args] = await serve();
    const said = await listens(node, args);
    expect(said).toContain('"listening"');
    expect(said).not.toContain('no kernel evidence');
  });

  test('without koffi it says what is off, and works', async () => {
    const koffi = ['koffi', '@koromix'].map((name) => join(folder, 'node_modules', name));
    for (const each of koffi) cpSync(each, `${each}.away`, { recursive: true });
    for (const each of koffi) rmSync(each, { recursive: true });
    try {
      const [node = '', ...args] = await serve();
      const said = await listens(node, args);
      expect(said).toContain('"listening"');
      expect(said).toContain('no kernel evidence');
    } finally {
      for (const each of koffi) cpSync(`${each}.away`, each, { recursive: true });
      for (const each of koffi) rmSync(`${each}.away`, { recursive: true });
    }
  });

  test.runIf(process.getuid?.() === 0)('runs as nobody on a read-only file system', async () => {
    const key = join(folder, 'noise_private.key');
    writeFileSync(key, formatNoiseKeyFile(generateNoiseKey()), { mode: 0o640 });
    execFileSync('chown', ['0:65534', key]);
    const asNobody = 'exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --inh-caps=-all "$@"';
    // Each file system of its own that can be made so, not only the root's.
    const script = `mount -o remount,bind,ro / && mount -t tmpfs -o ro none /dev/shm && ! touch ${folder}/x 2>/dev/null && ${asNobody}`;
    const said = await listens('unshare', [
      ...['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh'],
      ...(await serve('--noise-key', key)),
    ]);
    expect(said).toContain('"listening"');
    expect(said).not.toContain('no kernel evidence');
  });
});
