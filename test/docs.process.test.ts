import { execFile } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { loadConfig } from '../src/config/load.ts';
import { SETTING_NAMES, SETTINGS, type SettingHelp, type SettingName } from '../src/config/settings.ts';
import { CONTEST_VERDICTS, HANDSHAKE_RESULTS, REFUSAL_REASONS } from '../src/streams/events.ts';
import {
  CLOSE_REASONS,
  type EvidenceSource,
  type NoEvidence,
  SEVER_REASONS,
  STREAM_KINDS,
} from '../src/streams/stream.ts';
import { EVENT_KINDS } from '../src/telemetry/event-table.ts';
import { createMetrics } from '../src/telemetry/metrics.ts';
import { Harness } from './support/harness.ts';
import { run } from './support/process.ts';
import { stage } from './telemetry/stage.ts';

const PROJECT = join(import.meta.dirname, '..');
const docs = readdirSync(join(PROJECT, 'docs')).filter((name) => name.endsWith('.md'));
/** By their paths from the project's folder. */
const pages = new Map(
  ['README.md', 'CONTRIBUTING.md', ...docs.map((name) => join('docs', name))].map((path) => [
    path,
    readFileSync(join(PROJECT, path), 'utf8'),
  ]),
);
const reference = ['docs/configuration.md', 'docs/metrics.md'].map((path) => pages.get(path)).join('\n');

/** The reference's table rows whose first cell is one piece of code, by that code's first word. */
const rows = new Map(
  reference.split('\n').flatMap((line) => {
    const first = /^\| `([^` ]+)/.exec(line)?.[1];
    return first === undefined ? [] : [[first, line] as const];
  }),
);

function byDefaultOf(name: SettingName): string {
  const { byDefault: value }: SettingHelp = SETTINGS[name];
  if (value === undefined) return 'none';
  return `\`${value === false ? 'off' : value}\``;
}

describe('the reference', () => {
  test('has a row for every metric, with its type and labels, and no other row', async () => {
    const text = await createMetrics(stage().source).render();
    const metrics = [...text.matchAll(/^# TYPE (headscale_watchdog_\S+) (\S+)$/gm)].map(
      ([, name, type]) => [name, type] as const,
    );
    expect(metrics.length).toBeGreaterThan(10);
    for (const [name, type] of metrics) {
      expect(rows.get(name ?? ''), name).toContain(`| ${type} |`);
      const sample = new RegExp(`^${name}\\{([^}]*)\\}`, 'm').exec(text)?.[1] ?? '';
      for (const [, label] of sample.matchAll(/(\w+)=/g)) expect(rows.get(name ?? ''), name).toContain(`\`${label}\``);
    }
    const told = [...rows.keys()].filter((name) => name.startsWith('headscale_watchdog_'));
    expect(told.sort()).toEqual(metrics.map(([name]) => name).sort());
  });

  test('names every label value', () => {
    const causes = [...CLOSE_REASONS, ...SEVER_REASONS];
    for (const value of [...STREAM_KINDS, ...causes, ...CONTEST_VERDICTS, ...HANDSHAKE_RESULTS, ...REFUSAL_REASONS]) {
      expect(reference).toContain(`\`${value}\``);
    }
  });

  test('names every source of evidence, and every reason why there is none', () => {
    const sources: Record<EvidenceSource['kind'], true> = { direct: true, proxy: true, none: true };
    const reasons: Record<NoEvidence, true> = {
      ...{ kernel_unavailable: true, netlink_unavailable: true, proxy_elsewhere: true },
      ...{ several_proxies: true, address_hidden: true, socket_not_found: true },
    };
    const row = /^\| `evidence` .*$/m.exec(pages.get('docs/api.md') ?? '')?.[0];
    for (const value of Object.keys({ ...sources, ...reasons })) expect(row).toContain(`\`${value}\``);
    for (const source of Object.keys(sources))
      expect(rows.get('headscale_watchdog_streams_by_evidence')).toContain(`\`${source}\``);
  });

  test('names every kind of event', () => {
    const api = pages.get('docs/api.md');
    for (const kind of EVENT_KINDS) expect(api).toContain(`\`${kind}\``);
  });

  test('has a row for every flag, with its default', () => {
    const flags = SETTING_NAMES.map((name) => [
      `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
      byDefaultOf(name),
    ]);
    for (const [flag, byDefault] of flags) expect(rows.get(flag ?? ''), flag).toContain(`| ${byDefault} |`);
    const known = [...flags.map(([flag]) => flag), '--config'];
    expect([...rows.keys()].filter((name) => name.startsWith('--')).sort()).toEqual(known.sort());
  });

  test('its example of a settings file is valid', () => {
    const [, example] = /```yaml\n([\s\S]*?)```/.exec(reference) ?? [];
    const config = loadConfig({}, { path: 'docs/configuration.md', text: example ?? '' });
    expect(config.rules).toHaveLength(3);
  });
});

/** As GitHub names a heading. */
function anchorOf(heading: string): string {
  return heading
    .toLowerCase()
    .replace(/[^\w\- ]/g, '')
    .replaceAll(' ', '-');
}

/** The commands of a page's shell blocks, lines that go on put together. */
function commandsOf(text: string): readonly string[] {
  const blocks = [...text.matchAll(/```sh\n([\s\S]*?)```/g)].map(([, block = '']) => block.replace(/\\\n\s*/g, ''));
  return blocks
    .flatMap((block) => block.split('\n').flatMap((line) => line.split('&&')))
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
}

const OWN = /^(?:setpriv (?:--\S+ (?:[^-\s]\S*|\+\S+) |--\S+ )*)?(?:node \S*dist\/cli\.js|headscale-watchdog) (.*)$/;
const all = [...pages].flatMap(([path, text]) => commandsOf(text).map((command) => [path, command] as const));

type Where = '.ci/run' | 'test/e2e/patient/acme.test.ts' | 'test/workflows.test.ts' | 'below' | 'nowhere';

/** Other programs' commands, and where they are run; those of `nowhere` need root, a service manager, Headscale, Docker or a cluster, or change the machine's users. */
const OTHERS: Readonly<Record<string, Where>> = {
  npm: '.ci/run',
  lego: 'test/e2e/patient/acme.test.ts',
  certbot: 'test/e2e/patient/acme.test.ts',
  mkdir: 'below',
  chmod: 'below',
  cp: 'below',
  cd: 'below',
  openssl: 'below',
  setfacl: 'below',
  sed: 'below',
  '.ci/release': 'test/workflows.test.ts',
  systemctl: 'nowhere',
  install: 'nowhere',
  useradd: 'nowhere',
  groupadd: 'nowhere',
  headscale: 'nowhere',
  apt: 'nowhere',
  docker: 'nowhere',
  kubectl: 'nowhere',
  helm: 'nowhere',
  cosign: 'nowhere',
};

/** What the commands that are run below expect to be there. */
const THERE = [
  // What the build leaves.
  ...['package.json', 'dist/', 'node_modules/'],
  ...['var/lib/headscale/noise_private.key', 'etc/systemd/system/', 'etc/letsencrypt/live/'],
  'etc/letsencrypt/archive/hs.example.com/privkey1.pem',
];

describe('README and docs', () => {
  test.each([...pages])('every link of %s has a target', (path, text) => {
    for (const [, target = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(target)) continue;
      const [file = '', anchor] = target.split('#');
      const found = file === '' ? path : join(dirname(path), file);
      expect(existsSync(join(PROJECT, found)), target).toBe(true);
      if (anchor === undefined) continue;
      const headings = [...readFileSync(join(PROJECT, found), 'utf8').matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
        anchorOf(heading),
      );
      expect(headings, target).toContain(anchor);
    }
  });

  const serving = all.flatMap(([path, command]) => {
    const words =
      OWN.exec(command)?.[1]
        ?.match(/'[^']*'|\S+/g)
        ?.map((word) => word.replace(/^'|'$/g, '')) ?? [];
    const flags = words.slice(1).filter((word) => word !== '…');
    return /^(serve|check)$/.test(words[0] ?? '') ? [[path, command, flags] as const] : [];
  });

  test('the pages contain commands of serve', () => expect(serving.length).toBeGreaterThan(4));

  test.each(serving)('%s: %s', async (_path, _command, flags) => {
    // The settings alone: the files and programs that they name are not here.
    const harness = new Harness();
    // Installed where the page has just put them.
    const here = flags.map((flag) => flag.replace('/etc/headscale-watchdog/', join(PROJECT, 'deploy', 'systemd', '/')));
    const checking = run(harness, 'check', ...here);
    await checking.ended;
    await harness.closeAll();
    const { stdout, stderr } = checking;
    expect(stderr).toBe('');
    expect(stdout).toMatch(/^ok +configuration: valid/);
  });

  test('every other command in the pages exists', () => {
    for (const [path, command] of all) {
      const [first = ''] = command.split(' ');
      if (OWN.test(command))
        expect(command, path).toMatch(
          / (serve|check|status|nodes|streams|events|availability|reload|handover|sever|completion)( |$)/,
        );
      else expect(Object.keys(OTHERS), `${path}: ${command}`).toContain(first);
    }
  });

  const hasAcl = process.env.CI === 'true' || existsSync('/usr/bin/setfacl');
  test.runIf(hasAcl).each([...pages])(
    "%s: its plain commands work, with this folder's paths in place of the machine's",
    async (_path, text) => {
      const root = mkdtempSync(join(tmpdir(), 'docs-'));
      try {
        cpSync(join(PROJECT, 'deploy'), join(root, 'deploy'), { recursive: true });
        for (const there of THERE) {
          mkdirSync(join(root, there.endsWith('/') ? there : dirname(there)), { recursive: true });
          if (!there.endsWith('/')) writeFileSync(join(root, there), '');
        }
        const plain = commandsOf(text).filter((command) => OTHERS[command.split(' ')[0] ?? ''] === 'below');
        // The user and the group of the examples are not on this machine.
        const here = plain.map((command) =>
          command
            .replaceAll(/ \/(etc|var|opt)\//g, ` ${root}/$1/`)
            .replaceAll('u:watchdog:', 'u:nobody:')
            .replaceAll('g:headscale-certs:', 'g:nogroup:'),
        );
        await promisify(execFile)('sh', ['-ec', here.join('\n') || ':'], { cwd: root });
      } finally {
        rmSync(root, { recursive: true });
      }
    },
  );
});
