import type { NoiseKey } from '../identity/machine-key.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import type { ControlEvent } from './control-events.ts';
import { startControlServer } from './control-server.ts';
import { DemoFleet } from './demo-fleet.ts';
import { type Comeback, DemoScreen, seconds } from './demo-screen.ts';
import { generateNoiseKey } from './noise-key.ts';
import { pause } from './pause.ts';

/** What the demo asks of a watchdog: to listen on free ports of the loopback. */
export interface DemoWatchdogSetup {
  readonly upstream: URL;
  readonly noiseKey: NoiseKey;
  readonly silentAfterMs: number;
}

export interface DemoWatchdog {
  /** Where nodes connect. */
  readonly listenUrl: URL;
  readonly adminUrl: URL;
  close(): Promise<void>;
}

/** Durations in milliseconds. */
export interface DemoTiming {
  readonly nodes: number;
  /** How many nodes freeze in each of the two parts. */
  readonly freezes: number;
  /** Between two freezes. */
  readonly everyMs: number;
  /** Between a node's freeze and its comeback. */
  readonly awayMs: number;
  /** How long the last comeback is watched without the watchdog, where nobody is accepted. */
  readonly refusedForMs: number;
  /** How long a node may take to be accepted with it. */
  readonly acceptedWithinMs: number;
  readonly silentAfterMs: number;
}

export interface DemoOptions {
  readonly stdout: { write(text: string): unknown };
  /** On a terminal the demo is coloured, and stays up after the comparison until `signal` aborts. */
  readonly isTty: boolean;
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
 * Shows, on the loopback and without root, how nodes come back to a Headscale that refuses second streams: without, then
 * with the watchdog before it. Leaves nothing behind, however it ends.
 *
 * @returns the exit code: 1 when a node was not accepted with the watchdog, 130 when interrupted before the comparison.
 */
export async function runDemo(options: DemoOptions): Promise<number> {
  const { stdout, isTty, signal, clock = systemClock, timing = TIMING } = options;
  const screen = new DemoScreen((text) => stdout.write(text), isTty, clock);
  const noiseKey = generateNoiseKey();
  let watched: DemoFleet | undefined;
  const onEvent = (event: ControlEvent): void => watched?.controlServerSaw(event);
  screen.paragraph(introduction(timing));
  const server = await startControlServer({ secondStream: 'refuse', noiseKey, clock, onEvent });
  const stage: Stage = {
    ...{ screen, clock, timing, signal },
    async withFleet(serverUrl, use) {
      const fleet = new DemoFleet(timing.nodes, serverUrl, screen, clock);
      watched = fleet;
      try {
        return await use(fleet);
      } finally {
        await fleet.stop();
      }
    },
  };
  try {
    return await bothWays(stage, options, server.url, noiseKey);
  } finally {
    await server.close();
  }
}

interface Stage {
  readonly screen: DemoScreen;
  readonly clock: Clock;
  readonly timing: DemoTiming;
  readonly signal: AbortSignal;
  /** Lends a fleet that connects to `serverUrl`; it is stopped afterwards. */
  withFleet<T>(serverUrl: URL, use: (fleet: DemoFleet) => Promise<T>): Promise<T>;
}

async function bothWays(stage: Stage, options: DemoOptions, upstream: URL, noiseKey: NoiseKey): Promise<number> {
  const { screen, signal, timing } = stage;
  screen.heading('1. Without the watchdog');
  const without = await stage.withFleet(upstream, (fleet) => freezes(stage, fleet, timing.refusedForMs));
  if (signal.aborted) return EXIT_INTERRUPTED;

  screen.heading('2. With the watchdog before the control server');
  const { silentAfterMs } = timing;
  const watchdog = await options.startWatchdog({ upstream, noiseKey, silentAfterMs });
  try {
    return await stage.withFleet(watchdog.listenUrl, async (fleet) => {
      const withIt = await freezes(stage, fleet, timing.acceptedWithinMs);
      if (signal.aborted) return EXIT_INTERRUPTED;
      screen.comparison(without, withIt);
      if (options.isTty) await stayUp(stage, fleet, watchdog.adminUrl);
      return withIt.length > 0 && withIt.every(({ accepted }) => accepted) ? EXIT_OK : EXIT_FAILED;
    });
  } finally {
    await watchdog.close();
  }
}

/** One part: the nodes connect, then one after the other freezes and comes back. */
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

/** On a terminal: freezes and comebacks go on until somebody has seen enough. */
async function stayUp({ screen, clock, timing, signal }: Stage, fleet: DemoFleet, adminUrl: URL): Promise<void> {
  screen.paragraph(`It goes on until Ctrl-C. Look at what happens, and why: ${adminUrl.href}`);
  while (!signal.aborted) {
    await fleet.freezeOne(timing.awayMs, signal);
    await pause(clock, timing.everyMs, signal);
  }
}

function introduction({ nodes, silentAfterMs }: DemoTiming): string {
  return `A stand-in for a Headscale that refuses a second map stream of a node, and ${nodes} simulated nodes. Every few seconds
one freezes: its connection stays open, but nobody reads or writes there any more. Then it comes back on a new one.

On the loopback the kernel of a frozen process still answers, so the watchdog cannot prove here that the old device
is gone, as it does within a second for one that left the network. It takes over by its other rule: the old
stream has been silent for long enough, ${seconds(silentAfterMs)} s here instead of 30 s. Until then the node is refused here, too.`;
}
