import { Option } from 'commander';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { localTimeIn, timeOf } from '../../src/commands/help.ts';
import { localTime } from '../../src/commands/terminal.ts';

const before = process.env.TZ;
beforeEach(() => {
  process.env.TZ = 'Asia/Kolkata';
});
afterEach(() => {
  if (before === undefined) delete process.env.TZ;
  else process.env.TZ = before;
});

// 04:06 in India.
const now = new Date('2026-11-27T22:36:24.000Z');
const read = (text: string): string => new Date(localTimeIn(text, now)).toISOString();

describe('a time that somebody types', () => {
  test.each([
    ['04:00', '2026-11-27T22:30:00.000Z'],
    ['4:00:30', '2026-11-27T22:30:30.000Z'],
    ['05:00', '2026-11-26T23:30:00.000Z'],
    ['2026-11-28', '2026-11-27T18:30:00.000Z'],
    ['2026-11-28 04:00', '2026-11-27T22:30:00.000Z'],
    ['2026-11-28T04:00', '2026-11-27T22:30:00.000Z'],
    ['2026-11-27T22:30Z', '2026-11-27T22:30:00.000Z'],
    ['2026-11-28 04:00+05:30', '2026-11-27T22:30:00.000Z'],
  ])('%s is in the time zone of the terminal', (text, time) => {
    expect(read(text)).toBe(time);
  });

  test('yesterday may have had 25 hours', () => {
    process.env.TZ = 'Europe/Berlin';
    // 01:00 on the day after clocks were set back.
    const after = new Date('2026-10-26T00:00:00Z');
    expect(new Date(localTimeIn('01:30', after)).toISOString()).toBe('2026-10-24T23:30:00.000Z');
  });

  test('a time that a command has printed can be given back', () => {
    expect(read(localTime(now.toISOString()))).toBe(now.toISOString());
  });

  test.each(['yesterday', '25:00', '8', '2026-11-31T99:00', '7 d', ''])(
    '%s is none, and it says what to write',
    (text) => {
      const option = timeOf(new Option('--since <time>'), 'here');
      expect(() => option.parseArg?.(text, undefined)).toThrow(/^Write 90m, 24h or 7d/);
    },
  );

  test('what says how long ago stays, and so does a day that begins elsewhere', () => {
    const given = (text: string) => timeOf(new Option('--since <time>'), 'elsewhere').parseArg?.(text, undefined);
    expect(['7d', '30m', '2026-11-01'].map(given)).toEqual(['7d', '30m', '2026-11-01']);
  });
});
