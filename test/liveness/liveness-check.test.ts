import { describe, expect, test } from 'vitest';
import { bench, expectInternalErrors, oldStream, opens } from '../takeover/stage.ts';

describe('LivenessCheck', () => {
  test('probes at once and every 150 ms while nobody answers', () => {
    const old = oldStream(20_000);
    old.line.vanished = true;
    opens();
    bench.clock.advance(300);
    expect(old.line.probesSent).toBe(3);
  });

  test('after an answer it probes once a second, for ten seconds', () => {
    const old = oldStream(2000);
    opens();
    bench.clock.advance(60);
    old.line.probesAsked = 0;
    bench.clock.advance(9900);
    expect(old.line.probing).toBe(true);
    expect(old.line.probesAsked).toBeGreaterThanOrEqual(8);
    expect(old.line.probesAsked).toBeLessThanOrEqual(10);
    bench.clock.advance(100);
    expect(old.line.probing).toBe(false);
    expect(old.severedAt).toBeUndefined();
  });

  test('probes of an earlier contest do not count in a later one', () => {
    const old = oldStream(2000);
    old.line.vanished = true;
    const first = opens();
    bench.clock.advance(200);
    first.leaves('client_left_early');
    bench.clock.advance(5000);
    opens();
    bench.clock.advance(449);
    expect(old.severedAt).toBeUndefined();
    bench.clock.advance(1);
    expect(old.severedBecause).toBe('dead');
  });

  test('an answer in an earlier contest releases no newcomer', () => {
    const old = oldStream(2000);
    const first = opens();
    bench.clock.advance(1000);
    first.leaves('client_closed');
    bench.clock.advance(14_000);
    old.line.vanished = true;
    const newcomer = opens();
    bench.clock.advance(449);
    expect(newcomer.forwardedAt).toBeUndefined();
    bench.clock.advance(3);
    expect(old.severedBecause).toBe('dead');
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
  });

  test('after an answer, the wait starts again with the first unanswered probe', () => {
    const old = oldStream(2000);
    Object.assign(old.line, { rttMs: 600, rttvarMs: 100 });
    opens();
    bench.clock.advance(5000);
    old.line.vanished = true;
    const vanishedAt = bench.clock.now();
    bench.clock.advance(7000);
    expect(old.severedBecause).toBe('dead');
    expect((old.severedAt as number) - vanishedAt).toBeGreaterThanOrEqual(5400);
  });

  test('if there is no evidence any more, probing ends and nothing is severed', () => {
    const old = oldStream(2000);
    old.line.vanished = true;
    const newcomer = opens();
    bench.clock.advance(100);
    old.line.evidenceIsThere = false;
    bench.clock.advance(50);
    expect(old.line.probing).toBe(false);
    bench.clock.advance(1350);
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
    expect(old.severedAt).toBeUndefined();
  });

  test('if our process pauses while it reads the kernel, an old segment does not look like an answer', () => {
    const old = oldStream(20_000);
    old.line.vanished = true;
    const { evidence } = old;
    let paused = false;
    old.evidence = () => {
      if (!paused) {
        paused = true;
        bench.clock.advance(100);
      }
      return evidence();
    };
    const newcomer = opens();
    bench.clock.advance(449);
    expect(newcomer.forwardedAt).toBeUndefined();
    bench.clock.advance(1);
    expect(old.severedBecause).toBe('dead');
  });

  test("ends with the stream's last contest as the old stream, even if it is still a newcomer in others", () => {
    const oldest = oldStream(2000);
    const middle = oldStream(2000);
    const newest = opens();
    expect(middle.line.probing).toBe(true);
    newest.leaves('client_left_early');
    expect(middle.line.probing).toBe(false);
    expect(oldest.line.probing).toBe(true);
  });
});

describe('Takeover', () => {
  test('a stream with one end gone causes no contest and no hold', () => {
    const old = oldStream(20_000);
    old.leaves('client_closed');
    const newcomer = opens();
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
    expect(bench.kinds()).not.toContain('contest_opened');
  });

  test('a newcomer does not wait for an old stream without evidence beside one that answers', () => {
    bench.holdMs = 0;
    const [mute] = [oldStream(2000), oldStream(2000)];
    mute.line.evidenceIsThere = false;
    bench.holdMs = 5000;
    const newcomer = opens();
    bench.clock.advance(60);
    expect(newcomer.forwardedAt).toBeDefined();
  });

  test('an error during the hold forwards the newcomer, once', () => {
    const old = oldStream(20_000);
    const { evidence } = old;
    let reads = 0;
    old.evidence = () => {
      reads += 1;
      if (reads === 2) throw new Error('a mistake of ours');
      return evidence();
    };
    const newcomer = opens();
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
    expect(bench.events).toContainEqual(expect.objectContaining({ kind: 'stream_released', reason: 'error' }));
    expectInternalErrors();
  });

  test('events carry durations: silent, held, contested', () => {
    const old = oldStream(20_000);
    old.line.vanished = true;
    const newcomer = opens();
    bench.clock.advance(452);
    const told = (kind: string) => bench.events.filter((event) => event.kind === kind);
    expect(told('stream_severed')).toMatchObject([{ reason: 'dead', silentMs: 20_450 }]);
    expect(told('contest_ended')).toMatchObject([{ verdict: 'dead', lastedMs: 450 }]);
    expect(told('stream_released')).toMatchObject([{ reason: 'old_streams_ended', heldMs: 452 }]);
    expect(bench.takeover.contestsOf(newcomer.stream)).toEqual([]);
  });

  test('a hold that runs out ends with the reason hold_over', () => {
    const old = oldStream(20_000);
    Object.assign(old.line, { vanished: true, unackedSegments: 1 });
    opens();
    bench.clock.advance(1500);
    expect(bench.events).toContainEqual(
      expect.objectContaining({ kind: 'stream_released', reason: 'hold_over', heldMs: 1500 }),
    );
  });
});
