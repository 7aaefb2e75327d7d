import { describe, expect, test } from 'vitest';
import { bench, oldStream, opens } from './stage.ts';
import { ALICE, BOB } from './takeover-bench.ts';

describe('Takeover, guard', () => {
  /** One of two clones, severed, is back at once, and silent from then on. */
  function takeTurns(times: number): void {
    let old = opens(ALICE, '192.0.2.11');
    for (let turn = 0; turn < times; turn++) {
      bench.clock.advance(1000);
      const newcomer = opens(ALICE, turn % 2 === 0 ? '192.0.2.12' : '192.0.2.11');
      bench.clock.advance(35_000);
      expect(old.severedBecause).toBe('silent');
      old = newcomer;
    }
  }
  const duplicates = () => bench.events.filter(({ kind }) => kind === 'duplicate machine key');

  test('two machines with one key sever each other three times, and then no more for fifteen minutes', () => {
    takeTurns(3);
    expect(duplicates()).toEqual([
      {
        kind: 'duplicate machine key',
        machineKey: ALICE,
        addresses: ['192.0.2.11', '192.0.2.12'],
        restMs: 900_000,
      },
    ]);
    expect(bench.takeover.duplicates.count).toBe(1);
    const [old] = bench.registry.ofMachineKey(ALICE);
    const back = opens(ALICE, '192.0.2.11');
    bench.clock.advance(840_000);
    expect(back.severedAt).toBeUndefined();
    expect(old?.state.kind).toBe('open');
    expect(bench.takeover.contestsOf(back.stream)[0]?.verdict).toMatchObject({ waitingFor: 'guard' });
  });

  test('when the rest is over rule 2 judges again, by its own timer', () => {
    takeTurns(3);
    const [old] = bench.registry.ofMachineKey(ALICE);
    opens(ALICE, '192.0.2.11');
    bench.clock.advance(900_000);
    expect(old?.state).toMatchObject({ kind: 'closed', reason: 'severed_silent' });
    expect(bench.takeover.duplicates.count).toBe(0);
  });

  test('two that are both heard, half a minute past the newcomer, are two machines: told once, neither severed', () => {
    const [one, other] = [opens(ALICE, '192.0.2.11'), opens(ALICE, '192.0.2.12')];
    const bothSpeakFor = (ms: number): void => {
      for (let spoken = 0; spoken < ms; spoken += 500) {
        for (const each of [one, other]) each.speaks();
        bench.clock.advance(500);
      }
    };
    bothSpeakFor(30_000);
    expect(duplicates()).toEqual([]);
    bothSpeakFor(60_000);
    expect(duplicates()).toMatchObject([{ addresses: ['192.0.2.11', '192.0.2.12'] }]);
    expect(bench.takeover.duplicates.count).toBe(1);
    expect([one.severedAt, other.severedAt]).toEqual([undefined, undefined]);
  });

  test.each([
    ['the newcomer is not heard', '192.0.2.12', false],
    ['both come from one address, as a machine with two connections would', '192.0.2.11', true],
  ])('no duplicate: %s', (_criterion, address, newcomerSpeaks) => {
    const [one, other] = [opens(ALICE, '192.0.2.11'), opens(ALICE, address)];
    for (let spoken = 0; spoken < 90_000; spoken += 500) {
      one.speaks();
      if (newcomerSpeaks) other.speaks();
      bench.clock.advance(500);
    }
    expect(duplicates()).toEqual([]);
  });

  test.each([
    ['answers', true],
    ['cannot be asked', false],
  ])('two behind one NAT, whose kernel %s: a duplicate is %s', (_kernel, isDuplicate) => {
    for (let turn = 0; turn < 5; turn++) {
      const peer = opens(ALICE, '192.0.2.11');
      peer.line.evidenceIsThere = isDuplicate;
      bench.clock.advance(36_000);
    }
    expect(duplicates()).toHaveLength(isDuplicate ? 1 : 0);
  });

  test('while rule 2 rests, rule 1 does not', () => {
    takeTurns(3);
    const last = opens(ALICE, '192.0.2.11');
    bench.clock.advance(20_000);
    last.line.vanished = true;
    opens(ALICE, '192.0.2.13');
    bench.clock.advance(451);
    expect(last.severedBecause).toBe('dead');
  });
});

describe('Takeover, observe only', () => {
  const wouldSever = () => bench.events.flatMap((event) => (event.kind === 'would sever' ? [event.because] : []));

  test('a dead old stream is told once, neither held for nor severed', () => {
    bench.observeOnly = true;
    const old = oldStream(20_000);
    old.line.vanished = true;
    const newcomer = opens();
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
    bench.clock.advance(600_000);
    opens();
    bench.clock.advance(600_000);
    expect(old.severedAt).toBeUndefined();
    expect(old.stream.spared).toBe('dead');
    expect(wouldSever().filter((because) => because === 'dead')).toHaveLength(1);
    expect(bench.kinds()).not.toContain('severed');
    expect(bench.kinds()).not.toContain('held');
  });

  test('a silent one likewise', () => {
    bench.observeOnly = true;
    const old = oldStream(20_000);
    opens();
    bench.clock.advance(10_000);
    expect(wouldSever()).toEqual(['silent']);
    expect(old.severedAt).toBeUndefined();
  });

  test("a node's own rule: one is observed, the other severed", () => {
    bench.termsOfKey.set(BOB, { observeOnly: true });
    const [alices, bobs] = [oldStream(20_000, ALICE), oldStream(0, BOB)];
    for (const old of [alices, bobs]) old.line.vanished = true;
    bench.clock.advance(2000);
    opens(ALICE);
    opens(BOB);
    bench.clock.advance(451);
    expect([alices.severedBecause, bobs.severedBecause]).toEqual(['dead', undefined]);
    expect(wouldSever()).toEqual(['dead']);
  });

  test('switched off by a reload, it severs what still deserves it', () => {
    bench.observeOnly = true;
    const old = oldStream(20_000);
    opens();
    bench.clock.advance(60_000);
    bench.observeOnly = false;
    bench.takeover.rejudge();
    expect(old.severedBecause).toBe('silent');
  });
});

describe('Takeover, terms', () => {
  test('each node has its own threshold and its own hold', () => {
    bench.termsOfKey.set(BOB, { silentAfterMs: 5000, holdMs: 0 });
    const [alices, bobs] = [oldStream(0, ALICE), oldStream(0, BOB)];
    const [newAlice, newBob] = [opens(ALICE), opens(BOB)];
    expect([newAlice.stream.state.kind, newBob.stream.state.kind]).toEqual(['held', 'open']);
    bench.clock.advance(5000);
    expect([alices.severedBecause, bobs.severedBecause]).toEqual([undefined, 'silent']);
  });

  test('a shorter threshold reaches an open contest at once, a longer one holds from then on', () => {
    const old = oldStream(10_000);
    opens();
    bench.clock.advance(5000);
    bench.silentAfterMs = 60_000;
    bench.takeover.rejudge();
    bench.clock.advance(20_000);
    expect(old.severedAt).toBeUndefined();
    bench.silentAfterMs = 20_000;
    bench.takeover.rejudge();
    expect(old.severedBecause).toBe('silent');
  });
});
