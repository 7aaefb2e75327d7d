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
