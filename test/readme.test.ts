import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { configSchema, DEFAULTS } from '../src/config/schema.ts';
import { CONTEST_VERDICTS, HANDSHAKE_RESULTS } from '../src/events.ts';
import { CLOSE_REASONS, STREAM_KINDS } from '../src/streams/stream.ts';
import { createMetrics } from '../src/telemetry/metrics.ts';

const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');

/** The README's table rows whose first cell is one piece of code, by that code's first word. */
const rows = new Map(
  readme.split('\n').flatMap((line) => {
    const first = /^\| `([^` ]+)/.exec(line)?.[1];
    return first === undefined ? [] : [[first, line] as const];
  }),
);

describe('README', () => {
  test('has a row for every metric, with its type and labels, and none for what there is not', async () => {
    const source = { streams: () => [], upstreamUp: () => true, keyMatches: () => true, version: '0' };
    const text = await createMetrics(source).render();
    const metrics = [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, type]) => [name, type] as const);
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
    for (const value of [...STREAM_KINDS, ...CLOSE_REASONS, ...CONTEST_VERDICTS, ...HANDSHAKE_RESULTS]) {
      expect(readme).toContain(`\`${value}\``);
    }
  });

  test('has a row for every flag, with its default', () => {
    const flags = Object.keys(configSchema.shape).map((name) => [
      `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
      name in DEFAULTS ? `\`${DEFAULTS[name as keyof typeof DEFAULTS]}\`` : 'none',
    ]);
    for (const [flag, byDefault] of flags) expect(rows.get(flag ?? ''), flag).toContain(`| ${byDefault} |`);
    expect([...rows.keys()].filter((name) => name.startsWith('--')).sort()).toEqual(flags.map(([flag]) => flag).sort());
  });
});
