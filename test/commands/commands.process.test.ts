import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import { formatNoiseKey } from '../../src/identity/noise.ts';
import { acceptStream, Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';
import { run, runWith } from '../support/process.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const [recorded] = initiations;

function fileWith(text: string): string {
  const folder = harness.folder();
  writeFileSync(join(folder, 'file'), text);
  return join(folder, 'file');
}

/** A watchdog with one node, `router-1`, connected. */
async function bench(flags: Record<string, unknown> = {}) {
  const machine = generateNoiseKey();
  const node = { id: '7', machineKey: formatNoiseKey(machine), nodeKey: `nodekey:${'2'.repeat(64)}`, name: 'router-1' };
  const upstream = await harness.upstream(acceptStream, ({ url }, response) => {
    if (url === '/api/v1/node') response.end(JSON.stringify({ nodes: [node] }));
    else response.writeHead(404).end();
  });
  const given = { headscaleApiKeyFile: fileWith('the-key'), silentAfter: '1s', ...flags };
  const running = await harness.watchdog(upstream.url, given, noiseKeyOf(recorded));
  await until(() => running.events.some(({ kind }) => kind === 'nodes_listed'), 'the nodes are listed');
  const connect = async () => {
    const client = harness.client(running.port);
    client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded, machine)}\r\n`));
    expect(await readHead(client)).toBe(SWITCHING);
    return client;
  };
  await connect();
  const admin = running.admin.replace('http://', '');
  const command = async (...args: string[]) => {
    const done = run(harness, ...args, '--admin', admin);
    const { code } = await done.ended;
    return { code, stdout: done.stdout, stderr: done.stderr };
  };
  return { ...running, admin, connect, command, machineKey: node.machineKey };
}

describe('headscale-watchdog check', () => {
  test('if Headscale accepts the connection but does not answer, it fails with the code for that', async () => {
    const silent = await harness.upstream(
      () => {},
      () => {},
    );
    const done = run(harness, 'check', '--upstream', silent.url, '--listen', '127.0.0.1:0', '--admin', '127.0.0.1:0');
    expect((await done.ended).code).toBe(1);
    expect(done.stdout).toContain(`fail  [HSW_UPSTREAM_SILENT] Headscale at ${silent.url}: `);
  });
});

describe('headscale-watchdog streams', () => {
  test('prints a table or JSON, filters, exits with 3 if nothing matches and with 2 for a wrong filter, and uses no colours in a pipe', async () => {
    const { command } = await bench();
    const [table, json, nothing, wrong, descending] = await Promise.all([
      command('streams'),
      command('streams', '--json', '--node', 'Router-1'),
      command('streams', '--state', 'held'),
      command('streams', '--state', 'opne'),
      command('streams', '--sort', '-id'),
    ]);
    expect(table.code).toBe(0);
    expect(table.stdout.split('\n')[0]).toMatch(/^STREAM {2}NODE {6}ADDRESS/);
    expect(table.stdout.split('\n')[1]).toMatch(/^ {5}1 {2}router-1 {2}127\.0\.0\.1:\d+ .* open$/);
    expect(table.stdout).not.toContain('\x1b');
    expect(JSON.parse(json.stdout)).toMatchObject({ total: 1, streams: [{ id: 1, node: { name: 'router-1' } }] });
    expect([nothing.code, nothing.stdout]).toEqual([3, 'No stream matches.\n']);
    expect([wrong.code, wrong.stderr]).toEqual([
      2,
      expect.stringContaining('Did you mean open? Write held, connecting, open or closing.'),
    ]);
    expect(descending.code).toBe(0);
  });

  test('--watch goes on until Ctrl-C, and exits with 0', async () => {
    const { admin } = await bench();
    const watching = run(harness, 'streams', '--watch', '--json', '--admin', admin);
    await until(() => watching.stdout.split('\n').length > 2, 'it was shown twice');
    watching.child.kill('SIGINT');
    expect(await watching.ended).toEqual({ code: 0, signal: null });
  });

  test('without a running watchdog it exits with 1, and says what to check', async () => {
    const done = run(harness, 'streams', '--admin', '127.0.0.1:1');
    expect((await done.ended).code).toBe(1);
    expect(done.stderr).toContain('is a watchdog running, and is this the --admin address it was started with?');
  });

  test('if something else than a watchdog answers, it exits with 1 and shows the answer', async () => {
    const other = await harness.upstream(
      () => {},
      (_request, response) => void response.end('It works!'),
    );
    for (const name of ['streams', 'reload']) {
      const done = run(harness, name, '--admin', other.url.replace('http://', ''));
      expect((await done.ended).code).toBe(1);
      expect(done.stderr).toMatch(/^error \[HSW_ADMIN_ANSWER_UNEXPECTED\]: .*the answer was 200: It works!\n$/);
    }
  });

  test('if a token is needed, it exits with 1 without it and with 0 with it, also if the settings file names it', async () => {
    const adminTokenFile = fileWith('a-token-of-enough-characters');
    const { command, admin } = await bench({ adminTokenFile });
    const settings = fileWith(`admin: ${admin}\nadmin-token-file: ${adminTokenFile}\n`);
    const [without, withIt, fromFile] = await Promise.all([
      command('streams'),
      command('streams', '--admin-token-file', adminTokenFile),
      command('streams', '--config', settings),
    ]);
    expect([without.code, without.stderr]).toEqual([1, expect.stringContaining('give --admin-token-file')]);
    expect([withIt.code, fromFile.code]).toEqual([0, 0]);
  });
});

describe('headscale-watchdog nodes', () => {
  test('prints a table or JSON, filters, exits with 3 if nothing matches and with 2 for a wrong filter', async () => {
    const { command, machineKey } = await bench();
    const [table, json, one, nothing, unknown, wrong] = await Promise.all([
      command('nodes'),
      command('nodes', '--json', '--search', 'ROUTER'),
      command('nodes', machineKey, '--sort', '-since'),
      command('nodes', '--state', 'expired'),
      command('nodes', 'router-l'),
      command('nodes', '--state', 'up'),
    ]);
    expect([table.code, table.stderr]).toEqual([0, '']);
    const [head, first] = table.stdout.split('\n');
    expect(head).toMatch(/^NODE {6}USER {2}STATE +FOR {2}LAST SIGN +RTT {2}ADDRESS +HEADSCALE {2}KEY EXPIRES$/);
    expect(first).toMatch(/^router-1 .* connected .* s ago .* ms {2}127\.0\.0\.1:\d+ {2}- +never$/);
    expect(JSON.parse(json.stdout)).toMatchObject({ total: 1, nodes: [{ id: '7', name: 'router-1', machineKey }] });
    expect([one.code, one.stdout.split('\n')[1]?.startsWith('router-1')]).toEqual([0, true]);
    expect([nothing.code, nothing.stdout]).toEqual([3, 'No node matches.\n']);
    expect([unknown.code, unknown.stderr]).toEqual([3, expect.stringContaining('did you mean router-1?')]);
    expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringContaining('Write connected, connecting,')]);
  });

  test('--watch goes on until Ctrl-C, and exits with 0', async () => {
    const { admin } = await bench();
    const watching = run(harness, 'nodes', 'router-1', '--watch', '--json', '--admin', admin);
    await until(() => watching.stdout.split('\n').length > 2, 'it was shown twice');
    watching.child.kill('SIGINT');
    expect(await watching.ended).toEqual({ code: 0, signal: null });
  });
});

describe('headscale-watchdog events', () => {
  test('says why a stream of a node was severed, in one line', async () => {
    const { command, connect, events } = await bench();
    const newcomer = await connect();
    newcomer.write(Buffer.from([4, 0, 2, 1, 2]));
    await until(() => events.some(({ kind }) => kind === 'stream_severed'), 'the old one is severed');
    const [all, one, unknown] = await Promise.all([
      command('events', '--node', 'router-1'),
      command('events', '--node', '7', '--kind', 'stream_severed', '--json'),
      command('events', '--node', 'router-l'),
    ]);
    expect(all.code).toBe(0);
    expect(all.stdout).toMatch(
      /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d {2}router-1's old stream 1 from 127\.0\.0\.1:\d+ was severed: its client had sent nothing for .*, and the node is back on stream 2 from /m,
    );
    expect(JSON.parse(one.stdout)).toMatchObject({
      kind: 'stream_severed',
      stream: 1,
      otherStream: 2,
      reason: 'silent',
    });
    expect([unknown.code, unknown.stderr]).toEqual([
      3,
      expect.stringContaining("there is no node 'router-l': did you mean router-1?"),
    ]);
  });

  test('--follow prints new events as they happen, until Ctrl-C', async () => {
    const { admin, connect } = await bench();
    const following = run(harness, 'events', '--follow', '--node', 'router-1', '--admin', admin);
    await until(() => following.stdout.includes('stream 1 was opened'), 'it tells the past');
    await connect();
    await until(() => following.stdout.includes('stream 2 was opened'), 'it tells the present');
    following.child.kill('SIGINT');
    expect((await following.ended).code).toBe(0);
  });
});

describe('headscale-watchdog sever', () => {
  test('asks first on a terminal, and without a terminal severs nothing', async () => {
    const { command, events } = await bench();
    const unasked = await command('sever', 'router-1');
    expect([unasked.code, unasked.stderr]).toEqual([1, expect.stringContaining('add --yes')]);
    expect((await command('sever', '99', '--yes')).code).toBe(3);
    // A number alone is a stream's, never a node's.
    expect((await command('sever', '7', '--yes')).code).toBe(3);
    expect(events.some(({ kind }) => kind === 'stream_closed')).toBe(false);
    const done = await command('sever', 'id:7', '--yes');
    expect([done.code, done.stdout]).toEqual([0, 'severed: stream 1 of router-1\n']);
    await until(() => events.some((e) => e.kind === 'stream_closed' && e.reason === 'severed_by_operator'), 'severed');
  });
});

describe('headscale-watchdog completion', () => {
  async function script(shell: string): Promise<string> {
    const done = runWith(harness, {}, 'completion', shell);
    expect((await done.ended).code).toBe(0);
    return done.stdout;
  }

  test('bash completes commands, flags, fixed words and files', async () => {
    const file = fileWith(await script('bash'));
    const complete = (...words: string[]): string[] => {
      const quoted = words.map((word) => `'${word}'`).join(' ');
      const lines = `source ${file}; COMP_WORDS=(${quoted}); COMP_CWORD=${words.length - 1}; _headscale_watchdog; printf '%s\\n' "\${COMPREPLY[@]}"`;
      const { stdout, stderr, status } = spawnSync('bash', ['--norc', '-c', lines], { encoding: 'utf8' });
      expect([status, stderr]).toEqual([0, '']);
      return stdout.trim().split('\n');
    };
    expect(complete('headscale-watchdog', 's')).toEqual(['serve', 'streams', 'sever']);
    expect(complete('headscale-watchdog', 'events', '--f')).toEqual(['--follow']);
    expect(complete('headscale-watchdog', 'serve', '--log-level', 'd')).toEqual(['debug']);
    expect(complete('headscale-watchdog', 'streams', '--state', 'c')).toEqual(['connecting', 'closing']);
    expect(complete('headscale-watchdog', 'nodes', '--state', 'c')).toEqual(['connected', 'connecting']);
    expect(complete('headscale-watchdog', 'streams', '--kind', 'd')).toEqual(['derp']);
    expect(complete('headscale-watchdog', 'completion', '')).toEqual(['bash', 'zsh', 'fish']);
    expect(complete('headscale-watchdog', 'serve', '--config', file.slice(0, -1))).toEqual([file]);
    expect(complete('headscale-watchdog', 'serve', '--listen', '')).toEqual(['']);
  });

  const installed = ['zsh', 'fish'].filter((shell) => spawnSync(shell, ['--version']).error === undefined);

  test.skipIf(installed.length === 0)('zsh and fish, if they are installed, can read their scripts', async () => {
    for (const shell of installed) {
      const { status, stderr } = spawnSync(shell, ['-n', fileWith(await script(shell))], { encoding: 'utf8' });
      expect([shell, status, stderr]).toEqual([shell, 0, '']);
    }
  });

  test('another shell exits with 2, and the error lists the shells', async () => {
    const done = run(harness, 'completion', 'tcsh');
    expect((await done.ended).code).toBe(2);
    expect(done.stderr).toContain('bash, zsh, fish');
  });
});

describe('headscale-watchdog notify', () => {
  test('needs --test, and exits with how it went', async () => {
    const file = fileWith("notify: { url: 'http://127.0.0.1:1/SECRET', format: text }\n");
    const sent = run(harness, 'notify', '--test', '--config', file);
    expect((await sent.ended).code).toBe(1);
    expect(sent.stdout).toBe('fail  [HSW_NOTIFICATION_DELAYED] target 1 (text, http://127.0.0.1:1/…): ECONNREFUSED\n');
    const without = run(harness, 'notify', '--config', file);
    expect((await without.ended).code).toBe(2);
    expect(without.stderr).toContain("required option '--test'");
    expect(sent.stderr + without.stderr).not.toContain('SECRET');
  });
});
