import { createInterface } from 'node:readline/promises';
import { setTimeout as wait } from 'node:timers/promises';

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

/** Where a command writes, and what it can expect of who reads. */
export interface Console {
  readonly stdout: { write(text: string): unknown };
  readonly stderr: { write(text: string): unknown };
  /** Whether colours may be used: a terminal, and NO_COLOR not set. */
  readonly colours: boolean;
  /** Columns of the terminal; undefined where it is none: nothing is cut then. */
  readonly width: number | undefined;
  /** Whether somebody could answer a question. */
  readonly isInteractive: boolean;
  ask(question: string): Promise<string>;
  readonly signal: AbortSignal;
  pause(ms: number): Promise<void>;
}

export type Colour = 'red' | 'yellow' | 'green' | 'faint';

const CODES: Readonly<Record<Colour, number>> = { red: 31, yellow: 33, green: 32, faint: 2 };

export function coloured(console: Pick<Console, 'colours'>, colour: Colour, text: string): string {
  return console.colours ? `\x1b[${CODES[colour]}m${text}\x1b[0m` : text;
}

/** One column: what stands above it, and whether its values are numbers. */
export interface Column {
  readonly title: string;
  readonly isNumber?: boolean;
}

const GAP = '  ';

/** Lines of equal columns; cut at `width`, where there is one. */
export function tableLines(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  width: number | undefined,
): readonly string[] {
  const all = [columns.map(({ title }) => title), ...rows];
  const widths = columns.map((_, index) => Math.max(...all.map((row) => row[index]?.length ?? 0)));
  return all.map((row) => {
    const cells = columns.map(({ isNumber }, index) => {
      const text = row[index] ?? '';
      return isNumber === true ? text.padStart(widths[index] ?? 0) : text.padEnd(widths[index] ?? 0);
    });
    const line = cells.join(GAP).trimEnd();
    return width !== undefined && line.length > width ? `${line.slice(0, width - 1)}…` : line;
  });
}

/** What a command ends with, for scripts: done, it went wrong, it was called wrong, nothing matched. */
export const EXIT = { done: 0, failed: 1, usage: 2, nothing: 3 } as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];
