import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Contender, Running } from './contenders.ts';
import type { Load } from './load.ts';

/** One figure of one contender. */
export type Measure = (contender: Contender, running: Running) => Promise<number>;

export interface Row {
  readonly name: string;
  readonly unit: string;
  readonly betterIs: 'less' | 'more';
  readonly measure: Measure;
  /** Whether without a proxy it means something. */
  readonly direct: boolean;
  readonly rounds: number;
  /** Where TLS ends at the contender. */
  readonly tls: boolean;
  /** Where it is not all of them. */
  readonly only?: readonly string[];
}

/** A collector has had its turn by then, and memory that is free has gone back to Linux. */
export const SETTLE_MS = 10_000;
/** Longer than Headscale's keepalives are apart. */
export const IDLE_FOR_MS = 57_000;
export const KEEPALIVE_EVERY_S = 55;
/** In its first seconds a Node that speaks TLS on 64 connections fills buffers, and echoes next to nothing. */
const FILLED_S = '20';
/** As many as a small network has. */
const FEW_NODES = 100;

export interface RowTerms {
  readonly load: Load;
  readonly rounds: number;
  readonly seconds: string;
  readonly mostTunnels: number;
}

/** All rows of the bench, in the order in which they are told. */
export function rowsOf({ load, rounds, seconds, mostTunnels }: RowTerms): readonly Row[] {
  const few = Math.min(rounds, 3);
  const figure =
    (tls: boolean, name: string, measure: string, ...args: readonly string[]): Measure =>
    async ({ port }) => {
      const found = await load.measure(tls, port, measure, ...args);
      if ((found.failed ?? 0) > 0) throw new Error(`${found.failed} upgrades failed`);
      return found[name] ?? Number.NaN;
    };
  const plain = (
    name: string,
    unit: string,
    betterIs: Row['betterIs'],
    found: string,
    measure: string,
    ...args: string[]
  ): Row => ({
    ...{ name, unit, betterIs, direct: true, rounds, tls: false },
    measure: figure(false, found, measure, ...args),
  });
  const overTls = (name: string, unit: string, found: string, measure: string, ...args: string[]): Row => ({
    ...{ name: `TLS: ${name}`, unit, betterIs: 'more', direct: false, rounds, tls: true },
    measure: figure(true, found, measure, ...args),
  });
  /** From the start of the process on: when a server comes back, all nodes do, and Node has not compiled much by then. */
  const processorOfUpgrade = (tls: boolean, name: string): Row => ({
    ...{
      name: `${name}, processor time each in the first seconds`,
      unit: 'µs',
      betterIs: 'less',
      direct: false,
      rounds,
      tls,
    },
    async measure({ port }, running) {
      const before = running.processorMs();
      const { madeInAll = Number.NaN } = await load.measure(tls, port, 'upgrades', seconds, '16');
      return (1000 * (running.processorMs() - before)) / madeInAll;
    },
  });
  const memory = (tls: boolean, tunnels: number): Row => ({
    ...{ name: `${tls ? 'TLS: ' : ''}memory of an idle stream, ${tunnels}`, unit: 'kB', betterIs: 'less' },
    ...{ measure: memoryOf(load, tls, tunnels), direct: false, rounds: few, tls },
  });
  return [
    plain('round trip p50', 'µs', 'less', 'p50us', 'latency', seconds),
    plain('round trip p99', 'µs', 'less', 'p99us', 'latency', seconds),
    plain('echoed, 4 tunnels', 'MB/s', 'more', 'mbPerS', 'throughput', seconds, '4'),
    plain('echoed, 64 tunnels', 'MB/s', 'more', 'mbPerS', 'throughput', seconds, '64'),
    plain('upgrades of nodes that come back', '/s', 'more', 'perS', 'returns', seconds, '16'),
    processorOfUpgrade(false, 'upgrades'),
    ...[1000, 4000, mostTunnels].map((tunnels) => memory(false, tunnels)),
    {
      ...{ name: `resident memory, ${FEW_NODES} nodes`, unit: 'MB', betterIs: 'less' },
      ...{ measure: residentMemory(load), direct: false, rounds: few, tls: false },
    },
    overTls('echoed, 4 tunnels', 'MB/s', 'mbPerS', 'throughput', seconds, '4'),
    overTls('echoed, 64 tunnels', 'MB/s', 'mbPerS', 'throughput', FILLED_S, '64'),
    overTls('handshakes and upgrades of nodes that come back', '/s', 'perS', 'returns', seconds, '16'),
    processorOfUpgrade(true, 'TLS: handshakes and upgrades'),
    ...[1000, 4000].map((tunnels) => memory(true, tunnels)),
    {
      ...{ name: `processor, ${mostTunnels} idle streams with keepalives`, unit: '% of a core', betterIs: 'less' },
      ...{ measure: idleProcessor(load, mostTunnels), direct: false, rounds: 1, tls: false },
      only: ['watchdog', 'bare Node pipe', 'HAProxy'],
    },
    {
      ...{ name: 'start until it accepts', unit: 'ms', betterIs: 'less' },
      ...{ measure: async (_contender, running) => running.startedInMs, direct: false, rounds, tls: false },
    },
  ];
}

/** Opens so many idle streams, does something meanwhile, and closes them. */
export async function withIdle<T>(load: Load, tls: boolean, port: number, tunnels: number, then: () => Promise<T>) {
  const child = spawn(load.program, load.args(tls, port, 'idle', String(tunnels)), {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const closed = once(child, 'close');
  try {
    const isOpen = once(child.stdout, 'data').then(() => true);
    if (!(await Promise.race([isOpen, closed.then(() => false)]))) throw new Error(`${tunnels} streams did not open`);
    return await then();
  } finally {
    child.stdin.end();
    await closed;
  }
}

export const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Kilobytes of resident memory for each of so many idle streams. */
function memoryOf(load: Load, tls: boolean, tunnels: number): Measure {
  return async ({ port }, running) => {
    const before = running.residentBytes();
    return withIdle(load, tls, port, tunnels, async () => {
      await pause(SETTLE_MS);
      return (running.residentBytes() - before) / tunnels / 1000;
    });
  };
}

/** Megabytes of the whole process, with the streams of a small network. */
function residentMemory(load: Load): Measure {
  return async ({ port }, running) =>
    withIdle(load, false, port, FEW_NODES, async () => {
      await pause(SETTLE_MS);
      return running.residentBytes() / 1e6;
    });
}

function idleProcessor(load: Load, tunnels: number): Measure {
  return async ({ port }, running) =>
    withIdle(load, false, port, tunnels, async () => {
      await pause(SETTLE_MS);
      return processorShare(running, IDLE_FOR_MS);
    });
}

/** The share of a core, in percent, that it takes over so long. */
export async function processorShare(running: Running, overMs: number): Promise<number> {
  const [before, startedAt] = [running.processorMs(), performance.now()];
  await pause(overMs);
  return (100 * (running.processorMs() - before)) / (performance.now() - startedAt);
}
