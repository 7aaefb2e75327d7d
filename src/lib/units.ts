export const UNITS_MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 } as const;

/** Reads `1500ms`, `30s`, `2m` or `1h`. @returns whole milliseconds; undefined if it is not a duration. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text);
  if (match === null) return undefined;
  return Math.round(Number(match[1]) * UNITS_MS[match[2] as keyof typeof UNITS_MS]);
}

/** Writes milliseconds as in a configuration, in the largest unit that is exact: `1500ms`, `90s`, `2m`. */
export function formatDuration(ms: number): string {
  if (ms === 0) return '0s';
  for (const unit of ['h', 'm', 's'] as const) {
    if (ms % UNITS_MS[unit] === 0) return `${ms / UNITS_MS[unit]}${unit}`;
  }
  return `${ms}ms`;
}

export const UNITS_OF_SIZE: Readonly<Record<string, number>> = { B: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 };

/** Reads `512B`, `16KiB`, `16MiB` or `1GiB`. @returns bytes; undefined if it is not a size. */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+)(B|KiB|MiB|GiB)$/.exec(text);
  return match === null ? undefined : Number(match[1]) * (UNITS_OF_SIZE[match[2] ?? ''] ?? Number.NaN);
}

/** Writes bytes as in a configuration, in the largest unit that is exact: `512B`, `16KiB`. */
export function formatSize(bytes: number): string {
  const [unit = 'B', size = 1] = Object.entries(UNITS_OF_SIZE).findLast(([, each]) => bytes % each === 0) ?? [];
  return `${bytes / size}${unit}`;
}

const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
export const DAY_MS = 24 * HOUR_MS;

/** Writes a duration for people to read: `450 ms`, `1.3 s`, `2 min 5 s`, `3 h 20 min`, `2 d 4 h`. */
export function span(ms: number): string {
  if (ms < SECOND_MS) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 59_950) return `${Number((ms / SECOND_MS).toFixed(1))} s`;
  if (ms < HOUR_MS - SECOND_MS / 2) return two(ms, MINUTE_MS, 'min', SECOND_MS, 's');
  if (ms < DAY_MS - MINUTE_MS / 2) return two(ms, HOUR_MS, 'h', MINUTE_MS, 'min');
  return two(ms, DAY_MS, 'd', HOUR_MS, 'h');
}

function two(ms: number, large: number, largeName: string, small: number, smallName: string): string {
  const smalls = Math.round(ms / small);
  const rest = smalls % (large / small);
  const whole = `${(smalls - rest) / (large / small)} ${largeName}`;
  return rest === 0 ? whole : `${whole} ${rest} ${smallName}`;
}

const dayFormat = new Intl.DateTimeFormat('en-GB', {
  day: 'numeric',
  month: 'short',
  year: 'numeric',
  timeZone: 'UTC',
});

/** Writes a day, in UTC, and how far away it is: `3 Dec 2026, in 6 days`, `21 Nov 2026, 6 days ago`. */
export function dayAndDistance(at: Date, now: Date): string {
  const ms = Math.abs(at.getTime() - now.getTime());
  const distance = ms < 2 * DAY_MS ? span(ms) : `${Math.floor(ms / DAY_MS)} days`;
  return `${dayFormat.format(at)}, ${at <= now ? `${distance} ago` : `in ${distance}`}`;
}
