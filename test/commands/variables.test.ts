import { Command } from 'commander';
import { describe, expect, test } from 'vitest';
import { addOperatorCommands, settingsOf, takesSettings } from '../../src/commands/register.ts';
import { readVariables, type Variables } from '../../src/commands/variables.ts';
import { loadAdminPlace, loadConfig } from '../../src/config/load.ts';
import { variableOf } from '../../src/config/problems.ts';
import { SETTING_NAMES } from '../../src/config/settings.ts';
import type { Config } from '../../src/config/types.ts';
import { UsageError } from '../../src/lib/errors.ts';

interface Parsed {
  readonly variables: Variables;
  readonly command: Command;
  config(): Config;
}

/** What the commands get to see of a command line and of an environment. */
async function parse(env: Record<string, string>, ...args: string[]): Promise<Parsed> {
  const program = new Command('headscale-watchdog').exitOverride().configureOutput({ writeErr: () => {} });
  let seen: Command | undefined;
  takesSettings(program.command('serve')).action((_flags, command: Command) => {
    seen = command;
  });
  addOperatorCommands(program, () => new Promise(() => {}));
  for (const command of program.commands.slice(1)) {
    command.action((...given: unknown[]) => {
      seen = given.at(-1) as Command;
    });
  }
  const variables = readVariables(program, env);
  await program.parseAsync(args, { from: 'user' });
  if (seen === undefined) throw new Error('no command ran');
  const command = seen;
  return { variables, command, config: () => settingsOf(command) };
}

function problemsIn(read: () => unknown): readonly string[] {
  try {
    read();
  } catch (error) {
    if (error instanceof UsageError) return error.problems;
    throw error;
  }
  return [];
}

describe('variables', () => {
  test('stand in for settings of every kind: texts, durations, switches, lists', async () => {
    const { config, variables } = await parse(
      {
        HEADSCALE_WATCHDOG_UPSTREAM: 'http://10.0.0.1:8080',
        HEADSCALE_WATCHDOG_SILENT_AFTER: '10s',
        HEADSCALE_WATCHDOG_OBSERVE_ONLY: 'true',
        HEADSCALE_WATCHDOG_METRICS_MAX_NODES: '7',
        HEADSCALE_WATCHDOG_LISTEN: '127.0.0.1:80, 127.0.0.1:81',
        HEADSCALE_WATCHDOG_TRUSTED_PROXIES: '10.0.0.0/8,::1',
      },
      'serve',
    );
    expect(config()).toMatchObject({
      upstream: new URL('http://10.0.0.1:8080'),
      policy: { silentAfterMs: 10_000, observeOnly: true },
      metricsMaxNodes: 7,
      listen: [{ port: 80 }, { port: 81 }],
      trustedProxies: ['10.0.0.0/8', '::1'],
    });
    expect(variables.unknown).toEqual([]);
  });

  test('a flag wins over its variable, also one that may be repeated', async () => {
    const env = { HEADSCALE_WATCHDOG_SILENT_AFTER: '10s', HEADSCALE_WATCHDOG_LISTEN: '127.0.0.1:80,127.0.0.1:81' };
    const { config } = await parse(env, 'serve', '--silent-after', '20s', '--listen', ':82', '--listen', ':83');
    expect(config().policy.silentAfterMs).toBe(20_000);
    expect(config().listen.map(({ port }) => port)).toEqual([82, 83]);
  });

  test('a variable wins over the file, and the file over the default', () => {
    const file = {
      path: 'w.yaml',
      text: 'silent-after: 20s\ngone-after: 50s\nobserve-only: true\nlisten: 127.0.0.1:90\n',
    };
    const variables = { silentAfter: '10s', observeOnly: false, listen: ['127.0.0.1:91'] };
    const { policy, listen } = loadConfig({}, file, variables);
    expect(policy).toMatchObject({ silentAfterMs: 10_000, goneAfterMs: 50_000, observeOnly: false });
    expect(listen.map(({ port }) => port)).toEqual([91]);
    expect(loadConfig({ silentAfter: '5s' }, file, variables).policy.silentAfterMs).toBe(5000);
  });

  test('observe-only from a variable holds for every node, as the flag does', () => {
    const file = { path: 'w.yaml', text: `nodes: [{ machine-key: mkey:${'1'.repeat(64)}, observe-only: false }]` };
    expect(loadConfig({}, file, { observeOnly: true }).rules[0]?.policy.observeOnly).toBe(true);
    expect(loadConfig({}, file, { observeOnly: false }).rules[0]?.policy.observeOnly).toBe(false);
  });

  test('stand in for the flags of every command, words that may be repeated too', async () => {
    const env = {
      HEADSCALE_WATCHDOG_JSON: '1',
      HEADSCALE_WATCHDOG_STATE: 'held,open',
      HEADSCALE_WATCHDOG_NODE: 'phone',
    };
    const { command } = await parse(env, 'streams');
    expect(command.opts()).toMatchObject({ json: true, state: ['held', 'open'], node: 'phone' });
    const { command: given } = await parse(env, 'streams', '--state', 'closing', '--state', 'connecting');
    expect(given.opts().state).toEqual(['closing', 'connecting']);
    const off = await parse({ HEADSCALE_WATCHDOG_YES: 'false' }, 'sever', 'phone');
    expect(off.command.opts().yes).toBe(false);
  });

  test('an empty variable is none', async () => {
    const { config, variables } = await parse(
      { HEADSCALE_WATCHDOG_SILENT_AFTER: '', HEADSCALE_WATCHDOG_X: '' },
      'serve',
    );
    expect(config().policy.silentAfterMs).toBe(30_000);
    expect(variables.unknown).toEqual([]);
  });

  test('a wrong value is told with the name of its variable, together with wrong flags', async () => {
    const env = { HEADSCALE_WATCHDOG_SILENT_AFTER: '3', HEADSCALE_WATCHDOG_ADMIN: '9191' };
    const { config } = await parse(env, 'serve', '--drain', 'soon');
    expect(problemsIn(config)).toEqual([
      expect.stringMatching(/^--drain: 'soon' is not a duration/),
      "HEADSCALE_WATCHDOG_ADMIN: '9191' is not HOST:PORT: write 127.0.0.1:9191",
      expect.stringMatching(/^HEADSCALE_WATCHDOG_SILENT_AFTER: '3' has no unit: write 3s/),
    ]);
  });

  test('two settings that do not fit each other are told by the name of the variable that was set', () => {
    const problems = problemsIn(() => loadConfig({}, undefined, { admin: '127.0.0.1:8081' }));
    expect(problems).toEqual([expect.stringMatching(/^HEADSCALE_WATCHDOG_ADMIN: the same port as --listen, 8081/)]);
  });

  test('a switch that is neither true nor false, and a word that is not one of those allowed', async () => {
    const env = { HEADSCALE_WATCHDOG_OBSERVE_ONLY: 'maybe', HEADSCALE_WATCHDOG_STATE: 'opne' };
    const serve = await parse(env, 'serve');
    expect(problemsIn(() => serve.variables.check(serve.command))).toEqual([
      "HEADSCALE_WATCHDOG_OBSERVE_ONLY: 'maybe' cannot be used. Write true or false.",
    ]);
    const streams = await parse(env, 'streams');
    expect(problemsIn(() => streams.variables.check(streams.command))).toEqual([
      "HEADSCALE_WATCHDOG_STATE: 'opne' cannot be used. Did you mean open? Write held, connecting, open, closing, contested or no-evidence.",
    ]);
  });

  test('a variable that names no flag is told, without its value, with what was most likely meant', async () => {
    const { variables } = await parse(
      {
        HEADSCALE_WATCHDOG_ADMIN_TOKEN: 'SECRET',
        HEADSCALE_WATCHDOG_SILENT_AFTR: '10s',
        HEADSCALE_WATCHDOG_COMPLETELY_DIFFERENT: 'x',
        HEADSCALE_OTHER: 'x',
      },
      'serve',
    );
    const told = variables.unknown;
    expect(told).toEqual([
      expect.stringMatching(
        /ADMIN_TOKEN is not used.* write HEADSCALE_WATCHDOG_ADMIN_TOKEN_FILE, with the path of a file/,
      ),
      expect.stringMatching(/SILENT_AFTR is not used.* did you mean HEADSCALE_WATCHDOG_SILENT_AFTER\?$/),
      expect.stringMatching(/COMPLETELY_DIFFERENT is not used.*headscale-watchdog help serve/),
    ]);
    expect(told.join()).not.toContain('SECRET');
  });

  test('what Kubernetes and Docker set for services of such a name is no mistake, and no flag has such a name', async () => {
    const { variables } = await parse(
      {
        HEADSCALE_WATCHDOG_SERVICE_HOST: '10.0.0.1',
        HEADSCALE_WATCHDOG_SERVICE_PORT: '8081',
        HEADSCALE_WATCHDOG_SERVICE_PORT_CLIENTS: '8081',
        HEADSCALE_WATCHDOG_PORT: 'tcp://10.0.0.1:8081',
        HEADSCALE_WATCHDOG_PORT_8081_TCP_ADDR: '10.0.0.1',
        HEADSCALE_WATCHDOG_ADMIN_SERVICE_HOST: '10.0.0.1',
        HEADSCALE_WATCHDOG_ADMIN_PORT_9191_TCP: 'tcp://10.0.0.1:9191',
      },
      'serve',
    );
    expect(variables.unknown).toEqual([]);
    for (const name of SETTING_NAMES) expect(variableOf(name)).not.toMatch(/_(PORT|SERVICE_HOST)(_|$)/);
  });
});

describe('the admin address of a command', () => {
  const file = { path: 'w.yaml', text: 'admin: 127.0.0.1:1\nadmin-token-file: token\n' };

  test('comes from the flag, the variable, the file or the default, and says from which', () => {
    const variables = { admin: '127.0.0.1:2' };
    expect(loadAdminPlace({}, undefined)).toMatchObject({ admin: { port: 9191 }, from: undefined });
    expect(loadAdminPlace({}, file)).toEqual({
      ...{ admin: { host: '127.0.0.1', port: 1 }, from: 'w.yaml', adminTokenFile: 'token' },
    });
    expect(loadAdminPlace({}, file, variables)).toMatchObject({ admin: { port: 2 }, from: 'HEADSCALE_WATCHDOG_ADMIN' });
    expect(loadAdminPlace({ admin: ':3' }, file, variables)).toMatchObject({ admin: { port: 3 }, from: '--admin' });
  });

  test.each([
    ['9292', '127.0.0.1:9292'],
    ['http://127.0.0.1:9191/', '127.0.0.1:9191'],
    ['10.0.0.5', '10.0.0.5:9191'],
    ['hs.example.com', 'hs.example.com:9191'],
    ['::1', '[::1]:9191'],
    ['127.0.0.1:99999', '127.0.0.1:9191'],
    ['what?', '127.0.0.1:9191'],
  ])('%s is no address: write %s', (admin, example) => {
    expect(problemsIn(() => loadAdminPlace({ admin }))).toEqual([
      `--admin: '${admin}' is not HOST:PORT: write ${example}`,
    ]);
    expect(loadAdminPlace({ admin: example }).from).toBe('--admin');
  });

  test('a mistake elsewhere in the file does not keep anybody from looking, but a file without an address does', () => {
    const other = { path: 'w.yaml', text: 'admin: 127.0.0.1:1\nsilent-after: soon\nlisten: 127.0.0.1:1\n' };
    expect(loadAdminPlace({}, other).admin.port).toBe(1);
    const broken = { path: 'w.yaml', text: 'admin: [\n' };
    expect(problemsIn(() => loadAdminPlace({}, broken))[0]).toMatch(/^w\.yaml:\d+:\d+: /);
    expect(loadAdminPlace({ admin: ':3' }, broken).admin.port).toBe(3);
  });
});

test('the first part of several kinds of events stands for all of them', async () => {
  const { command } = await parse({}, 'events', '--kind', 'notification,stream_severed', '--kind', 'redis');
  expect(command.opts().kind).toEqual([
    ...[
      'notification_sent',
      'notification_delayed',
      'notification_dropped',
      'stream_severed',
      'redis_up',
      'redis_down',
    ],
  ]);
});
