const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/** A duration as a person says it: `450 ms`, `1.3 s`, `2 min 5 s`, `3 h 20 min`, `2 d 4 h`. */
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
