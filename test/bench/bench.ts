import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { streamsBehindProxyTables, upgradeBehindProxyTable } from './behind-proxy.ts';
import { buildContenders, type Contender, contenders, PROJECT, type Running, start } from './contenders.ts';
import { contestRows } from './contests.ts';
import { drawGrowth } from './growth.ts';
import { buildLoad, type Load } from './load.ts';
import { machineOf } from './machine.ts';
import { replicasTable } from './replicas.ts';
import { KEEPALIVE_EVERY_S, type Row, rowsOf } from './rows.ts';
import { scrapeRows } from './scrape.ts';
import { installedMegabytes } from './size.ts';
import { table } from './table.ts';

const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 5);
const SECONDS = process.env.BENCH_SECONDS ?? '2';
const MOST_TUNNELS = 8000;
const UPSTREAM_PORT = 19_099;

const DIRECT: Contender = { name: 'direct', port: UPSTREAM_PORT, command: [] };
const NOTHING: Running = { startedInMs: 0, residentBytes: () => 0, processorMs: () => 0, stop: async () => {} };

/** The figures of one row by contender: in turn within each round, so that a noisy moment hits all alike. */
async function row(all: readonly Contender[], { name, measure, direct, rounds }: Row): Promise<Map<string, number[]>> {
  const figures = new Map<string, number[]>();
  const note = (who: string, value: number): void => void figures.set(who, [...(figures.get(who) ?? []), value]);
  for (let round = 1; round <= rounds; round++) {
    process.stderr.write(`bench: ${name}, round ${round} of ${rounds}\n`);
    if (direct) note(DIRECT.name, await measure(DIRECT, NOTHING));
    for (const contender of all) {
      // A new process each time: none has the memory or the timers of the row before.
      const running = await start(contender);
      try {
        note(contender.name, await measure(contender, running));
      } catch (error) {
        throw new Error(`${contender.name}: ${name}`, { cause: error });
      } finally {
        await running.stop();
      }
    }
  }
  return figures;
}

async function measureRows(rows: readonly Row[], folder: string, load: Load): Promise<void> {
  const places = { upstreamPort: UPSTREAM_PORT, noiseKeyFile: load.noiseKeyFile };
  const plain = contenders({ ...places, folder: join(folder, 'plain'), tls: false });
  const overTls = contenders({ ...places, folder: join(folder, 'tls'), tls: true });
  for (const each of rows) {
    const all = (each.tls ? overTls : plain).filter(({ name }) => each.only?.includes(name) ?? true);
    process.stdout.write(`\n${table(each.name, each.unit, each.betterIs, await row(all, each))}`);
  }
}

/** @param wanted regular expressions for the names of rows, `growth`, `replicas`, `behind nginx` (both of its parts) or `size`; all of it when empty. */
async function bench(folder: string, wanted: readonly string[]): Promise<void> {
  const isWanted = (name: string): boolean =>
    wanted.length === 0 || wanted.some((pattern) => new RegExp(pattern).test(name));
  process.stderr.write('bench: building …\n');
  await buildContenders();
  // What `npm ci` and `npm run build` install.
  execFileSync('npm', ['run', '--silent', 'build'], { cwd: PROJECT, stdio: 'inherit' });
  const load = buildLoad(folder);
  const terms = { load, rounds: ROUNDS, seconds: SECONDS, mostTunnels: MOST_TUNNELS };
  const rows = [...rowsOf(terms), ...contestRows(load, ROUNDS), ...scrapeRows(load, ROUNDS, SECONDS)];
  process.stdout.write(`${machineOf()}\n`);
  const command = [load.program, 'upstream', `127.0.0.1:${UPSTREAM_PORT}`, String(KEEPALIVE_EVERY_S)];
  const upstream = await start({ name: 'upstream', port: UPSTREAM_PORT, command });
  try {
    await measureRows(
      rows.filter(({ name }) => isWanted(name)),
      folder,
      load,
    );
    if (isWanted('replicas')) {
      const places = { load, upstreamPort: UPSTREAM_PORT };
      process.stdout.write(`\n${await replicasTable({ ...places, rounds: ROUNDS, seconds: SECONDS })}`);
    }
    const behindNginx = { load, upstreamPort: UPSTREAM_PORT, folder, rounds: Math.min(ROUNDS, 3), seconds: SECONDS };
    if (isWanted('streams behind nginx')) process.stdout.write(`\n${await streamsBehindProxyTables(behindNginx)}`);
    if (isWanted('an upgrade behind nginx')) {
      process.stdout.write(`\n${await upgradeBehindProxyTable({ ...behindNginx, rounds: 2 * ROUNDS })}`);
    }
    if (isWanted('size')) process.stdout.write(`\nInstalled for production: ${installedMegabytes(folder)} MB\n`);
    if (isWanted('growth')) {
      const [watchdog] = contenders({
        ...{ upstreamPort: UPSTREAM_PORT, noiseKeyFile: load.noiseKeyFile },
        ...{ folder: join(folder, 'growth'), tls: false },
      });
      process.stdout.write(await drawGrowth(load, watchdog as Contender));
    }
  } finally {
    await upstream.stop();
  }
}

const folder = mkdtempSync(join(tmpdir(), 'watchdog-bench-'));
try {
  await bench(folder, process.argv.slice(2));
} finally {
  rmSync(folder, { recursive: true });
}
