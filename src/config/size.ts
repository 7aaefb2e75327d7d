const UNITS: Readonly<Record<string, number>> = { B: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 };

/** Bytes of `512B`, `16KiB`, `16MiB` or `1GiB`; undefined when it is none of them. */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+)(B|KiB|MiB|GiB)$/.exec(text);
  return match === null ? undefined : Number(match[1]) * (UNITS[match[2] ?? ''] ?? Number.NaN);
}

/** As an operator writes it, in the largest unit that takes it whole. */
export function formatSize(bytes: number): string {
  const [unit = 'B', size = 1] = Object.entries(UNITS).findLast(([, each]) => bytes % each === 0) ?? [];
  return `${bytes / size}${unit}`;
}
