import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startHandshake } from '../../src/demo/noise-handshake.ts';
import { formatNoiseKeyFile, generateNoiseKey } from '../../src/demo/noise-key.ts';
import { type Contender, contenders, PROJECT, type Running, start } from './contenders.ts';
import { table } from './table.ts';

const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 5);
const SECONDS = process.env.BENCH_SECONDS ?? '2';
const MOST_TUNNELS = 8000;
const HANDSHAKES = 16_000;
const UPSTREAM_PORT = 19_099;
/** A collector has had its turn by then. */
const SETTLE_MS = 3000;

const folder = mkdtempSync(join(tmpdir(), 'watchdog-bench-'));
const load = join(folder, 'load');
const handshakeFile = join(folder, 'handshakes');
const noiseKeyFile = join(folder, 'noise_private.key');

/** One figure of one contender. */
type Measure = (contender: Contender, running: Running) => Promise<number>;

interface Row {
  readonly name: string;
  readonly unit: string;
  readonly betterIs: 'less' | 'more';
  readonly measure: Measure;
  /** Whether without a proxy it means something. */
  readonly direct: boolean;
  readonly rounds: number;
}

const measured = async (port: number, ...args: readonly string[]): Promise<Record<string, number>> => {
  const [measure = '', ...more] = args;
  const child = spawn(load, [measure, `127.0.0.1:${port}`, handshakeFile, ...more], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => (text += chunk));
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(`load ${args.join(' ')}: ended with ${code}`);
  return JSON.parse(text) as Record<string, number>;
};

const figure =
  (name: string, ...args: readonly string[]): Measure =>
  async ({ port }) => {
    const found = await measured(port, ...args);
    if ((found.failed ?? 0) > 0) throw new Error(`${found.failed} upgrades failed`);
    return found[name] ?? Number.NaN;
  };

/** Bytes of resident memory for each of so many idle tunnels. */
const memory =
  (tunnels: number): Measure =>
  async ({ port }, running) => {
    const before = running.residentBytes();
    const child = spawn(load, ['idle', `127.0.0.1:${port}`, handshakeFile, String(tunnels)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    await once(child.stdout, 'data');
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    const after = running.residentBytes();
    child.stdin.end();
    await once(child, 'close');
    return (after - before) / tunnels / 1000;
  };

const ROWS: readonly Row[] = [
  {
    name: 'round trip p50',
    unit: 'µs',
    betterIs: 'less',
    measure: figure('p50us', 'latency', SECONDS),
    direct: true,
    rounds: ROUNDS,
  },
  {
    name: 'round trip p99',
    unit: 'µs',
    betterIs: 'less',
    measure: figure('p99us', 'latency', SECONDS),
    direct: true,
    rounds: ROUNDS,
  },
  {
    name: 'echoed, 4 tunnels',
    unit: 'MB/s',
    betterIs: 'more',
    measure: figure('mbPerS', 'throughput', SECONDS, '4'),
    direct: true,
    rounds: ROUNDS,
  },
  {
    name: 'echoed, 64 tunnels',
    unit: 'MB/s',
    betterIs: 'more',
    measure: figure('mbPerS', 'throughput', SECONDS, '64'),
    direct: true,
    rounds: ROUNDS,
  },
  {
    name: 'upgrades',
    unit: '/s',
    betterIs: 'more',
    measure: figure('perS', 'upgrades', SECONDS, '16'),
    direct: true,
    rounds: ROUNDS,
  },
  ...[1000, 4000, MOST_TUNNELS].map((tunnels) => ({
    ...{ name: `memory of an idle tunnel, ${tunnels}`, unit: 'kB', betterIs: 'less' as const },
    ...{ measure: memory(tunnels), direct: false, rounds: Math.min(ROUNDS, 3) },
  })),
];

function prepare(): void {
  process.stderr.write('bench: building …\n');
  execFileSync('go', ['build', '-o', load, '.'], { cwd: join(import.meta.dirname, 'load'), stdio: 'inherit' });
  execFileSync('npm', ['run', '--silent', 'build'], { cwd: PROJECT, stdio: 'inherit' });
  const server = generateNoiseKey();
  writeFileSync(noiseKeyFile, formatNoiseKeyFile(server), { mode: 0o600 });
  const lines = Array.from({ length: HANDSHAKES }, () =>
    startHandshake(generateNoiseKey(), server.publicRaw, 142).initiation.toString('base64'),
  );
  writeFileSync(handshakeFile, lines.join('\n'));
}

/** The figures of one row by contender: in turn within each round, so that a noisy moment hits all alike. */
async function row(
  all: readonly Contender[],
  { name, measure, direct, rounds }: Row,
): Promise<ReadonlyMap<string, number[]>> {
  const figures = new Map<string, number[]>();
  const note = (who: string, value: number): void => void figures.set(who, [...(figures.get(who) ?? []), value]);
  for (let round = 1; round <= rounds; round++) {
    process.stderr.write(`bench: ${name}, round ${round} of ${rounds}\n`);
    if (direct)
      note(
        'direct',
        await measure(
          { name: 'direct', port: UPSTREAM_PORT, command: [] },
          { residentBytes: () => 0, stop: async () => {} },
        ),
      );
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

prepare();
const upstream = await start({
  name: 'upstream',
  port: UPSTREAM_PORT,
  command: [load, 'upstream', `127.0.0.1:${UPSTREAM_PORT}`],
});
try {
  const all = contenders({ folder: join(folder, 'proxies'), upstreamPort: UPSTREAM_PORT, noiseKeyFile });
  const wanted = process.argv[2];
  const rows = ROWS.filter(({ name }) => wanted === undefined || name.includes(wanted));
  for (const each of rows) {
    const figures = await row(all, each);
    process.stdout.write(`\n${table(each.name, each.unit, each.betterIs, figures)}`);
  }
} finally {
  await upstream.stop();
  rmSync(folder, { recursive: true });
}
