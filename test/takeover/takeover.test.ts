import { describe, expect, test } from 'vitest';
import { bench, expectInternalErrors, oldStream, opens } from './stage.ts';
import { ALICE, BOB, FakePeer } from './takeover-bench.ts';

describe('Takeover, rule 1: dead', () => {
  test('a dead old stream is severed 450 ms after the newcomer came, and the newcomer is forwarded when it has closed', () => {
    const old = oldStream(20_000);
    old.line.vanished = true;
    const newcomer = opens();
    const start = bench.clock.now();
    expect(newcomer.stream.state.kind).toBe('held');
    bench.clock.advance(449);
    expect(old.severedAt).toBeUndefined();
    bench.clock.advance(1);
    expect(old.severedBecause).toBe('dead');
    expect((old.severedAt as number) - start).toBe(450);
    const told = bench.events.find(({ kind }) => kind === 'stream_severed');
    expect(told).toMatchObject({ silentMs: 20_450, silentAfterMs: 30_000, contestedMs: 450 });
    expect(newcomer.forwardedAt).toBeUndefined();
    bench.clock.advance(2);
    expect((newcomer.forwardedAt as number) - start).toBe(452);
    expect(bench.verdicts()).toEqual(['dead']);
  });

  test('an old stream with data unacknowledged through two retransmissions is severed at once', () => {
    const old = oldStream(20_000);
    Object.assign(old.line, { vanished: true, unackedSegments: 1, retransmits: 2 });
    opens();
    expect(old.severedBecause).toBe('dead');
  });

  test('on a slow connection it waits three times rtt + 4 rttvar', () => {
    const old = oldStream(20_000);
    Object.assign(old.line, { vanished: true, rttMs: 200, rttvarMs: 50 });
    opens();
    bench.clock.advance(1199);
    expect(old.severedAt).toBeUndefined();
    bench.clock.advance(1);
    expect(old.severedBecause).toBe('dead');
  });

  test('a connection that was just busy is probed after a second of quiet, and judged 450 ms later', () => {
    const old = oldStream(20_000);
    old.speaks();
    bench.clock.advance(300);
    old.line.vanished = true;
    opens();
    bench.clock.advance(700 + 449);
    expect(old.severedAt).toBeUndefined();
    bench.clock.advance(1);
    expect(old.severedBecause).toBe('dead');
  });

  test('on a slow connection the newcomer is held for as long as the verdict takes', () => {
    const old = oldStream(20_000);
    Object.assign(old.line, { vanished: true, rttMs: 600, rttvarMs: 100 });
    const newcomer = opens();
    bench.clock.advance(2999);
    expect([old.severedAt, newcomer.forwardedAt]).toEqual([undefined, undefined]);
    bench.clock.advance(1);
    expect(old.severedBecause).toBe('dead');
    bench.clock.advance(2);
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
  });

  test.each([
    ['the configured hold', 1500, 600],
    ['a client would wait on a very slow connection', 5000, 1700],
  ])(
    'if the verdict takes longer than %s, the newcomer is not held, and the verdict still comes',
    (_what, holdMs, rttMs) => {
      Object.assign(bench, { holdMs, holdUsuallyMs: 1500 });
      const old = oldStream(20_000);
      Object.assign(old.line, { vanished: true, rttMs, rttvarMs: 100 });
      const newcomer = opens();
      expect(newcomer.forwardedAt).toBe(bench.clock.now());
      bench.clock.advance(3 * (rttMs + 400) + 1500);
      expect(old.severedBecause).toBe('dead');
    },
  );

  test('an old stream that answers for a while and then vanishes is found within ten seconds of probes', () => {
    const old = oldStream(20_000);
    opens();
    bench.clock.advance(3000);
    expect(old.severedAt).toBeUndefined();
    old.line.vanished = true;
    bench.clock.advance(4000);
    expect(old.severedBecause).toBe('dead');
  });

  test('an old stream that has just answered is in doubt, so more probes must fail than packet loss explains', () => {
    const old = oldStream(20_000);
    opens();
    bench.clock.advance(3000);
    old.line.vanished = true;
    // Its next probe leaves within a second, and then there are four further chances.
    bench.clock.advance(2849);
    expect(old.severedAt).toBeUndefined();
    bench.clock.advance(1001);
    expect(old.severedBecause).toBe('dead');
  });

  test("an old stream from the newcomer's address is in doubt, and is probed for 2.85 s", () => {
    const old = oldStream(20_000, ALICE, '192.0.2.200');
    old.line.vanished = true;
    const newcomer = opens(ALICE, '192.0.2.200');
    bench.clock.advance(2849);
    expect([old.severedAt, newcomer.forwardedAt]).toEqual([undefined, undefined]);
    bench.clock.advance(1);
    expect(old.severedBecause).toBe('dead');
    expect(old.line.probesSent).toBeGreaterThanOrEqual(15);
    // Held for as long as that takes: the old one's connection to Headscale has closed when it goes there.
    bench.clock.advance(2);
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
  });

  test('each of several old streams is judged separately', () => {
    bench.holdMs = 0;
    const [dead, alive, alsoDead] = [oldStream(2000), oldStream(2000), oldStream(2000)];
    for (const peer of [dead, alive, alsoDead]) peer.speaks();
    // Longer than the probes of their own contests last.
    bench.clock.advance(15_000);
    dead.line.vanished = true;
    alsoDead.line.vanished = true;
    bench.holdMs = 5000;
    opens();
    bench.clock.advance(1000);
    expect([dead, alive, alsoDead].map((peer) => peer.severedBecause)).toEqual(['dead', undefined, 'dead']);
  });
});

describe('Takeover, rule 2: silent', () => {
  test('a frozen old stream whose kernel answers is severed at its threshold, and not earlier', () => {
    const old = oldStream(10_000);
    opens();
    bench.clock.advance(19_999);
    expect(old.severedAt).toBeUndefined();
    bench.clock.advance(1);
    expect(old.severedBecause).toBe('silent');
    expect(bench.verdicts()).toEqual(['silent']);
  });

  test('an old stream that was silent for long is severed when the newcomer has settled, one second after its first record', () => {
    const old = oldStream(600_000);
    opens();
    bench.clock.advance(50 + 999);
    expect(old.severedAt).toBeUndefined();
    bench.clock.advance(1);
    expect(old.severedBecause).toBe('silent');
  });

  test('an old stream stays as long as its client sends', () => {
    const old = oldStream(5000);
    opens();
    for (let second = 0; second < 300; second += 20) {
      bench.clock.advance(20_000);
      old.speaks();
    }
    bench.clock.advance(29_999);
    expect(old.severedAt).toBeUndefined();
    bench.clock.advance(1);
    expect(old.severedBecause).toBe('silent');
  });

  test('a newcomer that never sends never takes over', () => {
    const old = oldStream(600_000);
    bench.sessionsOpen = false;
    opens();
    bench.clock.advance(3_600_000);
    expect(old.severedAt).toBeUndefined();
  });

  test('a newcomer whose session ends within a second severs nothing, as with a replayed handshake', () => {
    const old = oldStream(600_000);
    const replay = opens();
    bench.clock.advance(500);
    replay.leaves('upstream_closed');
    bench.clock.advance(3_600_000);
    expect(old.severedAt).toBeUndefined();
    expect(bench.verdicts()).toEqual(['newcomer_ended']);
  });

  test('works without kernel evidence, as the only rule', () => {
    const old = oldStream(600_000);
    old.line.evidenceIsThere = false;
    old.line.vanished = true;
    opens();
    bench.clock.advance(1000);
    expect(old.severedBecause).toBe('silent');
  });
});

describe('Takeover', () => {
  test('streams of other nodes and unidentified streams are never touched', () => {
    const [bob, unknown] = [oldStream(600_000, BOB), opens('nobody')];
    bob.line.vanished = true;
    unknown.line.vanished = true;
    bench.clock.advance(600_000);
    opens(ALICE);
    opens('nobody');
    bench.clock.advance(600_000);
    expect([bob, unknown].map((peer) => peer.severedAt)).toEqual([undefined, undefined]);
    expect(bench.kinds()).not.toContain('contest_opened');
  });

  test('a newcomer contests only the newest eight old streams, even if there are a hundred', () => {
    bench.holdMs = 0;
    const hundred = Array.from({ length: 100 }, () => opens());
    expect(bench.kinds().filter((kind) => kind === 'contest_opened')).toHaveLength(28 + 92 * 8);
    expect(hundred.every(({ forwardedAt }) => forwardedAt !== undefined)).toBe(true);
  });

  test('probing ends with the contest, and for a live phone after ten seconds', () => {
    const old = oldStream(2000);
    opens();
    bench.clock.advance(10_100);
    expect(old.line.probing).toBe(false);
    expect(old.line.probesSent).toBeLessThanOrEqual(12);
    const sent = old.line.probesSent;
    bench.clock.advance(9000);
    expect(old.line.probesSent).toBe(sent);
    expect(old.severedAt).toBeUndefined();
  });

  test('an internal error in a contest forwards the newcomer and severs nothing', () => {
    const old = oldStream(20_000);
    old.evidence = () => {
      throw new Error('a mistake of ours');
    };
    const newcomer = opens();
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
    bench.clock.advance(60_000);
    expect(old.severedAt).toBeUndefined();
    expectInternalErrors();
  });
});

describe('Takeover, a newcomer that is admitted after a newer one', () => {
  /** It waited longer for Redis than the one that came after it. */
  function overtaken() {
    const late = new FakePeer(bench, ALICE, '192.0.2.77');
    const newer = opens();
    bench.registry.add(late.stream);
    bench.takeover.admit(late);
    return { late, newer };
  }

  test('is the old stream of the two: it is severed for the newer one, which is forwarded once', () => {
    const { late, newer } = overtaken();
    expect(bench.registry.ofMachineKey(ALICE)).toEqual([late.stream, newer.stream]);
    bench.clock.advance(31_000);
    expect([late.severedBecause, newer.severedBecause]).toEqual(['silent', undefined]);
    expect(newer.forwardedAt).toBeDefined();
  });

  test('severs nothing, however long the newer one is silent', () => {
    const { late, newer } = overtaken();
    bench.clock.advance(29_000);
    late.speaks();
    bench.clock.advance(29_000);
    expect([late.severedBecause, newer.severedBecause]).toEqual([undefined, undefined]);
    late.leaves();
  });
});
