import type { NoticeType } from '../config/types.ts';
import type { MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { Instant } from '../lib/clock.ts';
import { span } from '../lib/units.ts';
import type { Stream } from '../streams/stream.ts';

/** Something to notify people of. */
export type Change =
  | { readonly type: 'upstream.down' | 'upstream.up' | 'key.mismatch'; readonly text: string }
  /** `says` follows the name of the node, as in `is offline`. */
  | {
      readonly type: Exclude<NoticeType, 'upstream.down' | 'upstream.up' | 'key.mismatch'>;
      readonly machineKey: MachineKey;
      readonly says: string;
    };

/** What the tracker asks about nodes. */
export interface NodeFacts {
  /** Whether Headscale has listed its nodes. Until then nobody knows whether a key belongs to a node. */
  isListed(): boolean;
  nodeOf(key: MachineKey): NodeInfo | undefined;
  /** 0: the node never counts as offline. */
  offlineAfterMs(key: MachineKey): number;
}

/** Nodes get this much more time to come back after a restart of Headscale or of the watchdog. */
const SETTLE_MS = 30_000;
/** A node is back once it has had a session for this long. */
const BACK_AFTER_MS = 10_000;
/** What follows within this time is told together. */
const GATHER_MS = 10_000;
/** But no node waits longer than this for others. */
const GATHER_AT_MOST_MS = 30_000;
/** A restart of Headscale that takes less than this is no news. */
const DOWN_AFTER_MS = 15_000;
/** A node that was seen this shortly before our start is expected back. Who was away for longer has been offline before. */
const EXPECTED_WITHIN_MS = 15 * 60_000;
/** Without a list of nodes, a key counts as a node's once one of its sessions has lasted for this long: strangers can invent keys. */
const PROVEN_AFTER_MS = 60_000;
const MOST_TRACKED = 20_000;

type TrackedStream = Pick<Stream, 'openedAt' | 'spokenAt'>;

interface Tracked {
  streams: readonly TrackedStream[];
  /** When its last session ended. A stream that never became a session leaves it as it was. */
  awaySince: Instant;
  /** Its key has had a long session, or Headscale listed it. */
  isProven: boolean;
  /** People have been told that it is offline. */
  isTold: boolean;
  /** It has had no stream here: since then it is expected, because Headscale's list says that it was connected. */
  expectedAt: Instant | undefined;
}

/**
 * Knows which nodes are away, and decides when people are told. It is pure: it gets the time as an argument.
 *
 * A node is offline when it has had no session for `offline-after`. While Headscale is down, and until the nodes have had time to
 * come back after it, or after our own start, nothing is told. Then all nodes that are still away are told together.
 */
export class NodeTracker {
  readonly #facts: NodeFacts;
  readonly #nodes = new Map<MachineKey, Tracked>();
  /** The nodes that may have to be told: those that are away, and those that are back after having been told. */
  readonly #pending = new Set<MachineKey>();
  readonly #startedAt: Instant;
  #told = 0;
  /** The next list shows which nodes should come back. `since` is when they were last connected. */
  #expecting: { readonly since: Instant; readonly at: Instant; readonly seenWithinMs: number | undefined } | undefined;
  /** Since when Headscale has been up. Until we know, it counts as up since our start. */
  #upSince: Instant;
  #down: { readonly since: Instant; readonly text: string; isTold: boolean } | undefined;

  constructor(facts: NodeFacts, now: Instant) {
    this.#facts = facts;
    this.#startedAt = now;
    this.#upSince = now;
    this.#expecting = { since: now, at: now, seenWithinMs: EXPECTED_WITHIN_MS };
  }

  /** Whether time alone may bring something to tell. */
  get isWaiting(): boolean {
    return this.#pending.size > 0 || (this.#down !== undefined && !this.#down.isTold);
  }

  /** How many nodes have been told as offline and not as online again. */
  get toldOffline(): number {
    return this.#told;
  }

  opened(key: MachineKey, stream: TrackedStream, now: Instant): void {
    const node = this.#nodes.get(key) ?? this.#track(key, now);
    node.streams = node.streams.concat(stream);
    node.expectedAt = undefined;
    this.#reconsider(key, node);
  }

  closed(key: MachineKey, stream: TrackedStream, now: Instant): void {
    const node = this.#nodes.get(key);
    if (node === undefined) return;
    node.streams = node.streams.filter((each) => each !== stream);
    if (stream.spokenAt !== undefined) {
      node.awaySince = now;
      node.isProven ||= now - stream.openedAt >= PROVEN_AFTER_MS;
    }
    this.#reconsider(key, node);
  }

  /** @param text what is wrong, as a sentence. */
  upstreamDown(text: string, now: Instant): void {
    this.#down ??= { since: now, text, isTold: false };
  }

  /** @returns what to tell at once. */
  upstreamUp(now: Instant): readonly Change[] {
    const down = this.#down;
    if (down === undefined) return [];
    this.#down = undefined;
    this.#upSince = now;
    if (!down.isTold) return [];
    return [{ type: 'upstream.up', text: `Headscale is up again after ${span(now - down.since)}.` }];
  }

  /**
   * Another replica is gone. The nodes that it had should come back to one of the others, and nobody else knows that they were
   * connected. Those that it has told already were away for `offline-after` before.
   */
  replicaGone(lastHeardAt: Instant, now: Instant): void {
    this.#expecting ??= { since: lastHeardAt, at: now, seenWithinMs: undefined };
  }

  /** Headscale has listed its nodes. @param dateOf the date of an instant. */
  listed(nodes: readonly NodeInfo[], dateOf: (instant: Instant) => Date): void {
    const keys = new Set(nodes.map(({ machineKey }) => machineKey));
    for (const [key, { streams }] of this.#nodes) if (streams.length === 0 && !keys.has(key)) this.#forget(key);
    if (this.#expecting === undefined) return;
    const { since, at, seenWithinMs } = this.#expecting;
    this.#expecting = undefined;
    for (const { machineKey, online, lastSeen } of nodes) {
      const expectedSince = dateOf(since).getTime() - (seenWithinMs ?? this.#facts.offlineAfterMs(machineKey));
      const isExpected = online === true || (lastSeen !== undefined && lastSeen.getTime() >= expectedSince);
      if (!isExpected || this.#nodes.has(machineKey)) continue;
      const node = this.#track(machineKey, since);
      node.expectedAt = at;
      this.#reconsider(machineKey, node);
    }
  }

  /** Whether a node is due, so that it matters what other replicas say. */
  hasDue(now: Instant): boolean {
    return this.#dueNodes(now).ready.length > 0;
  }

  /**
   * What to tell now.
   *
   * @param elsewhere keys that have a session on another replica. That replica tells what becomes of them.
   * @param tellsExpected whether to tell of nodes that have had no stream here. One of several replicas does it for all.
   */
  due(now: Instant, elsewhere: ReadonlySet<MachineKey> = new Set(), tellsExpected = true): readonly Change[] {
    const changes: Change[] = [];
    for (const key of elsewhere) this.#seenElsewhere(key, changes);
    const down = this.#down;
    if (down !== undefined && !down.isTold && now - down.since >= DOWN_AFTER_MS) {
      down.isTold = true;
      changes.push({ type: 'upstream.down', text: down.text });
    }
    const { ready, isFollowed } = this.#dueNodes(now);
    const first = ready.reduce((least, { at }) => Math.min(least, at), Number.POSITIVE_INFINITY);
    if (isFollowed && now - first < GATHER_AT_MOST_MS) return changes;
    for (const { key, node } of ready) {
      if (node.expectedAt !== undefined && !tellsExpected) this.#forget(key);
      else changes.push(...this.#tell(key, node, now));
    }
    return changes;
  }

  #tell(key: MachineKey, node: Tracked, now: Instant): readonly Change[] {
    if (node.streams.length > 0) {
      this.#setTold(node, false);
      this.#reconsider(key, node);
      return [{ type: 'node.online', machineKey: key, says: 'is online again' }];
    }
    if (!this.#isNode(key, node)) {
      this.#forget(key);
      return [];
    }
    this.#setTold(node, true);
    this.#reconsider(key, node);
    const since =
      node.awaySince === this.#startedAt ? 'since before the watchdog started' : `for ${span(now - node.awaySince)}`;
    return [{ type: 'node.offline', machineKey: key, says: `is offline: it has had no connection ${since}` }];
  }

  #seenElsewhere(key: MachineKey, changes: Change[]): void {
    const node = this.#nodes.get(key);
    if (node === undefined || node.streams.length > 0) return;
    if (node.isTold) changes.push({ type: 'node.online', machineKey: key, says: 'is online again' });
    this.#forget(key);
  }

  /** The nodes that are due, and whether others are due soon after them. */
  #dueNodes(now: Instant) {
    const ready: { readonly key: MachineKey; readonly node: Tracked; readonly at: number }[] = [];
    let isFollowed = false;
    if (this.#down !== undefined) return { ready, isFollowed };
    for (const key of this.#pending) {
      const node = this.#nodes.get(key);
      const at = node === undefined ? undefined : this.#dueAt(key, node);
      if (node === undefined || at === undefined) continue;
      if (at <= now) ready.push({ key, node, at });
      else isFollowed ||= at <= now + GATHER_MS;
    }
    return { ready, isFollowed };
  }

  #dueAt(key: MachineKey, node: Tracked): number | undefined {
    if (node.streams.length > 0) {
      const sessions = node.streams.filter(({ spokenAt }) => spokenAt !== undefined);
      return sessions.length === 0 ? undefined : Math.min(...sessions.map(({ openedAt }) => openedAt)) + BACK_AFTER_MS;
    }
    const offlineAfterMs = this.#facts.offlineAfterMs(key);
    if (offlineAfterMs === 0) return undefined;
    if (node.expectedAt !== undefined) return Math.max(node.expectedAt, this.#upSince) + offlineAfterMs + SETTLE_MS;
    const settles = node.awaySince <= this.#upSince;
    return settles ? this.#upSince + offlineAfterMs + SETTLE_MS : node.awaySince + offlineAfterMs;
  }

  #isNode(key: MachineKey, { isProven }: Tracked): boolean {
    return this.#facts.isListed() ? this.#facts.nodeOf(key) !== undefined : isProven;
  }

  #track(key: MachineKey, awaySince: Instant): Tracked {
    if (this.#nodes.size >= MOST_TRACKED) this.#makeRoom();
    const node: Tracked = { streams: [], awaySince, isProven: false, isTold: false, expectedAt: undefined };
    this.#nodes.set(key, node);
    return node;
  }

  /** Forgets a node that is away, if possible a key that may be nobody's. */
  #makeRoom(): void {
    let away: MachineKey | undefined;
    for (const [key, node] of this.#nodes) {
      if (node.streams.length > 0) continue;
      away ??= key;
      if (this.#isNode(key, node)) continue;
      away = key;
      break;
    }
    if (away !== undefined) this.#forget(away);
  }

  #forget(key: MachineKey): void {
    const node = this.#nodes.get(key);
    if (node !== undefined) this.#setTold(node, false);
    this.#nodes.delete(key);
    this.#pending.delete(key);
  }

  #setTold(node: Tracked, isTold: boolean): void {
    if (node.isTold !== isTold) this.#told += isTold ? 1 : -1;
    node.isTold = isTold;
  }

  #reconsider(key: MachineKey, node: Tracked): void {
    if (node.streams.length > 0 === node.isTold) this.#pending.add(key);
    else this.#pending.delete(key);
  }
}

const EXPIRES_WITHIN_MS = 7 * 86_400_000;

/** What is remembered, by name, also beyond a restart if there is a history file. `null` removes it. */
export interface Notes {
  get(name: string): unknown;
  set(name: string, value: unknown): void;
  all(): Iterable<readonly [name: string, value: unknown]>;
  /** Whether notes outlive a restart. */
  readonly isKept: boolean;
}

const EXPIRING = 'expiring/';

/** Finds node keys that expire within a week. Each is told once. */
export class ExpiryWatch {
  readonly #notes: Notes;

  /** @param notes has the expiry that was told, by node id. */
  constructor(notes: Notes) {
    this.#notes = notes;
  }

  due(nodes: readonly NodeInfo[], date: Date): readonly Change[] {
    const changes: Change[] = [];
    const expiring = new Set<string>();
    for (const { id, expiry, machineKey } of nodes.flatMap((node) => [node, ...(node.others ?? [])])) {
      const inMs = expiry === undefined ? undefined : expiry.getTime() - date.getTime();
      if (expiry === undefined || inMs === undefined || inMs <= 0 || inMs > EXPIRES_WITHIN_MS) continue;
      const name = EXPIRING + id;
      expiring.add(name);
      if (this.#notes.get(name) === expiry.getTime()) continue;
      this.#notes.set(name, expiry.getTime());
      const on = expiry.toISOString().slice(0, 16).replace('T', ' ');
      changes.push({ type: 'node.expiring', machineKey, says: `has a key that expires in ${span(inMs)} (${on} UTC)` });
    }
    const over = [...this.#notes.all()].filter(([name]) => name.startsWith(EXPIRING) && !expiring.has(name));
    for (const [name] of over) this.#notes.set(name, null);
    return changes;
  }
}
