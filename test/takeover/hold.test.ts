import { describe, expect, test } from 'vitest';
import { bench, oldStream, opens } from './stage.ts';

describe('Takeover, hold', () => {
  test("ends as soon as the old stream's client has answered a probe", () => {
    const old = oldStream(20_000);
    const newcomer = opens();
    const start = bench.clock.now();
    bench.clock.advance(60);
    expect((newcomer.forwardedAt as number) - start).toBe(50);
    expect(old.severedAt).toBeUndefined();
    expect(bench.events).toContainEqual(
      expect.objectContaining({ kind: 'stream_released', reason: 'old_streams_answered' }),
    );
  });

  test('lasts while one of several old streams has not answered', () => {
    bench.holdMs = 0;
    const [alive, slow] = [oldStream(2000), oldStream(20_000)];
    bench.holdMs = 5000;
    slow.line.rttMs = 400;
    alive.speaks();
    bench.clock.advance(2000);
    const newcomer = opens();
    bench.clock.advance(399);
    expect(newcomer.forwardedAt).toBeUndefined();
    bench.clock.advance(51);
    expect(newcomer.forwardedAt).toBeDefined();
  });

  test('does not happen without kernel evidence, without old streams, or with hold off', () => {
    const withoutOld = opens();
    expect(withoutOld.forwardedAt).toBe(bench.clock.now());
    withoutOld.line.evidenceIsThere = false;
    bench.clock.advance(20_000);
    expect(opens().forwardedAt).toBe(bench.clock.now());
    bench.holdMs = 0;
    bench.clock.advance(20_000);
    expect(opens().forwardedAt).toBe(bench.clock.now());
    expect(bench.kinds()).not.toContain('stream_held');
  });

  test('with hold off, a dead old stream is found just as fast', () => {
    bench.holdMs = 0;
    const old = oldStream(20_000);
    old.line.vanished = true;
    const newcomer = opens();
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
    bench.clock.advance(450);
    expect(old.severedBecause).toBe('dead');
  });

  test("ends even if another newcomer comes at the moment at which the old stream's client answers", () => {
    const old = opens();
    const newcomer = opens();
    bench.clock.advance(670);
    old.speaks();
    opens();
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
  });

  test('waits for an old stream that answered first, but lost while another one was still being probed', () => {
    bench.holdMs = 0;
    const [answers, slow] = [oldStream(2000), oldStream(20_000)];
    Object.assign(bench, { holdMs: 5000, closingTakesMs: 700 });
    slow.line.rttMs = 1300;
    const newcomer = opens();
    bench.clock.advance(100);
    Object.assign(answers.line, { vanished: true, unackedSegments: 1, retransmits: 5 });
    bench.clock.advance(1000);
    expect(answers.severedBecause).toBe('dead');
    bench.clock.advance(1000);
    expect(slow.severedAt).toBeUndefined();
    expect(newcomer.forwardedAt).toBe((answers.severedAt as number) + 700);
  });

  test('also waits for a stream that lost to an earlier newcomer, until its connection to Headscale has closed', () => {
    bench.closingTakesMs = 700;
    const old = oldStream(20_000);
    Object.assign(old.line, { vanished: true, unackedSegments: 1, retransmits: 2 });
    const first = opens();
    expect(old.severedBecause).toBe('dead');
    first.leaves('client_left_early');
    const second = opens();
    bench.clock.advance(699);
    expect(second.forwardedAt).toBeUndefined();
    bench.clock.advance(1);
    expect(second.forwardedAt).toBe(bench.clock.now());
  });

  test("if a held newcomer's client leaves, nothing is sent to Headscale", () => {
    const old = oldStream(20_000);
    old.line.vanished = true;
    const newcomer = opens();
    bench.clock.advance(100);
    newcomer.leaves('client_left_early');
    bench.clock.advance(20_000);
    expect(newcomer.forwardedAt).toBeUndefined();
    expect(old.severedAt).toBeUndefined();
    expect(bench.verdicts()).toEqual(['newcomer_ended']);
  });

  test('a held newcomer that is overtaken becomes an old stream, and is severed if it is dead', () => {
    const old = oldStream(20_000);
    old.line.vanished = true;
    old.line.rttMs = 1500;
    const overtaken = opens();
    bench.clock.advance(100);
    overtaken.line.vanished = true;
    const newcomer = opens();
    bench.clock.advance(1500);
    expect(overtaken.severedBecause).toBe('dead');
    expect(overtaken.forwardedAt).toBeUndefined();
    expect(newcomer.forwardedAt).toBeUndefined();
    bench.clock.advance(3200);
    expect(old.severedBecause).toBe('dead');
    expect(newcomer.forwardedAt).toBeDefined();
  });

  test('if a client connects to two ports at once, neither stream is severed, and the client closes one itself', () => {
    const first = opens();
    bench.clock.advance(500);
    const second = opens();
    bench.clock.advance(100);
    second.leaves('client_closed');
    bench.clock.advance(60_000);
    expect(first.severedAt).toBeUndefined();
    expect(first.forwardedAt).toBeDefined();
  });

  test('if the old stream ends by itself, the newcomer is forwarded when Headscale has closed it', () => {
    const old = oldStream(20_000);
    old.line.vanished = true;
    const newcomer = opens();
    bench.clock.advance(200);
    old.leaves('upstream_closed');
    bench.clock.advance(0);
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
    expect(bench.verdicts()).toEqual(['old_ended']);
  });
});
