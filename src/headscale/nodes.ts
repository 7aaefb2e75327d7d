import type { MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import { reasonOf } from '../lib/errors.ts';
import { type Rate, TokenBucket } from '../lib/token-bucket.ts';
import type { Emit } from '../streams/events.ts';
import type { Stream } from '../streams/stream.ts';
import type { ListedNodes } from './node-list.ts';

type StreamIdentity = Pick<Stream, 'machineKey' | 'openedAt' | 'loginEndedAt'>;

const ASK_EVERY_MS = 5 * 60_000;
const ASK_EVERY_WHILE_FAILING_MS = 30_000;
/** The first wait while Headscale does not know a key. It doubles each time. */
const FIRST_WAIT_MS = 5000;
const MAX_WANTED = 1000;
/** How often unknown keys may cause a request: strangers can invent keys. Keys that turn out to be nodes do not count. */
const UNKNOWN_KEYS: Rate = { perSecond: 1 / 60, burst: 5 };

/** A node that logs in as another user does so within this time after its stream has opened. Earlier answers do not show it. */
const LOGIN_WITHIN_MS = 2000;
/** Headscale shows a node as online for ten seconds after its stream has ended. Then it is clear which of two nodes is meant. */
const CLEAR_AFTER_MS = 15_000;
/** The minimum time between two requests for known nodes. With the above, a change is noticed within five seconds. */
const MIN_GAP_MS = 2500;
/** Slow answers make the gap longer, up to a maximum, so that requests take at most a tenth of the time. */
const GAP_PER_ANSWER_TIME = 10;
const MAX_GAP_MS = 60_000;

interface NodeDirectoryOptions {
  readonly clock: Clock;
  /**
   * Asks Headscale for all nodes; undefined if there is no credential for that. Rejects with an error that says what was asked,
   * what came back, and what to do.
   */
  readonly list: () => Promise<ListedNodes | undefined>;
  readonly emit: Emit;
}

/**
 * Knows which node has a machine key. It asks Headscale for all nodes every five minutes, and soon after a stream has opened,
 * because a login can turn a machine into another node. While Headscale does not answer, it keeps the last list.
 */
export class NodeDirectory {
  readonly #clock: Clock;
  readonly #list: () => Promise<ListedNodes | undefined>;
  readonly #emit: Emit;
  readonly #listeners = new Set<() => void>();
  #state: 'at rest' | 'running' | 'closed' = 'at rest';
  /** Grows with each `stop`. Answers to requests from before a stop are ignored. */
  #era = 0;
  #nodes: ReadonlyMap<MachineKey, NodeInfo> = new Map();
  #loaded = false;
  #isWhole = true;

  /** Keys that were seen but are not listed, oldest first. */
  readonly #wanted = new Set<MachineKey>();
  /** The present and the next wait while a wanted key stays unknown. */
  #wantedWaitMs = FIRST_WAIT_MS;
  #nextWantedWaitMs = FIRST_WAIT_MS;
  /** The failures that were reported since the last success. */
  readonly #reportedReasons = new Set<string>();
  #failing = false;
  #asking: Promise<void> | undefined;
  #askAgain = false;
  #answeredAt: Instant | undefined;
  #answerTookMs = 0;
  /** When the last successful request was sent. */
  #confirmedAt: Instant | undefined;
  /** Streams of known keys that opened from here on came after that request, or just before it. */
  #unconfirmedSince: Instant | undefined;
  #newestOpenedAt: Instant | undefined;
  #clearAt: Instant | undefined;
  readonly #unknownKeys: TokenBucket;
  readonly #confirmListeners = new Set<() => void>();
  readonly #refreshListeners = new Set<() => void>();
  #timer: Timer | undefined;

  constructor({ clock, list, emit }: NodeDirectoryOptions) {
    this.#clock = clock;
    this.#list = list;
    this.#emit = emit;
    this.#unknownKeys = new TokenBucket(UNKNOWN_KEYS, clock.now());
  }

  /** Whether Headscale has listed its nodes. Until then an unknown key means nothing. */
  get loaded(): boolean {
    return this.#loaded;
  }

  nodeOf(key: MachineKey | undefined): NodeInfo | undefined {
    return key === undefined ? undefined : this.#nodes.get(key);
  }

  /**
   * The nodes that a stream may belong to: one, or several of one machine. Undefined if it could be any node, because Headscale
   * does not know its key or has not been asked since the last login on this stream.
   */
  nodesOf({ machineKey, openedAt, loginEndedAt }: StreamIdentity): readonly NodeInfo[] | undefined {
    const node = this.nodeOf(machineKey);
    const since = plus(loginEndedAt ?? openedAt, LOGIN_WITHIN_MS);
    if (node === undefined || this.#confirmedAt === undefined || this.#confirmedAt < since) return undefined;
    return [node, ...(node.others ?? [])];
  }

  all(): readonly NodeInfo[] {
    return [...this.#nodes.values()];
  }

  /** Whether every node in Headscale's last list could be read. */
  get isWhole(): boolean {
    return this.#isWhole;
  }

  /** When the request was sent whose answer is the present list; undefined before the first answer. */
  get listedAt(): Instant | undefined {
    return this.#confirmedAt;
  }

  /**
   * Calls `listener` when the list has come for the first time, or differs in something that a rule, a name or a key depends on.
   *
   * @returns a function that removes the listener.
   */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Calls `listener` whenever Headscale has listed its nodes, and when they are forgotten, after the other listeners. Fields that
   * change all the time, as `online` and `lastSeen`, are then as in that answer.
   *
   * @returns a function that removes the listener.
   */
  onRefresh(listener: () => void): () => void {
    this.#refreshListeners.add(listener);
    return () => this.#refreshListeners.delete(listener);
  }

  /** Calls `listener` when `nodesOf` has become certain about streams. */
  onConfirmed(listener: () => void): void {
    this.#confirmListeners.add(listener);
  }

  /** Starts asking. If it has started already, asks once more. */
  start(): void {
    if (this.#state !== 'at rest') {
      this.keyChanged();
      return;
    }
    this.#state = 'running';
    if (this.#asking === undefined) this.#ask();
    else this.#askAgain = true;
  }

  /** Stops asking and forgets all nodes, because there is no API key any more. */
  stop(): void {
    if (this.#state !== 'running') return;
    this.#state = 'at rest';
    this.#era += 1;
    this.#timer?.cancel();
    this.#wanted.clear();
    this.#unconfirmedSince = undefined;
    this.#clearAt = undefined;
    this.#confirmedAt = undefined;
    this.#reportedReasons.clear();
    this.#failing = false;
    this.#askAgain = false;
    const wasLoaded = this.#loaded;
    this.#loaded = false;
    this.#nodes = new Map();
    if (!wasLoaded) return;
    this.#notify(this.#listeners);
    this.#notify(this.#refreshListeners);
  }

  /**
   * To be called when a stream with this key has opened, or when a login on it may have ended. For a known key, Headscale is asked
   * within five seconds, and once more when it is clear which of two nodes is online. A node that is just registering is not
   * listed yet, so for an unknown key Headscale is asked repeatedly, with doubling waits, within the limit for unknown keys.
   */
  refreshFor(key: MachineKey): void {
    if (this.#state !== 'running') return;
    if (this.#nodes.has(key)) {
      const now = this.#clock.now();
      this.#unconfirmedSince ??= now;
      this.#newestOpenedAt = now;
      this.#clearAt = plus(now, CLEAR_AFTER_MS);
    } else {
      if (this.#wanted.has(key)) return;
      const [oldest] = this.#wanted;
      if (oldest !== undefined && this.#wanted.size >= MAX_WANTED) this.#wanted.delete(oldest);
      this.#wanted.add(key);
      this.#wantedWaitMs = FIRST_WAIT_MS;
      this.#nextWantedWaitMs = FIRST_WAIT_MS;
    }
    // If a request is under way, its answer decides what comes next.
    if (this.#asking === undefined && this.#answeredAt !== undefined) this.#plan(this.#answeredAt);
  }

  /** The API key has changed. */
  keyChanged(): void {
    // A failure that was reported for the old key must be reported again for the new one.
    this.#reportedReasons.clear();
    this.refresh();
  }

  /** Asks at once, or again after the request that is under way. */
  refresh(): void {
    if (this.#state !== 'running') return;
    if (this.#asking === undefined) this.#ask();
    else this.#askAgain = true;
  }

  /** Resolves when the request that is under way has ended. Close the API as well to end it at once. */
  async close(): Promise<void> {
    this.#state = 'closed';
    this.#timer?.cancel();
    this.#listeners.clear();
    this.#confirmListeners.clear();
    this.#refreshListeners.clear();
    await this.#asking;
  }

  /** Sets the timer for the next request. */
  #plan(answeredAt: Instant): void {
    const now = this.#clock.now();
    const at = this.#nextAt(answeredAt);
    this.#timer?.cancel();
    if (at <= now) this.#ask();
    else this.#timer = this.#clock.after(at - now, () => this.#ask());
  }

  #nextAt(answeredAt: Instant): Instant {
    if (this.#failing) return plus(answeredAt, ASK_EVERY_WHILE_FAILING_MS);
    const gapMs = Math.min(this.#answerTookMs * GAP_PER_ANSWER_TIME, MAX_GAP_MS);
    const reasons: number[] = [answeredAt + ASK_EVERY_MS];
    if (this.#wanted.size > 0) reasons.push(this.#wantedAt(answeredAt, gapMs));
    const nextForKnown = answeredAt + Math.max(MIN_GAP_MS, gapMs);
    if (this.#unconfirmedSince !== undefined)
      reasons.push(Math.max(this.#unconfirmedSince + LOGIN_WITHIN_MS, nextForKnown));
    if (this.#clearAt !== undefined) reasons.push(Math.max(this.#clearAt, nextForKnown));
    return Math.min(...reasons) as Instant;
  }

  #wantedAt(answeredAt: Instant, gapMs: number): Instant {
    const now = this.#clock.now();
    const mayAt = now + this.#unknownKeys.nextInMs(UNKNOWN_KEYS, now);
    return Math.max(answeredAt + Math.max(this.#wantedWaitMs, gapMs), mayAt) as Instant;
  }

  #ask(): void {
    this.#timer?.cancel();
    this.#askAgain = false;
    const askedAt = this.#clock.now();
    const isForWanted = this.#isWantedDue(askedAt);
    if (isForWanted) this.#unknownKeys.take(UNKNOWN_KEYS, askedAt);
    this.#asking = this.#request(askedAt).then(() => {
      const answeredAt = this.#clock.now();
      if (isForWanted) {
        this.#wantedWaitMs = this.#nextWantedWaitMs;
        this.#nextWantedWaitMs = Math.min(2 * this.#wantedWaitMs, ASK_EVERY_MS);
      }
      this.#asking = undefined;
      this.#answeredAt = answeredAt;
      this.#answerTookMs = answeredAt - askedAt;
      if (this.#state !== 'running') return;
      if (this.#askAgain) this.#ask();
      else this.#plan(answeredAt);
    });
  }

  /** Any request looks for wanted keys too. Only one that is due because of them counts against the limit. */
  #isWantedDue(now: Instant): boolean {
    return this.#wanted.size > 0 && this.#answeredAt !== undefined && now - this.#answeredAt >= this.#wantedWaitMs;
  }

  async #request(askedAt: Instant): Promise<void> {
    const era = this.#era;
    const counts = (): boolean => this.#state === 'running' && this.#era === era;
    try {
      const nodes = await this.#list();
      // Without a credential nothing is known. An empty list would say that every node was deleted.
      if (nodes === undefined || !counts()) return;
      this.#isWhole = (nodes.unreadable ?? 0) === 0;
      this.#listed(new Map(nodes.map((node) => [node.machineKey, node])), askedAt);
    } catch (error) {
      if (counts()) this.#failed(reasonOf(error));
    }
  }

  #listed(nodes: ReadonlyMap<MachineKey, NodeInfo>, askedAt: Instant): void {
    const isNews = !this.#loaded || this.#failing;
    const isChange = !this.#loaded || !sameNodes(this.#nodes, nodes);
    this.#loaded = true;
    this.#failing = false;
    this.#reportedReasons.clear();
    let found = false;
    for (const key of this.#wanted) if (nodes.has(key)) found = this.#wanted.delete(key);
    if (found) this.#unknownKeys.refill(UNKNOWN_KEYS);
    this.#nodes = nodes;
    if (isNews) this.#emit({ kind: 'nodes_listed', nodes: nodes.size });
    const isConfirmed = this.#confirm(askedAt);
    if (isChange) this.#notify(this.#listeners);
    else if (isConfirmed) this.#notify(this.#confirmListeners);
    this.#notify(this.#refreshListeners);
  }

  /** @returns whether streams that were in doubt have become certain. */
  #confirm(askedAt: Instant): boolean {
    this.#confirmedAt = askedAt;
    if (this.#clearAt !== undefined && askedAt >= this.#clearAt) this.#clearAt = undefined;
    const upTo = plus(askedAt, -LOGIN_WITHIN_MS);
    if (this.#unconfirmedSince === undefined || this.#unconfirmedSince > upTo) return false;
    this.#unconfirmedSince = (this.#newestOpenedAt ?? upTo) <= upTo ? undefined : upTo;
    return true;
  }

  #failed(reason: string): void {
    this.#failing = true;
    // If the API key has changed meanwhile, the next request uses the new one.
    if (this.#askAgain || this.#reportedReasons.has(reason)) return;
    this.#reportedReasons.add(reason);
    this.#emit({ kind: 'nodes_list_failed', detail: reason });
  }

  #notify(listeners: Iterable<() => void>): void {
    for (const listener of listeners) {
      try {
        listener();
      } catch (error) {
        this.#emit({ kind: 'internal_error', during: 'applying a change of nodes', error });
      }
    }
  }
}

function sameNodes(some: ReadonlyMap<MachineKey, NodeInfo>, others: ReadonlyMap<MachineKey, NodeInfo>): boolean {
  if (some.size !== others.size) return false;
  for (const [key, node] of some) {
    const other = others.get(key);
    if (other === undefined || !sameNode(node, other)) return false;
  }
  return true;
}

/** Whether rules, names and keys are the same. `online` and the like change all the time, and no setting depends on them. */
function sameNode(one: NodeInfo, other: NodeInfo): boolean {
  const [some = [], others = []] = [one.others, other.others];
  return (
    one.nodeKey === other.nodeKey &&
    one.id === other.id &&
    one.name === other.name &&
    one.user === other.user &&
    some.length === others.length &&
    some.every((each, i) => sameNode(each, others[i] as NodeInfo))
  );
}
