import { formatMachineKey, formatNodeKey, type MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { Clock } from '../lib/clock.ts';
import { type EvidenceSource, type KernelEvidence, STREAM_KINDS, type Stream } from '../streams/stream.ts';
import { PAGE_PARAMETERS, Parameters, pageOf } from './parameters.ts';
import type { EvidenceView, NodeView, StreamList, StreamView } from './views.ts';

/** The part of a contest that `/streams` shows. */
interface ContestView {
  readonly old: Stream;
  readonly newcomer: Stream;
  readonly openedAt: Stream['openedAt'];
  readonly waitingFor: string | undefined;
  readonly until: Stream['openedAt'] | undefined;
}

/** A stream as `/streams` shows it. */
export function streamView(
  clock: Clock,
  stream: Stream,
  node: NodeInfo | undefined,
  evidence: { readonly source: EvidenceSource; readonly kernel: KernelEvidence | undefined },
  contests: readonly ContestView[],
  replica: string | undefined,
): StreamView {
  const iso = (instant: Stream['openedAt']): string => clock.dateOf(instant).toISOString();
  return {
    id: stream.id,
    replica: replica ?? null,
    kind: stream.kind,
    machineKey: stream.machineKey === undefined ? null : formatMachineKey(stream.machineKey),
    node: node === undefined ? null : nodeView(node),
    capabilityVersion: stream.capabilityVersion ?? null,
    remoteAddress: stream.remoteAddress,
    openedAt: iso(stream.openedAt),
    lastHeardAt: iso(stream.heardAt),
    upstreamLastHeardAt: stream.spokenAt === undefined ? null : iso(stream.spokenAt),
    bytesReceived: stream.bytesReceived,
    bytesSent: stream.bytesSent,
    state: stream.state.kind,
    heldUntil: stream.state.kind === 'held' ? iso(stream.state.until) : null,
    closeReason: stream.state.kind === 'closing' ? stream.state.reason : null,
    wouldSever: stream.wouldSever ?? null,
    evidence: evidenceView(evidence.source),
    kernel: evidence.kernel ?? null,
    contests: contests.map((contest) => ({
      role: contest.old === stream ? 'old' : 'newcomer',
      otherStream: contest.old === stream ? contest.newcomer.id : contest.old.id,
      otherReplica: (contest.old === stream ? contest.newcomer.replica : contest.old.replica) ?? null,
      openedAt: iso(contest.openedAt),
      waitingFor: contest.waitingFor ?? null,
      until: contest.until === undefined ? null : iso(contest.until),
    })),
  };
}

function evidenceView(source: EvidenceSource): EvidenceView {
  const nothing = { by: null, user: null, reason: null };
  switch (source.kind) {
    case 'direct':
      return { source: 'direct', ...nothing };
    case 'proxy':
      return { source: 'proxy', ...nothing, by: source.by, user: source.user };
    case 'none':
      return { source: 'none', ...nothing, reason: source.reason };
    default:
      return source satisfies never;
  }
}

export function nodeView({ id, name, user, nodeKey }: NodeInfo): NodeView {
  return { id, name, user, nodeKey: formatNodeKey(nodeKey) };
}

/** What `state` of `/streams` may be: a state, except closed, or what a stream can be in any state. */
export const STREAM_FILTERS = ['held', 'connecting', 'open', 'closing', 'contested', 'no-evidence'] as const;
type StreamFilter = (typeof STREAM_FILTERS)[number];

function isInOneOf(filters: ReadonlySet<StreamFilter>, { state, contests, evidence }: StreamView): boolean {
  if (contests.length > 0 && filters.has('contested')) return true;
  // A replica of another version may not send its evidence.
  if (evidence?.source === 'none' && filters.has('no-evidence')) return true;
  return state !== 'closed' && filters.has(state);
}

const SORT_KEYS: Readonly<Record<string, (stream: StreamView) => string | number>> = {
  id: ({ id }) => id,
  node: ({ node, machineKey }) => node?.name.toLowerCase() ?? machineKey ?? '\uffff',
  address: ({ remoteAddress }) => remoteAddress,
  opened: ({ openedAt }) => openedAt,
  heard: ({ lastHeardAt }) => lastHeardAt,
  rtt: ({ kernel }) => (kernel === null || kernel.ended ? Number.POSITIVE_INFINITY : kernel.rttMs),
  bytes: ({ bytesReceived, bytesSent }) => bytesReceived + bytesSent,
  state: ({ state }) => state,
};

export const SORT_COLUMNS: readonly string[] = Object.keys(SORT_KEYS);

/** The parameters of `/streams`. */
const STREAM_PARAMETERS = ['state', 'kind', 'node', 'q', ...PAGE_PARAMETERS];

/**
 * Filters, sorts and pages streams.
 *
 * @param keysOf the machine keys of a node, by its name, id or one of its keys.
 * @throws ParameterError
 */
export function listStreams(
  all: readonly StreamView[],
  query: URLSearchParams,
  keysOf: (node: string) => ReadonlySet<MachineKey>,
): StreamList {
  const given = new Parameters(query, STREAM_PARAMETERS);
  const states = given.words<StreamFilter>('state', STREAM_FILTERS);
  const kinds = given.words<string>('kind', STREAM_KINDS);
  const node = given.text('node');
  const keys = node === undefined ? undefined : new Set([...keysOf(node)].map(formatMachineKey));
  const words = given.text('q')?.toLowerCase();
  const found = all.filter(
    (stream) =>
      (states === undefined || isInOneOf(states, stream)) &&
      (kinds?.has(stream.kind) ?? true) &&
      (keys === undefined || (stream.machineKey !== null && keys.has(stream.machineKey))) &&
      (words === undefined || textOf(stream).includes(words)),
  );
  const { total, next, page } = pageOf(found, given, SORT_KEYS, placeOf, /^.*\/\d{16}$/s);
  return { total, next, streams: page };
}

/** Newer streams of a replica have larger ids. */
function placeOf({ replica, id }: StreamView): string {
  return `${replica ?? ''}/${String(id).padStart(16, '0')}`;
}

/** The text in which a search (`q=`) looks. */
function textOf({ id, node, machineKey, remoteAddress, state, kind }: StreamView): string {
  const who = node === null ? '' : `${node.name} ${node.user} ${node.id} ${node.nodeKey}`;
  return `${id} ${who} ${machineKey ?? ''} ${remoteAddress} ${state} ${kind}`.toLowerCase();
}
