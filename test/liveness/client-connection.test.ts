import { Socket } from 'node:net';
import { describe, expect, test } from 'vitest';
import { type Instant, plus } from '../../src/lib/clock.ts';
import { ClientConnection, enableKeepAlive, type TcpTimeouts } from '../../src/liveness/client-connection.ts';
import type { Kernel } from '../../src/liveness/kernel.ts';
import type { KernelEvidence } from '../../src/streams/stream.ts';

const QUIET: KernelEvidence = {
  ...{ unackedSegments: 0, unsentBytes: 0, ackedBytes: 0, retransmits: 0, unansweredProbes: 0 },
  ...{ receivedAgoMs: 100, rttMs: 1, rttvarMs: 1 },
};

const NOW = 1_000_000 as Instant;
const orders = (goneAfterMs: number, probeIdleMs = 0): TcpTimeouts => ({ goneAfterMs, probeIdleMs });

function bench(isDirect = true) {
  const calls: string[] = [];
  const line = { kernelSays: undefined as KernelEvidence | undefined };
  const kernel: Kernel = {
    evidenceOf: () => line.kernelSays,
    applyTimeouts: (_socket, { userTimeoutMs, idleMs, everyMs, probes }) =>
      void calls.push(`order ${userTimeoutMs} ${idleMs} ${everyMs} ${probes}`),
    setUserTimeout: (_socket, ms) => void calls.push(`timeout ${ms}`),
    probe: () => void calls.push('probe'),
  };
  return { kernel, line: new ClientConnection(kernel, new Socket(), isDirect), calls, world: line };
}

describe('ClientConnection', () => {
  test('gives its orders once, and again when they change', () => {
    const { line, calls } = bench();
    line.applyTimeouts(orders(180_000));
    line.applyTimeouts(orders(180_000));
    line.applyTimeouts(orders(30_000, 10_000));
    line.applyTimeouts(orders(0));
    expect(calls).toEqual(['order 180000 75000 15000 9', 'order 29000 10000 1000 9', 'order 0 75000 15000 60']);
  });

  test('while probes are out the orders rest, and those in force afterwards are the newest', () => {
    const { line, calls } = bench();
    line.applyTimeouts(orders(120_000));
    line.probe();
    line.applyTimeouts(orders(180_000));
    line.refresh(true, NOW);
    line.probe();
    expect(calls).toEqual(['order 120000 75000 15000 9', 'probe', 'probe']);
    line.stopProbing();
    line.stopProbing();
    expect(calls.slice(3)).toEqual(['order 180000 15000 15000 9']);
  });

  test('sending to an idle client that is probed: the time it has been silent is taken off, once it was heard given back', () => {
    const { line, calls, world } = bench();
    line.applyTimeouts(orders(25_000, 10_000));
    world.kernelSays = { ...QUIET, receivedAgoMs: 9000 };
    line.beforeSend();
    expect(calls.slice(1)).toEqual(['timeout 15000']);
    world.kernelSays = { ...QUIET, receivedAgoMs: 15_000, unackedSegments: 1 };
    // More is sent behind it: Linux counts from the first, and so must what it was told.
    line.beforeSend();
    line.refresh(false, NOW);
    expect(calls.slice(2)).toEqual([]);
    world.kernelSays = QUIET;
    line.refresh(false, NOW);
    line.refresh(false, NOW);
    expect(calls.slice(2)).toEqual(['timeout 24000']);
  });

  test('sending to one that was just heard gives it back, too, and calls nobody when nothing was taken', () => {
    const { line, calls, world } = bench();
    line.applyTimeouts(orders(25_000, 10_000));
    world.kernelSays = { ...QUIET, receivedAgoMs: 99 };
    line.beforeSend();
    expect(calls.slice(1)).toEqual([]);
    world.kernelSays = { ...QUIET, receivedAgoMs: 24_500 };
    line.beforeSend();
    world.kernelSays = { ...QUIET, receivedAgoMs: 10 };
    line.beforeSend();
    expect(calls.slice(1)).toEqual(['timeout 1000', 'timeout 24000']);
  });

  test.each([
    ['idle connections are not probed: silence means nothing', orders(120_000)],
    ['nothing is to end it', orders(0)],
  ])('sending leaves the user timeout alone where %s', (_criterion, given) => {
    const { line, calls, world } = bench();
    line.applyTimeouts(given);
    world.kernelSays = { ...QUIET, receivedAgoMs: 20_000 };
    calls.length = 0;
    line.beforeSend();
    line.refresh(false, NOW);
    expect(calls).toEqual([]);
  });

  test('while probes are out neither sending nor tending touches it', () => {
    const { line, calls, world } = bench();
    line.applyTimeouts(orders(25_000, 10_000));
    world.kernelSays = { ...QUIET, receivedAgoMs: 20_000 };
    line.beforeSend();
    line.probe();
    line.beforeSend();
    line.refresh(false, NOW);
    line.stopProbing();
    // What was quiet before does not count.
    expect(calls).toEqual([
      'order 24000 10000 1000 9',
      'timeout 4000',
      'probe',
      'order 24000 10000 1000 9',
      'timeout 44000',
    ]);
  });

  test('a line that was quiet for long before it is probed gets as long from its first probe on as any other', () => {
    const { line, calls, world } = bench();
    world.kernelSays = { ...QUIET, receivedAgoMs: 27_000 };
    line.applyTimeouts(orders(25_000, 10_000));
    expect(calls).toEqual(['order 24000 10000 1000 9', 'timeout 51000']);
    world.kernelSays = { ...QUIET, receivedAgoMs: 36_000 };
    line.beforeSend();
    line.refresh(false, NOW);
    expect(calls.slice(2)).toEqual([]);
    world.kernelSays = { ...QUIET, receivedAgoMs: 3000 };
    line.refresh(false, NOW);
    expect(calls.slice(2)).toEqual(['timeout 24000']);
    world.kernelSays = { ...QUIET, receivedAgoMs: 9000 };
    line.beforeSend();
    expect(calls.slice(3)).toEqual(['timeout 15000']);
  });

  test('while the client waits for an answer it is probed as often as by Go, probe-idle or not; afterwards no more', () => {
    const { line, calls } = bench();
    line.applyTimeouts(orders(120_000));
    line.refresh(true, NOW);
    line.refresh(true, NOW);
    line.refresh(false, NOW);
    line.applyTimeouts(orders(120_000, 60_000));
    line.refresh(true, NOW);
    expect(calls).toEqual([
      ...['order 120000 75000 15000 9', 'order 120000 15000 15000 9', 'order 120000 75000 15000 9'],
      ...['order 119000 60000 1000 9', 'order 119000 15000 1000 9'],
    ]);
  });

  test('a probe-idle that the standing keepalive is sooner than changes nothing', () => {
    const { line, calls } = bench();
    line.applyTimeouts(orders(300_000, 75_000));
    expect(calls).toEqual(['order 300000 75000 15000 9']);
  });

  test('a gone-after shorter than the keepalive is for data alone: on a quiet line three probes may fail', () => {
    const { line, calls, world } = bench();
    world.kernelSays = { ...QUIET, unackedSegments: 1 };
    line.applyTimeouts(orders(30_000));
    line.refresh(false, NOW);
    expect(calls).toEqual(['order 30000 75000 15000 9']);
    world.kernelSays = QUIET;
    line.refresh(false, NOW);
    line.refresh(false, NOW);
    line.beforeSend();
    line.beforeSend();
    expect(calls.slice(1)).toEqual(['timeout 120000', 'timeout 30000']);
    line.refresh(true, NOW);
    expect(calls.slice(3)).toEqual(['order 30000 15000 15000 9', 'timeout 60000']);
  });

  test('a short gone-after given to a line that has been quiet does not end it at its first probe', () => {
    const { line, calls, world } = bench();
    world.kernelSays = { ...QUIET, receivedAgoMs: 100_000 };
    line.applyTimeouts(orders(30_000));
    expect(calls.slice(1)).toEqual(['timeout 145000']);
  });

  test("behind a proxy only its keepalive is ours to set: no user timeout, no evidence, no probes of a contest's", () => {
    const { line, calls, world } = bench(false);
    world.kernelSays = QUIET;
    line.applyTimeouts(orders(25_000, 10_000));
    line.beforeSend();
    line.refresh(false, NOW);
    line.probe();
    line.stopProbing();
    line.applyTimeouts(orders(0));
    expect(line.evidence()).toBeUndefined();
    expect(calls).toEqual(['order 0 75000 15000 9', 'order 0 75000 15000 60']);
  });

  test("without a kernel to ask nothing is known, and Node's keepalive is all there is; nothing is to end an observed one", () => {
    const socket = new Socket();
    const set: unknown[][] = [];
    socket.setKeepAlive = (...args) => {
      set.push(args);
      return socket;
    };
    const line = new ClientConnection(undefined, socket, true);
    line.applyTimeouts(orders(30_000));
    line.probe();
    line.stopProbing();
    line.beforeSend();
    line.applyTimeouts(orders(0));
    expect(line.evidence()).toBeUndefined();
    expect(set).toEqual([
      [true, 75_000, 15_000, 9],
      [true, 75_000, 15_000, 9],
      [false, 75_000, 15_000, 9],
    ]);
  });
});

describe('ClientConnection, when Linux has given it up', () => {
  const later = (ms: number) => plus(NOW, ms);
  const FULL: KernelEvidence = { ...QUIET, unsentBytes: 300 };

  test('its client answered all the while, and its receive window was full: it is not reading', () => {
    const { line, world } = bench();
    line.applyTimeouts(orders(120_000));
    line.beforeSend();
    world.kernelSays = { ...FULL, receivedAgoMs: 58_000 };
    line.refresh(false, later(118_000));
    expect(line.isNotReading(later(120_000))).toBe(true);
  });

  test('nobody answered what was sent: it is gone', () => {
    const { line, world } = bench();
    line.applyTimeouts(orders(120_000));
    line.beforeSend();
    for (const ago of [1000, 60_000, 119_000]) {
      world.kernelSays = { ...QUIET, unackedSegments: 1, receivedAgoMs: ago };
      line.refresh(false, later(ago));
    }
    expect(line.isNotReading(later(120_000))).toBe(false);
  });

  test('what was sent had arrived, and probes went unanswered since: it is gone', () => {
    const { line, world } = bench();
    line.applyTimeouts(orders(120_000));
    line.beforeSend();
    world.kernelSays = FULL;
    line.refresh(false, NOW);
    world.kernelSays = QUIET;
    line.refresh(false, later(1000));
    expect(line.isNotReading(later(60_000))).toBe(false);
  });

  test('it looks only while something is on its way: a client at rest costs nothing', () => {
    const { line, calls, world } = bench();
    line.applyTimeouts(orders(120_000));
    const looks: number[] = [];
    const look = (): KernelEvidence => {
      looks.push(1);
      return QUIET;
    };
    Object.defineProperty(world, 'kernelSays', { get: look });
    for (let i = 0; i < 10; i++) line.refresh(false, later(i * 4000));
    expect(looks).toEqual([]);
    line.beforeSend();
    for (let i = 0; i < 10; i++) line.refresh(false, later(i * 4000));
    expect(looks).toEqual([1]);
    expect(calls).toHaveLength(1);
  });
});

describe('enableKeepAlive', () => {
  test.each([
    ['waiting client', 15_000],
    ['upstream', 75_000],
  ] as const)('%s: as Go, but for when it begins', (other, idleMs) => {
    const { kernel, calls } = bench();
    enableKeepAlive(kernel, new Socket(), other);
    expect(calls).toEqual([`order 0 ${idleMs} 15000 9`]);
  });
});
