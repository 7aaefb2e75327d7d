import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { parseDuration } from '../../src/lib/units.ts';
import { plot } from '../bench/plot.ts';
import { type Island, makeIsland } from './island.ts';
import { complaints, type NodeFigures, type Point, panelsOf, tableOf } from './report.ts';
import type { Sample } from './watchdog-main.ts';

/**
 * Half an hour of nodes that leave cleanly, freeze, vanish and come back: at its end the watchdog must use no more than
 * it did early on, and nothing once all have gone. `SOAK=2m` makes it shorter, `SOAK_NODES` smaller; only a long one draws its plot.
 */

const PLOTTED_FROM_MS = 20 * 60_000;
const DURATION_MS = durationOf(process.env.SOAK ?? '30m');
const NODES = Number(process.env.SOAK_NODES ?? 2000);
const SILENT_AFTER = '5s';
const SAMPLES = 60;
/** All nodes have come by then, also beside other work. */
const ARRIVAL_MS = 180_000;
/** The last to leave is back by then, and what it left behind severed. */
const CALM_MS = 30_000;
const PLOT = 'docs/soak.svg';

function durationOf(text: string): number {
  const ms = parseDuration(text);
  if (ms === undefined) throw new Error(`SOAK=${text}: expected a duration such as 30m`);
  return ms;
}

const children: ChildProcess[] = [];

/** A TypeScript program of this folder, as a process that can be asked. */
function start(prefix: readonly string[], file: string, ...args: readonly string[]): ChildProcess {
  const [command = '', ...rest] = [...prefix, process.execPath, '--expose-gc', '--import', 'tsx', file, ...args];
  const child = spawn(command, rest, { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] });
  children.push(child);
  child.once('exit', (code) => {
    if (code) process.stderr.write(`soak: ${file} ended with ${code}\n`);
  });
  return child;
}

async function ask<T>(child: ChildProcess, what: string): Promise<T> {
  const answer = once(child, 'message', { signal: AbortSignal.timeout(60_000) });
  child.send(what);
  return (await answer)[0] as T;
}

async function firstLine(child: ChildProcess): Promise<string> {
  const [chunk] = await once(child.stdout as NodeJS.ReadableStream, 'data');
  // The rest is nobody's.
  child.stdout?.resume();
  return String(chunk);
}

async function soak(island: Island, folder: string): Promise<readonly string[]> {
  const key = join(folder, 'noise_private.key');
  const port = 20_000 + (process.pid % 10_000);
  const controlArgs = ['--listen', `127.0.0.1:${port}`, '--noise-key', key, '--second-stream', 'refuse'];
  await firstLine(start([], 'src/demo/control-server-main.ts', ...controlArgs));
  const listen = `${island.serverAddress}:0`;
  const watchdog = start([], 'test/soak/watchdog-main.ts', `http://127.0.0.1:${port}`, listen, key, SILENT_AFTER);
  const [{ port: watchdogPort }] = (await once(watchdog, 'message')) as [{ port: number }];
  await pause(2000);
  const before = await ask<Sample>(watchdog, 'sample');
  const nodes = start(
    ...([island.prefix, 'test/soak/nodes-main.ts', `http://${island.serverAddress}:${watchdogPort}`] as const),
    ...[String(NODES), island.nodeAddresses.join(','), island.canVanish ? 'canVanish' : 'cannotVanish'],
  );
  await arrive(nodes);
  await ask(nodes, 'churn');
  const points = await sampled(watchdog);
  await ask(nodes, 'calm');
  await pause(CALM_MS);
  const figures = await ask<NodeFigures>(nodes, 'figures');
  await ask(nodes, 'stop');
  await pause(CALM_MS);
  const after = await ask<Sample>(watchdog, 'sample');
  process.stdout.write(`\n${tableOf(before, points, after, figures)}\n`);
  draw(points);
  const missing = NODES - figures.accepted;
  return [...complaints(before, points, after, figures), ...(missing > 0 ? [`${missing} nodes are not back`] : [])];
}

async function arrive(nodes: ChildProcess): Promise<void> {
  await ask(nodes, 'begin');
  const deadline = performance.now() + ARRIVAL_MS;
  for (;;) {
    const { accepted, lost } = await ask<NodeFigures>(nodes, 'figures');
    process.stderr.write(`soak: ${accepted} of ${NODES} nodes have come\n`);
    if (accepted === NODES) return;
    if (performance.now() > deadline) throw new Error(`only ${accepted} nodes have come; lost: ${lost[0]}`);
    await pause(5000);
  }
}

async function sampled(watchdog: ChildProcess): Promise<readonly Point[]> {
  const startedAt = performance.now();
  const points: Point[] = [];
  for (let i = 1; i <= SAMPLES; i++) {
    await pause(startedAt + (i * DURATION_MS) / SAMPLES - performance.now());
    const minutes = (performance.now() - startedAt) / 60_000;
    const point = { minutes, ...(await ask<Sample>(watchdog, 'sample')) };
    points.push(point);
    const { residentMb, heapMb, descriptors, streams } = point;
    process.stderr.write(
      `soak: ${minutes.toFixed(1)} min, ${residentMb.toFixed(1)} MB, heap ${heapMb.toFixed(1)} MB, ${descriptors} descriptors, ${streams} streams\n`,
    );
  }
  return points;
}

function draw(points: readonly Point[]): void {
  if (DURATION_MS < PLOTTED_FROM_MS) return;
  const title = `${NODES} nodes that leave, freeze, vanish and come back`;
  const caption = `Node ${process.versions.node}; watchdog, control server and nodes share ${cpus().length} × ${cpus()[0]?.model}`;
  writeFileSync(PLOT, plot(title, caption, panelsOf(points), 'minutes'));
  process.stdout.write(`${PLOT} drawn\n`);
}

async function main(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'soak-'));
  const island = makeIsland();
  if (!island.canVanish) process.stderr.write('soak: not root, so nobody vanishes: no network of its own\n');
  try {
    const found = await soak(island, folder);
    for (const each of found) process.stdout.write(`NOT FLAT: ${each}\n`);
    if (found.length === 0) process.stdout.write('flat\n');
    else process.exitCode = 1;
  } finally {
    for (const child of children) if (child.exitCode === null) child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
    island.remove();
  }
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    for (const child of children) child.kill('SIGKILL');
  });
}
await main();
