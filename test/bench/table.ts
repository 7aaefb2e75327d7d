/** The one in the middle, or the mean of the two there. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return ((sorted[Math.floor(middle - 0.5)] ?? Number.NaN) + (sorted[Math.ceil(middle - 0.5)] ?? Number.NaN)) / 2;
}

/** How far the furthest lies from the median, as a share of it. */
export function spread(values: readonly number[]): number {
  const centre = median(values);
  return Math.max(...values.map((value) => Math.abs(value - centre))) / centre;
}

/** One measure as a Markdown table: medians, spread, and that of `own` as a ratio to each. */
export function table(
  name: string,
  unit: string,
  betterIs: 'less' | 'more',
  figures: ReadonlyMap<string, readonly number[]>,
  own = 'watchdog',
): string {
  const ours = median(figures.get(own) ?? []);
  const rows = [...figures].map(([who, values]) => {
    const value = median(values);
    const ratio = who === own ? '' : (ours / value).toFixed(2);
    return `| ${who} | ${short(value)} | ± ${(100 * spread(values)).toFixed(0)} % | ${ratio} |`;
  });
  return [
    `| ${name}, ${betterIs} is better | ${unit} | spread | ${own} ÷ this |`,
    '| --- | --- | --- | --- |',
    ...rows,
    '',
  ].join('\n');
}

function short(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toFixed(1);
}
