import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, createServer } from 'node:net';
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

interface Listed {
  readonly id: string;
  readonly machineKey: string;
  readonly nodeKey: string;
  readonly name: string;
  readonly user?: object;
}

/** A watchdog with one node, `router-1`, connected. @param others nodes that Headscale lists as well. */
async function bench(flags: Record<string, unknown> = {}, others: readonly Listed[] = []) {
  const machine = generateNoiseKey();
  const node = { id: '7', machineKey: formatNoiseKey(machine), nodeKey: `nodekey:${'2'.repeat(64)}`, name: 'router-1' };
  const upstream = await harness.upstream(acceptStream, ({ url }, response) => {
    if (url === '/api/v1/node') response.end(JSON.stringify({ nodes: [node, ...others] }));
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
      expect.stringContaining('Did you mean open? Write held, connecting, open, closing, contested or no-evidence.'),
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

  test('a node that nobody knows, one that is not connected, and one of which the other flags leave nothing: exit 3, and which it is', async () => {
    const away = {
      id: '8',
      machineKey: `mkey:${'8'.repeat(64)}`,
      nodeKey: `nodekey:${'8'.repeat(64)}`,
      name: 'phone-2',
    };
    const { command } = await bench({}, [away]);
    const [unknown, offline, other] = await Promise.all([
      command('streams', '--node', 'phnoe-2'),
      command('streams', '--node', 'phone-2'),
      command('streams', '--node', 'router-1', '--state', 'held'),
    ]);
    expect([unknown.code, offline.code, other.code]).toEqual([3, 3, 3]);
    expect(unknown.stderr).toBe("error [HSW_NODE_UNKNOWN]: there is no node 'phnoe-2': did you mean phone-2?\n");
    expect(offline.stderr).toBe(
      'error [HSW_STREAM_UNKNOWN]: phone-2 has no open stream: the watchdog has had no sign of it since it started\n',
    );
    expect(other.stderr).toBe('router-1 has a stream, but the other flags leave none of it.\n');
  });

  test('--limit shows so many, and how many there are', async () => {
    const { command, connect } = await bench();
    await connect();
    const [table, json] = await Promise.all([
      command('streams', '--limit', '1', '--sort', '-id'),
      command('streams', '--limit', '1', '--json', '--kind', 'control', '--kind', 'derp,other'),
    ]);
    expect(table.stdout.split('\n').slice(1)).toEqual([
      expect.stringMatching(/^ +\d+ {2}router-1/),
      '1 of 2 are shown.',
      '',
    ]);
    expect(JSON.parse(json.stdout)).toMatchObject({ total: 2, streams: [{}] });
    expect(JSON.parse(json.stdout).streams).toHaveLength(1);
  });
});

describe('a watchdog that cannot be asked: exit 1, with what was tried and what to do', () => {
  const asked = async (env: NodeJS.ProcessEnv, ...args: string[]): Promise<string> => {
    const done = runWith(harness, { env }, ...args);
    expect([(await done.ended).code, done.stdout]).toEqual([1, '']);
    return done.stderr;
  };

  test('it is down, and where its address comes from', async () => {
    const down =
      /^error \[HSW_ADMIN_UNREACHABLE\]: GET http:\/\/127\.0\.0\.1:1\/streams \((.*)\): nothing listens there: start the watchdog, or give the address that its own --admin has, for example --admin 127\.0\.0\.1:9191\n$/;
    const file = fileWith('admin: 127.0.0.1:1\n');
    expect(down.exec(await asked({}, 'streams', '--admin', '127.0.0.1:1'))?.[1]).toBe('--admin');
    expect(down.exec(await asked({}, 'streams', '--config', file))?.[1]).toBe(file);
    const env = { HEADSCALE_WATCHDOG_ADMIN: '127.0.0.1:1' };
    expect(down.exec(await asked(env, 'streams'))?.[1]).toBe('HEADSCALE_WATCHDOG_ADMIN');
  });

  test('a name that has no address', async () => {
    expect(await asked({}, 'nodes', '--admin', 'nowhere.invalid:9191')).toMatch(
      /HSW_ADMIN_UNREACHABLE.*nowhere\.invalid:9191\/nodes \(--admin\): no address is known for 'nowhere\.invalid': write the address/,
    );
  });

  test('something else than a watchdog answers: a page, JSON, a Headscale behind the watchdog', async () => {
    const answers = ['It works!', '{"status":"pass"}', '[]'];
    for (const text of answers) {
      const other = await harness.upstream(
        () => {},
        (_request, response) => void response.end(text),
      );
      for (const name of ['streams', 'reload']) {
        const told = await asked({}, name, '--admin', other.url.replace('http://', ''));
        expect(told).toContain(
          `that is not a watchdog's admin server: it answered 200 and '${text}'; give the watchdog's --admin`,
        );
        expect(told).toMatch(/^error \[HSW_ADMIN_ANSWER_UNEXPECTED\]: .* --admin 127\.0\.0\.1:9191\n$/);
      }
    }
    const { port } = await bench();
    const told = await asked({}, 'streams', '--admin', `127.0.0.1:${port}`);
    expect(told).toMatch(/HSW_ADMIN_ANSWER_UNEXPECTED.* it answered 404 and nothing; .*not one of its --listen/);
  });

  test('a listener with TLS, and a port that hangs up', async () => {
    const tls = (name: string): Buffer => readFileSync(join(import.meta.dirname, '..', 'support', 'tls', name));
    const servers = [
      createHttpsServer({ key: tls('key.pem'), cert: tls('cert.pem') }),
      createServer((socket) => socket.destroy()),
    ];
    for (const server of servers) {
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      harness.defer(() => new Promise((resolve) => server.close(resolve)));
      const { port } = server.address() as AddressInfo;
      expect(await asked({}, 'events', '--admin', `127.0.0.1:${port}`)).toMatch(
        /HSW_ADMIN_UNREACHABLE.*: what listens there does not answer in plain HTTP, so it is not a watchdog's admin server/,
      );
    }
  });

  test('it asks for a token: without one, with a wrong one, with one that cannot be read, with the right one', async () => {
    const adminTokenFile = fileWith('a-token-of-enough-characters');
    const wrong = fileWith('another-token-of-enough-characters');
    const { command, admin } = await bench({ adminTokenFile });
    const settings = fileWith(`admin: ${admin}\nadmin-token-file: ${adminTokenFile}\n`);
    const [without, bad, severing, missing, right, fromFile] = await Promise.all([
      command('streams'),
      command('streams', '--admin-token-file', wrong),
      command('reload', '--admin-token-file', wrong),
      command('streams', '--admin-token-file', join(wrong, '..', 'nowhere')),
      command('streams', '--admin-token-file', adminTokenFile),
      command('streams', '--config', settings),
    ]);
    expect([without, bad, severing, missing, right, fromFile].map(({ code }) => code)).toEqual([1, 1, 1, 2, 0, 0]);
    expect(without.stderr).toMatch(
      /^error \[HSW_ADMIN_TOKEN_REQUIRED\]: GET .*: the watchdog asks for a token: give the file that its own --admin-token-file names/,
    );
    for (const { stderr } of [bad, severing]) {
      expect(stderr).toMatch(
        /^error \[HSW_ADMIN_TOKEN_WRONG\]: (GET|POST) .*: the token in \S+\/file is wrong: give the file that/,
      );
      expect(stderr).not.toContain('another-token');
    }
    expect(missing.stderr).toMatch(
      /^error \[HSW_ADMIN_TOKEN_UNREADABLE\]: --admin-token-file \S+nowhere: there is no such file/,
    );
  });

  test.each([
    ['a watchdog of 0.1', { code: 'HSW_ADMIN_HOST_NOT_ALLOWED', message: 'Wrong host.' }],
    [
      'one of today',
      {
        type: 'about:blank',
        title: 'Forbidden',
        status: 403,
        code: 'HSW_ADMIN_HOST_NOT_ALLOWED',
        detail: 'Wrong host.',
      },
    ],
  ])('what it says itself, in the shape of %s', async (_what, answer) => {
    const old = await harness.upstream(
      () => {},
      (_request, response) => void response.writeHead(403).end(JSON.stringify(answer)),
    );
    expect(await asked({}, 'streams', '--admin', old.url.replace('http://', ''))).toMatch(
      /^error \[HSW_ADMIN_HOST_NOT_ALLOWED\]: GET .*\/streams \(--admin\): the answer was 403: Wrong host\.\n$/,
    );
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
      /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S+ {2}router-1's old stream 1 from 127\.0\.0\.1:\d+ was severed: its client had sent nothing for .*, and the node is back on stream 2 from /m,
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

describe('headscale-watchdog availability', () => {
  test('lists the nodes, or the days of one; exits with 3 for a node that nobody knows', async () => {
    const { command, machineKey } = await bench();
    const [all, one, unknown] = await Promise.all([
      command('availability', '--since', '1h'),
      command('availability', 'router-1', '--json'),
      command('availability', 'router-l'),
    ]);
    expect([all.code, all.stdout]).toEqual([0, expect.stringMatching(/^NODE +AVAILABLE.*\nrouter-1 /)]);
    expect([one.code, JSON.parse(one.stdout)]).toMatchObject([0, { machineKey, name: 'router-1' }]);
    expect([unknown.code, unknown.stderr]).toEqual([3, expect.stringContaining('did you mean router-1?')]);
  });
});

describe('headscale-watchdog sever', () => {
  test('a name that several nodes have severs none of them: exit 1, and the keys to choose from', async () => {
    const twin = {
      id: '9',
      machineKey: `mkey:${'9'.repeat(64)}`,
      nodeKey: `nodekey:${'9'.repeat(64)}`,
      name: 'router-1',
      user: { id: '1', name: 'bob' },
    };
    const { command, events, machineKey } = await bench({}, [twin]);
    const both = await command('sever', 'router-1', '--yes');
    expect(both.code).toBe(1);
    expect(both.stderr).toMatch(
      /^error \[HSW_NODE_AMBIGUOUS\]: several nodes are called 'router-1': write the key of one, /,
    );
    expect(both.stderr).toContain(`${machineKey} (connected)`);
    expect(both.stderr).toContain(`${twin.machineKey} (bob, offline)`);
    expect(events.some(({ kind }) => kind === 'stream_closed')).toBe(false);
    const [away, one] = [await command('sever', 'id:9', '--yes'), await command('sever', machineKey, '--yes')];
    expect([away.code, away.stderr]).toEqual([
      3,
      expect.stringContaining('HSW_STREAM_UNKNOWN]: router-1 has no open stream'),
    ]);
    expect([one.code, one.stdout]).toEqual([0, 'severed: stream 1 of router-1\n']);
  });

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
    expect(complete('headscale-watchdog', 's')).toEqual(['serve', 'status', 'streams', 'sever']);
    expect(complete('headscale-watchdog', 'events', '--f')).toEqual(['--follow']);
    expect(complete('headscale-watchdog', 'events', '--kind', 'stream_sev')).toEqual(['stream_severed']);
    expect(complete('headscale-watchdog', 'serve', '--log-level', 'd')).toEqual(['debug']);
    expect(complete('headscale-watchdog', 'streams', '--state', 'cl')).toEqual(['closing']);
    expect(complete('headscale-watchdog', 'nodes', '--state', 'conn')).toEqual(['connected', 'connecting']);
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
