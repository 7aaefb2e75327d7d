import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { parseDuration } from '../../src/lib/units.ts';
import { processorMs } from '../bench/contenders.ts';
import { machineOf } from '../bench/machine.ts';
import { median } from '../bench/table.ts';
import { buildPrograms, programs } from '../e2e/support/build.ts';
import { configuration, derpMap, HEADSCALE_PORT } from '../e2e/support/headscale-configuration.ts';
import type { Tally } from './nodes-main.ts';

/**
 * A real Headscale is killed and started again under 300 simulated nodes, with and without the pacing of `--upstream-rate`, in
 * turn. `PACING_NODES`, `PACING_ROUNDS` and `PACING_DOWN=5s`, how long it is away, change what it does.
 */

const NODES = Number(process.env.PACING_NODES ?? 300);
const ROUNDS = Number(process.env.PACING_ROUNDS ?? 3);
const DOWN_MS = parseDuration(process.env.PACING_DOWN ?? '5s') ?? Number.NaN;
const RATES = ['off', '50'] as const;
const WATCHDOG_PORT = 19_130;
const ADMIN_PORT = 19_131;
/** Nobody needs so long, also beside other work. */
const ALL_BACK_WITHIN_MS = 120_000;
/** What Headscale tells the others about those who came has been told by then. */
const CALM_MS = 10_000;

interface Figures {
  readonly failed: number;
  readonly halfBackS: number;
  readonly allBackS: number;
  /** Of Headscale's processor, from its start until all were back, and it was calm. */
  readonly processorS: number;
  readonly why: Readonly<Record<string, number>>;
}

const children = new Set<ChildProcess>();

function start(command: string, args: readonly string[], ipc = false): ChildProcess {
  const child = spawn(command, args, {
    stdio: ['ignore', 'ignore', ipc ? 'inherit' : 'ignore', ...(ipc ? ['ipc' as const] : [])],
  });
  children.add(child);
  child.once('close', () => children.delete(child));
  return child;
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, 'close');
  child.kill('SIGKILL');
  await closed;
}

async function answers(url: string): Promise<void> {
  const deadline = performance.now() + 30_000;
  for (;;) {
    const answer = await fetch(url).catch(() => undefined);
    if (answer?.ok) return;
    if (performance.now() > deadline) throw new Error(`${url} does not answer`);
    await pause(50);
  }
}

class Headscale {
  readonly #config: string;
  #child: ChildProcess | undefined;

  constructor(folder: string) {
    this.#config = join(folder, 'config.json');
    writeFileSync(this.#config, configuration(folder, `http://127.0.0.1:${HEADSCALE_PORT}`, {}));
    writeFileSync(join(folder, 'derp.yaml'), derpMap('127.0.0.1'));
  }

  start(): void {
    this.#child = start(programs.headscale['0.29.2'], ['serve', '-c', this.#config]);
  }

  async isUp(): Promise<void> {
    await answers(`http://127.0.0.1:${HEADSCALE_PORT}/health`);
  }

  async kill(): Promise<void> {
    if (this.#child !== undefined) await stop(this.#child);
  }

  get processorS(): number {
    return processorMs(this.#child?.pid ?? 0) / 1000;
  }

  authKey(): string {
    const { id } = this.#command('users', 'create', 'someone') as { id: number | string };
    const made = this.#command('preauthkeys', 'create', '--user', String(id), '--reusable', '--expiration', '1h');
    return (made as { key: string }).key;
  }

  #command(...args: readonly string[]): unknown {
    return JSON.parse(
      execFileSync(programs.headscale['0.29.2'], ['-c', this.#config, '-o', 'json', ...args], { encoding: 'utf8' }),
    );
  }
}

async function ask(nodes: ChildProcess, what: 'look' | 'begin' | 'stop'): Promise<Tally> {
  const answer = once(nodes, 'message', { signal: AbortSignal.timeout(60_000) });
  nodes.send(what);
  return (await answer)[0] as Tally;
}

async function allBack(nodes: ChildProcess): Promise<void> {
  const deadline = performance.now() + ALL_BACK_WITHIN_MS;
  for (;;) {
    const { backMs, failed } = await ask(nodes, 'look');
    if (backMs.length === NODES) return;
    if (performance.now() > deadline)
      throw new Error(`only ${backMs.length} of ${NODES} came: ${JSON.stringify(failed)}`);
    await pause(200);
  }
}

async function round(rate: string): Promise<Figures> {
  const folder = mkdtempSync(join(tmpdir(), 'pacing-'));
  const headscale = new Headscale(folder);
  try {
    headscale.start();
    await headscale.isUp();
    const authKey = headscale.authKey();
    start(process.execPath, [
      ...[programs.watchdog, 'serve', '--upstream', `http://127.0.0.1:${HEADSCALE_PORT}`, '--upstream-rate', rate],
      ...['--noise-key', join(folder, 'noise_private.key'), '--listen', `127.0.0.1:${WATCHDOG_PORT}`],
      ...['--admin', `127.0.0.1:${ADMIN_PORT}`, '--log-level', 'silent', '--trusted-proxies', 'none'],
    ]);
    await answers(`http://127.0.0.1:${ADMIN_PORT}/readyz`);
    const nodesMain = join(import.meta.dirname, 'nodes-main.ts');
    const url = `http://127.0.0.1:${WATCHDOG_PORT}`;
    const nodes = start(process.execPath, ['--import', 'tsx', nodesMain, url, String(NODES), authKey], true);
    await allBack(nodes);
    await pause(CALM_MS);

    await headscale.kill();
    await pause(DOWN_MS);
    headscale.start();
    // What failed while nobody was there is no fault of a pace.
    await ask(nodes, 'begin');
    await headscale.isUp();
    await allBack(nodes);
    const { backMs } = await ask(nodes, 'look');
    await pause(CALM_MS);
    const { failed: why } = await ask(nodes, 'stop');
    const failed = Object.values(why).reduce((sum, times) => sum + times, 0);
    return {
      failed,
      halfBackS: median(backMs) / 1000,
      allBackS: Math.max(...backMs) / 1000,
      processorS: headscale.processorS,
      why,
    };
  } finally {
    for (const child of children) await stop(child);
    rmSync(folder, { recursive: true, force: true });
  }
}

async function main(): Promise<void> {
  await buildPrograms();
  const figures = new Map<string, Figures[]>(RATES.map((rate) => [rate, []]));
  for (let i = 1; i <= ROUNDS; i++) {
    for (const rate of RATES) {
      process.stderr.write(`pacing: round ${i} of ${ROUNDS}, --upstream-rate ${rate}\n`);
      const found = await round(rate);
      process.stderr.write(`pacing: ${JSON.stringify(found)}\n`);
      figures.get(rate)?.push(found);
    }
  }
  const rows = [...figures].map(([rate, all]) => {
    const of = (pick: (figures: Figures) => number): string =>
      `${median(all.map(pick)).toFixed(1)} (${all.map((each) => pick(each).toFixed(1)).join(', ')})`;
    const cells = [of(({ failed }) => failed), of(({ halfBackS }) => halfBackS), of(({ allBackS }) => allBackS)];
    return `| ${[rate, ...cells, of(({ processorS }) => processorS)].join(' | ')} |`;
  });
  process.stdout.write(
    `${[
      machineOf(),
      '',
      `Headscale 0.29.2 killed under ${NODES} nodes, started again after ${DOWN_MS / 1000} s; medians (and each round)`,
      '',
      '| --upstream-rate | failed tries since it was started | s until half are back | s until all are | s of its processor |',
      '| --- | --- | --- | --- | --- |',
      ...rows,
    ].join('\n')}\n`,
  );
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    for (const child of children) child.kill('SIGKILL');
    process.exitCode = 1;
  });
}
await main();
