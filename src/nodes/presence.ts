import type { MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { Clock } from '../lib/clock.ts';
import { type Disagreement, type EventOf, hasBegun, type WatchdogEvent } from '../streams/events.ts';
import type { CloseReason, KernelEvidence, Stream } from '../streams/stream.ts';

/*
 * Which node is connected, since when, and what Headscale says about it. All dates are milliseconds since 1970, because
 * Headscale and other replicas have clocks of their own.
 */

/** What a node is. The first that applies counts. */
export type NodeState =
  /** Headscale no longer lists it, and a stream from before that is still open. */
  | 'deleted'
  /** Headscale lists its nodes, and this key is not among them: a login that is not finished, or a stranger. */
  | 'unknown'
  /** Its key has expired, whether it is connected or not. */
  | 'expired'
  /** For some time, it is connected here and offline there, or the other way round: see `reconcile.ts`. */
  | 'disagrees'
  | 'connected'
  /** Its stream is held, or waits for Headscale's answer. */
  | 'connecting'
  | 'offline';
export const NODE_STATES: readonly NodeState[] = [
  'connected',
  'connecting',
  'offline',
  'expired',
  'deleted',
  'disagrees',
  'unknown',
];

/** A control stream of a node, here or at another replica. */
export interface PresenceStream {
  readonly state: Stream['state']['kind'];
  readonly openedAt: number;
  /** When the client was last heard: its kernel, or its bytes if the kernel's evidence is not known. */
  readonly lastSignAt: number;
}

/** What is known about one machine key. */
export interface NodeFacts<S extends PresenceStream> {
  readonly machineKey: MachineKey;
  /** As Headscale lists it; undefined if it does not. */
  readonly node: NodeInfo | undefined;
  /** Whether Headscale has listed its nodes. */
  readonly isListed: boolean;
  /** Its control streams that are not closed. */
  readonly streams: readonly S[];
  readonly sighting: Sighting | undefined;
  /** How it disagrees with Headscale, if it lasts: see `reconcile.ts`. */
  readonly disagreement: { readonly kind: Disagreement; readonly node: NodeInfo } | undefined;
}

/** The presence of one node at one moment. */
export interface NodePresence<S extends PresenceStream = PresenceStream> {
  readonly machineKey: MachineKey;
  /** As Headscale lists it, or listed it before it was deleted. */
  readonly node: NodeInfo | undefined;
  readonly state: NodeState;
  readonly disagreement: Disagreement | undefined;
  /** Oldest first. */
  readonly streams: readonly S[];
  /** The newest open stream. If there is none, the newest that is about to open. */
  readonly current: S | undefined;
  /** Since when at least one of its streams has been open; undefined if it is not connected. */
  readonly connectedSince: number | undefined;
  /** When the watchdog last had a sign of it; undefined if never. */
  readonly lastSignAt: number | undefined;
  /** Whether Headscale shows it as online; undefined if that is not known. */
  readonly shownOnline: boolean | undefined;
  /** When Headscale last saw it. */
  readonly shownLastSeenAt: number | undefined;
  /** When its key expires or has expired; undefined if it does not expire. */
  readonly keyExpiresAt: number | undefined;
}

/** Puts together what is known about a node. It runs for each node at each scrape, so it makes few objects. */
export function presenceOf<S extends PresenceStream>(facts: NodeFacts<S>, now: number): NodePresence<S> {
  const { machineKey, node, sighting, disagreement } = facts;
  const streams = facts.streams.length < 2 ? facts.streams : facts.streams.toSorted((a, b) => a.openedAt - b.openedAt);
  const nodes = nodesOf(node);
  let current: S | undefined;
  let connectedSince: number | undefined;
  let lastSignAt = sighting?.lastSeenAt;
  for (const stream of streams) {
    const isOpen = stream.state === 'open';
    if (isOpen) connectedSince ??= Math.min(stream.openedAt, sighting?.connectedSince ?? stream.openedAt);
    if (isOpen || (isAboutToOpen(stream) && current?.state !== 'open')) current = stream;
    if (lastSignAt === undefined || stream.lastSignAt > lastSignAt) lastSignAt = stream.lastSignAt;
  }
  return {
    machineKey,
    node: node ?? disagreement?.node,
    state: stateOf(facts, nodes, current?.state, now),
    disagreement: disagreement?.kind,
    streams,
    current,
    connectedSince,
    lastSignAt,
    shownOnline: shownOnline(nodes),
    shownLastSeenAt: latest(nodes),
    keyExpiresAt: keyExpiresAt(nodes, now),
  };
}

function isAboutToOpen({ state }: PresenceStream): boolean {
  return state === 'held' || state === 'connecting';
}

/** What is known about all nodes. */
export interface AllFacts<S extends PresenceStream> extends Pick<NodeFacts<S>, 'isListed'> {
  /** The nodes as Headscale lists them. */
  readonly listed: readonly NodeInfo[];
  readonly streams: ReadonlyMap<MachineKey, readonly S[]>;
  readonly sightings: Sightings;
  disagreementOf(key: MachineKey): NodeFacts<S>['disagreement'];
}

/** The presence of each node that Headscale lists, and of each machine key with a stream. Without a list: of each that was seen. */
export function allPresences<S extends PresenceStream>(facts: AllFacts<S>, now: number): readonly NodePresence<S>[] {
  const { listed, isListed, streams, sightings, disagreementOf } = facts;
  const nodes = new Map(listed.map((node) => [node.machineKey, node]));
  const keys = new Set([...nodes.keys(), ...(isListed ? [] : sightings.keys()), ...streams.keys()]);
  return [...keys].map((machineKey) =>
    presenceOf(
      {
        ...{ machineKey, isListed, node: nodes.get(machineKey), streams: streams.get(machineKey) ?? [] },
        sighting: sightings.of(machineKey),
        disagreement: disagreementOf(machineKey),
      },
      now,
    ),
  );
}

function stateOf(
  { node, isListed, disagreement }: NodeFacts<PresenceStream>,
  nodes: readonly NodeInfo[],
  current: PresenceStream['state'] | undefined,
  now: number,
): NodeState {
  if (disagreement?.kind === 'deleted') return 'deleted';
  if (isListed && node === undefined) return 'unknown';
  if (isExpired(nodes, now)) return 'expired';
  if (disagreement !== undefined) return 'disagrees';
  if (current === undefined) return 'offline';
  return current === 'open' ? 'connected' : 'connecting';
}

/** Whether a node is connected here, whatever Headscale shows. */
export function isConnected({ connectedSince, state }: NodePresence): boolean {
  return connectedSince !== undefined && (state === 'connected' || state === 'disagrees');
}

/** All nodes of a machine. There are several while it is not clear which of its logins is active. */
export function nodesOf(node: NodeInfo | undefined): readonly NodeInfo[] {
  if (node === undefined) return [];
  return node.others === undefined ? [node] : [node, ...node.others];
}

/** Several nodes of one machine count as online if one is, because it may be the one that is active. */
export function shownOnline(nodes: readonly NodeInfo[]): boolean | undefined {
  if (nodes.some(({ online }) => online === true)) return true;
  return nodes.length > 0 && nodes.every(({ online }) => online === false) ? false : undefined;
}

/** Several nodes of one machine count as expired if all are. */
export function isExpired(nodes: readonly NodeInfo[], now: number): boolean {
  return nodes.length > 0 && nodes.every(({ expiry }) => expiry !== undefined && expiry.getTime() <= now);
}

/** Of several nodes' keys, the first that is still to expire. */
function keyExpiresAt(nodes: readonly NodeInfo[], now: number): number | undefined {
  let next: number | undefined;
  let last: number | undefined;
  for (const { expiry } of nodes) {
    const at = expiry?.getTime();
    if (at === undefined) continue;
    if (at > now && (next === undefined || at < next)) next = at;
    if (last === undefined || at > last) last = at;
  }
  return isExpired(nodes, now) ? last : next;
}

function latest(nodes: readonly NodeInfo[]): number | undefined {
  let last: number | undefined;
  for (const { lastSeen } of nodes) {
    const at = lastSeen?.getTime();
    if (at !== undefined && (last === undefined || at > last)) last = at;
  }
  return last;
}

/**
 * How long ago a client last gave a sign of life: its kernel, or its bytes if the kernel's evidence is not known. A connection
 * that the client has left is no sign of life, and nothing is known any more of when it was the last.
 */
export function lastSignAgoMs(heardAgoMs: number, kernel: KernelEvidence | undefined): number {
  return kernel === undefined || kernel.ended ? heardAgoMs : Math.min(heardAgoMs, kernel.receivedAgoMs);
}

/** What the watchdog remembers of a machine key. */
export interface Sighting {
  /** Since when it has had a stream without a gap; undefined if it has none. */
  readonly connectedSince: number | undefined;
  /** When its last stream ended, or when the client was last heard before that; undefined before the first end. */
  readonly lastSeenAt: number | undefined;
}

/** Reasons for which a stream ends while its client is, or may be, still there. */
const WAS_THERE: ReadonlySet<CloseReason> = new Set<CloseReason>([
  ...(['client_closed', 'client_left_early', 'upstream_closed', 'upstream_error', 'upstream_refused'] as const),
  ...(['upstream_unreachable', 'upstream_unanswered', 'limit'] as const),
]);

const MOST_SIGHTINGS = 10_000;

interface SightingsOptions {
  readonly clock: Clock;
  /** Whether a key belongs to a node; true until Headscale has listed its nodes. */
  isNode(key: MachineKey): boolean;
  /** How many streams of a key are not closed. */
  streamsOf(key: MachineKey): number;
}

/**
 * Remembers when each machine key was connected. Of keys without a stream it keeps those of nodes, up to a limit: strangers can
 * invent keys.
 */
export class Sightings {
  readonly #options: SightingsOptions;
  readonly #most: number;
  readonly #connectedSince = new Map<MachineKey, number>();
  /** Of keys that have had a stream, by the end of their last one. */
  readonly #lastSeenAt = new Map<MachineKey, number>();

  constructor(options: SightingsOptions, most = MOST_SIGHTINGS) {
    this.#options = options;
    this.#most = most;
  }

  readonly listen = (event: WatchdogEvent): void => {
    if (!hasBegun(event) && event.kind !== 'stream_closed') return;
    const { machineKey, kind } = event.stream;
    if (machineKey === undefined || kind !== 'control') return;
    if (hasBegun(event)) {
      if (!this.#connectedSince.has(machineKey)) this.#connectedSince.set(machineKey, this.#now());
    } else this.#closed(machineKey, event);
  };

  /** Takes what is known from before this start, the oldest first. */
  remember(lastSeen: Iterable<readonly [MachineKey, number]>): void {
    for (const [key, at] of lastSeen) this.#lastSeenAt.set(key, at);
  }

  of(key: MachineKey): Sighting | undefined {
    const connectedSince = this.#connectedSince.get(key);
    const lastSeenAt = this.#lastSeenAt.get(key);
    return connectedSince === undefined && lastSeenAt === undefined ? undefined : { connectedSince, lastSeenAt };
  }

  /** Every key that has a stream or had one. */
  keys(): Iterable<MachineKey> {
    return new Set([...this.#connectedSince.keys(), ...this.#lastSeenAt.keys()]);
  }

  #closed(key: MachineKey, { stream, reason, lastSignAt }: EventOf<'stream_closed'>): void {
    const { clock, isNode, streamsOf } = this.#options;
    if (streamsOf(key) === 0) this.#connectedSince.delete(key);
    const signAt = lastSignAt === undefined || lastSignAt < stream.heardAt ? stream.heardAt : lastSignAt;
    const seenAt = WAS_THERE.has(reason) ? this.#now() : clock.dateOf(signAt).getTime();
    const before = this.#lastSeenAt.get(key) ?? seenAt;
    // Delete first, so that the order is that of the ends.
    this.#lastSeenAt.delete(key);
    if (isNode(key)) this.#lastSeenAt.set(key, Math.max(before, seenAt));
    const [oldest] = this.#lastSeenAt.keys();
    if (oldest !== undefined && this.#lastSeenAt.size > this.#most) this.#lastSeenAt.delete(oldest);
  }

  #now(): number {
    const { clock } = this.#options;
    return clock.dateOf(clock.now()).getTime();
  }
}
