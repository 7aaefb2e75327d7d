import type { MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import { reasonOf } from '../lib/errors.ts';
import { type Rate, TokenBucket } from '../lib/token-bucket.ts';
import type { Emit } from '../streams/events.ts';
import type { Stream } from '../streams/stream.ts';

type StreamIdentity = Pick<Stream, 'machineKey' | 'openedAt' | 'loginEndedAt'>;

const ASK_EVERY_MS = 5 * 60_000;
const ASK_EVERY_WHILE_FAILING_MS = 30_000;
/** A key that Headscale does not know: the first wait, which doubles. */
const SHORTEST_WAIT_MS = 5000;
const MOST_WANTED = 1000;
/** Anybody can make up keys. Those that turn out to be nodes do not count. */
const UNKNOWN_KEYS: Rate = { perSecond: 1 / 60, burst: 5 };

/** A node that logs in as another user does so this soon after its stream has opened; an older answer says nothing of it. */
const LOGS_IN_WITHIN_MS = 2000;
/** Headscale shows a node online for ten seconds after its stream has ended; then it is clear which of two nodes it is. */
const CLEAR_AFTER_MS = 15_000;
/** Between two questions for nodes that Headscale knows: with the above, what is new is known within five seconds. */
const SHORTEST_DISTANCE_MS = 2500;
/** And no more than a tenth of the time is spent asking, as long as an answer does not take six seconds. */
const DISTANCE_PER_ANSWER_TIME = 10;
const LONGEST_DISTANCE_MS = 60_000;

export interface NodeDirectoryOptions {
  readonly clock: Clock;
  /** Asks Headscale; rejects with an error that says what was asked, what came, and the cure. */
  readonly list: () => Promise<readonly NodeInfo[]>;
  readonly emit: Emit;
}

/**
 * Knows the node of a machine key, by asking Headscale for all of them: every five minutes, and soon after a stream has
 * opened, for a login may make another node of a machine. What it knew it keeps when Headscale does not answer.
 */
export class NodeDirectory {
  readonly #clock: Clock;
  readonly #list: () => Promise<readonly NodeInfo[]>;
  readonly #emit: Emit;
  readonly #listeners = new Set<() => void>();
  #state: 'at rest' | 'running' | 'closed' = 'at rest';
  /** Which answers still count: those to questions asked since it was last stopped. */
  #era = 0;
  #nodes: ReadonlyMap<MachineKey, NodeInfo> = new Map();
  #loaded = false;

  /** Keys seen and not listed, oldest first. */
  readonly #wanted = new Set<MachineKey>();
  /** How long this wait is, and how long the next will be, while a wanted key stays unknown. */
  #wantedWaitMs = SHORTEST_WAIT_MS;
  #nextWantedWaitMs = SHORTEST_WAIT_MS;
  /** What was told of the failures since it last worked. */
  readonly #reasonsTold = new Set<string>();
  #failing = false;
  #asking: Promise<void> | undefined;
  #askAgain = false;
  #answeredAt: Instant | undefined;
  #answerTookMs = 0;
  /** When the last question that was answered well had been asked. */
  #confirmedAt: Instant | undefined;
  /** Streams of known keys from here on have opened after that question, or just before it. */
  #unconfirmedSince: Instant | undefined;
  #newestOpenedAt: Instant | undefined;
  #clearAt: Instant | undefined;
  readonly #unknownKeys: TokenBucket;
  readonly #confirmListeners = new Set<() => void>();
  #timer: Timer | undefined;

  constructor({ clock, list, emit }: NodeDirectoryOptions) {
    this.#clock = clock;
    this.#list = list;
    this.#emit = emit;
    this.#unknownKeys = new TokenBucket(UNKNOWN_KEYS, clock.now());
  }

  /** Whether Headscale has ever listed its nodes: before that, an unknown key says nothing. */
  get loaded(): boolean {
    return this.#loaded;
  }

  nodeOf(key: MachineKey | undefined): NodeInfo | undefined {
    return key === undefined ? undefined : this.#nodes.get(key);
  }

  /**
   * The nodes that a stream may belong to: one, or several of one machine; undefined where any may be meant, since Headscale
   * does not know its key or has not been asked since a login on this stream.
   */
  nodesOf({ machineKey, openedAt, loginEndedAt }: StreamIdentity): readonly NodeInfo[] | undefined {
    const node = this.nodeOf(machineKey);
    const since = plus(loginEndedAt ?? openedAt, LOGS_IN_WITHIN_MS);
    if (node === undefined || this.#confirmedAt === undefined || this.#confirmedAt < since) return undefined;
    return [node, ...(node.others ?? [])];
  }

  all(): readonly NodeInfo[] {
    return [...this.#nodes.values()];
  }

  /** @returns what ends the listening. `listener` is called when another list, or the first, has come. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** `listener` is called when streams of which `nodesOf` was in doubt no longer are. */
  onConfirmed(listener: () => void): void {
    this.#confirmListeners.add(listener);
  }

  /** Begins to ask; while it does already, asks once more. */
  start(): void {
    if (this.#state !== 'at rest') {
      this.keyChanged();
      return;
    }
    this.#state = 'running';
    if (this.#asking === undefined) this.#ask();
    else this.#askAgain = true;
  }

  /** Asks no more, and forgets what it knew: there is no API key any more. */
  stop(): void {
    if (this.#state !== 'running') return;
    this.#state = 'at rest';
    this.#era += 1;
    this.#timer?.cancel();
    this.#wanted.clear();
    this.#unconfirmedSince = undefined;
    this.#clearAt = undefined;
    this.#confirmedAt = undefined;
    this.#reasonsTold.clear();
    this.#failing = false;
    this.#askAgain = false;
    const wasLoaded = this.#loaded;
    this.#loaded = false;
    this.#nodes = new Map();
    if (wasLoaded) this.#tell(this.#listeners);
  }

  /**
   * A stream with this key has opened, or a login on it may have ended. Of a key that Headscale knows it is asked within five
   * seconds, and once more when it is clear which of two nodes is online. A node that is just registering is not listed yet,
   * so from an unknown key on Headscale is asked again and again, with doubling waits, as far as strangers allow.
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
      if (oldest !== undefined && this.#wanted.size >= MOST_WANTED) this.#wanted.delete(oldest);
      this.#wanted.add(key);
      this.#wantedWaitMs = SHORTEST_WAIT_MS;
      this.#nextWantedWaitMs = SHORTEST_WAIT_MS;
    }
    // An answer on its way is looked at first.
    if (this.#asking === undefined && this.#answeredAt !== undefined) this.#plan(this.#answeredAt);
  }

  /** The API key has changed. */
  keyChanged(): void {
    // What was told of the old key is news of the new one.
    this.#reasonsTold.clear();
    this.refresh();
  }

  /** Asks at once, or once more when the question that is out has been answered. */
  refresh(): void {
    if (this.#state !== 'running') return;
    if (this.#asking === undefined) this.#ask();
    else this.#askAgain = true;
  }

  /** Resolves when no question is out any more; close the API too, and that is at once. */
  async close(): Promise<void> {
    this.#state = 'closed';
    this.#timer?.cancel();
    this.#listeners.clear();
    this.#confirmListeners.clear();
    await this.#asking;
  }

  /** Sets the timer for the next question. */
  #plan(answeredAt: Instant): void {
    const now = this.#clock.now();
    const at = this.#nextAt(answeredAt);
    this.#timer?.cancel();
    if (at <= now) this.#ask();
    else this.#timer = this.#clock.after(at - now, () => this.#ask());
  }

  #nextAt(answeredAt: Instant): Instant {
    // A failure has its own rhythm.
    if (this.#failing) return plus(answeredAt, ASK_EVERY_WHILE_FAILING_MS);
    const spared = Math.min(this.#answerTookMs * DISTANCE_PER_ANSWER_TIME, LONGEST_DISTANCE_MS);
    const reasons: number[] = [answeredAt + ASK_EVERY_MS];
    if (this.#wanted.size > 0) reasons.push(this.#wantedAt(answeredAt, spared));
    const nextForKnown = answeredAt + Math.max(SHORTEST_DISTANCE_MS, spared);
    if (this.#unconfirmedSince !== undefined)
      reasons.push(Math.max(this.#unconfirmedSince + LOGS_IN_WITHIN_MS, nextForKnown));
    if (this.#clearAt !== undefined) reasons.push(Math.max(this.#clearAt, nextForKnown));
    return Math.min(...reasons) as Instant;
  }

  #wantedAt(answeredAt: Instant, sparedMs: number): Instant {
    const now = this.#clock.now();
    const mayAt = now + this.#unknownKeys.nextInMs(UNKNOWN_KEYS, now);
    return Math.max(answeredAt + Math.max(this.#wantedWaitMs, sparedMs), mayAt) as Instant;
  }

  #ask(): void {
    this.#timer?.cancel();
    this.#askAgain = false;
    const askedAt = this.#clock.now();
    const isForWanted = this.#isWantedDue(askedAt);
    if (isForWanted) this.#unknownKeys.take(UNKNOWN_KEYS, askedAt);
    this.#asking = this.#question(askedAt).then(() => {
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

  /** A question that is asked for another reason looks for wanted keys too, and costs strangers nothing. */
  #isWantedDue(now: Instant): boolean {
    return this.#wanted.size > 0 && this.#answeredAt !== undefined && now - this.#answeredAt >= this.#wantedWaitMs;
  }

  async #question(askedAt: Instant): Promise<void> {
    const era = this.#era;
    const counts = (): boolean => this.#state === 'running' && this.#era === era;
    try {
      const nodes = await this.#list();
      if (counts()) this.#listed(new Map(nodes.map((node) => [node.machineKey, node])), askedAt);
    } catch (error) {
      if (counts()) this.#failed(reasonOf(error));
    }
  }

  #listed(nodes: ReadonlyMap<MachineKey, NodeInfo>, askedAt: Instant): void {
    const isNews = !this.#loaded || this.#failing;
    const isChange = !this.#loaded || !sameNodes(this.#nodes, nodes);
    this.#loaded = true;
    this.#failing = false;
    this.#reasonsTold.clear();
    let found = false;
    for (const key of this.#wanted) if (nodes.has(key)) found = this.#wanted.delete(key);
    if (found) this.#unknownKeys.refill(UNKNOWN_KEYS);
    if (isChange) this.#nodes = nodes;
    if (isNews) this.#emit({ kind: 'nodes_listed', nodes: nodes.size });
    const isConfirmed = this.#confirm(askedAt);
    if (isChange) this.#tell(this.#listeners);
    else if (isConfirmed) this.#tell(this.#confirmListeners);
  }

  /** @returns whether it is clear now whose streams are that were in doubt. */
  #confirm(askedAt: Instant): boolean {
    this.#confirmedAt = askedAt;
    if (this.#clearAt !== undefined && askedAt >= this.#clearAt) this.#clearAt = undefined;
    const upTo = plus(askedAt, -LOGS_IN_WITHIN_MS);
    if (this.#unconfirmedSince === undefined || this.#unconfirmedSince > upTo) return false;
    this.#unconfirmedSince = (this.#newestOpenedAt ?? upTo) <= upTo ? undefined : upTo;
    return true;
  }

  #failed(reason: string): void {
    this.#failing = true;
    // That was the old key; the new one is tried next.
    if (this.#askAgain || this.#reasonsTold.has(reason)) return;
    this.#reasonsTold.add(reason);
    this.#emit({ kind: 'nodes_list_failed', detail: reason });
  }

  #tell(listeners: Iterable<() => void>): void {
    for (const listener of listeners) {
      try {
        listener();
      } catch (error) {
        this.#emit({ kind: 'internal_error', during: 'telling of other nodes', error });
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
