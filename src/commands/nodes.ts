import type { PresenceView } from '../admin/views.ts';
import { errorLine } from '../lib/errors.ts';
import { printable } from '../lib/text.ts';
import { span } from '../lib/units.ts';
import { type Api, type NodesAnswer, nodesCalled, unknownNode } from './admin-client.ts';
import { ago, footOf, roundTrip, wholeSeconds } from './streams.ts';
import { type Column, type Console, coloured, EXIT, type ExitCode, showScreen, tableOf } from './terminal.ts';

export interface NodesOptions {
  readonly state?: readonly string[];
  readonly search?: string;
  readonly sort?: string;
  readonly limit?: string;
  readonly json?: boolean;
  readonly watch?: boolean;
}

const EVERY_MS = 2000;

const COLUMNS: readonly Column[] = [
  { title: 'NODE', isName: true },
  { title: 'USER', isName: true, leaveOut: 5 },
  { title: 'STATE' },
  { title: 'FOR', isNumber: true, leaveOut: 4 },
  { title: 'LAST SIGN', isNumber: true },
  { title: 'RTT', isNumber: true, leaveOut: 1 },
  { title: 'ADDRESS', leaveOut: 6 },
  { title: 'HEADSCALE', leaveOut: 3 },
  { title: 'KEY EXPIRES', isNumber: true, leaveOut: 2 },
];

/** The columns that show what `--sort` sorts by, as far as a narrow terminal may leave them out. */
const SORTED_BY: Readonly<Record<string, string>> = {
  ...{ user: 'USER', since: 'FOR', rtt: 'RTT', address: 'ADDRESS', expiry: 'KEY EXPIRES' },
};

/** Lists the nodes. @param node only the one with this name, id or key; undefined: all that match. */
export async function showNodes(
  api: Api,
  node: string | undefined,
  options: NodesOptions,
  console: Console,
): Promise<ExitCode> {
  const { state, search, sort, limit } = options;
  for (;;) {
    const all = await api.get<NodesAnswer>('/nodes', { state: state?.join(), q: search, sort });
    const found = node === undefined ? all.nodes : nodesCalled(node, all.nodes);
    const nodes = limit === undefined ? found : found.slice(0, Number(limit));
    const answer = { total: found.length, nodes };
    if (options.json) console.stdout.write(`${JSON.stringify(answer, undefined, options.watch ? undefined : 2)}\n`);
    else showScreen(console, linesOf(nodes, found.length, sort, console), options.watch === true);
    if (!options.watch) {
      const problem = node === undefined || nodes.length > 0 ? undefined : await unknownNode(api, node);
      if (problem !== undefined) console.stderr.write(errorLine('HSW_NODE_UNKNOWN', problem));
      return nodes.length > 0 ? EXIT.done : EXIT.nothing;
    }
    await console.pause(EVERY_MS);
    if (console.signal.aborted) return EXIT.done;
  }
}

function linesOf(
  nodes: readonly PresenceView[],
  total: number,
  sort: string | undefined,
  console: Console,
): readonly string[] {
  if (nodes.length === 0) return ['No node matches.'];
  const now = Date.now();
  const { head, rows, note } = tableOf(
    COLUMNS,
    nodes.map((node) => rowOf(node, now)),
    console.width,
    SORTED_BY[sort?.replace(/^-/, '') ?? ''],
  );
  const lines = rows.map((line, index) => {
    const state = nodes[index]?.state;
    if (state === 'connected') return line;
    return coloured(console, state === 'offline' ? 'faint' : 'yellow', line);
  });
  return [coloured(console, 'faint', head), ...lines, ...footOf(console, note, nodes.length, total)];
}

function rowOf(node: PresenceView, now: number): readonly string[] {
  const { machineKey, name, user, state, disagreement, connectedSince, lastSignAt, rttMs, remoteAddress } = node;
  return [
    ...[name === null ? machineKey : printable(name), user ? printable(user) : '-'],
    state === 'disagrees' ? `disagrees: ${disagreement?.replace('_', ' ')}` : state,
    connectedSince === null ? '-' : span(wholeSeconds(now - Date.parse(connectedSince))),
    lastSignAt === null ? 'never' : ago(now - Date.parse(lastSignAt)),
    ...[rttMs === null ? '-' : roundTrip(rttMs), remoteAddress ?? '-', shownAs(node, now), expiry(node, now)],
  ];
}

/** What Headscale shows. */
function shownAs({ shownOnline, shownLastSeenAt }: PresenceView, now: number): string {
  if (shownOnline === null) return '-';
  if (shownOnline) return 'online';
  return shownLastSeenAt === null ? 'offline' : `offline, seen ${ago(now - Date.parse(shownLastSeenAt))}`;
}

function expiry({ keyExpiresAt, nodeKey }: PresenceView, now: number): string {
  if (keyExpiresAt === null) return nodeKey === null ? '-' : 'never';
  const inMs = Date.parse(keyExpiresAt) - now;
  return inMs <= 0 ? ago(-inMs) : `in ${span(wholeSeconds(inMs))}`;
}
