import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DEPLOY } from './promtool.ts';

export interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly description?: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets?: readonly Target[];
}

export interface Target {
  readonly refId: string;
  readonly expr: string;
  readonly instant?: boolean;
}

export interface Dashboard {
  readonly panels: readonly Panel[];
  readonly templating: { readonly list: readonly { readonly name: string; readonly query: unknown }[] };
}

export const dashboard: Dashboard = JSON.parse(readFileSync(join(DEPLOY, 'grafana/dashboard.json'), 'utf8'));

/** Every query, with the panel and the target that it is of. */
export const queries = dashboard.panels.flatMap(({ title, targets = [] }) =>
  targets.map((target) => ({ ...target, name: `${title} ${target.refId}` })),
);

/** What Grafana puts in place of its variables. @throws for one that nobody knows. */
export function substituted(expr: string, values: Readonly<Record<string, string>>): string {
  return expr.replace(/\$\{?(\w+)\}?/g, (_, name: string) => {
    const value = values[name];
    if (value === undefined) throw new Error(`nothing to put in place of $${name} in: ${expr}`);
    return value;
  });
}

/** The metrics that a query is about. */
export function metricsOf(expr: string): readonly string[] {
  return expr.match(/\b(?:headscale_watchdog|process|nodejs)_\w+/g) ?? [];
}
