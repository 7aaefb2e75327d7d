import type { ReconcileMode } from '../config/types.ts';
import type { MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import { type Disagreement, type Emit, hasBegun, reportWouldSever, type WatchdogEvent } from '../streams/events.ts';
import type { Stream, StreamId } from '../streams/stream.ts';
import { isExpired, nodesOf, shownOnline } from './presence.ts';

/** How long a disagreement must last, from one list of nodes to another, before it counts. */
const COUNTS_AFTER_MS: Readonly<Record<Disagreement, number>> = {
  shown_offline: 30_000,
  // A node that uses another way to Headscale, or a restarted watchdog: its nodes need time to come back.
  shown_online: 120_000,
  // Two lists in a row, and the second is not the echo of the first.
  deleted: 10_000,
};
/** A node is told again, and its stream ended again, only after this long. */
const AGAIN_AFTER_MS = 10 * 60_000;
/** Headscale sends a keepalive every 50 to 59 s, and a living client's kernel acknowledges it. */
const KEEPALIVE_MS = 60_000;
/** The minimum time between two requests of ours for the list of nodes. */
const ASK_EVERY_MS = 10_000;
/** How often a list is asked for while a disagreement is there, but the client is not proved live. */
const MOST_TRIES = 3;
/** So that not all nodes have to come back at once. The others' turn comes with the next lists. */
const MOST_ENDED_AT_ONCE = 10;
/** If a list lacks more nodes than this, and more than half of all, it is more likely wrong than true. */
const MOST_MISSING = 3;

/** Headscale's list of nodes, as `NodeDirectory` keeps it. */
interface ListedNodes {
  readonly loaded: boolean;
  /** Whether every node in it could be read. */
  readonly isWhole: boolean;
  /** When the request was sent whose answer is the present list. */
  readonly listedAt: Instant | undefined;
  all(): readonly NodeInfo[];
  nodeOf(key: MachineKey): NodeInfo | undefined;
  /** Asks Headscale for the list now. */
  refresh(): void;
}

interface ReconcilerOptions {
  readonly clock: Clock;
  readonly emit: Emit;
  readonly directory: ListedNodes;
  mode(): ReconcileMode;
  /** The issue of Headscale that makes it disagree like that; undefined if its version is not known for it. */
  issueOf(kind: Disagreement): number | undefined;
  /** Our own control streams of a key, oldest first. */
  streamsOf(key: MachineKey): readonly Stream[];
  /** The keys that have a stream at another replica; undefined if that cannot be known now. Undefined without replicas. */
  readonly elsewhere: (() => Promise<ReadonlySet<MachineKey> | undefined>) | undefined;
  /** How long ago the client last gave a sign of life. */
  lastSignAgoMs(stream: Stream): number;
  /** Whether the stream's node is observe-only. @param node as it was last listed. */
  isObserved(stream: Stream, node: NodeInfo): boolean;
  end(stream: Stream, reason: EndReason): void;
}

type EndReason = 'shown_offline' | 'node_deleted';
const ENDS_WITH: Readonly<Record<Disagreement, EndReason | undefined>> = {
  shown_offline: 'shown_offline',
  shown_online: undefined,
  deleted: 'node_deleted',
};

/** Two statements about one node that contradict each other. */
interface Suspicion {
  readonly kind: Disagreement;
  /** As it was last listed. */
  readonly node: NodeInfo;
  readonly since: Instant;
  /** Shown as offline: the stream that shows that it is connected. */
  readonly stream: StreamId | undefined;
  /** When the next list may settle it. Undefined: nothing is asked because of it. */
  dueAt: Instant | undefined;
  tries: number;
  /** It has lasted long enough, and it is proved. */
  isStanding: boolean;
}

/**
 * Compares what Headscale shows with what the watchdog sees, each time Headscale lists its nodes. What lasts is reported. With
 * `heal` the stream of a node that is shown as offline, or was deleted, is ended once, so that both sides agree again. That is done
 * only for what this version of Headscale is known to get wrong.
 *
 * Only a list that Headscale has just given changes anything. While it gives none, nothing is reported and no stream ends.
 */
export class Reconciler {
  readonly #options: ReconcilerOptions;
  readonly #suspicions = new Map<MachineKey, Suspicion>();
  /** The nodes of the last list that can be believed. */
  #known: ReadonlyMap<MachineKey, NodeInfo> = new Map();
  readonly #told = new Map<MachineKey, Instant>();
  readonly #ended = new Map<MachineKey, Instant>();
  #askedAt: Instant | undefined;
  #timer: { readonly at: Instant; readonly timer: Timer } | undefined;
  #isClosed = false;

  constructor(options: ReconcilerOptions) {
    this.#options = options;
  }

  /** Call it whenever Headscale has listed its nodes, and when they are forgotten. */
  listed(): void {
    const { directory, clock } = this.#options;
    const { listedAt } = directory;
    if (this.#isClosed) return;
    if (!directory.loaded || listedAt === undefined) {
      this.#suspicions.clear();
      this.#known = new Map();
      return;
    }
    const nodes = new Map(directory.all().map((node) => [node.machineKey, node]));
    const today = clock.dateOf(clock.now()).getTime();
    for (const node of nodes.values()) this.#compare(node, listedAt, today);
    for (const [key, { kind }] of this.#suspicions)
      if (kind === 'deleted' ? nodes.has(key) : !nodes.has(key)) this.#suspicions.delete(key);
    // A list that cannot be believed proves no deletion, neither as the first nor as the second.
    const isPlausible = directory.isWhole && isPlausibleAfter(this.#known, nodes);
    if (isPlausible) this.#findDeleted(nodes, listedAt);
    this.#settle(listedAt, isPlausible);
    this.#forgetOld();
    this.#plan();
  }

  readonly listen = (event: WatchdogEvent): void => {
    if (!hasBegun(event) && event.kind !== 'stream_closed') return;
    const { machineKey, kind, id } = event.stream;
    if (machineKey === undefined || kind !== 'control') return;
    const suspicion = this.#suspicions.get(machineKey);
    if (hasBegun(event)) {
      if (suspicion?.kind === 'shown_online') this.#suspicions.delete(machineKey);
      return;
    }
    if (suspicion?.stream === id) this.#suspicions.delete(machineKey);
    if (this.#options.streamsOf(machineKey).length > 0) return;
    this.#suspicions.delete(machineKey);
    this.#left(machineKey);
  };

  /** How a node and Headscale disagree, if it lasts, and the node as it was last listed. */
  disagreementOf(key: MachineKey): { readonly kind: Disagreement; readonly node: NodeInfo } | undefined {
    const suspicion = this.#suspicions.get(key);
    return suspicion?.isStanding ? suspicion : undefined;
  }

  close(): void {
    this.#isClosed = true;
    this.#timer?.timer.cancel();
  }

  /** The last stream of a node has ended, so Headscale must soon show it as offline. */
  #left(key: MachineKey): void {
    const { directory, clock } = this.#options;
    const node = directory.nodeOf(key);
    if (node === undefined || shownOnline(nodesOf(node)) !== true) return;
    this.#suspect(key, { kind: 'shown_online', node, since: clock.now(), stream: undefined });
    this.#plan();
  }

  #compare(node: NodeInfo, listedAt: Instant, today: number): void {
    const { clock, streamsOf } = this.#options;
    const key = node.machineKey;
    const found = mismatchOf(node, streamsOf(key), listedAt, today);
    const before = this.#suspicions.get(key);
    if (found === undefined) this.#suspicions.delete(key);
    else if (before?.kind !== found.kind || before.stream !== found.stream)
      this.#suspect(key, { ...found, node, since: clock.now() });
  }

  #suspect(key: MachineKey, found: Pick<Suspicion, 'kind' | 'node' | 'since' | 'stream'>): void {
    const dueAt = plus(found.since, COUNTS_AFTER_MS[found.kind]);
    this.#suspicions.set(key, { ...found, dueAt, tries: 0, isStanding: false });
  }

  /** Finds the nodes that were listed before, are not any more, and have streams from before. */
  #findDeleted(nodes: ReadonlyMap<MachineKey, NodeInfo>, listedAt: Instant): void {
    const { streamsOf } = this.#options;
    for (const [key, node] of this.#known) {
      if (nodes.has(key) || !streamsOf(key).some(({ openedAt }) => openedAt < listedAt)) continue;
      this.#suspect(key, { kind: 'deleted', node, since: listedAt, stream: undefined });
    }
    this.#known = nodes;
  }

  /** Looks which suspicions have lasted long enough, as a list shows that was asked for at `listedAt`. */
  #settle(listedAt: Instant, isPlausible: boolean): void {
    const unseen: [MachineKey, Suspicion][] = [];
    let ended = 0;
    for (const [key, suspicion] of this.#suspicions) {
      const { kind, since } = suspicion;
      if (listedAt < plus(since, COUNTS_AFTER_MS[kind]) || (kind === 'deleted' && !isPlausible)) continue;
      if (kind === 'shown_online') {
        if (!suspicion.isStanding) unseen.push([key, suspicion]);
        continue;
      }
      const streams = this.#provedStreams(key, suspicion);
      if (streams.length === 0) this.#tryLater(suspicion, listedAt);
      else if (ended < MOST_ENDED_AT_ONCE) ended += this.#stand(key, suspicion, streams);
      else suspicion.dueAt = plus(listedAt, ASK_EVERY_MS);
    }
    if (unseen.length > 0) void this.#tellUnseen(unseen);
  }

  /** The streams that contradict Headscale, beyond doubt. */
  #provedStreams(key: MachineKey, { kind, since, stream: id }: Suspicion): readonly Stream[] {
    const { clock, streamsOf, lastSignAgoMs } = this.#options;
    const open = streamsOf(key).filter(({ state }) => state.kind === 'open');
    // A stream that opened later belongs to a login that has begun since.
    if (kind === 'deleted') return open.filter(({ openedAt }) => openedAt < since);
    return open.filter(
      (stream) =>
        stream.id === id && lastSignAgoMs(stream) <= KEEPALIVE_MS && hasMapSession(stream, since, clock.now()),
    );
  }

  #tryLater(suspicion: Suspicion, listedAt: Instant): void {
    suspicion.tries += 1;
    suspicion.isStanding = false;
    suspicion.dueAt = suspicion.tries < MOST_TRIES ? plus(listedAt, KEEPALIVE_MS) : undefined;
  }

  /** Reports a disagreement that lasts, and with `heal` ends it. @returns how many streams were ended. */
  #stand(key: MachineKey, suspicion: Suspicion, streams: readonly Stream[]): number {
    const { emit, mode, issueOf, isObserved, end } = this.#options;
    const reason = ENDS_WITH[suspicion.kind];
    suspicion.isStanding = true;
    suspicion.dueAt = undefined;
    const mayEnd =
      mode() === 'heal' &&
      reason !== undefined &&
      issueOf(suspicion.kind) !== undefined &&
      this.#isDue(this.#ended, key);
    const ending = mayEnd ? streams.filter((stream) => !isObserved(stream, suspicion.node)) : [];
    this.#tell(key, suspicion, streams.at(-1), ending.length > 0);
    if (!mayEnd) return 0;
    for (const stream of streams) if (!ending.includes(stream)) reportWouldSever(stream, reason, emit);
    if (ending.length > 0) this.#ended.set(key, this.#options.clock.now());
    for (const stream of ending) end(stream, reason);
    return ending.length;
  }

  /** Nodes that are shown as online have no stream here. They may have one at another replica. */
  async #tellUnseen(unseen: readonly (readonly [MachineKey, Suspicion])[]): Promise<void> {
    const { elsewhere, emit, streamsOf } = this.#options;
    try {
      const keys = elsewhere === undefined ? new Set<MachineKey>() : await elsewhere();
      if (keys === undefined || this.#isClosed) return;
      for (const [key, suspicion] of unseen) {
        suspicion.dueAt = undefined;
        const isCurrent = this.#suspicions.get(key) === suspicion && streamsOf(key).length === 0;
        if (isCurrent && !keys.has(key)) this.#stand(key, suspicion, []);
      }
    } catch (error) {
      emit({ kind: 'internal_error', during: 'comparing nodes with Headscale', error });
    }
  }

  #tell(key: MachineKey, { kind, node, since }: Suspicion, stream: Stream | undefined, isEnded: boolean): void {
    const { clock, emit, mode, issueOf, lastSignAgoMs } = this.#options;
    if (mode() === 'off' || !this.#isDue(this.#told, key)) return;
    this.#told.set(key, clock.now());
    const lastSign = stream && lastSignAgoMs(stream);
    const forMs = clock.now() - since;
    emit({
      kind: 'node_disagrees',
      ...{ machineKey: key, node, disagreement: kind, issue: issueOf(kind), forMs, stream, isEnded },
      lastSignAgoMs: lastSign,
    });
  }

  #isDue(last: ReadonlyMap<MachineKey, Instant>, key: MachineKey): boolean {
    const at = last.get(key);
    return at === undefined || this.#options.clock.now() - at >= AGAIN_AFTER_MS;
  }

  #forgetOld(): void {
    for (const last of [this.#told, this.#ended])
      for (const key of last.keys()) if (this.#isDue(last, key) && !this.#suspicions.has(key)) last.delete(key);
  }

  /** Has Headscale asked when the first suspicion can be settled. */
  #plan(): void {
    const { clock, mode, directory } = this.#options;
    if (this.#isClosed || mode() === 'off') return;
    const due = [...this.#suspicions.values()].flatMap(({ dueAt }) => (dueAt === undefined ? [] : [dueAt]));
    if (due.length === 0) return;
    const earliest = due.reduce((first, each) => (each < first ? each : first));
    const at = Math.max(earliest, (this.#askedAt ?? Number.NEGATIVE_INFINITY) + ASK_EVERY_MS) as Instant;
    if (this.#timer !== undefined && this.#timer.at <= at) return;
    this.#timer?.timer.cancel();
    const timer = clock.after(at - clock.now(), () => {
      this.#timer = undefined;
      this.#askedAt = clock.now();
      directory.refresh();
    });
    this.#timer = { at, timer };
  }
}

/** How what Headscale shows of a node contradicts our streams. Several nodes of one machine must all contradict. */
export function mismatchOf(
  node: NodeInfo,
  streams: readonly Stream[],
  listedAt: Instant,
  today: number,
): Pick<Suspicion, 'kind' | 'stream'> | undefined {
  const nodes = nodesOf(node);
  // An expired node may wait for its owner's login here, and is then rightly shown as offline. Ending its stream would not help
  // where it is shown as online: tailscaled is back at once, and Headscale takes it.
  if (isExpired(nodes, today)) return undefined;
  const online = shownOnline(nodes);
  if (online === true) return streams.length === 0 ? { kind: 'shown_online', stream: undefined } : undefined;
  const newest = streams.findLast(({ state }) => state.kind === 'open');
  // Without a whole record it may be a replayed handshake.
  if (online !== false || newest?.firstRecordAt === undefined || newest.openedAt >= listedAt) return undefined;
  return { kind: 'shown_offline', stream: newest.id };
}

/**
 * Whether a stream carries a map session. Headscale sends a keepalive on it within a minute. On other connections of a node,
 * such as one that waits for a login or is left over from `tailscale down`, it falls silent.
 *
 * @param since since when Headscale shows the node as offline. A stream that was new then has just got its first map.
 */
function hasMapSession({ spokenAt, openedAt }: Stream, since: Instant, now: Instant): boolean {
  if (spokenAt === undefined) return false;
  return spokenAt >= since || (since - openedAt <= KEEPALIVE_MS && now - spokenAt <= KEEPALIVE_MS);
}

/**
 * Whether a list of nodes may be what became of another one. An empty list, or one that lacks most nodes, rather comes from an
 * empty database or another server.
 */
export function isPlausibleAfter<Key>(before: Keys<Key>, nodes: Keys<Key>): boolean {
  if (nodes.size === 0) return before.size === 0;
  const missing = [...before.keys()].filter((key) => !nodes.has(key)).length;
  return missing <= MOST_MISSING || missing <= before.size / 2;
}

type Keys<Key> = Pick<ReadonlyMap<Key, unknown>, 'size' | 'has' | 'keys'>;
