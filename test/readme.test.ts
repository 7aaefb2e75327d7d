import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { DEFAULTS } from '../src/config/defaults.ts';
import { loadConfig } from '../src/config/load.ts';
import { SETTING_NAMES } from '../src/config/schema.ts';
import { CONTEST_VERDICTS, HANDSHAKE_RESULTS, REFUSAL_REASONS } from '../src/events.ts';
import { CLOSE_REASONS, SEVER_REASONS, STREAM_KINDS } from '../src/streams/stream.ts';
import { createMetrics } from '../src/telemetry/metrics.ts';
import { stage } from './telemetry/stage.ts';

const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');

/** The README's table rows whose first cell is one piece of code, by that code's first word. */
const rows = new Map(
  readme.split('\n').flatMap((line) => {
    const first = /^\| `([^` ]+)/.exec(line)?.[1];
    return first === undefined ? [] : [[first, line] as const];
  }),
);

function byDefaultOf(name: string): string {
  const value = DEFAULTS[name as keyof typeof DEFAULTS];
  if (value === undefined) return 'none';
  return `\`${value === false ? 'off' : value}\``;
}

/** The systemd units it shows: the service, then the socket. */
function units(): readonly string[] {
  return [...readme.matchAll(/```ini\n([\s\S]*?)```/g)].map(([, unit]) => unit ?? '');
}

describe('README', () => {
  test('has a row for every metric, with its type and labels, and none for what there is not', async () => {
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
      expect(readme).toContain(`\`${value}\``);
    }
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

  test('its systemd units have the same port', () => {
    const [service = '', socket = '', ...others] = units();
    expect(others).toEqual([]);
    const address = /^ListenStream=(\S+)$/m.exec(socket)?.[1];
    expect(service).toMatch(new RegExp(`^ExecStart=.* --listen ${address}$`, 'm'));
  });

  // Not every machine on which somebody runs the tests has systemd; the one that decides must.
  test.runIf(process.env.CI === 'true' || existsSync('/usr/bin/systemd-analyze'))(
    'systemd-analyze finds nothing wrong in its systemd units',
    async () => {
      const [service = '', socket = ''] = units();
      const folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-units-'));
      try {
        const [serviceFile, socketFile] = ['service', 'socket'].map((kind) =>
          join(folder, `headscale-watchdog.${kind}`),
        );
        // Node is not everywhere where the unit has it.
        writeFileSync(serviceFile as string, service.replace('/usr/bin/node', process.execPath));
        writeFileSync(socketFile as string, socket);
        const files = [serviceFile as string, socketFile as string];
        const { stdout, stderr } = await promisify(execFile)('systemd-analyze', ['verify', ...files]);
        expect(`${stdout}${stderr}`).not.toContain('headscale-watchdog');
      } finally {
        rmSync(folder, { recursive: true });
      }
    },
  );

  test('its example of a file is one', () => {
    const [, example] = /```yaml\n([\s\S]*?)```/.exec(readme) ?? [];
    const config = loadConfig({}, { path: 'README.md', text: example ?? '' });
    expect(config.rules).toHaveLength(3);
  });
});
