import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Harness, until } from '../../support/harness.ts';
import { freePort } from '../../support/process.ts';
import { start } from './program.ts';
import { DEPLOY } from './promtool.ts';

export interface Series {
  readonly metric: Readonly<Record<string, string>>;
  /** NaN is one of them where Prometheus says so. */
  readonly values: readonly number[];
}

export interface Rule {
  readonly name: string;
  readonly health: string;
  readonly state: 'inactive' | 'pending' | 'firing';
}

/** A Prometheus of the test's own, on the loopback, with the project's configuration. */
export interface Prometheus {
  /** At `at`, in seconds of the Unix epoch; now by default. */
  query(expr: string, at?: number): Promise<readonly Series[]>;
  /** Between two such times, each second. */
  queryRange(expr: string, from: number, to: number): Promise<readonly Series[]>;
  rules(): Promise<readonly Rule[]>;
}

/**
 * @param name of the configuration in deploy/prometheus.
 * @param changes what is replaced in it: here is another address than at a user's.
 */
export async function startPrometheus(
  harness: Harness,
  name: string,
  changes: Readonly<Record<string, string>>,
): Promise<Prometheus> {
  const folder = harness.folder();
  const own = join(DEPLOY, 'prometheus');
  writeFileSync(join(folder, name), changed(readFileSync(join(own, name), 'utf8'), { ...changes, '15s': '1s' }));
  copyFileSync(join(own, 'alerts.yml'), join(folder, 'alerts.yml'));
  const address = `127.0.0.1:${await freePort()}`;
  const program = start(
    'prometheus',
    `--config.file=${join(folder, name)}`,
    `--storage.tsdb.path=${join(folder, 'data')}`,
    `--web.listen-address=${address}`,
    '--log.level=warn',
  );
  harness.defer(() => program.end());
  const url = `http://${address}`;
  await until(
    async () => {
      program.expectAlive();
      return (await fetch(`${url}/-/ready`, { headers: { connection: 'close' } }).catch(() => undefined))?.ok === true;
    },
    'Prometheus is ready',
    20_000,
  );
  return clientOf(url);
}

function changed(text: string, changes: Readonly<Record<string, string>>): string {
  return Object.entries(changes).reduce((before, [from, to]) => {
    if (!before.includes(from)) throw new Error(`the configuration has no '${from}' to replace by '${to}'`);
    return before.replaceAll(from, to);
  }, text);
}

interface Result {
  readonly metric: Readonly<Record<string, string>>;
  readonly value?: readonly [number, string];
  readonly values?: readonly (readonly [number, string])[];
}

function clientOf(url: string): Prometheus {
  const ask = async <T>(path: string, parameters: Record<string, string> = {}): Promise<T> => {
    const headers = { connection: 'close' };
    const response = await fetch(`${url}/api/v1/${path}?${new URLSearchParams(parameters)}`, { headers });
    const answer = (await response.json()) as { status: string; error?: string; data: T };
    if (answer.status !== 'success') throw new Error(`${answer.error}: ${parameters.query ?? path}`);
    return answer.data;
  };
  const series = ({ result }: { readonly result: readonly Result[] }): readonly Series[] =>
    result.map(({ metric, value, values = value ? [value] : [] }) => ({
      metric,
      values: values.map(([, text]) => Number(text.replace('Inf', 'Infinity'))),
    }));
  return {
    query: async (query, at = Date.now() / 1000) => series(await ask('query', { query, time: String(at) })),
    queryRange: async (query, from, to) =>
      series(await ask('query_range', { query, start: String(from), end: String(to), step: '1' })),
    rules: async () => {
      const { groups } = await ask<{ groups: { rules: Rule[] }[] }>('rules');
      return groups.flatMap(({ rules }) => rules);
    },
  };
}
