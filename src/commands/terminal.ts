import { createInterface } from 'node:readline/promises';
import { setTimeout as wait } from 'node:timers/promises';
import type { Console } from './console.ts';

/** The process's own terminal, or what stands in its place. */
export function terminal(signal: AbortSignal): Console {
  const { stdin, stdout, stderr } = process;
  const noColor = process.env.NO_COLOR ?? '';
  return {
    ...{ stdout, stderr, signal },
    colours: stdout.isTTY === true && noColor === '' && process.env.TERM !== 'dumb',
    width: stdout.isTTY === true ? stdout.columns : undefined,
    isInteractive: stdin.isTTY === true && stderr.isTTY === true,
    async ask(question) {
      const reader = createInterface({ input: stdin, output: stderr });
      try {
        // Ctrl-C and Ctrl-D close it, and leave its question open for ever.
        const closed = new Promise<string>((resolve) => reader.once('close', () => resolve('')));
        return await Promise.race([reader.question(question, { signal }), closed]);
      } catch {
        return '';
      } finally {
        reader.close();
      }
    },
    pause: (ms) => wait(ms, undefined, { signal }).catch(() => undefined),
  };
}
