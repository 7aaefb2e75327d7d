import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { aMachineKey, freshHandshake, initiations } from '../support/initiations.ts';
import { CLI } from '../support/process.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());
const [recorded] = initiations;

/** A watchdog that writes a heap snapshot at SIGWINCH. */
async function startWatchdog(folder: string, upstream: string): Promise<{ child: ChildProcess; port: number }> {
  const keyFile = join(folder, 'noise_private.key');
  writeFileSync(keyFile, `${recorded.serverPrivateKey}\n`, { mode: 0o600 });
  const flags = ['--upstream', upstream, '--noise-key', keyFile, '--listen', '127.0.0.1:0', '--admin', '127.0.0.1:0'];
  const child = spawn(
    process.execPath,
    ['--heapsnapshot-signal=SIGWINCH', CLI, 'serve', ...flags, '--log-level', 'debug'],
    { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] },
  );
  harness.defer(async () => {
    const closed = once(child, 'close');
    child.kill('SIGKILL');
    await closed;
  });
  let log = '';
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk) => (log += chunk));
  child.on('close', () => writeFileSync(join(folder, 'log'), log));
  await until(() => log.includes('"listening"'), 'it listens');
  return { child, port: Number(/"listen":"127\.0\.0\.1:(\d+)"/.exec(log)?.[1]) };
}

test('a heap snapshot of a running watchdog does not contain the Noise key, in hex, base64 or raw form', async () => {
  const folder = harness.folder();
  const upstream = await harness.upstream((_request, socket) => {
    socket.on('error', () => {}).resume();
    socket.write(SWITCHING);
  });
  const { child, port } = await startWatchdog(folder, upstream.url);
  for (let i = 0; i < 20; i++) {
    const client = harness.client(port);
    client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded)}\r\n`));
    expect(await readHead(client)).toMatch(/ (101|503) /);
  }
  child.kill('SIGWINCH');
  const written = (): string | undefined => readdirSync(folder).find((name) => name.endsWith('.heapsnapshot'));
  const read = (): string => readFileSync(join(folder, written() ?? ''), 'utf8');
  await until(() => written() !== undefined && read().endsWith(']}'), 'the snapshot is written');
  const snapshot = read();
  // What is looked for would be found: a machine key is there.
  expect(snapshot.includes(aMachineKey), 'a machine key').toBe(true);
  const hex = recorded.serverPrivateKey.replace(/^privkey:/, '');
  expect(hex).toMatch(/^[0-9a-f]{64}$/);
  const raw = Buffer.from(hex, 'hex');
  for (const form of [hex, hex.toUpperCase(), raw.toString('base64'), raw.toString('base64url')]) {
    expect(snapshot.includes(form.replace(/=+$/, '')), 'the key').toBe(false);
  }
  expect(snapshot.includes(JSON.stringify(raw.toString('latin1')).slice(1, -1)), 'the key, raw').toBe(false);
});
