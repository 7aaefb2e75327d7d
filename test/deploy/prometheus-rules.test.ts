import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { DEPLOY, inFolder, promtool, type Said } from './support/promtool.ts';

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

interface RuleFile {
  readonly groups: readonly { readonly name: string; readonly rules: readonly Rule[] }[];
}

const folder = join(DEPLOY, 'prometheus');
const read = (name: string): string => readFileSync(join(folder, name), 'utf8');
const file: RuleFile = parse(read('alerts.yml'));
const rules = file.groups.flatMap((group) => group.rules);
const page = readFileSync(new URL('../../docs/alerts.md', import.meta.url), 'utf8');

/** The rules' tests, run against rules of which one's expression is another. */
function testsWith(alert: string, expr: string): Promise<Said> {
  const groups = file.groups.map((group) => ({
    ...group,
    rules: group.rules.map((rule) => (rule.alert === alert ? { ...rule, expr } : rule)),
  }));
  return inFolder((temporary) => {
    writeFileSync(join(temporary, 'alerts.yml'), stringify({ groups }));
    copyFileSync(join(folder, 'alerts.test.yml'), join(temporary, 'alerts.test.yml'));
    return promtool(['test', 'rules', join(temporary, 'alerts.test.yml')]);
  });
}

describe('alert rules', () => {
  test('promtool check rules: finds nothing', async () => {
    expect(await promtool(['check', 'rules', '--lint-fatal', join(folder, 'alerts.yml')])).toMatchObject({ ok: true });
  });

  test('promtool test rules: all pass', async () => {
    expect(await promtool(['test', 'rules', join(folder, 'alerts.test.yml')])).toMatchObject({ ok: true });
  });

  test.for(rules)('$alert: its tests fail if it never fires, or always fires', async ({ alert }) => {
    const [never, always] = ['vector(0) > 1', 'count by (job, instance) ({__name__!=""})'] as const;
    for (const said of await Promise.all([testsWith(alert, never), testsWith(alert, always)])) {
      expect(said).toMatchObject({ ok: false, output: expect.stringContaining(alert) });
    }
  });

  test.for(rules)('$alert: has a severity, a summary, what to do first, and where to read more', (rule) => {
    const { alert, labels, annotations } = rule;
    expect(['critical', 'warning']).toContain(labels.severity);
    expect(Object.keys(annotations).sort()).toEqual(['description', 'runbook_url', 'summary']);
    expect(annotations.runbook_url).toBe(`https://runbooks.example.com/alerts.md#${alert.toLowerCase()}`);
    expect(annotations.description).toMatch(/^First \S.*\./);
    const [, section] = page.split(`\n## ${alert}\n`);
    expect(section).toMatch(labels.severity === 'critical' ? /^\n\*Critical\.\*/ : /^\n\*Warning\.\*/);
  });

  test('docs/alerts.md: has exactly one section for each alert, in the same order', () => {
    const sections = [...page.matchAll(/^## (.*)$/gm)].map(([, title]) => title);
    expect(sections).toEqual(rules.map(({ alert }) => alert));
  });
});

describe('scrape configurations', () => {
  test.for(['prometheus.yml', 'prometheus-token.yml'])('promtool check config: finds nothing in %s', async (name) => {
    const said = await inFolder((temporary) => {
      const token = join(temporary, 'token');
      writeFileSync(token, 'a token of a test\n');
      copyFileSync(join(folder, 'alerts.yml'), join(temporary, 'alerts.yml'));
      // It looks whether the file is there.
      writeFileSync(join(temporary, name), read(name).replace('/etc/prometheus/headscale-watchdog.token', token));
      return promtool(['check', 'config', '--lint-fatal', join(temporary, name)]);
    });
    expect(said).toMatchObject({ ok: true, output: expect.stringContaining(`${rules.length} rules found`) });
  });
});
