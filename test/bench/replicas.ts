import { RedisServer } from '../support/redis.ts';
import { type Contender, start, watchdog } from './contenders.ts';
import type { Load } from './load.ts';
import { pause } from './rows.ts';
import { table } from './table.ts';

const FIRST_PORT = 19_110;
const FIRST_ADMIN_PORT = 19_120;
/** In all, however many watchdogs share them. */
const CLIENTS = 16;

export interface ReplicasTerms {
  readonly load: Load;
  readonly upstreamPort: number;
  readonly rounds: number;
  readonly seconds: string;
}

/** Upgrades a second of one, two and four watchdogs with one Redis, all on this machine's cores. */
export async function replicasTable(terms: ReplicasTerms): Promise<string> {
  const alone = '1 without Redis';
  const figures = new Map<string, number[]>([[alone, []]]);
  for (let round = 1; round <= terms.rounds; round++) {
    process.stderr.write(`bench: replicas, round ${round} of ${terms.rounds}\n`);
    const redis = await RedisServer.start();
    try {
      for (const count of [0, 1, 2, 4]) {
        const name = count === 0 ? alone : `${count} with Redis`;
        const perS = await upgradesPerS(terms, Math.max(count, 1), count === 0 ? [] : ['--redis', redis.url]);
        figures.set(name, [...(figures.get(name) ?? []), perS]);
      }
    } finally {
      await redis.close();
    }
  }
  return table('upgrades of all replicas', '/s', 'more', figures, alone);
}

async function upgradesPerS(terms: ReplicasTerms, count: number, flags: readonly string[]): Promise<number> {
  const { load, upstreamPort, seconds } = terms;
  const all = Array.from({ length: count }, (_, i): Contender => {
    const [port, adminPort] = [FIRST_PORT + i, FIRST_ADMIN_PORT + i];
    const where = ['--listen', `127.0.0.1:${port}`, '--admin', `127.0.0.1:${adminPort}`];
    const own = flags.length === 0 ? [] : ['--replica-name', `r${i}`];
    return {
      ...{ name: `replica ${i}`, port },
      command: [...watchdog({ upstreamPort, noiseKeyFile: load.noiseKeyFile }), ...where, ...flags, ...own],
    };
  });
  const running = [];
  try {
    for (const each of all) running.push(await start(each));
    if (flags.length > 0) for (let i = 0; i < count; i++) await hasJoined(FIRST_ADMIN_PORT + i);
    const ports = all.map(({ port }) => port);
    const found = await load.together(ports, 'upgrades', seconds, String(CLIENTS / count));
    if (found.some(({ failed = 0 }) => failed > 0)) throw new Error('upgrades failed');
    return found.reduce((sum, { perS = Number.NaN }) => sum + perS, 0);
  } finally {
    for (const each of running) await each.stop();
  }
}

/** @throws when it has not reached Redis after a few seconds. */
async function hasJoined(adminPort: number): Promise<void> {
  const deadline = performance.now() + 5000;
  for (;;) {
    const metrics = await (await fetch(`http://127.0.0.1:${adminPort}/metrics`)).text();
    if (/^headscale_watchdog_redis_up 1$/m.test(metrics)) return;
    if (performance.now() > deadline) throw new Error(`the replica of admin port ${adminPort} has not reached Redis`);
    await pause(50);
  }
}
