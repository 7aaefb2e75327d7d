import { describe, expect, test } from 'vitest';
import type { WatchdogEvent } from '../../src/events.ts';
import type { HeadscaleApi } from '../../src/headscale/api.ts';
import { Checkup, needsHold } from '../../src/headscale/checkup.ts';
import { FakeClock } from '../support/fake-clock.ts';

const OURS = `mkey:${'a'.repeat(64)}`;
const OTHER = `mkey:${'b'.repeat(64)}`;

/** A Headscale that says what a test wants it to say, asked on virtual time. */
function bench() {
  const clock = new FakeClock();
  const events: WatchdogEvent[] = [];
  const says = { key: OURS as string | undefined, version: 'v0.29.2' as string | undefined, down: false, ours: OURS };
  let asked = 0;
  const answer = async <T>(value: T): Promise<T> => {
    if (says.down) throw new Error('connect ECONNREFUSED');
    return value;
  };
  const api: HeadscaleApi = {
    noisePublicKey: () => {
      asked += 1;
      return answer(says.key);
    },
    version: () => answer(says.version),
    nodes: async () => [],
    close: async () => {},
  };
  const url = new URL('http://127.0.0.1:8080');
  const checkup = new Checkup(
    clock,
    api,
    url,
    () => says.ours,
    (event) => events.push(event),
  );
  const kinds = (): string[] => events.splice(0).map(({ kind }) => kind);
  return { clock, checkup, says, kinds, asked: () => asked };
}

describe('Checkup', () => {
  test('asks at start and every minute, and says each change once', async () => {
    const { checkup, clock, says, kinds, asked } = bench();
    await checkup.check();
    expect(kinds()).toEqual(['upstream up', 'noise key checked']);
    expect(asked()).toBe(1);
    says.key = OTHER;
    clock.advance(59_999);
    expect(asked()).toBe(1);
    clock.advance(1);
    expect(asked()).toBe(2);
    await checkup.check();
    expect(kinds()).toEqual(['noise key checked']);
    expect(checkup.health.keyMatches).toBe(false);
    await checkup.check();
    expect(kinds()).toEqual([]);
    await checkup.close();
    expect(clock.timers).toBe(0);
  });

  test('while it is down, asks every two seconds', async () => {
    const { checkup, clock, says, kinds, asked } = bench();
    says.down = true;
    await checkup.check();
    expect(kinds()).toEqual(['upstream down']);
    clock.advance(1999);
    expect(asked()).toBe(1);
    says.down = false;
    clock.advance(1);
    expect(asked()).toBe(2);
    await checkup.check();
    expect(kinds()).toEqual(['upstream up', 'noise key checked']);
    await checkup.close();
  });
});

describe('needsHold', () => {
  test('holds before 0.27, which tells no version, and while nothing is known; not from 0.27 on', async () => {
    const { checkup, says } = bench();
    expect(needsHold(checkup.health)).toBe(true);
    await checkup.check();
    expect(needsHold(checkup.health)).toBe(false);
    says.version = undefined;
    await checkup.check();
    expect(needsHold(checkup.health)).toBe(true);
    await checkup.close();
  });

  test('another key of ours: nothing is known of it until Headscale was asked', async () => {
    const { checkup, says, kinds } = bench();
    await checkup.check();
    expect(checkup.health.keyMatches).toBe(true);
    kinds();
    checkup.keyChanged();
    await checkup.check();
    expect(kinds()).toEqual([]);
    says.down = true;
    says.ours = OTHER;
    checkup.keyChanged();
    expect(checkup.health.keyMatches).toBeUndefined();
    await checkup.check();
    expect(checkup.health.keyMatches).toBeUndefined();
    says.down = false;
    await checkup.check();
    expect(checkup.health.keyMatches).toBe(false);
  });
});
