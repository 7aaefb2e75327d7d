import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { manPage } from '../../package/man-page.ts';
import { settingsFile } from '../../package/settings-file.ts';
import { loadConfig } from '../../src/config/load.ts';
import { freePort } from '../support/process.ts';
import { until } from './support/machines.ts';

const execute = promisify(execFile);
const PROJECT = join(import.meta.dirname, '..', '..');
const folder = mkdtempSync(join(tmpdir(), 'package-'));
afterAll(() => rmSync(folder, { recursive: true }));

async function say(program: string, ...args: readonly string[]): Promise<string> {
  const { stdout } = await execute(program, args, { cwd: PROJECT, maxBuffer: 64 << 20 });
  return stdout;
}

describe('the settings file of the package', () => {
  const text = settingsFile({ upstream: 'http://127.0.0.1:8082', listen: '0.0.0.0:8080' });
  /** Without the file's own path. */
  const load = (text: string) => ({ ...loadConfig({}, { path: 'watchdog.yaml', text }), file: undefined });

  test('is valid as it is, and sets nothing else', () => {
    const expected = loadConfig({ upstream: 'http://127.0.0.1:8082', listen: ['0.0.0.0:8080'] }, undefined);
    expect(load(text)).toEqual(expected);
  });

  test('each default that it shows may be used, and is the default', () => {
    const shown = text.replace(/^(upstream|listen):.*\n/gm, '').replace(/^#(?=[a-z-]+: \S)/gm, '');
    const withDefaults = shown.replace(/^[a-z-]+: (FILE|FOLDER|NAME|URL)\n/gm, '');
    expect(withDefaults.match(/^[a-z]/gm)?.length).toBeGreaterThan(20);
    // Each says where it comes from, which is another place here.
    const { places: _given, ...given } = load(withDefaults);
    const { places: _byDefault, ...byDefault } = loadConfig({}, undefined);
    expect(given).toEqual(byDefault);
  });

  test('its examples of rules and targets may be used', () => {
    const withExamples = text.replace(/^#(nodes:| {2}- | {4}|notify:)/gm, '$1');
    // A rule by name needs an API key.
    const { rules, notify } = load(`${withExamples}\nheadscale-api-key-file: /etc/api.key\n`);
    expect([rules.length, notify.length]).toEqual([1, 1]);
  });
});

describe('the manual page', () => {
  test('has the commands and flags of the help, and no line that troff would take for a request', () => {
    const help = `Usage: headscale-watchdog [options] [command]

A proxy.

Options:
  -h, --help   display help

Commands:
  serve [options]  run the proxy
                   .for long
`;
    const serve =
      "Usage: headscale-watchdog serve\n\nrun it\n\nClients:\n  --listen <address>  where\n                      'they' connect\n";
    const page = manPage({
      version: '1.2.3',
      date: '2026-01-02',
      program: help,
      commands: new Map([['serve', serve]]),
    });
    expect(page).toContain('.TP\n.B serve [options]\nrun the proxy .for long\n');
    expect(page).toContain(".I Clients\n.TP\n.B \\-\\-listen <address>\nwhere 'they' connect\n");
    expect(page.split('\n').filter((line) => /^[.']/.test(line) && !/^\.(TH|SH|PP|TP|B|I|BR)\b/.test(line))).toEqual(
      [],
    );
  });
});

describe('npm run package', () => {
  const made = ['first', 'second'].map((name) => join(folder, name));
  const files = (): readonly string[] => readdirSync(made[0] ?? '');
  const one = (end: string): string => join(made[0] ?? '', files().find((name) => name.endsWith(end)) ?? end);

  beforeAll(async () => {
    // Another folder, to which nothing that was built is copied.
    const elsewhere = join(folder, 'elsewhere');
    mkdirSync(elsewhere);
    const copied = readdirSync(PROJECT).filter((name) => !['.git', 'dist', 'out'].includes(name));
    await execute('cp', ['--archive', '--target-directory', elsewhere, ...copied], { cwd: PROJECT });
    const env = { ...process.env, SOURCE_DATE_EPOCH: '1790000000' };
    await Promise.all(
      [PROJECT, elsewhere].map((cwd, i) =>
        execute('npm', ['run', '--silent', 'package', '--', made[i] ?? '', 'amd64'], { cwd, env }),
      ),
    );
  }, 600_000);

  test('gives the same bytes when it is run again, in another folder', () => {
    const sums = made.map((out) => readFileSync(join(out, 'SHA256SUMS'), 'utf8'));
    expect(sums[1]).toBe(sums[0]);
    expect(files()).toHaveLength(5);
  });

  test('the checksums are right', async () => {
    await execute('sha256sum', ['--check', '--strict', 'SHA256SUMS'], { cwd: made[0] });
  });

  test('lintian finds no error', { timeout: 240_000 }, async () => {
    const { stdout } = await execute('lintian', ['--fail-on=error', one('.deb')]).catch((error) => error);
    expect(stdout.split('\n').filter((line: string) => /^[EW]:/.test(line))).toEqual([]);
  });

  test('the archive starts where it is unpacked, with its own Node and koffi', async () => {
    await say('tar', '--extract', '--directory', folder, '--file', one('linux-amd64.tar.gz'));
    const unpacked = readdirSync(folder).find((name) => name.endsWith('linux-amd64')) ?? '';
    const program = join(folder, unpacked, 'bin', 'headscale-watchdog');
    const { stdout } = await execute('env', [
      '-i',
      'PATH=/usr/bin:/bin',
      program,
      'check',
      '--upstream',
      'http://127.0.0.1:9',
    ]).catch((error) => error);
    expect(stdout).toMatch(/^ok +kernel evidence: Linux reports/m);
    expect(stdout).toContain('connect ECONNREFUSED 127.0.0.1:9');
    // What it reads from beside the code.
    const admin = `127.0.0.1:${await freePort()}`;
    const child = spawn(program, ['serve', '--listen', '127.0.0.1:0', '--admin', admin], { stdio: 'ignore' });
    try {
      const answers = await until('it answers', () =>
        Promise.all(['/', '/openapi.json', '/page/main.js'].map((path) => fetch(`http://${admin}${path}`))),
      );
      expect(answers.map(({ status }) => status)).toEqual([200, 200, 200]);
    } finally {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  });

  test('npx runs the package for npm', async () => {
    const { version } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8')) as { version: string };
    const shown = await execute('npx', ['--yes', '--package', one('.tgz'), 'headscale-watchdog', '--version'], {
      cwd: folder,
    });
    expect(shown.stdout.trim()).toBe(version);
  });

  test('the list of what is inside has the libraries and Node, and nothing of the development', () => {
    const { components, metadata } = JSON.parse(readFileSync(one('.cdx.json'), 'utf8')) as {
      components: { name: string }[];
      metadata: { component: { name: string } };
    };
    expect(metadata.component.name).toBe('headscale-watchdog');
    const names = components.map(({ name }) => name);
    expect(names).toEqual(
      expect.arrayContaining([
        'commander',
        'http-proxy',
        'koffi',
        'node',
        'undici',
        'yaml',
        'pino',
        'ioredis',
        'prom-client',
        'ws',
      ]),
    );
    for (const each of ['vitest', 'esbuild', 'tsx', 'typescript']) expect(names).not.toContain(each);
  });
});
