import { ADMIN_PORT } from './contenders.ts';
import type { Load } from './load.ts';
import { type Measure, pause, type Row, withIdle } from './rows.ts';
import { median } from './table.ts';

/** As many as have series of their own by default. */
const NODES = 1000;
const SCRAPES = 20;

/** What a scrape with a thousand nodes' series takes, and what it does to a record that is on its way meanwhile. */
export function scrapeRows(load: Load, rounds: number, seconds: string): readonly Row[] {
  const row = (name: string, unit: string, measure: Measure): Row => ({
    ...{ name, unit, betterIs: 'less', measure, direct: false, rounds, tls: false, only: ['watchdog'] },
  });
  const withNodes =
    (then: (port: number) => Promise<number>): Measure =>
    ({ port }) =>
      withIdle(load, false, port, NODES, async () => {
        // The first ones compile.
        for (let i = 0; i < 5; i++) await scrape();
        return then(port);
      });
  return [
    row(`a scrape with ${NODES} nodes`, 'ms', withNodes(scrapeMs)),
    row(
      `round trip p99, scraped every second ÷ not scraped, ${NODES} nodes`,
      '',
      withNodes(async (port) => {
        const p99 = async (): Promise<number> =>
          (await load.measure(false, port, 'latency', seconds)).p99us ?? Number.NaN;
        const unscraped = await p99();
        const timer = setInterval(() => void scrape(), 1000);
        try {
          return (await p99()) / unscraped;
        } finally {
          clearInterval(timer);
        }
      }),
    ),
  ];
}

async function scrapeMs(): Promise<number> {
  const took: number[] = [];
  for (let i = 0; i < SCRAPES; i++) {
    took.push(await scrape());
    await pause(50);
  }
  return median(took);
}

/** @returns how long it took, in milliseconds. @throws where it has not all the nodes. */
async function scrape(): Promise<number> {
  const startedAt = performance.now();
  const answer = await fetch(`http://127.0.0.1:${ADMIN_PORT}/metrics`);
  const text = await answer.text();
  const took = performance.now() - startedAt;
  const nodes = text.match(/^headscale_watchdog_node_info\{/gm)?.length ?? 0;
  if (nodes < NODES) throw new Error(`a scrape shows ${nodes} nodes of ${NODES}`);
  return took;
}
