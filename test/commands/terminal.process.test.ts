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
function onTerminal(admin: string, { COLUMNS = '200', ...env }: Record<string, string>, ...args: string[]) {
  const line = [
    'stty',
    'cols',
    `${COLUMNS};`,
    process.execPath,
    CLI,
    ...args,
    '--admin',
    admin.replace('http://', ''),
  ].join(' ');
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

/** What a shell prints of a line of commands, and its exit codes. */
async function inShell(line: string) {
  const shell = spawn('bash', ['-c', `${line}; echo "\${PIPESTATUS[*]}"`]);
  harness.defer(() => void shell.kill('SIGKILL'));
  let text = '';
  shell.stdout.on('data', (chunk) => {
    text += chunk;
  });
  await new Promise((resolve) => shell.on('close', resolve));
  return text;
}

describe('when nobody reads on', () => {
  test('a command ends as if somebody did, and --follow and --watch end at once', async () => {
    const { admin } = await bench();
    const command = `${process.execPath} ${CLI}`;
    const at = `--admin ${admin.replace('http://', '')}`;
    const [missing, following, watching] = await Promise.all([
      inShell(`${command} nodes nowhere ${at} 2>&1 | true`),
      inShell(`${command} events --follow ${at} | true`),
      inShell(`${command} streams --watch ${at} | head -1`),
    ]);
    expect(missing).toBe('3 0\n');
    expect(following).toBe('0 0\n');
    expect(watching).toMatch(/^STREAM .*\n0 0\n$/);
  });
});

test.each(['nodes', 'events', 'reload', 'check --json', 'completion bash', 'status'])(
  'what %s prints does not fit on the disk: it says so, and fails',
  async (command) => {
    const { admin } = await bench();
    const at = command.startsWith('completion') ? '' : `--admin ${admin.replace('http://', '')}`;
    const said = await inShell(`${process.execPath} ${CLI} ${command} ${at} 2>&1 >/dev/full`);
    expect(said).toMatch(/error \[HSW_OUTPUT_FAILED\]: cannot write to standard output: .*ENOSPC.*\n1\n$/s);
  },
);

describe.skipIf(!hasScript)('on a terminal', () => {
  test('uses colours, but not with NO_COLOR', async () => {
    const { admin } = await bench();
    const [with_, without] = [onTerminal(admin, {}, 'streams'), onTerminal(admin, { NO_COLOR: '1' }, 'streams')];
    expect(await Promise.all([with_.ended, without.ended])).toEqual([0, 0]);
    expect(with_.shown.text).toContain('\x1b[');
    expect(without.shown.text).toContain('STREAM');
    expect(without.shown.text).not.toContain('\x1b[');
  });

  test('a terminal that does not know its width gets everything', async () => {
    const { admin } = await bench();
    const streams = onTerminal(admin, { COLUMNS: '0', NO_COLOR: '1' }, 'streams');
    expect(await streams.ended).toBe(0);
    expect(streams.shown.text).toMatch(/^STREAM {2}NODE .* OUT {2}STATE\r\n.*\r\n$/);
  });

  test.each([50, 60, 80])(
    'a table fits into %i columns: it leaves out columns, says which, and cuts no address',
    async (columns) => {
      const { admin } = await bench();
      const env = { COLUMNS: String(columns), NO_COLOR: '1' };
      const [streams, help] = [onTerminal(admin, env, 'streams'), onTerminal(admin, env, 'help', 'streams')];
      expect(await Promise.all([streams.ended, help.ended])).toEqual([0, 0]);
      const [head = '', row = '', note = ''] = streams.shown.text.split('\r\n');
      expect(row).toMatch(/ {2}127\.0\.0\.1:\d{4,5} .*open$/);
      expect(row.length).toBeLessThanOrEqual(columns);
      expect(head).toMatch(/^STREAM {2}NODE +ADDRESS .*STATE$/);
      expect(note).toMatch(/^This terminal is too narrow for .*IN, OUT.*\. A pipe shows all: add \| cat$/);
    },
  );

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
