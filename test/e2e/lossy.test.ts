import { beforeAll, describe, expect, it } from 'vitest';
import { contest } from './support/contestants.ts';
import { ControlServer } from './support/control-server.ts';
import { printFigures } from './support/figures.ts';
import { useLab } from './support/lab.ts';
import { until } from './support/wait.ts';
import { Watchdog } from './support/watchdog.ts';

const NODES = 300;
const ROUNDS = 1;
const CONTESTS = NODES * ROUNDS;

describe(`${CONTESTS} contests between a live old stream and a newcomer of the same phone`, () => {
  const here = useLab();
  let server: ControlServer;
  beforeAll(async () => {
    server = await ControlServer.start(here.lab, 'accept');
  });

  it.each([
    { lostPercent: 0, wrongAtMost: 0 },
    { lostPercent: 10, wrongAtMost: 1 },
  ])(
    'with $lostPercent % of packets lost in both directions, at most $wrongAtMost live streams are called dead',
    async ({ lostPercent, wrongAtMost }) => {
      const { lab } = here;
      // Only rule 1 is to speak.
      const watchdog = await Watchdog.start(lab, server, '--silent-after', '10m');
      const host = await lab.network.addHost(`phones-${lostPercent}`);
      await lab.network.lose(host, lostPercent);
      const started = performance.now();
      const { report, end } = await contest(lab, host, watchdog.url, NODES, ROUNDS);

      const over = async () => {
        const metrics = await watchdog.metrics();
        return metrics.sum('contests_total') >= report.contests ? metrics : undefined;
      };
      const metrics = await until('the end of all contests', { timeoutMs: 20_000 }, over);
      const dead = metrics.sum('contests_total', 'verdict="dead"');
      const byData = watchdog.severings().filter(({ kernel }) => (kernel?.unackedSegments ?? 0) > 0).length;
      printFigures(`live old streams, ${lostPercent} % of packets lost both ways`, [
        ['contests', `${report.contests}, after ${report.bothAlive} of them both streams alive`],
        ['wrong dead', `${dead}, ${byData} of them by unacknowledged data`],
        ['took', `${((performance.now() - started) / 1000).toFixed(0)} s`],
      ]);
      await end();
      expect(report.contests).toBeGreaterThanOrEqual(CONTESTS - wrongAtMost);
      expect(report.contests - report.bothAlive).toBe(dead);
      expect(dead).toBeLessThanOrEqual(wrongAtMost);
      expect(watchdog.errors()).toEqual([]);
    },
  );
});
