import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { promisify } from 'node:util';
import { PROJECT } from './build.ts';
import { within } from './wait.ts';

const KEPT_LINES = 2_000;
const LONGEST_LINE_SHOWN = 240;
const execute = promisify(execFile);

/** Runs a short command to its end. */
export async function run(command: string, ...args: readonly string[]): Promise<string> {
  const { stdout } = await execute(command, args, { cwd: PROJECT, timeout: 30_000, maxBuffer: 16 << 20 });
  return stdout;
}

/** A long-running process of a test: what it prints is kept, and it can be ended. */
export class Child {
  readonly name: string;
  /** Monotonic milliseconds, `performance.now()`, just before the process was made. */
  readonly startedAt: number;
  readonly stdout: string[] = [];
  readonly output: string[] = [];
  readonly #process: ChildProcess;
  readonly #ended: Promise<unknown>;

  constructor(name: string, command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}) {
    this.name = name;
    this.startedAt = performance.now();
    this.#process = spawn(command, args, {
      cwd: PROJECT,
      env: { ...process.env, NO_COLOR: '1', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#ended = once(this.#process, 'close').catch(() => {});
    this.#process.on('error', (error) => this.output.push(`could not be started: ${error.message}`));
    keepLines(this.#process.stdout, this.stdout, this.output);
    keepLines(this.#process.stderr, this.output);
  }

  get pid(): number {
    if (this.#process.pid === undefined) throw new Error(`${this.name} was not started: ${this.output.join('\n')}`);
    return this.#process.pid;
  }

  /** A child that a signal ended has no exit code. */
  get alive(): boolean {
    return this.#process.pid !== undefined && this.#process.exitCode === null && this.#process.signalCode === null;
  }

  /** Waits for its end. @returns its exit code, null after a signal. */
  async ended(): Promise<number | null> {
    await this.#ended;
    return this.#process.exitCode;
  }

  signal(signal: NodeJS.Signals): void {
    if (this.alive) process.kill(this.pid, signal);
  }

  /** Sends `signal` and waits; after `graceMs` it is killed. */
  async end(signal: NodeJS.Signals = 'SIGTERM', graceMs = 5_000): Promise<void> {
    if (!this.alive) return;
    this.signal(signal);
    if (await within(graceMs, this.#ended)) return;
    this.signal('SIGCONT');
    this.signal('SIGKILL');
    await this.#ended;
  }

  /** How it stands, and what it said last. */
  tail(lines = 30): string {
    const state = this.alive ? 'running' : `ended with ${this.#process.exitCode ?? this.#process.signalCode}`;
    const said = this.output.slice(-lines).map((line) => line.slice(0, LONGEST_LINE_SHOWN));
    return [`--- ${this.name}, ${state} ---`, ...said].join('\n');
  }
}

function keepLines(stream: NodeJS.ReadableStream | null, ...into: readonly string[][]): void {
  let rest = '';
  stream?.setEncoding('utf8').on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    for (const kept of into) {
      kept.push(...lines);
      if (kept.length > KEPT_LINES) kept.splice(0, kept.length - KEPT_LINES);
    }
  });
}

/** The lines that are JSON objects. */
export function jsonLines(lines: readonly string[]): Record<string, unknown>[] {
  return lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as Record<string, unknown>);
}
