import { Socket } from 'node:net';
import { describe, expect, test } from 'vitest';
import type { KernelEvidence } from '../../src/liveness/evidence.ts';
import type { Kernel, StandingOrders } from '../../src/liveness/kernel.ts';
import { Line } from '../../src/liveness/line.ts';

const QUIET: KernelEvidence = {
  ...{ unackedSegments: 0, retransmits: 0, unansweredProbes: 0 },
  ...{ receivedAgoMs: 100, rttMs: 1, rttvarMs: 1 },
};

const orders = (goneAfterMs: number, probeIdleMs = 0): StandingOrders => ({ goneAfterMs, probeIdleMs });

function bench() {
  const calls: string[] = [];
  const line = { kernelSays: undefined as KernelEvidence | undefined };
  const kernel: Kernel = {
    evidenceOf: () => line.kernelSays,
    order: (_socket, { goneAfterMs, probeIdleMs }) => void calls.push(`order ${goneAfterMs} ${probeIdleMs}`),
    setUserTimeout: (_socket, ms) => void calls.push(`timeout ${ms}`),
    probe: () => void calls.push('probe'),
  };
  return { line: new Line(kernel, new Socket()), calls, world: line };
}

describe('Line', () => {
  test('gives its orders once, and again when they change', () => {
    const { line, calls } = bench();
    line.order(orders(30_000));
    line.order(orders(30_000));
    line.order(orders(30_000, 10_000));
    line.order(orders(0));
    expect(calls).toEqual(['order 30000 0', 'order 29000 10000', 'order 0 0']);
  });

  test('orders that are off from the start need no call', () => {
    const { line, calls } = bench();
    line.order(orders(0));
    expect(calls).toEqual([]);
  });

  test('while probes are out the orders rest, and those in force afterwards are the newest', () => {
    const { line, calls } = bench();
    line.order(orders(30_000));
    line.probe();
    line.order(orders(60_000));
    line.probe();
    expect(calls).toEqual(['order 30000 0', 'probe', 'probe']);
    line.endProbes();
    line.endProbes();
    expect(calls.slice(3)).toEqual(['order 60000 0']);
  });

  test('sending to an idle client that is probed: the time it has been silent is taken off, once it was heard given back', () => {
    const { line, calls, world } = bench();
    line.order(orders(25_000, 10_000));
    world.kernelSays = { ...QUIET, receivedAgoMs: 9000 };
    line.sending();
    expect(calls.slice(1)).toEqual(['timeout 15000']);
    world.kernelSays = { ...QUIET, receivedAgoMs: 15_000, unackedSegments: 1 };
    // More is sent behind it: Linux counts from the first, and so must what it was told.
    line.sending();
    line.tend();
    expect(calls.slice(2)).toEqual([]);
    world.kernelSays = QUIET;
    line.tend();
    line.tend();
    expect(calls.slice(2)).toEqual(['timeout 24000']);
  });

  test('sending to one that was just heard gives it back, too, and calls nobody when nothing was taken', () => {
    const { line, calls, world } = bench();
    line.order(orders(25_000, 10_000));
    world.kernelSays = { ...QUIET, receivedAgoMs: 99 };
    line.sending();
    expect(calls.slice(1)).toEqual([]);
    world.kernelSays = { ...QUIET, receivedAgoMs: 24_500 };
    line.sending();
    world.kernelSays = { ...QUIET, receivedAgoMs: 10 };
    line.sending();
    expect(calls.slice(1)).toEqual(['timeout 1000', 'timeout 24000']);
  });

  test.each([
    ['idle connections are not probed: silence means nothing', orders(25_000)],
    ['nothing is ordered', orders(0)],
  ])('sending leaves the user timeout alone where %s', (_criterion, given) => {
    const { line, calls, world } = bench();
    line.order(given);
    world.kernelSays = { ...QUIET, receivedAgoMs: 20_000 };
    calls.length = 0;
    line.sending();
    line.tend();
    expect(calls).toEqual([]);
  });

  test('while probes are out neither sending nor tending touches it', () => {
    const { line, calls, world } = bench();
    line.order(orders(25_000, 10_000));
    world.kernelSays = { ...QUIET, receivedAgoMs: 20_000 };
    line.sending();
    line.probe();
    line.sending();
    line.tend();
    line.endProbes();
    // What was quiet before does not count.
    expect(calls).toEqual(['order 24000 10000', 'timeout 4000', 'probe', 'order 24000 10000', 'timeout 44000']);
  });

  test('a line that was quiet for long before it is probed gets as long from its first probe on as any other', () => {
    const { line, calls, world } = bench();
    world.kernelSays = { ...QUIET, receivedAgoMs: 27_000 };
    line.order(orders(25_000, 10_000));
    expect(calls).toEqual(['order 24000 10000', 'timeout 51000']);
    world.kernelSays = { ...QUIET, receivedAgoMs: 36_000 };
    line.sending();
    line.tend();
    expect(calls.slice(2)).toEqual([]);
    world.kernelSays = { ...QUIET, receivedAgoMs: 3000 };
    line.tend();
    expect(calls.slice(2)).toEqual(['timeout 24000']);
    world.kernelSays = { ...QUIET, receivedAgoMs: 9000 };
    line.sending();
    expect(calls.slice(3)).toEqual(['timeout 15000']);
  });

  test('without a kernel to ask nothing is known, and nothing happens', () => {
    const line = new Line(undefined, new Socket());
    line.order(orders(30_000));
    line.probe();
    line.endProbes();
    line.sending();
    line.tend();
    expect(line.evidence()).toBeUndefined();
  });
});
