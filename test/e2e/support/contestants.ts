import { expect } from 'vitest';
import { jsonLines } from './child.ts';
import { printFigures } from './figures.ts';
import type { Lab } from './lab.ts';
import { type Host, onHost } from './network.ts';
import { ended } from './reach.ts';
import { until } from './wait.ts';
import type { Watchdog } from './watchdog.ts';

const PROGRAM = 'test/e2e/support/contestants-main.ts';

export interface ContestsReport {
  /** Between an old stream that was alive and a newcomer of its node. */
  readonly contests: number;
  /** Those after which a request on each of the two streams was answered. */
  readonly bothAlive: number;
}

export interface Contests {
  readonly nodes: number;
  /** Each node with itself. */
  readonly rounds: number;
  /** Before each round; the kernel sends a probe only on a line that has been quiet for a second. */
  readonly quietMs?: number;
}

const QUIET_MS = 2_000;

/** Has nodes on `host` contest with themselves. */
export async function contest(lab: Lab, host: Host, url: string, { nodes, rounds, quietMs = QUIET_MS }: Contests) {
  const args = [url, nodes, rounds, quietMs].map(String);
  const command = onHost(host, process.execPath, '--import', 'tsx', PROGRAM, ...args);
  const child = lab.start(`contestants on ${host.name}`, command);
  const patience = { timeoutMs: 60_000 + rounds * (60_000 + quietMs), everyMs: 200, giveUp: () => ended(child) };
  const report = await until('contests', patience, () => jsonLines(child.stdout)[0] as ContestsReport | undefined);
  return { report, end: () => child.end() };
}

/** Expects that at most so many of the living are called dead, in contests of nodes on a host of their own that loses packets. */
export async function expectFewWrongDead(
  lab: Lab,
  watchdog: Watchdog,
  url: string,
  contests: Contests,
  { lostPercent, wrongAtMost }: { readonly lostPercent: number; readonly wrongAtMost: number },
): Promise<void> {
  const host = await lab.network.addHost(`phones-${lostPercent}`);
  await lab.network.lose(host, lostPercent);
  const started = performance.now();
  const { report, end } = await contest(lab, host, url, contests);

  const over = async () => {
    const metrics = await watchdog.metrics();
    return metrics.sum('contests_total') >= report.contests ? metrics : undefined;
  };
  await until('the end of all contests', { timeoutMs: 20_000 }, over);
  const severings = watchdog.severings();
  // Behind a proxy, a client that closes its old stream after the contest may be seen to have left before the proxy closes ours.
  const dead = severings.filter(({ kernel }) => !kernel?.ended);
  const byData = dead.filter(({ kernel }) => (kernel?.unackedSegments ?? 0) > 0).length;
  printFigures(`live old streams, ${lostPercent} % of packets lost both ways, ${new URL(url).host}`, [
    ['contests', `${report.contests}, after ${report.bothAlive} of them both streams alive`],
    ['wrong dead', `${dead.length}, ${byData} of them by unacknowledged data`],
    ['seen to have left', String(severings.length - dead.length)],
    ['took', `${((performance.now() - started) / 1000).toFixed(0)} s`],
  ]);
  await end();
  expect(report.contests).toBeGreaterThanOrEqual(contests.nodes * contests.rounds - wrongAtMost);
  expect(dead.filter(({ reason }) => reason !== 'dead')).toEqual([]);
  expect(report.contests - report.bothAlive).toBe(dead.length);
  expect(dead.length).toBeLessThanOrEqual(wrongAtMost);
  expect(watchdog.errors()).toEqual([]);
}
