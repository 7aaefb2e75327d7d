import type { Overview, PresenceView } from '../admin/views.ts';
import { printable } from '../lib/text.ts';
import { type Api, type EventsAnswer, knowsNode, type NodesAnswer, nodesCalled } from './admin-client.ts';
import { ago, footOf, lasting, roundTrip } from './streams.ts';
import {
  type Column,
  type Console,
  coloured,
  EXIT,
  type ExitCode,
  localTime,
  showScreen,
  tableOf,
} from './terminal.ts';

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
    else {
      const isUnfiltered = node === undefined && state === undefined && search === undefined;
      const lines =
        nodes.length === 0 && isUnfiltered ? await whyNone(api) : linesOf(nodes, found.length, sort, console);
      const [only, ...others] = found;
      const words = node !== undefined && only !== undefined && others.length === 0 ? await wordsOn(api, only) : [];
      showScreen(console, [...lines, ...words], options.watch === true);
    }
    if (!options.watch) {
      if (nodes.length > 0) return EXIT.done;
      if (node !== undefined) {
        const isKnown = await knowsNode(api, node, console);
        if (isKnown) console.stderr.write(`${printable(node)} is known, but the other flags leave it out.\n`);
      }
      return EXIT.nothing;
    }
    await console.pause(EVERY_MS);
    if (console.signal.aborted) return EXIT.done;
  }
}

/** Headscale sends something every minute, and the client's kernel acknowledges it, also that of a phone that sleeps. */
const SIGN_EXPECTED_MS = 150_000;

/** What somebody who asks about one node wants to know: whether it is there, and why its last stream ended. */
async function wordsOn(api: Api, node: PresenceView): Promise<readonly string[]> {
  const { machineKey, connectedSince, evidence, lastSignAt, suspectedSince } = node;
  const words: string[] = [];
  if (suspectedSince !== null) {
    const what = 'its streams come back as soon as they are severed, as those of two machines with one key do';
    words.push(
      `Two machines may use its key: ${what}. The watchdog has been looking into it since ${localTime(suspectedSince)}.`,
    );
  }
  const signMs = lastSignAt === null ? undefined : Date.now() - Date.parse(lastSignAt);
  if (connectedSince === null) {
    if (signMs !== undefined) words.push(`It is not connected: the last sign of it came ${ago(signMs)}.`);
  } else if (signMs !== undefined) {
    if (evidence?.source === 'none')
      words.push(
        `Linux shows nothing of its client (${evidence.reason}), so only what it sends shows that it is there.`,
      );
    else if (signMs < SIGN_EXPECTED_MS)
      words.push(`It is there: the last sign of it came ${ago(signMs)}. A phone that sleeps gives one, too.`);
    else words.push(`It may be gone: the last sign of it came ${ago(signMs)}. If so, --gone-after ends its stream.`);
  }
  const { events } = await api.get<EventsAnswer>('/events', {
    node: machineKey,
    kind: 'stream_severed,stream_closed',
    limit: '2',
  });
  const last = events.at(-1);
  // A stream that is severed is closed right afterwards, and the severing says why.
  const why = events.findLast(({ kind, stream }) => kind === 'stream_severed' && stream === last?.stream) ?? last;
  if (why !== undefined) words.push(`How its last stream ended, ${localTime(why.time)}: ${printable(why.sentence)}`);
  return words;
}

/** Why there is no node at all, and what to do. */
async function whyNone(api: Api): Promise<readonly string[]> {
  const { nodesListedAt, problems } = await api.get<Overview>('/overview');
  const failure = problems.find(({ kind }) => kind === 'nodes_list_failed');
  if (failure !== undefined) return [failure.sentence, failure.advice];
  if (nodesListedAt !== null) return ['Headscale has no nodes yet: log one in, for example with tailscale up.'];
  return [
    'No node has connected yet.',
    'To see those that are not connected too, give the watchdog --headscale-api-key-file or, from Headscale 0.30, --headscale-oauth-client-file.',
  ];
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
  const { machineKey, name, user, connectedSince, rttMs, remoteAddress } = node;
  return [
    ...[name === null ? machineKey : printable(name), user ? printable(user) : '-'],
    `${stateText(node)}${sharing(node)}`,
    connectedSince === null ? '-' : lasting(now - Date.parse(connectedSince)),
    lastSign(node, now),
    ...[rttMs === null ? '-' : roundTrip(rttMs), remoteAddress ?? '-', shownAs(node, now), expiry(node, now)],
  ];
}

/** FOR is how long it has been connected, and not how long its key has been expired. */
function stateText({ state, disagreement, connectedSince }: PresenceView): string {
  if (state === 'disagrees') return `disagrees: ${disagreement?.replace('_', ' ')}`;
  return state === 'expired' && connectedSince !== null ? 'expired, connected' : state;
}

function sharing({ isDuplicate, suspectedSince }: PresenceView): string {
  if (isDuplicate) return ', duplicate key';
  return suspectedSince === null ? '' : ', two machines?';
}

/** If the watchdog has had no sign of a node, Headscale may have seen it before. */
function lastSign({ lastSignAt, shownLastSeenAt }: PresenceView, now: number): string {
  if (lastSignAt !== null) return ago(now - Date.parse(lastSignAt));
  return shownLastSeenAt === null ? 'never' : `${ago(now - Date.parse(shownLastSeenAt))}, by Headscale`;
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
  return inMs <= 0 ? ago(-inMs) : `in ${lasting(inMs)}`;
}
