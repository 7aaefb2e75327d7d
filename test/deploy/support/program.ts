import { spawn } from 'node:child_process';

/** A program that runs until a test ends it. */
export interface Program {
  /** All that it has written. */
  readonly output: string;
  /** Throws, with what it has written, when it has ended. */
  expectAlive(): void;
  /** Ends it, and resolves when it has ended. */
  end(): Promise<void>;
}

export function start(command: string, ...args: readonly string[]): Program {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  let hasEnded = false;
  const ended = new Promise<void>((resolve) => {
    const over = (why: string) => {
      output += why;
      hasEnded = true;
      resolve();
    };
    child.on('error', (error) => over(`${error.message}\n`));
    child.on('close', (code, signal) => over(`ended: ${signal ?? code}\n`));
  });
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk;
    });
  }
  return {
    get output() {
      return output;
    },
    expectAlive() {
      if (hasEnded) throw new Error(`${command} has ended:\n${output}`);
    },
    async end() {
      const late = setTimeout(() => child.kill('SIGKILL'), 10_000);
      child.kill('SIGTERM');
      await ended;
      clearTimeout(late);
    },
  };
}
