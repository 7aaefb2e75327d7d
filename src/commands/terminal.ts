import { createInterface } from 'node:readline/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { CommanderError } from 'commander';
import { codeOf, ERRORS, errorLine, reasonOf, StartError, UsageError } from '../lib/errors.ts';

/** The console of this process. */
export function terminal(signal: AbortSignal): Console {
  const { stdin, stdout, stderr } = process;
  return {
    ...{ stdout, stderr, signal },
    colours: usesColours(process.env, stdout.isTTY === true),
    // A serial line has a terminal without a width, 0.
    width: (stdout.isTTY && stdout.columns) || undefined,
    isInteractive: stdin.isTTY === true && stderr.isTTY === true,
    async ask(question) {
      const reader = createInterface({ input: stdin, output: stderr });
      try {
        // After Ctrl-C and Ctrl-D the question would never be answered.
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

/** Makes a command fail whose standard output cannot be written, for example because the disk is full. */
export function failUnwritten(): void {
  process.stdout.once('error', (error) => {
    // Nobody reads any more, as after `--follow | head -1`: this is no error.
    if (codeOf(error) === 'EPIPE') return;
    process.stderr.write(errorLine('HSW_OUTPUT_FAILED', `cannot write to standard output: ${reasonOf(error)}`));
    // Its own end comes later.
    process.once('exit', () => {
      process.exitCode = ERRORS.HSW_OUTPUT_FAILED.exit;
    });
  });
}

/** Colours are for terminals. FORCE_COLOR wins over NO_COLOR, as it does in Node itself. */
export function usesColours(env: NodeJS.ProcessEnv, isTerminal: boolean): boolean {
  const { FORCE_COLOR: force = '', NO_COLOR: never = '', TERM } = env;
  if (force !== '') return !/^(0|false)$/.test(force);
  return isTerminal && never === '' && TERM !== 'dumb';
}

/** Where a command writes, and what it knows about the reader. */
export interface Console {
  readonly stdout: { write(text: string): unknown };
  readonly stderr: { write(text: string): unknown };
  /** Whether to use colours, see `usesColours`. */
  readonly colours: boolean;
  /** The number of columns of the terminal; undefined without a terminal. Then no line is cut. */
  readonly width: number | undefined;
  /** Whether somebody can answer a question. */
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

/** A column of a table. Numbers are right-aligned. */
export interface Column {
  readonly title: string;
  readonly isNumber?: boolean;
  /** Holds names, which may be shortened. Addresses are never shortened. */
  readonly isName?: boolean;
  /** Narrow terminals leave columns out, the lowest number first; undefined: never. */
  readonly leaveOut?: number;
}

export interface Table {
  readonly head: string;
  readonly rows: readonly string[];
  /** What a narrow terminal does not show. */
  readonly note: string | undefined;
}

const GAP = '  ';
const SHORT_NAME = 24;
const SHORTEST_NAME = 12;

/**
 * Lays out a table. If it does not fit, names become shorter, and then columns are left out. What is still too long goes on in
 * the terminal's next line, so that no address is cut.
 *
 * @param width of the terminal; undefined for a pipe, which gets everything.
 * @param kept the title of a column that is not left out, because the table is sorted by it.
 */
export function tableOf(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  width: number | undefined,
  kept?: string,
): Table {
  const isKept = columns.map(() => true);
  let nameWidth = Number.POSITIVE_INFINITY;
  const shortened = (text: string, { isName }: Column): string =>
    isName === true && text.length > nameWidth ? `${text.slice(0, nameWidth - 1)}…` : text;
  const lines = (): string[] => {
    const shown = columns.flatMap((column, i) => (isKept[i] === true ? [{ column, i }] : []));
    const all = [columns.map(({ title }) => title), ...rows];
    const cells = all.map((row) => shown.map(({ column, i }) => shortened(row[i] ?? '', column)));
    const widths = shown.map((_, i) => Math.max(...cells.map((row) => row[i]?.length ?? 0)));
    return cells.map((row) =>
      row
        .map((text, i) =>
          shown[i]?.column.isNumber === true ? text.padStart(widths[i] ?? 0) : text.padEnd(widths[i] ?? 0),
        )
        .join(GAP)
        .trimEnd(),
    );
  };
  const fits = (all: readonly string[]): boolean => width === undefined || all.every(({ length }) => length <= width);
  let result = lines();
  const tryTo = (change: () => void): void => {
    if (fits(result)) return;
    change();
    result = lines();
  };
  const leavable = columns
    .map((column, i) => ({ ...column, i }))
    .filter(({ title, leaveOut }) => leaveOut !== undefined && title !== kept);
  leavable.sort((a, b) => (a.leaveOut ?? 0) - (b.leaveOut ?? 0));
  tryTo(() => (nameWidth = SHORT_NAME));
  for (const { i } of leavable) tryTo(() => (isKept[i] = false));
  tryTo(() => (nameWidth = SHORTEST_NAME));
  const missing = columns.filter((_, i) => isKept[i] === false).map(({ title }) => title);
  const note =
    missing.length === 0
      ? undefined
      : `This terminal is too narrow for ${missing.join(', ')}. A pipe shows all: add | cat`;
  return { head: result[0] ?? '', rows: result.slice(1), note };
}

/** A line of CSV (RFC 4180). Spreadsheets take text that begins like a formula for one, so it gets an apostrophe in front. */
export function csvLine(values: readonly (string | number)[]): string {
  const cells = values.map((value) => {
    if (typeof value === 'number') return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  });
  return `${cells.join(',')}\r\n`;
}

/** An ISO 8601 time as the reader's clock shows it, with its distance from UTC: `2026-11-27 08:15:00+01:00`. */
export function localTime(time: string): string {
  const date = new Date(time);
  const two = (part: number): string => String(part).padStart(2, '0');
  const aheadMin = -date.getTimezoneOffset();
  const ahead = Math.abs(aheadMin);
  const zone = aheadMin === 0 ? 'Z' : `${aheadMin < 0 ? '-' : '+'}${two(Math.floor(ahead / 60))}:${two(ahead % 60)}`;
  return `${localDay(time)} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}${zone}`;
}

/** The day of an ISO 8601 time where the reader is: `2026-11-27`. */
export function localDay(time: string): string {
  const date = new Date(time);
  const two = (part: number): string => String(part).padStart(2, '0');
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

const CLEAR = '\x1b[H\x1b[2J\x1b[3J';

/** Prints lines. @param isAgain whether they replace those before. Without a terminal, they follow each other. */
export function showScreen(console: Console, lines: readonly string[], isAgain: boolean): void {
  const text = `${lines.join('\n')}\n`;
  console.stdout.write(isAgain && console.width !== undefined ? `${CLEAR}${text}` : text);
}

/** The exit codes of a command: done, failed, used wrongly, nothing matched. */
export const EXIT = { done: 0, failed: 1, usage: 2, nothing: 3 } as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** Prints what ended a command. @returns the exit code. */
export function reportError(error: unknown): number {
  // Commander has printed its error already.
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : ERRORS.HSW_USAGE_INVALID.exit;
  const { stderr } = process;
  if (error instanceof UsageError) {
    for (const problem of error.problems) stderr.write(errorLine(error.code, problem));
    return ERRORS[error.code].exit;
  }
  if (error instanceof StartError) {
    stderr.write(errorLine(error.code, error.message));
    return ERRORS[error.code].exit;
  }
  stderr.write(errorLine('HSW_INTERNAL', String(error instanceof Error ? error.stack : error)));
  return ERRORS.HSW_INTERNAL.exit;
}
