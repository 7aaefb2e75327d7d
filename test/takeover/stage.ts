import { afterEach, beforeEach, expect } from 'vitest';
import { ALICE, Bench, type FakePeer } from './takeover-bench.ts';

/** The bench of the test that runs; whoever imports this gets a fresh one for each test, and the check at its end. */
export let bench: Bench;
let peers: FakePeer[] = [];
let errorsExpected = false;

beforeEach(() => {
  bench = new Bench();
});

/** Every test ends with all streams closed: then no timer, no seat and no probing may be left. */
afterEach(() => {
  expect(bench.kinds().includes('internal_error')).toBe(errorsExpected);
  errorsExpected = false;
  for (const peer of peers) if (peer.stream.state.kind !== 'closed') peer.leaves();
  peers = [];
  bench.clock.advance(1000);
  expect(bench.takeover.size).toBe(0);
  expect(bench.clock.timers).toBe(0);
});

export function opens(...args: Parameters<Bench['opens']>): FakePeer {
  const peer = bench.opens(...args);
  peers.push(peer);
  return peer;
}

/** An old stream, last heard `quietMs` ago. */
export function oldStream(quietMs: number, key = ALICE, address?: string): FakePeer {
  const old = opens(key, address);
  bench.clock.advance(quietMs);
  return old;
}

/** The test provokes an error of ours: without one it fails. */
export function expectInternalErrors(): void {
  errorsExpected = true;
}
