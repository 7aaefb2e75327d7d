import { describe, expect, test } from 'vitest';
import type { HeadscaleApi } from '../../src/headscale/api.ts';
import { Checkup } from '../../src/headscale/checkup.ts';
import { NoAnswerError } from '../../src/lib/errors.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { FakeClock } from '../support/fake-clock.ts';

const OURS = `mkey:${'a'.repeat(64)}`;
const OTHER = `mkey:${'b'.repeat(64)}`;

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A Headscale that says what a test wants it to say, asked on virtual time. */
function bench() {
  const clock = new FakeClock();
  const events: WatchdogEvent[] = [];
  const says = {
    key: OURS as string | undefined,
    version: 'v0.29.2' as string | undefined,
    /** On its streams, all the time. */
    speaks: true,
    down: false,
    hangs: false,
    versionHangs: false,
    beforeAnswer: () => {},
    ours: OURS,
  };
  let asked = 0;
  const answer = async <T>(value: T): Promise<T> => {
    await Promise.resolve();
    says.beforeAnswer();
    if (says.hangs) throw new NoAnswerError('not answered');
    if (says.down) throw new Error('connect ECONNREFUSED');
    return value;
  };
  const api: HeadscaleApi = {
    noisePublicKey: () => {
      asked += 1;
      return answer(says.key);
    },
    version: () => {
      if (says.versionHangs) return Promise.reject(new NoAnswerError('not answered'));
      return answer(says.version);
    },
    nodes: async () => [],
    close: async () => {},
  };
  const checkup = new Checkup({
    ...{ clock, api, upstream: new URL('http://127.0.0.1:8080'), ourKey: () => says.ours },
    emit: (event) => events.push(event),
    lastSpokenAt: () => (says.speaks ? clock.now() : undefined),
  });
  const kinds = (): string[] => events.splice(0).map(({ kind }) => kind);
  return { clock, checkup, says, kinds, events, asked: () => asked };
}

describe('Checkup', () => {
  test('checks at the start and every minute, and emits one event for each change', async () => {
    const { checkup, clock, says, kinds, asked } = bench();
    await checkup.check();
    expect(kinds()).toEqual(['upstream_up', 'noise_key_checked']);
    expect(asked()).toBe(1);
    says.key = OTHER;
    clock.advance(59_999);
    expect(asked()).toBe(1);
    clock.advance(1);
    expect(asked()).toBe(2);
    await checkup.check();
    expect(kinds()).toEqual(['noise_key_checked']);
    expect(checkup.health.keyMatches).toBe(false);
    await checkup.check();
    expect(kinds()).toEqual([]);
    await checkup.close();
    expect(clock.timers).toBe(0);
  });

  test('checks every two seconds while Headscale is down', async () => {
    const { checkup, clock, says, kinds, asked } = bench();
    says.down = true;
    await checkup.check();
    expect(kinds()).toEqual(['upstream_down']);
    clock.advance(1999);
    expect(asked()).toBe(1);
    says.down = false;
    clock.advance(1);
    expect(asked()).toBe(2);
    await checkup.check();
    expect(kinds()).toEqual(['upstream_up', 'noise_key_checked']);
    await checkup.close();
  });
});

describe('Checkup, if Headscale does not answer', () => {
  test('if Headscale sends nothing on its own, it is checked every five seconds, and its version each minute', async () => {
    const { checkup, clock, says, asked } = bench();
    says.speaks = false;
    await checkup.check();
    for (let second = 0; second < 10; second++) {
      clock.advance(1000);
      await settled();
    }
    expect(asked()).toBe(3);
    says.speaks = true;
    clock.advance(40_000);
    await settled();
    expect(asked()).toBe(3);
    await checkup.close();
  });

  test('unanswered requests are reported once, and Headscale is up again as soon as it answers', async () => {
    const { checkup, clock, says, events, kinds } = bench();
    await checkup.check();
    kinds();
    says.hangs = true;
    await checkup.check();
    expect(events.splice(0)).toEqual([
      { kind: 'upstream_silent', upstream: 'http://127.0.0.1:8080', silence: { on: 'requests' } },
    ]);
    expect(checkup.health).toMatchObject({
      up: false,
      silentOn: 'requests',
      reason: expect.stringContaining('answer'),
    });
    await checkup.check();
    expect(kinds()).toEqual([]);
    says.hangs = false;
    clock.advance(2000);
    await settled();
    expect(kinds()).toEqual(['upstream_up']);
    expect(checkup.health).toMatchObject({ up: true, silentOn: undefined, reason: undefined });
    await checkup.close();
  });

  test('a change from silent to unreachable, and back, is reported', async () => {
    const { checkup, says, kinds } = bench();
    says.hangs = true;
    await checkup.check();
    says.hangs = false;
    says.down = true;
    await checkup.check();
    says.hangs = true;
    await checkup.check();
    expect(kinds()).toEqual(['upstream_silent', 'upstream_down', 'upstream_silent']);
    await checkup.close();
  });

  test('Headscale is up even if it does not answer /version', async () => {
    const { checkup, says, kinds } = bench();
    await checkup.check();
    kinds();
    says.versionHangs = true;
    await checkup.check();
    expect(kinds()).toEqual([]);
    expect(checkup.health).toMatchObject({ up: true, version: 'v0.29.2' });
    await checkup.close();
  });

  test('a check that was late because our own process was blocked says nothing about Headscale', async () => {
    const { checkup, clock, says, kinds } = bench();
    await checkup.check();
    kinds();
    says.hangs = true;
    says.beforeAnswer = () => clock.advance(60_000);
    await checkup.check();
    expect(kinds()).toEqual([]);
    expect(checkup.health.up).toBe(true);
    await checkup.close();
  });

  test('many silent streams are reported once, and their end too, but not right after an outage', async () => {
    const { checkup, clock, events, kinds } = bench();
    await checkup.check();
    kinds();
    checkup.streamsSilent(90, 100);
    expect(kinds()).toEqual([]);
    clock.advance(125_000);
    await settled();
    for (const [silent, of] of [
      [1, 1],
      [10, 100],
    ] as const)
      checkup.streamsSilent(silent, of);
    expect(kinds()).toEqual([]);
    checkup.streamsSilent(11, 100);
    checkup.streamsSilent(90, 100);
    expect(events.splice(0)).toMatchObject([
      { kind: 'upstream_silent', silence: { on: 'streams', silent: 11, of: 100 } },
    ]);
    expect(checkup.health).toMatchObject({ up: true, silentOn: 'streams' });
    await checkup.check();
    checkup.streamsSilent(0, 100);
    expect(kinds()).toEqual(['upstream_up']);
    expect(checkup.health.silentOn).toBeUndefined();
    await checkup.close();
  });
});

describe('Checkup.capabilities', () => {
  test('are those of the version, and the careful ones while it is unknown', async () => {
    const { checkup, says } = bench();
    expect(checkup.capabilities.mayRefuseSecondStream).toBe(true);
    await checkup.check();
    expect(checkup.capabilities.mayRefuseSecondStream).toBe(false);
    says.version = undefined;
    await checkup.check();
    expect(checkup.capabilities.mayRefuseSecondStream).toBe(true);
    await checkup.close();
  });

  test('after our key has changed, nothing is known about it until Headscale has answered', async () => {
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
