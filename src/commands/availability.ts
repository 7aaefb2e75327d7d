import type { AvailabilityList, AvailabilityView, NodeAvailability } from '../admin/availability-views.ts';
import { printable } from '../lib/text.ts';
import { span } from '../lib/units.ts';
import { type Api, knowsNode } from './admin-client.ts';
import { footOf, wholeSeconds } from './streams.ts';
import { type Column, type Console, coloured, csvLine, EXIT, type ExitCode, localTime, tableOf } from './terminal.ts';

export interface AvailabilityOptions {
  readonly since: string;
  readonly until?: string;
  readonly timezone: string;
  readonly csv?: boolean;
  readonly json?: boolean;
}

const TOTALS: readonly Column[] = [
  { title: 'AVAILABLE', isNumber: true },
  { title: 'ONLINE', isNumber: true, leaveOut: 1 },
  { title: 'OFFLINE', isNumber: true },
  { title: 'UNKNOWN', isNumber: true, leaveOut: 2 },
];

/** Shows how long each node was online; or, day by day, how long one was. @param node its name, id or key. */
export async function showAvailability(
  api: Api,
  node: string | undefined,
  options: AvailabilityOptions,
  console: Console,
): Promise<ExitCode> {
  const { since, until, timezone, csv, json } = options;
  if (node !== undefined && !(await knowsNode(api, node, console))) return EXIT.nothing;
  const query = { since, until, timezone };
  const answer =
    node === undefined
      ? await api.get<AvailabilityList>('/availability', query)
      : await api.get<NodeAvailability>(`/nodes/${encodeURIComponent(node)}/availability`, query);
  const nodes = 'nodes' in answer ? answer.nodes : [answer];
  if (json) console.stdout.write(`${JSON.stringify(answer, undefined, 2)}\n`);
  else if (csv) console.stdout.write(csvOf(nodes));
  else {
    const lines = 'nodes' in answer ? nodeLines(nodes, console) : dayLines(answer, console);
    console.stdout.write(`${lines.join('\n')}\n`);
    const { knownSince } = answer;
    if (knownSince === null) console.stderr.write('Nothing is known yet.\n');
    else if (knownSince > answer.since) console.stderr.write(`Nothing is known before ${localTime(knownSince)}.\n`);
  }
  return nodes.length > 0 ? EXIT.done : EXIT.nothing;
}

function nodeLines(nodes: readonly AvailabilityView[], console: Console): readonly string[] {
  const sorted = nodes.toSorted((a, b) => (a.availability ?? 2) - (b.availability ?? 2));
  const rows = sorted.map((node) => [nameOf(node), ...totals(node, node.availability)]);
  return table([{ title: 'NODE', isName: true }, ...TOTALS], rows, console);
}

function dayLines(node: NodeAvailability, console: Console): readonly string[] {
  const rows = node.days.map((day) => [day.date, ...totals(day, shareOf(day))]);
  const all = ['all', ...totals(node, node.availability)];
  return table([{ title: 'DAY' }, ...TOTALS], [...rows, all], console);
}

function table(columns: readonly Column[], rows: readonly (readonly string[])[], console: Console): readonly string[] {
  if (rows.length === 0) return ['No node is known yet.'];
  const { head, rows: lines, note } = tableOf(columns, rows, console.width);
  return [coloured(console, 'faint', head), ...lines, ...footOf(console, note, rows.length, rows.length)];
}

type Times = Pick<AvailabilityView, 'onlineMs' | 'offlineMs' | 'unknownMs'>;

function shareOf({ onlineMs, offlineMs }: Times): number | null {
  return onlineMs + offlineMs === 0 ? null : onlineMs / (onlineMs + offlineMs);
}

function totals({ onlineMs, offlineMs, unknownMs }: Times, share: number | null): readonly string[] {
  return [share === null ? '-' : percent(share), ...[onlineMs, offlineMs, unknownMs].map(time)];
}

/** Rounded down, because 100 % must mean that it was never away. */
function percent(share: number): string {
  return `${(Math.floor(share * 100_000) / 1000).toFixed(3)} %`;
}

function time(ms: number): string {
  return ms === 0 ? '-' : span(wholeSeconds(ms));
}

function nameOf({ name, machineKey }: AvailabilityView): string {
  return name === null ? machineKey : printable(name);
}

function csvOf(nodes: readonly AvailabilityView[]): string {
  const seconds = (ms: number): number => Math.round(ms / 1000);
  const head = ['node', 'machine_key', 'day', 'online_seconds', 'offline_seconds', 'unknown_seconds'];
  const rows = nodes.flatMap(({ name, machineKey, days }) =>
    days.map(({ date, ...day }) => {
      const { onlineMs, offlineMs, unknownMs } = day;
      return [name ?? '', machineKey, date, ...[onlineMs, offlineMs, unknownMs].map(seconds)];
    }),
  );
  return [head, ...rows].map(csvLine).join('');
}
