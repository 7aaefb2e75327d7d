import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Contender, PROJECT, start } from './contenders.ts';
import { contests } from './contests.ts';
import type { Load } from './load.ts';
import { machineOf } from './machine.ts';
import { type Panel, plot } from './plot.ts';
import { IDLE_FOR_MS, pause, processorShare, SETTLE_MS, withIdle } from './rows.ts';

const STREAMS = [100, 500, 1000, 2000, 4000, 8000];
const FILE = join('docs', 'growth.svg');

/** Draws what memory, processor and verdict come to with ever more streams, and tells the figures. */
export async function drawGrowth(load: Load, watchdog: Contender): Promise<string> {
  const points: { streams: number; megabytes: number; percent: number; verdictMs: number }[] = [];
  for (const streams of STREAMS) {
    process.stderr.write(`bench: growth, ${streams} streams\n`);
    const running = await start(watchdog);
    try {
      const figures = await withIdle(load, false, watchdog.port, streams, async () => {
        await pause(SETTLE_MS);
        const megabytes = running.residentBytes() / 1e6;
        const percent = await processorShare(running, IDLE_FOR_MS);
        return { megabytes, percent, verdictMs: await contests(load, 3)(watchdog, running) };
      });
      points.push({ streams, ...figures });
    } finally {
      await running.stop();
    }
  }
  const panel = (title: string, unit: string, of: (point: (typeof points)[number]) => number): Panel => ({
    ...{ title, unit },
    points: points.map((point) => [point.streams, of(point)]),
  });
  const panels = [
    panel('Resident memory', 'MB', ({ megabytes }) => megabytes),
    panel('Processor, keepalives every 55 s', '% of a core', ({ percent }) => percent),
    panel('Dead old stream → new stream open', 'ms', ({ verdictMs }) => verdictMs),
  ];
  writeFileSync(join(PROJECT, FILE), plot('What more streams cost', machineOf(), panels));
  const lines = points.map(
    ({ streams, megabytes, percent, verdictMs }) =>
      `| ${streams} | ${megabytes.toFixed(0)} | ${percent.toFixed(2)} | ${verdictMs.toFixed(0)} |`,
  );
  return `\n| idle streams | MB | % of a core | verdict, ms |\n| --- | --- | --- | --- |\n${lines.join('\n')}\n\n${FILE} drawn\n`;
}
