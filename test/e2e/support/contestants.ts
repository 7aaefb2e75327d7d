import { jsonLines } from './child.ts';
import type { Lab } from './lab.ts';
import { type Host, onHost } from './network.ts';
import { ended } from './reach.ts';
import { until } from './wait.ts';

const PROGRAM = 'test/e2e/support/contestants-main.ts';

export interface ContestsReport {
  /** Between an old stream that was alive and a newcomer of its node. */
  readonly contests: number;
  /** Those after which a request on each of the two streams was answered. */
  readonly bothAlive: number;
}

/** Has `nodes` nodes on `host` contest `rounds` times each with themselves. */
export async function contest(lab: Lab, host: Host, url: string, nodes: number, rounds: number) {
  const command = onHost(host, process.execPath, '--import', 'tsx', PROGRAM, url, String(nodes), String(rounds));
  const child = lab.start(`contestants on ${host.name}`, command);
  const patience = { timeoutMs: 60_000 + rounds * 60_000, everyMs: 200, giveUp: () => ended(child) };
  const report = await until('contests', patience, () => jsonLines(child.stdout)[0] as ContestsReport | undefined);
  return { report, end: () => child.end() };
}
