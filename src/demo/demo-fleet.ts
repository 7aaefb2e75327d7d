import type { Clock } from '../lib/clock.ts';
import type { ControlEvent } from './control-events.ts';
import { type Comeback, type DemoScreen, seconds } from './demo-screen.ts';
import { pause } from './pause.ts';
import { SimulatedNode } from './simulated-node.ts';

/** The demo's nodes, on one way to the control server. */
export class DemoFleet {
  readonly #nodes: readonly SimulatedNode[];
  readonly #screen: DemoScreen;
  readonly #clock: Clock;
  /** Nodes whose comeback is being watched. */
  readonly #backAgain = new Set<SimulatedNode>();
  readonly #done: Comeback[] = [];
  #next = 0;

  constructor(size: number, serverUrl: URL, screen: DemoScreen, clock: Clock) {
    this.#screen = screen;
    this.#clock = clock;
    this.#nodes = Array.from({ length: size }, (_, i) => {
      const name = `node-${String(i + 1).padStart(2, '0')}`;
      return new SimulatedNode({
        name,
        serverUrl,
        clock,
        onRefused: (node) => this.#refused(node),
        onLost: (node, why) => screen.event(`${node.name} lost its connection: ${why}`, 'faint'),
      });
    });
  }

  /** Starts every node. @returns whether all were accepted within `withinMs`. */
  async start(withinMs: number, signal: AbortSignal): Promise<boolean> {
    for (const node of this.#nodes) node.start();
    const all = Promise.all(this.#nodes.map((node) => node.accepted()));
    await Promise.race([all, pause(this.#clock, withinMs, signal)]);
    const connected = this.#nodes.filter(({ state }) => state === 'accepted').length;
    this.#screen.event(`${connected} nodes are connected, each with one map stream`);
    return connected === this.#nodes.length;
  }

  /** One node freezes, stays away for `awayMs`, and comes back; how that went is in `comebacks` later. */
  async freezeOne(awayMs: number, signal: AbortSignal): Promise<void> {
    // A step that meets every node of 20 once before it meets one again, and does not look like counting.
    this.#next = (this.#next + 7) % this.#nodes.length;
    const node = this.#nodes[this.#next];
    if (node === undefined || node.state !== 'accepted') return;
    node.freeze();
    this.#screen.event(`${node.name} freezes: its connection stays open, nobody is there`);
    await pause(this.#clock, awayMs, signal);
    if (signal.aborted) return;
    node.comeBack();
    this.#backAgain.add(node);
    this.#screen.event(`${node.name} comes back on a new connection`);
    node.accepted().then(
      () => this.#accepted(node),
      // Stopped before: `comebacks` has it as refused.
      () => {},
    );
  }

  /** Whether a node is back and still waits. */
  get isWaiting(): boolean {
    return this.#backAgain.size > 0;
  }

  /** Every comeback so far; those still refused are told on the screen. */
  comebacks(): readonly Comeback[] {
    const waiting = [...this.#backAgain].map((node) => {
      const { name, refusedTries, tryingMs } = node;
      this.#screen.event(`${name} is still refused after ${seconds(tryingMs)} s and ${refusedTries} tries`, 'bad');
      return { name, refusedTries, tookMs: tryingMs, accepted: false };
    });
    return [...this.#done, ...waiting];
  }

  /** Says so when the control server has seen the end of a stream that kept a node waiting. */
  controlServerSaw(event: ControlEvent): void {
    if (event.kind !== 'stream ended') return;
    const isAwaited = [...this.#backAgain].some(({ name }) => name === event.stream.hostname);
    if (isAwaited) this.#screen.event(`${event.stream.hostname}'s old stream is severed`);
  }

  async stop(): Promise<void> {
    this.#backAgain.clear();
    await Promise.all(this.#nodes.map((node) => node.stop()));
  }

  #refused(node: SimulatedNode): void {
    if (node.refusedTries === 1) this.#screen.event(`${node.name} is refused, and tries again, and again`, 'bad');
  }

  async #accepted(node: SimulatedNode): Promise<void> {
    const { refusedTries, afterMs } = await node.accepted();
    this.#backAgain.delete(node);
    this.#done.push({ name: node.name, refusedTries, tookMs: afterMs, accepted: true });
    this.#screen.event(`${node.name} is accepted ${seconds(afterMs)} s after its comeback`, 'good');
    // Its old connection has been severed at the other end; here it has nothing left to show.
    await node.dropFrozen();
  }
}
