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

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not reach a terminal
const CONTROL = /[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;

/** A text of others (a node names itself) without what a terminal would obey. */
export function plain(text: string): string {
  return text.replace(CONTROL, '\ufffd');
}
