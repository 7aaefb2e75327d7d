import { afterEach, describe, expect, test } from 'vitest';
import { Harness } from '../support/harness.ts';
import { failure, runWith } from '../support/process.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

async function help(...args: string[]): Promise<string> {
  const done = runWith(harness, {}, ...args);
  expect(await done.ended).toEqual({ code: 0, signal: null });
  expect(done.stderr).toBe('');
  return done.stdout;
}

const COMMANDS =
  'serve check notify demo status streams nodes events availability sever reload handover completion'.split(' ');

describe('--help', () => {
  test('of the program: the commands in groups, in 80 columns', async () => {
    const text = await help('--help');
    const groups = [...text.matchAll(/^(\S.*):$/gm)].map(([, group]) => group);
    expect(groups).toEqual([
      ...['Options', 'Run it', 'Look at a running watchdog', 'Change something', 'More', 'Exit codes'],
    ]);
    const listed = [...text.matchAll(/^ {2}([a-z]+)( \S+)* {2,}/gm)].map(([, name]) => name);
    expect(listed).toEqual([...COMMANDS, 'help']);
    expect(Math.max(...text.split('\n').map((line) => line.length))).toBeLessThanOrEqual(80);
  });

  test.each(COMMANDS)('of %s: examples, exit codes, 80 columns, and the variables if it has flags', async (name) => {
    const text = await help('help', name);
    expect(text).toMatch(new RegExp(`^Examples:\n {2}# .*\n {2}headscale-watchdog ${name}\\b`, 'm'));
    expect(text).toMatch(/^Exit codes:\n {2}0 {2}\S/m);
    expect(/^Variables:$/m.test(text)).toBe(/^ {2}--(config|keep)\b/m.test(text));
    expect(text.split('\n').filter((line) => line.length > 80)).toEqual([]);
  });

  test('of serve: the settings in groups, those that everybody needs first', async () => {
    const text = await help('serve', '--help');
    const groups = [...text.matchAll(/^(\S.*):$/gm)].map(([, group]) => group);
    expect(groups).toEqual([
      ...['Basic', 'Rules', 'Limits', 'Replicas', 'Notifications', 'Other', 'Options'],
      ...['Examples', 'Variables', 'Exit codes'],
    ]);
    expect(text).toContain('(default: 30s)');
  });
});

describe('a mistake on the command line', () => {
  test.each([
    [['sever'], "missing required argument 'node|id': see headscale-watchdog help sever"],
    [['streams', '--admin'], "option '--admin <host:port>' argument missing: see headscale-watchdog help streams"],
    [['evnts'], "unknown command 'evnts' (Did you mean events?)"],
    [['help', 'evnts'], "unknown command 'evnts' (Did you mean events?)"],
    [['events', '--knid', 'x'], "unknown option '--knid' (Did you mean --kind?)"],
    [
      ['streams', '--state', 'opne'],
      "option '--state <state>' argument 'opne' is invalid. Did you mean open? Write held, connecting, open, closing, contested or no-evidence.",
    ],
    [
      ['streams', '--kind', 'control,dep'],
      "option '--kind <kind>' argument 'control,dep' is invalid. Did you mean derp? Write control, derp or other.",
    ],
    [
      ['streams', '--sort', '-opend'],
      "option '--sort <column>' argument '-opend' is invalid. Did you mean opened? Write id, node, address, opened, heard, rtt, bytes or state.",
    ],
    [
      ['events', '--kind', 'takeover'],
      "option '--kind <kind>' argument 'takeover' is invalid. There is no kind 'takeover': a takeover is contest_opened, and then stream_severed. All kinds: headscale-watchdog events --help.",
    ],
    [
      ['events', '--limit', 'ten'],
      "option '--limit <number>' argument 'ten' is invalid. Write a whole number from 1 on.",
    ],
  ])('%j: what was meant, exit 2', async (args, message) => {
    expect(await failure(harness, ...args)).toEqual({ code: 2, lines: [`error [HSW_USAGE_INVALID]: ${message}`] });
  });
});

describe('a variable that names no flag', () => {
  const env = { HEADSCALE_WATCHDOG_ADMIN_TOKEN: 'SECRET' };

  test('is told by a command that has flags, and the command goes on', async () => {
    const done = runWith(harness, { env }, 'streams', '--admin', '127.0.0.1:1');
    expect((await done.ended).code).toBe(1);
    expect(done.stderr).toMatch(
      /^warning \[HSW_VARIABLE_UNKNOWN\]: .*ADMIN_TOKEN_FILE.*\nerror \[HSW_ADMIN_UNREACHABLE\]/,
    );
    expect(done.stderr).not.toContain('SECRET');
    const other = runWith(harness, { env }, 'completion', 'bash');
    await other.ended;
    expect(other.stderr).toBe('');
  });
});
