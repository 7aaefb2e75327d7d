import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';

const PROJECT = join(import.meta.dirname, '..');
const GITHUB = join(PROJECT, '.github');
const read = (...path: readonly string[]): string => readFileSync(join(PROJECT, ...path), 'utf8');
const { scripts } = JSON.parse(read('package.json')) as { scripts: Readonly<Record<string, string>> };

interface Step {
  readonly uses?: string;
  readonly run?: string;
  readonly with?: Readonly<Record<string, unknown>>;
}

interface Workflow {
  readonly permissions: unknown;
  readonly jobs: Readonly<
    Record<
      string,
      {
        readonly 'timeout-minutes'?: number;
        readonly permissions?: Readonly<Record<string, string>>;
        readonly strategy?: { readonly matrix: { readonly node: readonly string[] } };
        readonly steps: readonly Step[];
      }
    >
  >;
}

const workflows = readdirSync(join(GITHUB, 'workflows')).map((file) => {
  const text = read('.github', 'workflows', file);
  return { ...(parse(text) as Workflow), file, text };
});
const jobs = workflows.flatMap(({ file, jobs: all }) =>
  Object.entries(all).map(([job, about]) => ({ ...about, name: `${file}: ${job}` })),
);
const steps = jobs.flatMap(({ name, steps: all }) => all.map((step) => ({ ...step, name })));

describe('the workflows for GitHub', () => {
  test.each(workflows)('$file may only read, unless one of its jobs says what it writes', ({ permissions }) => {
    expect(permissions).toEqual({ contents: 'read' });
  });

  test.each(jobs)('$name ends by itself', (job) => {
    expect(job['timeout-minutes']).toBeLessThanOrEqual(180);
  });

  test('every action is pinned by a commit, with its version beside it', () => {
    const lines = workflows.flatMap(({ text }) => text.split('\n').filter((line) => line.includes('uses:')));
    expect(lines.length).toBeGreaterThan(10);
    for (const line of lines) expect(line).toMatch(/uses: [\w-]+\/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/);
  });

  test('one action has one version everywhere', () => {
    const versions = new Map<string, string>();
    for (const { uses } of steps) {
      if (uses === undefined) continue;
      const [, repository = '', commit = ''] = /^([\w-]+\/[\w-]+)[^@]*@(.*)$/.exec(uses) ?? [];
      expect(versions.get(repository) ?? commit, repository).toBe(commit);
      versions.set(repository, commit);
    }
  });

  test('no checkout leaves its token behind', () => {
    const checkouts = steps.filter(({ uses }) => uses?.startsWith('actions/checkout@'));
    expect(checkouts.length).toBeGreaterThan(5);
    for (const { name, with: given } of checkouts) expect(given, name).toEqual({ 'persist-credentials': false });
  });

  test('each step is one command that can be run by hand', () => {
    const run = steps.flatMap(({ run: command }) => (command === undefined ? [] : [command]));
    expect(run).toContain('.ci/release packages');
    for (const command of run) {
      expect(command).toMatch(/^(npm ci|npm test|npm run [\w:-]+|\.ci\/run|\.ci\/release \w+|apt-get update && .*)$/);
      const [, script] = /^npm run (.*)$/.exec(command) ?? [];
      if (script !== undefined) expect(Object.keys(scripts)).toContain(script);
    }
  });

  test('the tests run on the same versions of Node as in .ci/run', () => {
    const [, nodes = ''] = /nodes=\((20[^)]*)\)/.exec(read('.ci', 'run')) ?? [];
    const matrix = jobs.find(({ strategy }) => strategy !== undefined)?.strategy?.matrix.node;
    expect(matrix).toEqual(nodes.split(' '));
  });

  test('CONTRIBUTING.md names every workflow', () => {
    for (const { file } of workflows) expect(read('CONTRIBUTING.md')).toContain(`\`${file}\``);
  });
});

describe('the issue forms', () => {
  const forms = readdirSync(join(GITHUB, 'ISSUE_TEMPLATE')).filter((name) => name !== 'config.yml');
  const kinds = ['markdown', 'textarea', 'input', 'dropdown', 'checkboxes'];

  test.each(forms)('%s has what GitHub asks of a form', (name) => {
    const { name: title, description, body } = parse(read('.github', 'ISSUE_TEMPLATE', name));
    expect([title, description]).toEqual([expect.any(String), expect.any(String)]);
    const ids = body.flatMap(({ id }: { id?: string }) => id ?? []);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { type, id, attributes } of body) {
      expect(kinds).toContain(type);
      if (type === 'markdown') expect(attributes.value).toEqual(expect.any(String));
      else expect([id, attributes.label]).toEqual([expect.stringMatching(/^[a-z]+$/), expect.any(String)]);
      if (type === 'dropdown') expect(attributes.options.length).toBeGreaterThan(1);
    }
  });

  test('a bug comes with what check and events say', () => {
    const { body } = parse(read('.github', 'ISSUE_TEMPLATE', 'bug.yml'));
    const required = body.filter(({ validations }: { validations?: { required: boolean } }) => validations?.required);
    expect(required.map(({ id }: { id: string }) => id)).toEqual(expect.arrayContaining(['check', 'events']));
  });
});

describe('.ci/release', () => {
  test('checks the version before anything else, and refuses a word that it does not know', () => {
    const { version } = JSON.parse(read('package.json')) as { version: string };
    const env = { ...process.env, PUBLISH: 'no' };
    const release = (...parts: readonly string[]) =>
      execFileSync('.ci/release', parts, { cwd: PROJECT, env, encoding: 'utf8', stdio: 'pipe' });
    expect(release('check')).toBe(`version ${version}\n`);
    expect(() => release('publish')).toThrow(/usage: \.ci\/release/);
  });
});
