import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { Harness, until } from '../support/harness.ts';
import { get, scrape } from '../support/http.ts';
import { type BusyWatchdog, startBusyWatchdog } from './support/busy-watchdog.ts';
import { dashboard, metricsOf, queries, substituted } from './support/dashboard.ts';
import { type Prometheus, startPrometheus } from './support/prometheus.ts';
import { DEPLOY, promtool } from './support/promtool.ts';

const harness = new Harness();
let watchdog: BusyWatchdog;
let prometheus: Prometheus;
let admin: string;
let from: number;
let to: number;

// All tests look at the same half a minute, in which nodes came, froze and came back.
beforeAll(async () => {
  watchdog = await startBusyWatchdog(harness);
  admin = `http://${watchdog.admin}`;
  prometheus = await startPrometheus(harness, 'prometheus.yml', { '127.0.0.1:9191': watchdog.admin });
  const isScraped = async () => (await prometheus.query('up{job="headscale-watchdog"} == 1')).length === 1;
  await until(isScraped, 'the watchdog has been scraped', 10_000);
  from = Date.now() / 1000;
  await watchdog.startNodes();
  await watchdog.freezeForMs(20_000, 35);
  const { comebacks } = watchdog;
  const isSeen = async () => (await sum('headscale_watchdog_takeovers_total')) >= comebacks;
  await until(isSeen, 'the last takeover has been scraped', 10_000);
  to = Date.now() / 1000;
});
afterAll(() => harness.closeAll());

async function sum(expr: string): Promise<number> {
  return (await prometheus.query(`sum(${expr})`))[0]?.values[0] ?? Number.NaN;
}

/** As Grafana asks for it, with the watchdog chosen, and half a minute shown. */
function asked(expr: string): string {
  return substituted(expr, { instance: watchdog.admin, __rate_interval: '10s', __range: `${Math.ceil(to - from)}s` });
}

describe('the dashboard', () => {
  test.for(queries)('$name: has series', async ({ expr, instant }) => {
    const query = asked(expr);
    const found = instant ? await prometheus.query(query, to) : await prometheus.queryRange(query, from, to);
    expect(found.length, query).toBeGreaterThan(0);
    expect(found.flatMap(({ values }) => values).some(Number.isFinite), `a figure of ${query}`).toBe(true);
  });

  test('shows what has happened: takeovers, streams, and nodes by name', async () => {
    const { comebacks, nodes } = watchdog;
    expect(comebacks).toBeGreaterThan(30);
    const shown = async (title: string, refId = 'A') => {
      const query = queries.find(({ name }) => name === `${title} ${refId}`);
      return prometheus.query(asked(query?.expr ?? title), to);
    };
    expect((await shown('Control streams'))[0]?.values).toEqual([nodes.length]);
    const [takeovers] = await shown('Takeovers in the last hour');
    // Prometheus reckons what may have been before and after the first and last scrape.
    expect(takeovers?.values[0]).toBeGreaterThanOrEqual(comebacks * 0.95);
    expect(takeovers?.values[0]).toBeLessThan(comebacks * 1.3);
    const named = (await shown('Nodes')).map(({ metric }) => `${metric.user}'s ${metric.name}`);
    expect(named.sort()).toEqual(nodes.map(({ name }) => `alice's ${name}`).sort());
    const all = (await shown('Nodes', 'E')).reduce((total, { values }) => total + (values[0] ?? 0), 0);
    expect(all).toBeGreaterThanOrEqual(comebacks * 0.95);
  });

  test('its variable finds the watchdog', async () => {
    const { query } = dashboard.templating.list.find(({ name }) => name === 'instance') ?? {};
    const [, metric, label] = /"label_values\((\w+), (\w+)\)"/.exec(JSON.stringify(query)) ?? [];
    const found = await prometheus.query(metric ?? '');
    expect(found.map((series) => series.metric[label ?? ''])).toEqual([watchdog.admin]);
  });

  test('shows every metric of the watchdog', async () => {
    const { text } = await get(`${admin}/metrics`);
    const all = [...text.matchAll(/^# TYPE (headscale_watchdog_\S+)/gm)].map(([, name]) => name ?? '');
    const shown = new Set(queries.flatMap(({ expr }) => metricsOf(expr)).map((name) => name.replace(/_bucket$/, '')));
    expect(all.length).toBeGreaterThan(20);
    expect(all.filter((name) => !shown.has(name))).toEqual([]);
  });

  test('its panels fit into 24 columns, do not overlap, and each has a description', () => {
    const taken = new Set<string>();
    for (const { title, type, gridPos, description } of dashboard.panels) {
      const { x, y, w, h } = gridPos;
      expect(x + w, title).toBeLessThanOrEqual(24);
      if (type !== 'row') expect(description, title).toMatch(/\.$/);
      for (let cell = 0; cell < w * h; cell++) {
        const at = `${x + (cell % w)},${y + Math.floor(cell / w)}`;
        expect(taken.has(at), `${title} at ${at}`).toBe(false);
        taken.add(at);
      }
    }
    expect(new Set(dashboard.panels.map(({ id }) => id)).size).toBe(dashboard.panels.length);
  });
});

describe('/metrics', () => {
  test('promtool check metrics: finds nothing', async () => {
    const { text } = await get(`${admin}/metrics`);
    expect(text).toContain('headscale_watchdog_node_takeovers_total');
    expect(await promtool(['check', 'metrics'], text)).toEqual({ ok: true, output: '' });
  });
});

describe('the alert rules, with a running watchdog', () => {
  test('use only metrics that exist', async () => {
    const names = new Set([...(await scrape(admin)).keys()].map((series) => series.replace(/\{.*/, '')));
    const { groups } = parse(readFileSync(join(DEPLOY, 'prometheus/alerts.yml'), 'utf8'));
    const rules: { expr: string }[] = groups.flatMap(({ rules }: { rules: object[] }) => rules);
    const meant = rules.flatMap(({ expr }) => metricsOf(expr));
    expect(meant.length).toBeGreaterThan(10);
    expect(meant.filter((name) => !names.has(name))).toEqual([]);
  });

  test('only the alert about many takeovers fires', async () => {
    const rules = await prometheus.rules();
    expect(rules.filter(({ health }) => health !== 'ok')).toEqual([]);
    expect(rules.filter(({ state }) => state !== 'inactive')).toMatchObject([
      { name: 'HeadscaleWatchdogManyTakeovers', state: 'firing' },
    ]);
  });

  test('a watchdog that has ended is noticed', async () => {
    await watchdog.program.end();
    const isNoticed = async () =>
      (await prometheus.rules()).some(({ name, state }) => name === 'HeadscaleWatchdogAbsent' && state === 'pending');
    await until(isNoticed, 'it is noticed', 10_000);
  });
});
