/** Figures for whoever reads the output: each table under its title, durations in seconds. */
export function printFigures(title: string, rows: readonly (readonly [what: string, figures: string])[]): void {
  const width = Math.max(...rows.map(([what]) => what.length));
  const lines = rows.map(([what, figures]) => `    ${what.padEnd(width)}  ${figures}`);
  process.stdout.write(`\n  ${title}\n${lines.join('\n')}\n`);
}

export function seconds(...ms: readonly number[]): string {
  return `${ms.map((each) => (each / 1000).toFixed(2)).join('  ')} s`;
}
