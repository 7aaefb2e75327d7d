import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { systemClock } from '../../src/lib/clock.ts';

const SOURCE = join(import.meta.dirname, '..', '..', 'src');

afterEach(() => vi.restoreAllMocks());

describe("a machine's clock that is set forward or back by an hour", () => {
  test.each([3_600_000, -3_600_000])('durations do not change when the clock is set by %d ms', async (byMs) => {
    const real = Date.now;
    const before = systemClock.now();
    let fired = 0;
    const timer = systemClock.after(50, () => fired++);
    const late = systemClock.after(60_000, () => fired++);
    vi.spyOn(Date, 'now').mockImplementation(() => real() + byMs);
    await new Promise((resolve) => setTimeout(resolve, 120));
    expect(fired).toBe(1);
    expect(systemClock.now() - before).toBeGreaterThan(100);
    expect(systemClock.now() - before).toBeLessThan(5000);
    // What is told to people follows their clock.
    expect(Math.abs(systemClock.dateOf(systemClock.now()).getTime() - (real() + byMs))).toBeLessThan(1000);
    timer.cancel();
    late.cancel();
  });

  test("only the clock, printed tables and the browser's page read the date", () => {
    const files = readdirSync(SOURCE, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));
    const asking = files.filter((name) => /Date\.now\(|new Date\(\)/.test(readFileSync(join(SOURCE, name), 'utf8')));
    expect(asking.sort()).toEqual(['commands/nodes.ts', 'commands/streams.ts', 'lib/clock.ts']);
  });
});
