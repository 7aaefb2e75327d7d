import { Socket } from 'node:net';
import { describe, expect, test } from 'vitest';
import { type Instant, plus } from '../../src/lib/clock.ts';
import { ClientConnection, enableKeepAlive, type TcpTimeouts } from '../../src/liveness/client-connection.ts';
import type { Kernel } from '../../src/liveness/kernel.ts';
import { ProxiedClient } from '../../src/liveness/proxied-client.ts';
import type { ProxySockets } from '../../src/liveness/proxy-sockets.ts';
import type { KernelEvidence } from '../../src/streams/stream.ts';

const QUIET: KernelEvidence = {
  ...{ unackedSegments: 0, unsentBytes: 0, ackedBytes: 0, retransmits: 0, unansweredProbes: 0 },
  ...{ receivedAgoMs: 100, rttMs: 1, rttvarMs: 1 },
};

const NOW = 1_000_000 as Instant;
const orders = (goneAfterMs: number, probeIdleMs = 0): TcpTimeouts => ({ goneAfterMs, probeIdleMs });

function bench(behindProxy?: ProxiedClient) {
  const calls: string[] = [];
  const line = { kernelSays: undefined as KernelEvidence | undefined };
  const kernel: Kernel = {
    evidenceOf: () => line.kernelSays,
    applyTimeouts: (_socket, { userTimeoutMs, idleMs, everyMs, probes }) =>
      void calls.push(`order ${userTimeoutMs} ${idleMs} ${everyMs} ${probes}`),
    setUserTimeout: (_socket, ms) => void calls.push(`timeout ${ms}`),
    probe: () => void calls.push('probe'),
    trimMemory: () => {},
  };
  return { kernel, line: new ClientConnection(kernel, new Socket(), behindProxy), calls, world: line };
}

describe('ClientConnection', () => {
  test('sets the TCP timeouts once, and again when they change', () => {
    const { line, calls } = bench();
    line.applyTimeouts(orders(180_000));
    line.applyTimeouts(orders(180_000));
    line.applyTimeouts(orders(30_000, 10_000));
    line.applyTimeouts(orders(0));
    expect(calls).toEqual(['order 180000 75000 15000 9', 'order 29000 10000 1000 9', 'order 0 75000 15000 60']);
  });

  test('suspends the timeouts while it probes, and sets the newest ones afterwards', () => {
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

  test('before sending to a client with probe-idle, it subtracts the silent time from the user timeout, and restores it once the client was heard', () => {
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

  test('before sending to a client that was just heard, it restores the user timeout, and makes no call if nothing was subtracted', () => {
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
    ['idle connections are not probed, so silence means nothing', orders(120_000)],
    ['gone-after is off', orders(0)],
  ])('sending does not change the user timeout if %s', (_criterion, given) => {
    const { line, calls, world } = bench();
    line.applyTimeouts(given);
    world.kernelSays = { ...QUIET, receivedAgoMs: 20_000 };
    calls.length = 0;
    line.beforeSend();
    line.refresh(false, NOW);
    expect(calls).toEqual([]);
  });

  test('neither sending nor a refresh changes the user timeout while it probes', () => {
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

  test('a connection that was quiet for long gets the full time from its first probe', () => {
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

  test('a client that waits for an answer is probed every 15 s, with or without probe-idle, and not afterwards', () => {
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

  test('a probe-idle later than the standard keepalive changes nothing', () => {
    const { line, calls } = bench();
    line.applyTimeouts(orders(300_000, 75_000));
    expect(calls).toEqual(['order 300000 75000 15000 9']);
  });

  test('a gone-after shorter than the keepalive only limits data; on a quiet connection three probes may fail', () => {
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

  test('a short gone-after, set on a quiet connection, does not end it at its first probe', () => {
    const { line, calls, world } = bench();
    world.kernelSays = { ...QUIET, receivedAgoMs: 100_000 };
    line.applyTimeouts(orders(30_000));
    expect(calls.slice(1)).toEqual(['timeout 145000']);
  });

  test('behind a proxy it sets only the keepalive: no user timeout, no evidence, no probes', () => {
    const proxies = { evidenceAt: () => undefined } as unknown as ProxySockets;
    const behind = new ProxiedClient(
      proxies,
      { kind: 'none', reason: 'proxy_elsewhere' },
      '192.0.2.1',
      '203.0.113.7',
      0,
      undefined,
    );
    const { line, calls, world } = bench(behind);
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

  test("without a kernel there is no evidence and only Node's keepalive, which is off for observe-only streams", () => {
    const socket = new Socket();
    const set: unknown[][] = [];
    socket.setKeepAlive = (...args) => {
      set.push(args);
      return socket;
    };
    const line = new ClientConnection(undefined, socket);
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

describe('ClientConnection, after Linux has given the connection up', () => {
  const later = (ms: number) => plus(NOW, ms);
  const FULL: KernelEvidence = { ...QUIET, unsentBytes: 300 };

  test("if the client's kernel answered and its receive window was full, the client is not reading", () => {
    const { line, world } = bench();
    line.applyTimeouts(orders(120_000));
    line.beforeSend();
    world.kernelSays = { ...FULL, receivedAgoMs: 58_000 };
    line.refresh(false, later(118_000));
    expect(line.isNotReading(later(120_000))).toBe(true);
  });

  test('if sent data was not acknowledged, the client is gone', () => {
    const { line, world } = bench();
    line.applyTimeouts(orders(120_000));
    line.beforeSend();
    for (const ago of [1000, 60_000, 119_000]) {
      world.kernelSays = { ...QUIET, unackedSegments: 1, receivedAgoMs: ago };
      line.refresh(false, later(ago));
    }
    expect(line.isNotReading(later(120_000))).toBe(false);
  });

  test('if sent data was acknowledged but probes were not answered, the client is gone', () => {
    const { line, world } = bench();
    line.applyTimeouts(orders(120_000));
    line.beforeSend();
    world.kernelSays = FULL;
    line.refresh(false, NOW);
    world.kernelSays = QUIET;
    line.refresh(false, later(1000));
    expect(line.isNotReading(later(60_000))).toBe(false);
  });

  test('it asks the kernel only while data is in flight, so an idle client costs nothing', () => {
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
  ] as const)('%s: probes like Go, but starts at its own time', (other, idleMs) => {
    const { kernel, calls } = bench();
    enableKeepAlive(kernel, new Socket(), other);
    expect(calls).toEqual([`order 0 ${idleMs} 15000 9`]);
  });
});

describe('ClientConnection, when its stream ends', () => {
  const later = (ms: number) => plus(NOW, ms);

  test("the last sign of life is that of the client's kernel, of a client behind a proxy that of the last survey", () => {
    const { line, world } = bench();
    world.kernelSays = { ...QUIET, receivedAgoMs: 40_000 };
    expect(line.lastSignAt(later(60_000), false)).toBe(later(20_000));
    const proxied = { lastEvidence: { ...QUIET, receivedAgoMs: 3000 } } as unknown as ProxiedClient;
    expect(bench(proxied).line.lastSignAt(later(60_000), false)).toBe(later(57_000));
    const left = { lastEvidence: { ...QUIET, receivedAgoMs: 0, ended: true } } as unknown as ProxiedClient;
    expect(bench(left).line.lastSignAt(later(60_000), true)).toBeUndefined();
  });

  test('if Linux gave it up with data in flight, it is what the patrol saw last; if it was idle, the user timeout has passed since', () => {
    const { line, world } = bench();
    line.applyTimeouts(orders(120_000));
    line.beforeSend();
    world.kernelSays = { ...QUIET, unackedSegments: 1, receivedAgoMs: 5000 };
    line.refresh(false, later(10_000));
    world.kernelSays = undefined;
    expect(line.lastSignAt(later(130_000), true)).toBe(later(5000));
    const idle = bench().line;
    idle.applyTimeouts(orders(180_000));
    expect(idle.lastSignAt(later(200_000), true)).toBe(later(20_000));
    // A short one is lengthened while nothing is in flight, so that three probes have time.
    const lengthened = bench();
    lengthened.world.kernelSays = { ...QUIET, receivedAgoMs: 0 };
    lengthened.line.applyTimeouts(orders(30_000));
    lengthened.world.kernelSays = undefined;
    expect(lengthened.line.lastSignAt(later(200_000), true)).toBe(later(200_000 - 120_000));
    // With gone-after off, Linux waits for its own time, which we do not know.
    const off = bench().line;
    off.applyTimeouts(orders(0));
    expect(off.lastSignAt(later(200_000), true)).toBeUndefined();
  });
});
