import { type Clock, type Instant, plus, type Timer } from '../clock.ts';
import { reasonOf } from '../errors.ts';
import type { Emit } from '../events.ts';
import type { MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';

const ASK_EVERY_MS = 5 * 60_000;
const ASK_EVERY_WHILE_FAILING_MS = 30_000;
/** Between two questions, however many unknown keys come. */
const SHORTEST_WAIT_MS = 5000;
const MOST_WANTED = 1000;

export interface NodeDirectoryParts {
  readonly clock: Clock;
  /** Asks Headscale; rejects with an error that says what was asked, what came, and the cure. */
  readonly list: () => Promise<readonly NodeInfo[]>;
  readonly emit: Emit;
}

/**
 * Knows the node of a machine key, by asking Headscale for all of them: every five minutes, and soon after an unknown
 * key was seen. What it knew it keeps when Headscale does not answer.
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
  /** How long the next wait will be while a wanted key stays unknown. */
  #wantedWaitMs = SHORTEST_WAIT_MS;
  /** What was told of the failures since it last worked. */
  readonly #reasonsTold = new Set<string>();
  #failing = false;
  #asking: Promise<void> | undefined;
  #askAgain = false;
  #answeredAt: Instant | undefined;
  #timer: Timer | undefined;

  constructor({ clock, list, emit }: NodeDirectoryParts) {
    this.#clock = clock;
    this.#list = list;
    this.#emit = emit;
  }

  /** Whether Headscale has ever listed its nodes: before that, an unknown key says nothing. */
  get loaded(): boolean {
    return this.#loaded;
  }

  nodeOf(key: MachineKey | undefined): NodeInfo | undefined {
    return key === undefined ? undefined : this.#nodes.get(key);
  }

  all(): readonly NodeInfo[] {
    return [...this.#nodes.values()];
  }

  /** @returns what ends the listening. `listener` is called when another list, or the first, has come. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
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
    this.#reasonsTold.clear();
    this.#failing = false;
    this.#askAgain = false;
    const wasLoaded = this.#loaded;
    this.#loaded = false;
    this.#nodes = new Map();
    if (wasLoaded) this.#tellOfChange();
  }

  /**
   * A stream with this key has opened. A node that is just registering is not listed yet, so from an unknown key on
   * Headscale is asked again and again, with doubling waits.
   */
  want(key: MachineKey): void {
    if (this.#state !== 'running' || this.#nodes.has(key) || this.#wanted.has(key)) return;
    const [oldest] = this.#wanted;
    if (oldest !== undefined && this.#wanted.size >= MOST_WANTED) this.#wanted.delete(oldest);
    this.#wanted.add(key);
    this.#wantedWaitMs = SHORTEST_WAIT_MS;
    // A failure has its own rhythm, and an answer on its way is looked at first.
    if (this.#failing || this.#asking !== undefined || this.#answeredAt === undefined) return;
    const waitMs = plus(this.#answeredAt, SHORTEST_WAIT_MS) - this.#clock.now();
    if (waitMs <= 0) this.#ask();
    else this.#askAfter(waitMs);
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
    await this.#asking;
  }

  #askAfter(waitMs: number): void {
    this.#timer?.cancel();
    this.#timer = this.#clock.after(waitMs, () => this.#ask());
  }

  #ask(): void {
    this.#timer?.cancel();
    this.#askAgain = false;
    this.#asking = this.#question().then(() => {
      this.#asking = undefined;
      this.#answeredAt = this.#clock.now();
      if (this.#state !== 'running') return;
      if (this.#askAgain) this.#ask();
      else this.#askAfter(this.#nextWaitMs());
    });
  }

  async #question(): Promise<void> {
    const era = this.#era;
    const counts = (): boolean => this.#state === 'running' && this.#era === era;
    try {
      const nodes = await this.#list();
      if (counts()) this.#listed(new Map(nodes.map((node) => [node.machineKey, node])));
    } catch (error) {
      if (counts()) this.#failed(reasonOf(error));
    }
  }

  #nextWaitMs(): number {
    if (this.#failing) return ASK_EVERY_WHILE_FAILING_MS;
    if (this.#wanted.size === 0) return ASK_EVERY_MS;
    const waitMs = this.#wantedWaitMs;
    this.#wantedWaitMs = Math.min(2 * waitMs, ASK_EVERY_MS);
    return waitMs;
  }

  #listed(nodes: ReadonlyMap<MachineKey, NodeInfo>): void {
    const isNews = !this.#loaded || this.#failing;
    const isChange = !this.#loaded || !sameNodes(this.#nodes, nodes);
    this.#loaded = true;
    this.#failing = false;
    this.#reasonsTold.clear();
    for (const key of this.#wanted) if (nodes.has(key)) this.#wanted.delete(key);
    if (isChange) this.#nodes = nodes;
    if (isNews) this.#emit({ kind: 'nodes listed', nodes: nodes.size });
    if (isChange) this.#tellOfChange();
  }

  #failed(reason: string): void {
    this.#failing = true;
    // That was the old key; the new one is tried next.
    if (this.#askAgain || this.#reasonsTold.has(reason)) return;
    this.#reasonsTold.add(reason);
    this.#emit({ kind: 'nodes not listed', reason });
  }

  #tellOfChange(): void {
    for (const listener of this.#listeners) {
      try {
        listener();
      } catch (error) {
        this.#emit({ kind: 'internal error', during: 'telling of other nodes', error });
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
  return one.nodeKey === other.nodeKey && one.id === other.id && one.name === other.name && one.user === other.user;
}
