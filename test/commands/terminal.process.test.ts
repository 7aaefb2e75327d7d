import { spawn, spawnSync } from 'node:child_process';
import { afterEach, describe, expect, test } from 'vitest';
import { acceptStream, Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';
import { CLI } from '../support/process.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const [recorded] = initiations;
const hasScript = spawnSync('script', ['--version']).error === undefined;

async function bench() {
  const upstream = await harness.upstream(acceptStream);
  const running = await harness.watchdog(upstream.url, {}, noiseKeyOf(recorded));
  const client = harness.client(running.port);
  client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded)}\r\n`));
  expect(await readHead(client)).toBe(SWITCHING);
  return running;
}

/** The CLI on a terminal that util-linux's `script` lends it. */
function onTerminal(admin: string, env: Record<string, string>, ...args: string[]) {
  const line = [process.execPath, CLI, ...args, '--admin', admin.replace('http://', '')].join(' ');
  const child = spawn('script', ['-qec', line, '/dev/null'], {
    env: { ...process.env, TERM: 'xterm', NO_COLOR: '', ...env },
  });
  const shown = { text: '' };
  child.stdout.on('data', (chunk) => {
    shown.text += chunk;
  });
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  harness.defer(() => {
    child.kill('SIGKILL');
    return ended;
  });
  return { shown, ended, type: (keys: string) => child.stdin.write(keys) };
}

describe.skipIf(!hasScript)('on a terminal', () => {
  test('uses colours, but not with NO_COLOR', async () => {
    const { admin } = await bench();
    const [with_, without] = [onTerminal(admin, {}, 'streams'), onTerminal(admin, { NO_COLOR: '1' }, 'streams')];
    expect(await Promise.all([with_.ended, without.ended])).toEqual([0, 0]);
    expect(with_.shown.text).toContain('\x1b[');
    expect(without.shown.text).toContain('STREAM');
    expect(without.shown.text).not.toContain('\x1b[');
  });

  test.each([
    ['n\r', 1, 'Nothing was severed.'],
    ['\x03', 1, 'Nothing was severed.'],
    ['y\r', 0, 'severed: stream 1 of mkey:'],
  ])('sever asks, and after the answer %j exits with %i', async (keys, code, text) => {
    const { admin, events } = await bench();
    const severing = onTerminal(admin, {}, 'sever', '1');
    await until(() => severing.shown.text.includes('Sever it? [y/N]'), 'it asks');
    severing.type(keys);
    expect(await severing.ended).toBe(code);
    expect(severing.shown.text).toContain(text);
    const closed = (): boolean => events.some(({ kind }) => kind === 'stream_closed');
    if (code === 0) await until(closed, 'it is severed');
    else expect(closed()).toBe(false);
  });
});
