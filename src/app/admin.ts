import { eventView } from '../admin/event-list.ts';
import { keysOfNode, policyView, type ShownStream, streamsByKey } from '../admin/node-list.ts';
import { Problems } from '../admin/problems.ts';
import type { AdminBackend } from '../admin/routes.ts';
import { type AdminServer, createAdminServer } from '../admin/server.ts';
import { streamView } from '../admin/stream-list.ts';
import type { StreamView } from '../admin/views.ts';
import { explainPolicy } from '../config/policy.ts';
import type { AdminTokens } from '../config/secrets.ts';
import type { NodeDirectory } from '../headscale/nodes.ts';
import { isStreamSilent } from '../headscale/silence.ts';
import { type MachineKey, parseMachineKey } from '../identity/keys.ts';
import { version } from '../lib/version.ts';
import { allPresences, type NodePresence, nodesOf, type PresenceStream, type Sightings } from '../nodes/presence.ts';
import type { Reconciler } from '../nodes/reconcile.ts';
import type { Notifier } from '../notify/notifier.ts';
import type { Admission } from '../pipeline/admission.ts';
import type { Pacer } from '../pipeline/pacer.ts';
import { readsArePooled } from '../proxy/pooled-reads.ts';
import { currentTrust } from '../proxy/trusted-proxies.ts';
import type { Events } from '../streams/events.ts';
import { isLive, type Stream, type StreamId } from '../streams/stream.ts';
import { createMetrics, type Metrics } from '../telemetry/metrics.ts';
import { handedStates } from './handed-states.ts';
import type { HandedState, HandoverOutcome } from './handover.ts';
import type { ReloadOutcome } from './live-config.ts';
import { findProblems, type OverviewOptions, overviewOf, readinessOf } from './overview.ts';

/** The parts of the running watchdog that operators can see or control. */
export interface AdminOptions extends OverviewOptions {
  readonly events: Events;
  readonly admission: Admission;
  readonly pacer: Pacer;
  readonly sightings: Sightings;
  readonly reconciler: Reconciler;
  readonly notifier: Notifier;
  readonly tokens: AdminTokens;
  reload(): ReloadOutcome;
  handOver(): Promise<HandoverOutcome>;
}

/** Starts the metrics, and creates the admin server, which does not listen yet. */
export function startAdmin(options: AdminOptions): {
  readonly admin: AdminServer;
  /** What another process can go on with. */
  readonly states: readonly HandedState[];
} {
  const { clock, events, directory, live, replicas, tokens } = options;
  const metrics = startMetrics(options);
  const { history, presence } = options.kept;
  const problems = new Problems({ clock, find: () => findProblems(options) });
  events.listen(problems.listen);
  const backend: AdminBackend = {
    ...{ history, presence },
    events: (query) => options.kept.find(query),
    nodeOf: (key) => directory.nodeOf(key),
    now: () => clock.dateOf(clock.now()).getTime(),
    metrics: async () => ({ contentType: metrics.contentType, text: await metrics.render() }),
    failed: (during, error) => events.emit({ kind: 'internal_error', during, error }),
    readiness: () => readinessOf(options),
    streams: () => allStreamViews(options),
    nodes: () => presences(options),
    sharingOf: (key) => {
      const { duplicates } = options.takeover;
      const since = duplicates.suspectedSince(key);
      return { isDuplicate: duplicates.has(key), suspectedSince: since && clock.dateOf(since).getTime() };
    },
    policyOf: ({ machineKey, node }) => policyView(explainPolicy(live.config, machineKey, node && nodesOf(node))),
    overview: () => overviewOf(options, history, problems),
    eventView: (entry) => eventView(entry, directory.nodeOf(entry.subject.machineKey)),
    keysOf: (node) => machineKeysOf(directory, node),
    sever: (id, replica) => sever(options, id, replica),
    reload: () => options.reload(),
    handOver: () => options.handOver(),
  };
  replicas?.share({ views: () => streamViews(options), sever: (id) => void sever(options, id, undefined) });
  const trust = currentTrust(() => live.config.trustedProxies);
  const admin = createAdminServer(backend, {
    ...{ clock, tokens, adminHost: live.config.admin.host },
    corsOrigins: () => live.config.adminCorsOrigins,
    isTrustedProxy: (address) => trust()(address),
  });
  return { admin, states: handedStates({ ...options, metrics }) };
}

/** Whether a key belongs to a node. Until Headscale has listed its nodes, every key may. */
function isKnownNode(directory: NodeDirectory, key: MachineKey): boolean {
  return !directory.loaded || directory.nodeOf(key) !== undefined;
}

function startMetrics(options: AdminOptions): Metrics {
  const { clock, events, registry, takeover, checkup, directory, live } = options;
  const metrics = createMetrics({
    clock,
    emit: events.emit,
    streams: () => registry.all(),
    upstreamUp: () => checkup.health.up,
    connections: () => options.admission.connections,
    held: () => takeover.held,
    paced: () => options.pacer.waiting,
    redisUp: () => options.replicas?.isUp,
    keyMatches: () => checkup.health.keyMatches,
    evidenceAvailable: { direct: () => options.kernel !== undefined, proxy: () => options.proxySockets.isAvailable },
    evidenceSourceOf: (stream) => options.acceptor.sourceOf(stream).kind,
    readsArePooled,
    duplicateKeys: () => takeover.duplicates.count,
    upstreamSilent: () => (checkup.health.up === undefined ? undefined : checkup.health.silentOn !== undefined),
    upstreamSilentStreams: () => [...registry.all()].filter((each) => isStreamSilent(each, clock.now())).length,
    frontProxies: () => options.frontProxies.standing(),
    presences: () => ownPresences(options),
    historyFile: () => options.kept.file,
    notificationsWaiting: () => options.notifier.waiting,
    certificateExpires: () => options.keys.firstCertificateToExpire,
    nodeOf: (key) => directory.nodeOf(key),
    isNode: (key) => isKnownNode(directory, key),
    rttMsOf: (stream) => {
      const kernel = options.acceptor.evidenceOf(stream);
      return kernel?.ended ? undefined : kernel?.rttMs;
    },
    maxNodes: () => live.config.metricsMaxNodes,
    version,
  });
  events.listen(metrics.listen);
  directory.onChange(metrics.reconsider);
  events.listen(({ kind }) => {
    if (kind === 'settings_reloaded') metrics.reconsider();
  });
  return metrics;
}

/** The streams of this replica, and of all others that answer. */
async function allStreamViews(options: AdminOptions): Promise<readonly StreamView[]> {
  const remote = (await options.replicas?.remoteStreams()) ?? [];
  // `isMessage` has rejected everything that is not such a view.
  return [...streamViews(options), ...(remote as StreamView[])];
}

/** Our own streams. */
function streamViews({ clock, registry, takeover, acceptor, directory, replicas }: AdminOptions): StreamView[] {
  return [...registry.all()].map((stream) => {
    const contests = takeover.contestsOf(stream).map(({ old, newcomer, openedAt, verdict }) => {
      const wait = verdict?.kind === 'wait' ? verdict : undefined;
      return { old, newcomer, openedAt, waitingFor: wait?.waitingFor, until: wait?.until };
    });
    const node = directory.nodeOf(stream.machineKey);
    const evidence = { source: acceptor.sourceOf(stream), kernel: acceptor.evidenceOf(stream) };
    return streamView(clock, stream, node, evidence, contests, replicas?.name);
  });
}

/** Every node's presence. Streams of other replicas count too. */
async function presences(options: AdminOptions): Promise<readonly NodePresence<ShownStream>[]> {
  const streams = await allStreamViews(options);
  return presencesWith(options, (now) => streamsByKey(streams, now));
}

/** Every node's presence, as this watchdog alone sees it. */
function ownPresences(options: AdminOptions): readonly NodePresence[] {
  const { clock, registry } = options;
  const dateOf = (instant: Stream['openedAt']): number => clock.dateOf(instant).getTime();
  const streams = new Map<MachineKey, readonly PresenceStream[]>();
  for (const { machineKey, kind } of registry.all()) {
    if (machineKey === undefined || kind !== 'control' || streams.has(machineKey)) continue;
    const own = registry.ofMachineKey(machineKey).filter((stream) => stream.kind === 'control');
    streams.set(
      machineKey,
      own.map(({ state, openedAt, heardAt }) => ({
        state: state.kind,
        openedAt: dateOf(openedAt),
        lastSignAt: dateOf(heardAt),
      })),
    );
  }
  return presencesWith(options, () => streams);
}

function presencesWith<S extends PresenceStream>(
  { clock, directory, sightings, reconciler }: AdminOptions,
  streamsAt: (now: number) => ReadonlyMap<MachineKey, readonly S[]>,
): readonly NodePresence<S>[] {
  const now = clock.dateOf(clock.now()).getTime();
  const facts = { listed: directory.all(), isListed: directory.loaded, sightings, streams: streamsAt(now) };
  return allPresences({ ...facts, disagreementOf: (key) => reconciler.disagreementOf(key) }, now);
}

/** The machine keys of a node, by its name, id, machine key or node key. */
function machineKeysOf(directory: NodeDirectory, node: string): ReadonlySet<MachineKey> {
  const machineKey = parseMachineKey(node);
  if (machineKey !== undefined) return new Set([machineKey]);
  return keysOfNode(
    directory.all().map((each) => ({ machineKey: each.machineKey, node: each })),
    node,
  );
}

/** Severs a stream for an operator. @param replica the replica that has the stream; undefined means this one. */
function sever(
  { registry, acceptor, replicas }: AdminOptions,
  id: StreamId,
  replica: string | undefined,
): 'severed' | 'ending' | 'unknown' | 'asked' {
  if (replica !== undefined && replica !== replicas?.name) return replicas?.sever(replica, id) ? 'asked' : 'unknown';
  const stream = registry.get(id);
  if (stream === undefined) return 'unknown';
  if (!isLive(stream)) return 'ending';
  acceptor.sever(stream, 'severed_by_operator');
  return 'severed';
}
