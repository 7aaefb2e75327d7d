import { randomBytes } from 'node:crypto';
import type { NoiseKey } from '../identity/noise.ts';
import { type Clock, pause, systemClock } from '../lib/clock.ts';
import { startControlServer } from './control-server.ts';
import type { ControlEvent } from './control-state.ts';
import { type Comeback, DemoScreen, seconds } from './demo-screen.ts';
import { type NodeIdentity, newNodeIdentity } from './node-connection.ts';
import { generateNoiseKey } from './noise-handshake.ts';
import { SimulatedNode } from './simulated-node.ts';

/** The demo's nodes. All connect to the same URL: the control server, or the watchdog in front of it. */
class DemoFleet {
  readonly #nodes: readonly SimulatedNode[];
  readonly #screen: DemoScreen;
  readonly #clock: Clock;
  /** Nodes that have come back and are not accepted yet. */
  readonly #waiting = new Set<SimulatedNode>();
  readonly #done: Comeback[] = [];
  #next = 0;

  constructor(identities: readonly NodeIdentity[], serverUrl: URL, screen: DemoScreen, clock: Clock) {
    this.#screen = screen;
    this.#clock = clock;
    this.#nodes = identities.map((identity) => {
      return new SimulatedNode({
        ...{ name: identity.name, identity, serverUrl, clock },
        onRefused: (node) => this.#refused(node),
        onLost: (node, why) => screen.event(`${node.name} lost its connection: ${why}`, 'faint'),
      });
    });
  }

  /** Starts all nodes. @returns whether all were accepted within `withinMs`. */
  async start(withinMs: number, signal: AbortSignal): Promise<boolean> {
    for (const node of this.#nodes) node.start();
    const all = Promise.all(this.#nodes.map((node) => node.accepted()));
    await Promise.race([all, pause(this.#clock, withinMs, signal)]);
    const connected = this.#nodes.filter(({ state }) => state === 'accepted').length;
    this.#screen.event(`${connected} nodes are connected, each with one map stream`);
    return connected === this.#nodes.length;
  }

  /** Freezes one node, waits `awayMs`, and lets it come back. `comebacks` has the result later. */
  async freezeOne(awayMs: number, signal: AbortSignal): Promise<void> {
    // A step of 7 visits all 20 nodes before any twice, and looks random.
    this.#next = (this.#next + 7) % this.#nodes.length;
    const node = this.#nodes[this.#next];
    if (node === undefined || node.state !== 'accepted') return;
    node.freeze();
    this.#screen.event(`${node.name} freezes: its connection stays open, but nobody answers on it`);
    await pause(this.#clock, awayMs, signal);
    if (signal.aborted) return;
    node.comeBack();
    this.#waiting.add(node);
    this.#screen.event(`${node.name} comes back on a new connection`);
    node.accepted().then(
      () => this.#accepted(node),
      // The node was stopped first; `comebacks` lists it as refused.
      () => {},
    );
  }

  /** Whether any node that has come back is not accepted yet. */
  get isWaiting(): boolean {
    return this.#waiting.size > 0;
  }

  /** All comebacks so far. Nodes that are still refused are also shown on the screen. */
  comebacks(): readonly Comeback[] {
    const waiting = [...this.#waiting].map((node) => {
      const { name, refusedTries, tryingMs } = node;
      this.#screen.event(`${name} is still refused after ${seconds(tryingMs)} s and ${refusedTries} tries`, 'bad');
      return { name, refusedTries, tookMs: tryingMs, accepted: false };
    });
    return [...this.#done, ...waiting];
  }

  /** Shows on the screen when an old stream has ended that kept its node waiting. */
  controlServerSaw(event: ControlEvent): void {
    if (event.kind !== 'stream ended') return;
    const isAwaited = [...this.#waiting].some(({ name }) => name === event.stream.hostname);
    if (isAwaited) this.#screen.event(`${event.stream.hostname}'s old stream is severed`);
  }

  async stop(): Promise<void> {
    this.#waiting.clear();
    await Promise.all(this.#nodes.map((node) => node.stop()));
  }

  #refused(node: SimulatedNode): void {
    if (node.refusedTries === 1) this.#screen.event(`${node.name} is refused and keeps trying`, 'bad');
  }

  async #accepted(node: SimulatedNode): Promise<void> {
    const { refusedTries, afterMs } = await node.accepted();
    this.#waiting.delete(node);
    this.#done.push({ name: node.name, refusedTries, tookMs: afterMs, accepted: true });
    this.#screen.event(`${node.name} is accepted ${seconds(afterMs)} s after its comeback`, 'good');
    // The watchdog has severed the old connection, so close this end too.
    await node.dropFrozen();
  }
}

/** The settings of the demo's watchdog. It listens on free ports of the loopback. */
export interface DemoWatchdogSetup {
  readonly upstream: URL;
  readonly noiseKey: NoiseKey;
  readonly apiKey: string;
  readonly silentAfterMs: number;
}

export interface DemoWatchdog {
  /** The URL that nodes connect to. */
  readonly listenUrl: URL;
  readonly adminUrl: URL;
  close(): Promise<void>;
}

/** Durations in milliseconds. */
export interface DemoTiming {
  readonly nodes: number;
  /** How many nodes freeze in each of the demo's two parts. */
  readonly freezes: number;
  /** Time between two freezes. */
  readonly everyMs: number;
  /** Time between a node's freeze and its comeback. */
  readonly awayMs: number;
  /** How long the last comeback is watched without the watchdog, where no node is accepted. */
  readonly refusedForMs: number;
  /** How long a node may take to be accepted with the watchdog. */
  readonly acceptedWithinMs: number;
  readonly silentAfterMs: number;
}

export interface DemoOptions {
  readonly stdout: { write(text: string): unknown };
  /** Whether to use colours. */
  readonly colours: boolean;
  /** Whether to go on after the comparison, until `signal` aborts. */
  readonly goesOn: boolean;
  readonly signal: AbortSignal;
  readonly startWatchdog: (setup: DemoWatchdogSetup) => Promise<DemoWatchdog>;
  readonly clock?: Clock;
  readonly timing?: DemoTiming;
}

/** Both parts and the comparison take 30 s. */
const TIMING: DemoTiming = {
  nodes: 20,
  freezes: 4,
  everyMs: 3000,
  awayMs: 1000,
  refusedForMs: 4000,
  acceptedWithinMs: 6000,
  silentAfterMs: 2000,
};
const CONNECTED_WITHIN_MS = 5000;
const LOOK_EVERY_MS = 50;
const EXIT_OK = 0;
const EXIT_FAILED = 1;
const EXIT_INTERRUPTED = 130;

/**
 * Shows how nodes come back to a Headscale that refuses second streams: first without the watchdog, then with it. Everything
 * runs on the loopback and without root, and nothing is left behind.
 *
 * @returns the exit code: 1 when a node was not accepted with the watchdog, 130 when interrupted before the comparison.
 */
export async function runDemo(options: DemoOptions): Promise<number> {
  const { stdout, colours, signal, clock = systemClock, timing = TIMING } = options;
  const screen = new DemoScreen((text) => stdout.write(text), colours, clock);
  const [noiseKey, apiKey] = [generateNoiseKey(), randomBytes(32).toString('hex')];
  const identities = Array.from({ length: timing.nodes }, (_, i) =>
    newNodeIdentity(`node-${String(i + 1).padStart(2, '0')}`),
  );
  let watched: DemoFleet | undefined;
  const onEvent = (event: ControlEvent): void => watched?.controlServerSaw(event);
  screen.paragraph(introduction(timing));
  const server = await startControlServer({ secondStream: 'refuse', noiseKey, apiKey, clock, onEvent });
  const stage: Stage = {
    ...{ screen, clock, timing, signal },
    async withFleet(serverUrl, use) {
      const fleet = new DemoFleet(identities, serverUrl, screen, clock);
      watched = fleet;
      try {
        return await use(fleet);
      } finally {
        await fleet.stop();
      }
    },
  };
  try {
    const { silentAfterMs } = timing;
    const watchdog = await options.startWatchdog({ upstream: server.url, noiseKey, apiKey, silentAfterMs });
    try {
      screen.paragraph(`The watchdog's status page, until the demo ends: ${watchdog.adminUrl.href}`);
      return await bothWays(stage, options, server.url, watchdog);
    } finally {
      await watchdog.close();
    }
  } finally {
    await server.close();
  }
}

interface Stage {
  readonly screen: DemoScreen;
  readonly clock: Clock;
  readonly timing: DemoTiming;
  readonly signal: AbortSignal;
  /** Runs `use` with a fleet that connects to `serverUrl`, and stops the fleet afterwards. */
  withFleet<T>(serverUrl: URL, use: (fleet: DemoFleet) => Promise<T>): Promise<T>;
}

async function bothWays(stage: Stage, options: DemoOptions, upstream: URL, watchdog: DemoWatchdog): Promise<number> {
  const { screen, signal, timing } = stage;
  screen.heading('1. Without the watchdog');
  const without = await stage.withFleet(upstream, (fleet) => freezes(stage, fleet, timing.refusedForMs));
  if (signal.aborted) return EXIT_INTERRUPTED;

  screen.heading('2. With the watchdog in front of the control server');
  return await stage.withFleet(watchdog.listenUrl, async (fleet) => {
    const withIt = await freezes(stage, fleet, timing.acceptedWithinMs);
    if (signal.aborted) return EXIT_INTERRUPTED;
    screen.comparison(without, withIt);
    screen.paragraph(NEXT);
    if (options.goesOn) await stayUp(stage, fleet, watchdog.adminUrl);
    return withIt.length > 0 && withIt.every(({ accepted }) => accepted) ? EXIT_OK : EXIT_FAILED;
  });
}

const NEXT = `To put it in front of your own Headscale, start with "Set it up in five minutes" in README.md. With --observe-only it says what it
would do, and ends nothing.`;

/** Runs one part: the nodes connect, then one after another freezes and comes back. */
async function freezes(stage: Stage, fleet: DemoFleet, watchMs: number): Promise<readonly Comeback[]> {
  const { clock, timing, signal } = stage;
  if (!(await fleet.start(CONNECTED_WITHIN_MS, signal))) return [];
  for (let i = 0; i < timing.freezes && !signal.aborted; i++) {
    await fleet.freezeOne(timing.awayMs, signal);
    await pause(clock, timing.everyMs - timing.awayMs, signal);
  }
  const lastLook = clock.now() + watchMs;
  while (fleet.isWaiting && clock.now() < lastLook && !signal.aborted) await pause(clock, LOOK_EVERY_MS, signal);
  return signal.aborted ? [] : fleet.comebacks();
}

/** Goes on with freezes and comebacks until Ctrl-C. */
async function stayUp({ screen, clock, timing, signal }: Stage, fleet: DemoFleet, adminUrl: URL): Promise<void> {
  const ask = `headscale-watchdog nodes --admin ${adminUrl.host}`;
  screen.paragraph(
    `The demo goes on until you press Ctrl-C. Watch it on the status page, ${adminUrl.href}, or ask in another terminal:\n  ${ask}`,
  );
  while (!signal.aborted) {
    await fleet.freezeOne(timing.awayMs, signal);
    await pause(clock, timing.everyMs, signal);
  }
}

function introduction({ nodes, silentAfterMs }: DemoTiming): string {
  return `This demo runs a stand-in for a Headscale that refuses a node's second map stream, and ${nodes} simulated nodes. Every few
seconds a node freezes: its connection stays open, but nobody reads or writes on it. Then it comes back on a new one.

On the loopback the kernel of a frozen node still answers, so the watchdog cannot prove that the old device is gone. For a
device that has left the network it can, within a second. Here it uses its other rule: it severs the old stream when
the client has been silent for ${seconds(silentAfterMs)} s (30 s by default). Until then the node is refused here, too.`;
}
