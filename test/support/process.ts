import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';
import { join } from 'node:path';
import type { Harness } from './harness.ts';

/** The built program: see test/support/build.ts. */
export const CLI = join(import.meta.dirname, '..', '..', 'dist', 'cli.js');

export interface Run {
  readonly child: ChildProcess;
  stdout: string;
  stderr: string;
  readonly ended: Promise<{ readonly code: number | null; readonly signal: string | null }>;
}

/** The CLI as a process of its own. */
export function run(harness: Harness, ...args: string[]): Run {
  return runWith(harness, {}, ...args);
}

export interface Surroundings {
  readonly env?: NodeJS.ProcessEnv;
  /** The folder in which it runs. */
  readonly cwd?: string;
  /** Where its standard output goes instead of to the test. */
  readonly stdout?: number;
  /** What is run instead of the built program. */
  readonly program?: string;
}

export function runWith(harness: Harness, { env, cwd, stdout, program = CLI }: Surroundings, ...args: string[]): Run {
  const child = spawn(process.execPath, [program, ...args], {
    stdio: ['ignore', stdout ?? 'pipe', 'pipe'],
    env: { ...process.env, ...env },
    ...(cwd !== undefined && { cwd }),
  });
  const ended = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
    child.on('close', (code, signal) => resolve({ code, signal }));
  });
  const result: Run = { child, stdout: '', stderr: '', ended };
  child.stdout?.on('data', (chunk) => {
    result.stdout += chunk;
  });
  child.stderr?.on('data', (chunk) => {
    result.stderr += chunk;
  });
  harness.defer(() => {
    child.kill('SIGKILL');
    return ended;
  });
  return result;
}

export async function failure(
  harness: Harness,
  ...args: string[]
): Promise<{ readonly code: number | null; readonly lines: readonly string[] }> {
  const started = run(harness, ...args);
  const { code } = await started.ended;
  return { code, lines: started.stderr.trimEnd().split('\n') };
}

/** Below the ports that systems give to outgoing connections, any of which could take a port before it is listened on again. */
const PORTS = { first: 20_000, last: 31_999 };

/** A port on which nobody listens, also while a test's program is away for a while. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(PORTS.first, PORTS.last + 1);
    if (await isFree(port)) return port;
  }
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  return new Promise((resolve) => {
    server.on('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}
