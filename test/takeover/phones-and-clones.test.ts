import { expect, test } from 'vitest';
import { playClones, playPhone } from './phones-and-clones.ts';

const RUNS = Number(process.env.GUARD_RUNS ?? 1000);
const SEED = Number(process.env.GUARD_SEED ?? 1);
const WHICH = `GUARD_RUNS=${RUNS} GUARD_SEED=${SEED}`;
const TIMEOUT = { timeout: 60_000 + RUNS * 100 };
const MINUTE_MS = 60_000;
const seeds = Array.from({ length: RUNS }, (_, i) => SEED * 1_000_000 + i);

/** As long as a severing is put off while more than two streams are open. */
const THIRD_OPEN_FOR_MS = 30_000;
const FLAGGED_WITHIN_MS = 30 * MINUTE_MS;
const SEVERED_BEFORE_AT_MOST = 20;

test(`a phone is never taken for two machines, on any networks and in any rhythm: ${WHICH}`, TIMEOUT, () => {
  const reports = seeds.map((seed) => playPhone(seed, 30, 60 * MINUTE_MS));
  expect(reports.filter(({ flagged }) => flagged)).toEqual([]);
  expect(reports.filter(({ thirdOpenForMs }) => thirdOpenForMs > THIRD_OPEN_FOR_MS)).toEqual([]);
});

test(`two machines with one key are always found, and then both keep their streams: ${WHICH}`, TIMEOUT, () => {
  const reports = seeds.map((seed) => playClones(seed, 35 * MINUTE_MS));
  const late = reports.filter(({ flaggedAfterMs }) => !((flaggedAfterMs ?? Number.NaN) <= FLAGGED_WITHIN_MS));
  expect(late).toEqual([]);
  expect(reports.filter(({ severed }) => severed > SEVERED_BEFORE_AT_MOST)).toEqual([]);
  expect(reports.filter(({ connected }) => connected < 0.98)).toEqual([]);
  // Nobody waits for longer than its own backoff and its dialling take.
  expect(reports.filter(({ longestWithoutMs }) => longestWithoutMs > 20_000)).toEqual([]);
  expect(reports.filter(({ medianLifeMs }) => medianLifeMs < MINUTE_MS)).toEqual([]);
  const rests = [...new Set(reports.flatMap((report) => report.rests))].sort((a, b) => a - b);
  expect(rests).toEqual([1, 2, 4, 8, 15].map((minutes) => minutes * MINUTE_MS));
});
