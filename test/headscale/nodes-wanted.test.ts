import { describe, expect, test } from 'vitest';
import type { MachineKey } from '../../src/identity/keys.ts';
import { A, B, bench, C, MINUTE } from './directory-bench.ts';

describe('NodeDirectory.want', () => {
  test('a known key: nothing is asked', async () => {
    const { directory, listing, asked, pass } = bench();
    await listing(A);
    await pass(MINUTE);
    directory.want(A.machineKey);
    await pass(MINUTE);
    expect(asked()).toEqual([0]);
  });

  test('an unknown key is asked for at once; listed then, the rhythm is as before', async () => {
    const { directory, listing, asked, pass, says } = bench();
    await listing(A);
    await pass(MINUTE);
    says.nodes = [A, B];
    directory.want(B.machineKey);
    await pass(10 * MINUTE);
    expect(asked()).toEqual([0, 60, 360, 660]);
  });

  test('never sooner than 5 s after the last question, and then once for all', async () => {
    const { directory, listing, asked, pass, says, clock } = bench();
    await listing(A);
    await pass(2000);
    says.nodes = [A, B, C];
    for (const { machineKey } of [B, C]) directory.want(machineKey);
    expect(clock.timers).toBe(1);
    await pass(2000);
    directory.want(C.machineKey);
    await pass(MINUTE);
    expect(asked()).toEqual([0, 5]);
  });

  test('a key that stays unknown is asked for with doubling waits, up to five minutes', async () => {
    const { directory, listing, asked, pass } = bench();
    await listing(A);
    await pass(10_000);
    directory.want(B.machineKey);
    await pass(20 * MINUTE);
    expect(asked()).toEqual([0, 10, 15, 25, 45, 85, 165, 325, 625, 925]);
  });

  test('a key that was wanted before does not hurry it; another unknown one does', async () => {
    const { directory, listing, asked, pass } = bench();
    await listing(A);
    await pass(10_000);
    directory.want(B.machineKey);
    await pass(40_000);
    expect(asked()).toEqual([0, 10, 15, 25, 45]);
    directory.want(B.machineKey);
    await pass(20_000);
    expect(asked()).toEqual([]);
    directory.want(C.machineKey);
    await pass(40_000);
    expect(asked()).toEqual([70, 75, 85, 105]);
  });

  test('a key wanted while a question is out: once more 5 s after an answer without it', async () => {
    const { directory, out, asked, pass } = bench();
    directory.start();
    await pass(3000);
    directory.want(A.machineKey);
    directory.want(B.machineKey);
    await out[0]?.answer([A]);
    await pass(4999);
    expect(asked()).toEqual([0]);
    await pass(1);
    expect(asked()).toEqual([8]);
    await out[1]?.answer([A, B]);
    await pass(2 * MINUTE);
    expect(asked()).toEqual([]);
  });

  test('before start: waits for the first question', async () => {
    const { directory, listing, asked, pass } = bench();
    directory.want(B.machineKey);
    await pass(10_000);
    expect(asked()).toEqual([]);
    await listing(A, B);
    await pass(MINUTE);
    expect(asked()).toEqual([10]);
  });

  test('a flood of made-up keys costs a question in 5 s, and no memory', async () => {
    const { directory, listing, asked, pass } = bench();
    await listing(A);
    let made = 0;
    for (let second = 0; second < 60; second++) {
      for (let each = 0; each < 500; each++) directory.want((++made).toString(16).padStart(64, '0') as MachineKey);
      await pass(1000);
    }
    expect(asked()).toEqual([0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60]);
    // The first of them is long forgotten, so it is unknown anew; the last one is not.
    await pass(10 * MINUTE);
    asked();
    directory.want(made.toString(16).padStart(64, '0') as MachineKey);
    expect(asked()).toHaveLength(0);
    directory.want('1'.padStart(64, '0') as MachineKey);
    expect(asked()).toHaveLength(1);
  });
});
