import { eventView } from '../admin/event-list.ts';
import type { AdminBackend } from '../admin/routes.ts';
import { nodeView } from '../admin/stream-list.ts';
import type { Checkup } from '../headscale/checkup.ts';
import type { NodeDirectory } from '../headscale/nodes.ts';
import type { History } from '../history/history.ts';
import { formatMachineKey, type MachineKey, parseMachineKey, parseNodeKey } from '../identity/keys.ts';
import { version } from '../lib/version.ts';
import type { FrontProxies } from '../proxy/front-proxies.ts';
import type { ClientListener } from '../proxy/listener.ts';
import type { Replicas } from '../replicas/replicas.ts';
import { isLive, type StreamId } from '../streams/stream.ts';
import { frontProxySentence } from '../telemetry/describe-event.ts';
import type { Settings } from './settings.ts';
import { allStreamViews, readinessOf, type StatusSource, streamViews } from './status.ts';

/** What of the watchdog its operators see and touch. */
export interface AdminSource extends StatusSource {
  /** Undefined where this watchdog is alone. */
  readonly replicas: Replicas | undefined;
  readonly checkup: Checkup;
  readonly directory: NodeDirectory;
  readonly settings: Settings;
  readonly history: History;
  readonly listeners: readonly ClientListener[];
  readonly frontProxies: Pick<FrontProxies, 'standing'>;
  isDraining(): boolean;
  reload(): { readonly ok: boolean };
}

type Rest = Pick<AdminBackend, 'metrics' | 'failed'>;

export function adminBackendOf(source: AdminSource, rest: Rest): AdminBackend {
  source.replicas?.share({ views: () => streamViews(source), sever: (id) => void sever(source, id, undefined) });
  const { history, nodeOf } = source;
  return {
    ...rest,
    history,
    readiness: () => readiness(source),
    streams: () => allStreamViews(source),
    nodes: () => nodeViews(source),
    overview: () => overview(source),
    eventView: (happening) => eventView(happening, nodeOf(happening.machineKey)),
    keysOf: (node) => keysOf(source, node),
    sever: (id, replica) => sever(source, id, replica),
    reload: () => source.reload(),
  };
}

function readiness({ listeners, checkup, settings, isDraining }: AdminSource) {
  return readinessOf(listeners, checkup, settings.config.upstream, isDraining());
}

function sever(
  { registry, acceptor, replicas }: AdminSource,
  id: StreamId,
  replica: string | undefined,
): ReturnType<AdminBackend['sever']> {
  if (replica !== undefined && replica !== replicas?.name) return replicas?.sever(replica, id) ? 'asked' : 'unknown';
  const stream = registry.get(id);
  if (stream === undefined) return 'unknown';
  if (!isLive(stream)) return 'ending';
  acceptor.sever(stream, 'severed_by_operator');
  return 'severed';
}

function keysOf({ directory }: AdminSource, node: string): ReadonlySet<MachineKey> {
  const machineKey = parseMachineKey(node);
  if (machineKey !== undefined) return new Set([machineKey]);
  const nodeKey = parseNodeKey(node);
  const name = node.toLowerCase();
  const found = directory
    .all()
    .filter((each) =>
      nodeKey === undefined ? each.id === node || each.name.toLowerCase() === name : each.nodeKey === nodeKey,
    );
  return new Set(found.map((each) => each.machineKey));
}

/** The nodes that Headscale lists, and whoever else has, or lately had, a stream. */
function nodeViews({ directory, registry, history, nodeOf }: AdminSource): readonly object[] {
  const everything = { after: undefined, limit: 20_000, machineKeys: undefined, stream: undefined, kinds: undefined };
  const last = new Map<MachineKey, number>();
  for (const { machineKey, at } of history.find(everything)) if (machineKey !== undefined) last.set(machineKey, at);
  const listed = directory.all().map((node) => node.machineKey);
  const open = [...registry.all()].flatMap(({ machineKey }) => (machineKey === undefined ? [] : [machineKey]));
  return [...new Set([...listed, ...open, ...last.keys()])].map((key) => {
    const [node, at] = [nodeOf(key), last.get(key)];
    return {
      machineKey: formatMachineKey(key),
      ...(node === undefined ? { id: null, name: null, user: null, nodeKey: null } : nodeView(node)),
      streams: registry.ofMachineKey(key).map(({ id }) => id),
      lastEventAt: at === undefined ? null : new Date(at).toISOString(),
    };
  });
}

function overview(source: AdminSource): object {
  const { registry, history, settings, takeover, clock } = source;
  const byState = { held: 0, connecting: 0, open: 0, closing: 0, closed: 0 };
  let contested = 0;
  for (const stream of registry.all()) {
    byState[stream.state.kind] += 1;
    if (takeover.contestsOf(stream).length > 0) contested += 1;
  }
  const minutes = history.lastHour();
  const sum = (of: (minute: (typeof minutes)[number]) => number): number =>
    minutes.reduce((total, minute) => total + of(minute), 0);
  return {
    version,
    now: clock.dateOf(clock.now()).toISOString(),
    ...readiness(source).detail,
    observeOnly: settings.config.policy.observeOnly,
    duplicateKeys: takeover.duplicates.count,
    redisUp: source.replicas?.isUp ?? null,
    frontProxies: source.frontProxies.standing().map((event) => ({
      kind: event.kind,
      address: event.address,
      sentence: frontProxySentence(event),
    })),
    streams: { total: registry.size, contested, ...byState },
    lastHour: { takeovers: sum((minute) => minute.takeovers), gone: sum((minute) => minute.gone), minutes },
    lastSeq: history.lastSeq,
  };
}
