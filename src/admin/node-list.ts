import { formatHold } from '../config/changes.ts';
import type { ExplainedPolicy } from '../config/policy.ts';
import { formatMachineKey, formatNodeKey, type MachineKey, parseMachineKey } from '../identity/keys.ts';
import { isoTime } from '../lib/clock.ts';
import { isConnected, lastSignAgoMs, NODE_STATES, type NodePresence, type PresenceStream } from '../nodes/presence.ts';
import type { Stream } from '../streams/stream.ts';
import type { NodeHealth } from './availability-views.ts';
import { PAGE_PARAMETERS, Parameters, pageOf } from './parameters.ts';
import { nodeView } from './stream-list.ts';
import type { EvidenceView, NodeList, PolicyView, PresenceView, StreamView } from './views.ts';

/** A node's stream with what `/nodes` shows of it. */
export interface ShownStream extends PresenceStream {
  readonly id: Stream['id'];
  readonly replica: string | null;
  readonly remoteAddress: string;
  readonly rttMs: number | null;
  readonly isContested: boolean;
  readonly evidence: EvidenceView;
  readonly capabilityVersion: number | null;
}

/** The control streams of each node in `/streams`, for their nodes' presence. Streams of other replicas are among them. */
export function streamsByKey(
  streams: readonly StreamView[],
  now: number,
): ReadonlyMap<MachineKey, readonly ShownStream[]> {
  const byKey = new Map<MachineKey, ShownStream[]>();
  for (const stream of streams) {
    const key = parseMachineKey(stream.machineKey ?? '');
    if (stream.kind !== 'control' || key === undefined) continue;
    const shown = shownStream(stream, now);
    const before = byKey.get(key);
    if (before === undefined) byKey.set(key, [shown]);
    else before.push(shown);
  }
  return byKey;
}

const NO_EVIDENCE: EvidenceView = { source: 'none', by: null, user: null, reason: null };

function shownStream(stream: StreamView, now: number): ShownStream {
  const { id, replica, state, remoteAddress, kernel } = stream;
  const heardAt = Date.parse(stream.lastHeardAt);
  return {
    ...{ id, replica, state, remoteAddress },
    openedAt: Date.parse(stream.openedAt),
    lastSignAt: now - lastSignAgoMs(now - heardAt, kernel ?? undefined),
    isContested: stream.contests.length > 0,
    rttMs: kernel === null || kernel.ended ? null : kernel.rttMs,
    // A replica of another version may not send these.
    evidence: stream.evidence ?? NO_EVIDENCE,
    capabilityVersion: stream.capabilityVersion ?? null,
  };
}

/** Whether two machines use a machine key. `suspectedSince`: since when they may; undefined if nothing points to it. */
export interface Sharing {
  readonly isDuplicate: boolean;
  readonly suspectedSince: number | undefined;
}

const UNSHARED: Sharing = { isDuplicate: false, suspectedSince: undefined };

/** A node as `/nodes` shows it. */
export function presenceView(presence: NodePresence<ShownStream>, sharing: Sharing): PresenceView {
  const { machineKey, node, state, disagreement, streams, current } = presence;
  return {
    machineKey: formatMachineKey(machineKey),
    id: node?.id ?? null,
    name: node?.name ?? null,
    user: node?.user ?? null,
    nodeKey: node === undefined ? null : formatNodeKey(node.nodeKey),
    others: (node?.others ?? []).map(nodeView),
    addresses: node?.addresses ?? [],
    tags: node?.tags ?? [],
    os: node?.os ?? null,
    clientVersion: node?.clientVersion ?? null,
    capabilityVersion: streams.at(-1)?.capabilityVersion ?? null,
    isEphemeral: node?.isEphemeral ?? null,
    state,
    disagreement: disagreement ?? null,
    connectedSince: iso(presence.connectedSince),
    remoteAddress: current?.remoteAddress ?? null,
    rttMs: current?.rttMs ?? null,
    evidence: current?.evidence ?? null,
    lastSignAt: iso(presence.lastSignAt),
    isContested: streams.some((stream) => stream.isContested),
    isDuplicate: sharing.isDuplicate,
    suspectedSince: iso(sharing.suspectedSince),
    shownOnline: presence.shownOnline ?? null,
    shownLastSeenAt: iso(presence.shownLastSeenAt),
    keyExpiresAt: iso(presence.keyExpiresAt),
    streams: streams.map(({ id, replica, state: is, evidence }) => ({ id, replica, state: is, evidence })),
  };
}

/** The settings that apply to a node, and where they come from. */
export function policyView({ policy, rule, isCertain, from }: ExplainedPolicy): PolicyView {
  return { rule: rule === undefined ? null : rule + 1, isCertain, ...policy, hold: formatHold(policy.hold), from };
}

/** What a probe needs to know about a node. */
export function nodeHealth(presence: NodePresence<ShownStream>): NodeHealth {
  const { machineKey, name, state, connectedSince, lastSignAt } = presenceView(presence, UNSHARED);
  return { machineKey, name, connected: isConnected(presence), state, connectedSince, lastSignAt };
}

function iso(date: number | undefined): string | null {
  return date === undefined ? null : isoTime(date);
}

/** What `state` of `/nodes` may be. A node can be contested or a duplicate in any state. */
export const NODE_FILTERS = [...NODE_STATES, 'contested', 'duplicate'] as const;
type NodeFilter = (typeof NODE_FILTERS)[number];

/** A node about which Headscale disagrees is connected or away, too. The page has the same filters. */
export function isInOneOf(filters: ReadonlySet<NodeFilter>, node: PresenceView): boolean {
  const { state, disagreement, connectedSince, isContested, isDuplicate, suspectedSince } = node;
  if (filters.has(state)) return true;
  // A deleted node, or one whose key has expired, may be shown differently, too.
  if (disagreement !== null && filters.has('disagrees')) return true;
  if (isContested && filters.has('contested')) return true;
  if ((isDuplicate || suspectedSince !== null) && filters.has('duplicate')) return true;
  return state === 'disagrees' && filters.has(connectedSince === null ? 'offline' : 'connected');
}

const LAST = '\uffff';

const SORT_KEYS: Readonly<Record<string, (node: PresenceView) => string | number>> = {
  name: ({ name, machineKey }) => name?.toLowerCase() ?? `${LAST}${machineKey}`,
  user: ({ user }) => user?.toLowerCase() ?? LAST,
  state: ({ state }) => NODE_STATES.indexOf(state),
  since: ({ connectedSince }) => connectedSince ?? LAST,
  // Headscale may have seen it before the watchdog did.
  sign: ({ lastSignAt, shownLastSeenAt }) => lastSignAt ?? shownLastSeenAt ?? '',
  rtt: ({ rttMs }) => rttMs ?? Number.POSITIVE_INFINITY,
  address: ({ remoteAddress }) => remoteAddress ?? LAST,
  expiry: ({ keyExpiresAt }) => keyExpiresAt ?? LAST,
};

export const NODE_SORT_COLUMNS: readonly string[] = Object.keys(SORT_KEYS);

const NODE_PARAMETERS = ['state', 'q', ...PAGE_PARAMETERS];

/**
 * Filters, sorts and pages nodes.
 *
 * @throws ParameterError
 */
export function listNodes(all: readonly PresenceView[], query: URLSearchParams): NodeList {
  const given = new Parameters(query, NODE_PARAMETERS);
  const states = given.words<NodeFilter>('state', NODE_FILTERS);
  const words = given.text('q')?.toLowerCase();
  const nodes = all.filter(
    (node) =>
      (states === undefined || isInOneOf(states, node)) && (words === undefined || textOf(node).includes(words)),
  );
  const { total, next, page } = pageOf(nodes, given, SORT_KEYS, ({ machineKey }) => machineKey, /^mkey:[0-9a-f]{64}$/);
  return { total, next, nodes: page };
}

/** The text in which a search (`q=`) looks. */
function textOf(node: PresenceView): string {
  const { id, name, user, machineKey, nodeKey, addresses, tags, os, remoteAddress, state, others } = node;
  const names = others.map((other) => `${other.id} ${other.name} ${other.user} ${other.nodeKey}`);
  const own = [id, name, user, machineKey, nodeKey, ...addresses, ...tags, os, remoteAddress, state, ...names];
  return own.join(' ').toLowerCase();
}

/** The machine keys of a node, by its name, id, machine key or node key. */
export function keysOfNode(
  nodes: Iterable<Pick<NodePresence, 'machineKey' | 'node'>>,
  node: string,
): ReadonlySet<MachineKey> {
  const name = node.toLowerCase();
  const found = new Set<MachineKey>();
  for (const { machineKey, node: listed } of nodes) {
    const isMeant = [listed, ...(listed?.others ?? [])].some(
      (each) =>
        each !== undefined &&
        (each.id === node || each.name.toLowerCase() === name || formatNodeKey(each.nodeKey) === node),
    );
    if (isMeant || formatMachineKey(machineKey) === node) found.add(machineKey);
  }
  return found;
}
