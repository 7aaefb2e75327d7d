import type { Panel } from '../bench/plot.ts';
import type { Sample } from './watchdog-main.ts';

/** A sample while nodes come and go, and when it was taken. */
export interface Point extends Sample {
  readonly minutes: number;
}

export interface NodeFigures {
  readonly departures: number;
  readonly refusals: number;
  readonly lost: readonly string[];
  readonly accepted: number;
  readonly comebacks: readonly {
    readonly after: string;
    readonly count: number;
    readonly p50Ms: number;
    readonly p99Ms: number;
    readonly worstMs: number;
  }[];
}

type Quantity = 'residentMb' | 'heapMb' | 'externalMb' | 'descriptors' | 'handles' | 'streams' | 'contests';

/** What must be flat, and how much more its last quarter may have than its second: noise of a garbage collector, of chance. */
const FLAT: readonly { readonly of: Quantity; readonly unit: string; readonly title: string; readonly most: number }[] =
  [
    { of: 'residentMb', unit: 'MB', title: 'Resident memory', most: 1.1 },
    { of: 'heapMb', unit: 'MB', title: 'Heap after collection', most: 1.1 },
    { of: 'descriptors', unit: '', title: 'Descriptors', most: 1.05 },
    { of: 'handles', unit: '', title: 'Handles', most: 1.05 },
    { of: 'streams', unit: '', title: 'Streams in the registry', most: 1.05 },
  ];

function medianOf(points: readonly Point[], of: Quantity): number {
  const sorted = points.map((point) => point[of]).toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

function quarter(points: readonly Point[], which: 2 | 4): readonly Point[] {
  return points.slice(((which - 1) * points.length) / 4, (which * points.length) / 4);
}

/** One line each of what is not as it must be; none: the soak is passed. */
export function complaints(before: Sample, points: readonly Point[], after: Sample, nodes: NodeFigures): string[] {
  const found: string[] = [];
  for (const { of, title, most } of FLAT) {
    const [early, late] = [medianOf(quarter(points, 2), of), medianOf(quarter(points, 4), of)];
    if (!(late <= early * most)) found.push(`${title} grew from ${early.toFixed(1)} to ${late.toFixed(1)}`);
  }
  if (after.streams !== 0) found.push(`${after.streams} streams are left when all nodes have gone`);
  if (after.contests !== 0) found.push(`${after.contests} contests are left when all nodes have gone`);
  // The scrape's own connection may be there or not.
  if (after.descriptors > before.descriptors + 4)
    found.push(`${after.descriptors - before.descriptors} descriptors left`);
  if (after.handles > before.handles + 4) found.push(`${after.handles - before.handles} handles left`);
  if (nodes.lost.length > 0) found.push(`${nodes.lost.length} streams were lost, first: ${nodes.lost[0]}`);
  found.push(...after.errors.slice(0, 5));
  return found;
}

export function tableOf(before: Sample, points: readonly Point[], after: Sample, nodes: NodeFigures): string {
  const row = (title: string, ...values: readonly (string | number)[]): string =>
    `| ${[title, ...values].join(' | ')} |`;
  const round = (value: number): string => String(Number(value.toFixed(1)));
  const lines = [
    '| | before the first node | second quarter, median | last quarter, median | all nodes gone |',
    '| --- | --- | --- | --- | --- |',
    ...[...FLAT, { of: 'externalMb', unit: 'MB', title: 'Outside of the heap' } as const].map(({ of, unit, title }) =>
      row(
        unit === '' ? title : `${title}, ${unit}`,
        ...[before[of], medianOf(quarter(points, 2), of), medianOf(quarter(points, 4), of), after[of]].map(round),
      ),
    ),
    '',
    '| the map stream is there | times | p50, ms | p99, ms | worst, ms |',
    '| --- | --- | --- | --- | --- |',
    ...nodes.comebacks.map(({ after: how, count, p50Ms, p99Ms, worstMs }) =>
      row(how === 'first' ? 'for the first time' : `again, ${how}`, count, p50Ms, p99Ms, worstMs),
    ),
    '',
    `${nodes.departures} departures; ${nodes.refusals} map streams refused; ${nodes.lost.length} lost that should not be`,
    ...Object.entries(after.events).map(([what, times]) => `  ${what}: ${times}`),
  ];
  return lines.join('\n');
}

export function panelsOf(points: readonly Point[]): readonly Panel[] {
  return FLAT.filter(({ of }) => of !== 'streams').map(({ of, unit, title }) => ({
    ...{ title, unit },
    points: points.map((point) => [point.minutes, point[of]] as const),
  }));
}
