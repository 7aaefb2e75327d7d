import { describe, expect, test } from 'vitest';
import type { Rate } from '../../src/lib/token-bucket.ts';
import { Pacer } from '../../src/pipeline/pacer.ts';
import { FakeClock } from '../support/fake-clock.ts';

function bench(rate: Rate | undefined = { perSecond: 50, burst: 2 }) {
  const clock = new FakeClock();
  const start = clock.now();
  const went: string[] = [];
  const settings: { rate: Rate | undefined } = { rate };
  const pacer = new Pacer(clock, () => settings.rate);
  const names = new Map<string, object>();
  const enters = (name: string): void => {
    const who = { name };
    names.set(name, who);
    pacer.enter(
      who,
      () => went.push(`${name} at ${clock.now() - start}`),
      () => went.push(`${name} gives up at ${clock.now() - start}`),
    );
  };
  return { clock, pacer, went, enters, settings, leaves: (name: string) => pacer.leave(names.get(name) as object) };
}

describe('Pacer', () => {
  test('the burst goes at once, and the others in order, one every 20 ms', () => {
    const { clock, pacer, went, enters } = bench();
    for (const name of ['a', 'b', 'c', 'd']) enters(name);
    expect(went).toEqual(['a at 0', 'b at 0']);
    expect([pacer.waiting, pacer.paced]).toEqual([2, 2]);
    clock.advance(1000);
    expect(went).toEqual(['a at 0', 'b at 0', 'c at 20', 'd at 40']);
    expect([pacer.waiting, clock.timers]).toEqual([0, 0]);
  });

  test('a newer stream does not overtake one that waits', () => {
    const { clock, went, enters } = bench();
    for (const name of ['a', 'b', 'c']) enters(name);
    clock.advance(19);
    enters('d');
    clock.advance(100);
    expect(went.slice(2)).toEqual(['c at 20', 'd at 40']);
  });

  test('a stream that leaves is skipped, and takes no turn from others', () => {
    const { clock, pacer, went, enters, leaves } = bench();
    for (const name of ['a', 'b', 'c', 'd']) enters(name);
    leaves('c');
    clock.advance(100);
    expect(went.slice(2)).toEqual(['d at 20']);
    enters('e');
    leaves('e');
    expect([pacer.waiting, clock.timers]).toEqual([0, 0]);
  });

  test('no stream waits longer than four seconds', () => {
    const { clock, pacer, went, enters } = bench({ perSecond: 1, burst: 1 });
    for (let i = 0; i < 8; i++) enters(`${i}`);
    clock.advance(20_000);
    expect(went.filter((each) => each.includes('gives up'))).toEqual([4, 5, 6, 7].map((i) => `${i} gives up at 4000`));
    expect(went).toContain('3 at 3000');
    expect([pacer.waiting, clock.timers]).toEqual([0, 0]);
  });

  test('off: no stream waits; if it is switched off, waiting streams go at the next turn', () => {
    const off = bench(undefined);
    off.settings.rate = undefined;
    for (let i = 0; i < 1000; i++) off.enters(`${i}`);
    expect(off.went).toHaveLength(1000);
    const { clock, went, enters, settings } = bench({ perSecond: 1, burst: 1 });
    for (const name of ['a', 'b', 'c']) enters(name);
    settings.rate = undefined;
    clock.advance(1000);
    expect(went).toEqual(['a at 0', 'b at 1000', 'c at 1000']);
  });
});
