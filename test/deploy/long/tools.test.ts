import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse, parseAllDocuments } from 'yaml';

const run = promisify(execFile);
const PROJECT = join(import.meta.dirname, '..', '..', '..');
const folder = mkdtempSync(join(tmpdir(), 'tools-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Builds a program of test/deploy/tools/go.mod. Helm takes minutes at its first time. */
async function build(name: string, path: string): Promise<string> {
  const program = join(folder, name);
  const cwd = join(import.meta.dirname, '..', 'tools');
  await run('go', ['build', '-mod=readonly', '-buildvcs=false', '-o', program, path], { cwd });
  return program;
}

describe('the workflows for GitHub', () => {
  let actionlint: string;
  beforeAll(async () => {
    actionlint = await build('actionlint', 'github.com/rhysd/actionlint/cmd/actionlint');
  });
  const workflows = join(PROJECT, '.github', 'workflows');

  test('actionlint finds nothing', async () => {
    const files = readdirSync(workflows).map((name) => join(workflows, name));
    await expect(run(actionlint, files)).resolves.toEqual({ stdout: '', stderr: '' });
  });

  test('actionlint finds a mistake', async () => {
    const wrong = join(folder, 'wrong.yml');
    const right = readFileSync(join(workflows, 'test.yml'), 'utf8');
    writeFileSync(wrong, right.replace('matrix.node }}', 'matrix.nodes }}'));
    await expect(run(actionlint, [wrong])).rejects.toMatchObject({ stdout: expect.stringContaining('nodes') });
  });
});

describe('deploy/helm', () => {
  const CHART = join(PROJECT, 'deploy', 'helm', 'headscale-watchdog');
  let helm: string;
  let check: string;
  beforeAll(async () => {
    helm = await build('helm', 'helm.sh/helm/v3/cmd/helm');
    check = join(folder, 'check');
    const cwd = join(import.meta.dirname, '..', 'go');
    await run('go', ['build', '-mod=readonly', '-buildvcs=false', '-o', check, './check'], { cwd });
  }, 1_200_000);

  /** What the chart and kustomize make, as the check prints it: each resource fits the Go type of its kind. */
  async function resources(source: string): Promise<readonly ReturnType<typeof parse>[]> {
    const { stdout } = await run(check, ['kubernetes', source]);
    return parseAllDocuments(stdout).map((document) => document.toJS());
  }

  async function rendered(...values: readonly string[]) {
    const target = mkdtempSync(join(folder, 'rendered-'));
    const how = ['--namespace', 'headscale', '--kube-version', '1.29.0'];
    const { stdout } = await run(helm, ['template', 'headscale', CHART, ...how, ...values]);
    writeFileSync(join(target, 'all.yaml'), stdout);
    writeFileSync(join(target, 'kustomization.yaml'), 'resources: [all.yaml]\n');
    return resources(target);
  }

  /** A pod without what the two ways of making it name differently. */
  const podOf = (made: readonly ReturnType<typeof parse>[]) => {
    const { spec } = made.find(({ kind }) => kind === 'StatefulSet').spec.template;
    const plain = (containers: readonly { image: string }[]) =>
      containers.map(({ image: _image, ...rest }) => ({ ...rest, imagePullPolicy: undefined }));
    const volumes = spec.volumes.map(({ name, configMap, secret }: ReturnType<typeof parse>) =>
      configMap === undefined ? { name, secret } : { name },
    );
    return { ...spec, initContainers: plain(spec.initContainers), containers: plain(spec.containers), volumes };
  };

  test('helm lint finds nothing', async () => {
    await run(helm, ['lint', '--strict', CHART]);
  });

  test('makes the same kinds and the same pod as deploy/kubernetes', async () => {
    const chart = await rendered();
    const kustomized = await resources(join(PROJECT, 'deploy', 'kubernetes'));
    const kinds = (made: typeof chart) => made.map(({ kind }) => kind).sort();
    expect(kinds(chart)).toEqual(kinds(kustomized));
    expect(podOf(chart)).toEqual(podOf(kustomized));
  });

  test('values for the sidecar reach its settings, its variables and its files; the ServiceMonitor is made on demand', async () => {
    const values = join(folder, 'values.yaml');
    writeFileSync(
      values,
      `watchdog:
  settings: { silent-after: 20s }
  env: [{ name: HEADSCALE_WATCHDOG_LOG_LEVEL, value: debug }]
  volumes: [{ name: api-key, secret: { secretName: api-key } }]
  volumeMounts: [{ name: api-key, mountPath: /var/run/api-key, readOnly: true }]
serviceMonitor: { enabled: true }
networkPolicy: { enabled: false }
`,
    );
    const made = await rendered('--values', values);
    expect(made.map(({ kind }) => kind)).toEqual(expect.arrayContaining(['ServiceMonitor']));
    expect(made.map(({ kind }) => kind)).not.toContain('NetworkPolicy');
    const settings = made.find(
      ({ kind, metadata }) => kind === 'ConfigMap' && metadata.name === 'headscale-watchdog',
    ).data;
    expect(parse(settings['watchdog.yaml'])).toMatchObject({
      upstream: 'http://127.0.0.1:8082',
      'silent-after': '20s',
    });
    const { spec } = made.find(({ kind }) => kind === 'StatefulSet').spec.template;
    expect(spec.initContainers[0].env).toEqual([{ name: 'HEADSCALE_WATCHDOG_LOG_LEVEL', value: 'debug' }]);
    expect(spec.volumes.at(-1)).toMatchObject({ name: 'api-key' });
    expect(spec.initContainers[0].volumeMounts.at(-1)).toMatchObject({ mountPath: '/var/run/api-key' });
  });
});
