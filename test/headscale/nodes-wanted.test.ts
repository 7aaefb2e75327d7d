import { describe, expect, test } from 'vitest';
import type { MachineKey } from '../../src/identity/keys.ts';
import type { Instant } from '../../src/lib/clock.ts';
import { A, B, bench, C, MINUTE } from './directory-bench.ts';

describe('NodeDirectory.refreshFor', () => {
  test('for a known key it asks after the time that a login takes, and again when it is clear which node is online', async () => {
    const { directory, listing, asked, pass, says } = bench();
    await listing(A);
    await pass(MINUTE);
    directory.refreshFor(A.machineKey);
    const asAnother = { ...A, user: 'another', name: 'another-name' };
    says.nodes = [asAnother];
    await pass(5000);
    expect(directory.nodeOf(A.machineKey)).toEqual(asAnother);
    await pass(4 * MINUTE);
    expect(asked()).toEqual([0, 62, 75]);
  });

  test('if known keys come all the time, each is confirmed within five seconds, with one request in 2.5 s at most', async () => {
    const { directory, listing, asked, pass, clock } = bench();
    await listing(A);
    const opened: number[] = [];
    // An answer is read when a step is over: in large ones it would seem to take long.
    const inSmallSteps = async (ms: number): Promise<void> => {
      for (let left = ms; left > 0; left -= 10) await pass(Math.min(10, left));
    };
    const begun = clock.now();
    for (let i = 0; i < 400; i++) {
      directory.refreshFor(A.machineKey);
      opened.push(clock.now() - begun);
      await inSmallSteps(150 + ((i * 37) % 250));
    }
    await inSmallSteps(20_000);
    const at = asked().map((seconds) => seconds * 1000);
    for (const each of opened) {
      const answer = at.find((when) => when >= each + 2000);
      expect((answer ?? Number.POSITIVE_INFINITY) - each).toBeLessThanOrEqual(5000);
    }
    for (const [i, when] of at.entries()) if (i > 0) expect(when - (at[i - 1] as number)).toBeGreaterThanOrEqual(2000);
  });

  test('slow answers take at most a tenth of the time', async () => {
    const { directory, out, asked, pass } = bench();
    directory.start();
    await pass(1000);
    await out[0]?.answer([A]);
    directory.refreshFor(A.machineKey);
    await pass(9999);
    expect(asked()).toEqual([0]);
    await pass(1);
    expect(asked()).toEqual([11]);
    await out[1]?.answer([A]);
  });

  test('for an unknown key it asks at once, and if the key is listed then, it goes on as before', async () => {
    const { directory, listing, asked, pass, says } = bench();
    await listing(A);
    await pass(MINUTE);
    says.nodes = [A, B];
    directory.refreshFor(B.machineKey);
    await pass(10 * MINUTE);
    expect(asked()).toEqual([0, 60, 360, 660]);
  });

  test('asks for unknown keys 5 s after the last request at the earliest, and once for all of them', async () => {
    const { directory, listing, asked, pass, says, clock } = bench();
    await listing(A);
    await pass(2000);
    says.nodes = [A, B, C];
    for (const { machineKey } of [B, C]) directory.refreshFor(machineKey);
    expect(clock.timers).toBe(1);
    await pass(2000);
    directory.refreshFor(C.machineKey);
    await pass(MINUTE);
    expect(asked()).toEqual([0, 5]);
  });

  test('for a key that stays unknown it waits twice as long each time, up to five minutes', async () => {
    const { directory, listing, asked, pass } = bench();
    await listing(A);
    await pass(10_000);
    directory.refreshFor(B.machineKey);
    await pass(20 * MINUTE);
    expect(asked()).toEqual([0, 10, 15, 25, 45, 85, 165, 325, 625, 925]);
  });

  test('a known wanted key causes no earlier request, but another unknown key does', async () => {
    const { directory, listing, asked, pass } = bench();
    await listing(A);
    await pass(10_000);
    directory.refreshFor(B.machineKey);
    await pass(40_000);
    expect(asked()).toEqual([0, 10, 15, 25, 45]);
    directory.refreshFor(B.machineKey);
    await pass(20_000);
    expect(asked()).toEqual([]);
    directory.refreshFor(C.machineKey);
    await pass(40_000);
    // Strangers have asked five times by then, and have one more a minute.
    expect(asked()).toEqual([70, 75]);
    await pass(40_000);
    expect(asked()).toEqual([130]);
  });

  test('for a key that comes during a request, it asks again 5 s after an answer without that key', async () => {
    const { directory, out, asked, pass } = bench();
    directory.start();
    await pass(300);
    directory.refreshFor(A.machineKey);
    directory.refreshFor(B.machineKey);
    await out[0]?.answer([A]);
    await pass(4999);
    expect(asked()).toEqual([0]);
    await pass(1);
    expect(asked()).toEqual([5.3]);
    await out[1]?.answer([A, B]);
    await pass(2 * MINUTE);
    expect(asked()).toEqual([]);
  });

  test('before start it does not ask', async () => {
    const { directory, listing, asked, pass } = bench();
    directory.refreshFor(B.machineKey);
    await pass(10_000);
    expect(asked()).toEqual([]);
    await listing(A, B);
    await pass(MINUTE);
    expect(asked()).toEqual([10]);
  });

  test('a flood of invented keys costs five requests and then one per minute, and no memory', async () => {
    const { directory, listing, asked, pass } = bench();
    await listing(A);
    let made = 0;
    for (let second = 0; second < 60; second++) {
      for (let each = 0; each < 500; each++)
        directory.refreshFor((++made).toString(16).padStart(64, '0') as MachineKey);
      await pass(1000);
    }
    expect(asked()).toEqual([0, 5, 10, 15, 20, 25]);
    // The first of them is long forgotten, so it is unknown anew; the last one is not.
    await pass(10 * MINUTE);
    asked();
    directory.refreshFor(made.toString(16).padStart(64, '0') as MachineKey);
    expect(asked()).toHaveLength(0);
    directory.refreshFor('1'.padStart(64, '0') as MachineKey);
    expect(asked()).toHaveLength(1);
  });

  test('invented keys do not delay real nodes: a key that turns out to be a node does not count against the limit', async () => {
    const { directory, listing, asked, pass, says } = bench();
    await listing(A);
    await pass(10_000);
    let made = 0;
    const flood = async (seconds: number): Promise<void> => {
      for (let second = 0; second < seconds; second++) {
        directory.refreshFor((++made).toString(16).padStart(64, '0') as MachineKey);
        await pass(1000);
      }
    };
    await flood(60);
    expect(asked()).toEqual([0, 10, 15, 20, 25, 30, 70]);
    says.nodes = [A, B];
    directory.refreshFor(B.machineKey);
    await flood(60);
    expect(directory.nodeOf(B.machineKey)).toBe(B);
    // A known key is not kept waiting by them at all.
    await flood(120);
    asked();
    directory.refreshFor(A.machineKey);
    await flood(5);
    expect(asked().length).toBeGreaterThanOrEqual(1);
  });
});

describe('NodeDirectory.nodesOf', () => {
  const open = (clock: { now(): Instant }) => ({ machineKey: A.machineKey, openedAt: clock.now() });

  test('it may be any node until Headscale has answered after the time that a login takes', async () => {
    const { directory, listing, pass, clock, changes } = bench();
    let confirmed = 0;
    directory.onConfirmed(() => {
      confirmed += 1;
    });
    await listing(A);
    await pass(MINUTE);
    const stream = open(clock);
    directory.refreshFor(A.machineKey);
    expect(directory.nodesOf(stream)).toBeUndefined();
    await pass(1000);
    expect([directory.nodesOf(stream), confirmed]).toEqual([undefined, 0]);
    await pass(4000);
    expect([directory.nodesOf(stream), confirmed]).toEqual([[A], 1]);
    expect(changes()).toBe(1);
    const again = { ...stream, loginEndedAt: clock.now() };
    expect(directory.nodesOf(again)).toBeUndefined();
    directory.refreshFor(A.machineKey);
    await pass(5000);
    expect(directory.nodesOf(again)).toEqual([A]);
  });

  test('for a machine with several nodes it returns all of them until it is clear which one is active', async () => {
    const { directory, listing, pass, clock, says } = bench();
    await listing({ ...A, others: [B] });
    const stream = open(clock);
    directory.refreshFor(A.machineKey);
    await pass(5000);
    expect(directory.nodesOf(stream)).toEqual([{ ...A, others: [B] }, B]);
    says.nodes = [A];
    await pass(15_000);
    expect(directory.nodesOf(stream)).toEqual([A]);
  });

  test('while Headscale does not answer, the name stays, but it may be any node', async () => {
    const { directory, listing, pass, clock, says } = bench();
    await listing(A);
    says.nodes = new Error('away');
    const stream = open(clock);
    directory.refreshFor(A.machineKey);
    await pass(10 * MINUTE);
    expect(directory.nodesOf(stream)).toBeUndefined();
    expect(directory.nodeOf(A.machineKey)).toBe(A);
  });
});
