import { describe, expect, test } from 'vitest';
import { bench, oldStream, opens } from './stage.ts';
import { ALICE, BOB, type FakePeer } from './takeover-bench.ts';

describe('Takeover, guard', () => {
  /** Two clones: whenever one is severed it is back at once. @returns the stream of each, once they have been found. */
  function untilFound(): readonly FakePeer[] {
    const [one, other] = ['192.0.2.11', '192.0.2.12'];
    let pair: readonly FakePeer[] = [opens(ALICE, one), opens(ALICE, other)];
    for (let waited = 0; waited < 1200 && duplicates().length === 0; waited++) {
      bench.clock.advance(1000);
      pair = pair.map((peer) => (peer.severedAt === undefined ? peer : opens(ALICE, peer.stream.address)));
    }
    return pair;
  }
  const duplicates = () => bench.events.filter(({ kind }) => kind === 'machine_key_duplicated');

  test('two machines with one key take over from each other a few times, and then not for a minute', () => {
    const pair = untilFound();
    expect(duplicates()).toMatchObject([{ machineKey: ALICE, restMs: 60_000 }]);
    const severed = bench.events.filter(({ kind }) => kind === 'stream_severed');
    // Twice freely, and twice put off: their kernels answer.
    expect(severed).toHaveLength(4);
    expect(bench.takeover.duplicates.count).toBe(1);
    bench.clock.advance(59_000);
    expect(pair.map(({ severedAt }) => severedAt)).toEqual([undefined, undefined]);
    const verdicts = pair.flatMap(({ stream }) => bench.takeover.contestsOf(stream)).map(({ verdict }) => verdict);
    expect(verdicts[0]).toMatchObject({ waitingFor: 'guard' });
  });

  test('when the suspension is over, rule 2 judges again by its own timer', () => {
    const pair = untilFound();
    bench.clock.advance(60_000);
    expect(pair.filter(({ severedBecause }) => severedBecause === 'silent')).toHaveLength(1);
    bench.clock.advance(60_000);
    expect(bench.takeover.duplicates.count).toBe(0);
  });

  test('a phone that moves every 42 s between two networks, behind a proxy, is one machine', () => {
    for (let flip = 0; flip < 60; flip++) {
      opens(ALICE, `192.0.2.${flip % 2}`).line.evidenceIsThere = false;
      bench.clock.advance(42_000);
      expect(bench.registry.ofMachineKey(ALICE).length).toBeLessThanOrEqual(2);
    }
    expect(duplicates()).toEqual([]);
  });

  const proxied = (address: string): FakePeer => {
    const peer = opens(ALICE, address);
    peer.line.evidenceIsThere = false;
    return peer;
  };

  /** Two at whose address nothing can be asked come back so often that a severing is put off. @returns the one that waits for it. */
  function putOff(returns: number): FakePeer {
    bench.silentAfterMs = 5000;
    let pair = [proxied('192.0.2.1'), proxied('192.0.2.2')];
    for (let severings = 0; severings < returns; ) {
      bench.clock.advance(500);
      severings += pair.filter(({ severedAt }) => severedAt !== undefined).length;
      pair = pair.map((peer) => (peer.severedAt === undefined ? peer : proxied(peer.stream.address)));
    }
    bench.clock.advance(15_000);
    const [older] = pair.sort((a, b) => a.stream.id - b.stream.id) as [FakePeer];
    expect(older.severedAt).toBeUndefined();
    expect(bench.takeover.contestsOf(older.stream)[0]?.verdict).toMatchObject({ waitingFor: 'guard' });
    return older;
  }

  test('a stream that comes during a delay triggers the delayed severing at once', () => {
    const older = putOff(2);
    proxied('192.0.2.3');
    expect(older.severedBecause).toBe('silent');
  });

  test('if another replica severs during a delay and nobody comes back there, the delayed severing happens at once', () => {
    const older = putOff(4);
    const there = { loser: '192.0.2.7', winner: '192.0.2.8', loserAnswers: undefined };
    bench.takeover.duplicates.severedElsewhere(ALICE, there);
    bench.clock.advance(20_000);
    expect(older.severedAt).toBeUndefined();
    bench.takeover.duplicates.severedElsewhere(ALICE, there);
    expect(older.severedBecause).toBe('silent');
  });

  test('a suspension that is shorter than a delay ends the delay', () => {
    const older = putOff(4);
    const waitsUntil = bench.takeover.duplicates.suspendedUntil(older.stream) ?? 0;
    expect(waitsUntil - bench.clock.now()).toBeGreaterThan(61_000);
    bench.takeover.duplicates.foundElsewhere(ALICE, ['192.0.2.1', '192.0.2.2']);
    bench.clock.advance(59_999);
    expect(older.severedAt).toBeUndefined();
    bench.clock.advance(1);
    expect(older.severedBecause).toBe('silent');
  });

  test("two streams that both send for a minute after the newcomer's first record are two machines: reported once, and neither is severed", () => {
    const [one, other] = [opens(ALICE, '192.0.2.11'), opens(ALICE, '192.0.2.12')];
    const bothSpeakFor = (ms: number): void => {
      for (let spoken = 0; spoken < ms; spoken += 500) {
        for (const each of [one, other]) each.speaks();
        bench.clock.advance(500);
      }
    };
    bothSpeakFor(60_000);
    expect(duplicates()).toEqual([]);
    bothSpeakFor(60_000);
    expect(duplicates()).toMatchObject([{ addresses: ['192.0.2.11', '192.0.2.12'] }]);
    expect(bench.takeover.duplicates.count).toBe(1);
    expect([one.severedAt, other.severedAt]).toEqual([undefined, undefined]);
  });

  test.each([
    ["the newcomer's client sends nothing", '192.0.2.12', false],
    ['both come from one address, like a machine with two connections', '192.0.2.11', true],
    ['one comes from an address that identifies no machine', '172.18.0.1', true],
  ])('no duplicate: %s', (_criterion, address, newcomerSpeaks) => {
    bench.untelling.add('172.18.0.1');
    const [one, other] = [opens(ALICE, '192.0.2.11'), opens(ALICE, address)];
    for (let spoken = 0; spoken < 150_000; spoken += 500) {
      one.speaks();
      if (newcomerSpeaks) other.speaks();
      bench.clock.advance(500);
    }
    expect(duplicates()).toEqual([]);
  });

  test("no duplicate: a phone's last bytes arrive after it is back, once", () => {
    bench.silentAfterMs = 600_000;
    const [left, now] = [opens(ALICE, '192.0.2.11'), opens(ALICE, '192.0.2.12')];
    bench.clock.advance(45_000);
    for (const each of [left, now]) each.speaks();
    bench.takeover.rejudgeAll();
    for (let spoken = 0; spoken < 300_000; spoken += 500) {
      now.speaks();
      bench.clock.advance(500);
      bench.takeover.rejudgeAll();
    }
    expect(duplicates()).toEqual([]);
  });

  test('while rule 2 is suspended, rule 1 applies', () => {
    const last = untilFound()[0] as FakePeer;
    bench.clock.advance(20_000);
    last.line.vanished = true;
    opens(ALICE, '192.0.2.13');
    bench.clock.advance(4000);
    expect(last.severedBecause).toBe('dead');
  });
});

describe('Takeover, observe only', () => {
  const wouldSever = () => bench.events.flatMap((event) => (event.kind === 'would_sever' ? [event.reason] : []));

  test('a dead old stream is reported once, not severed, and its newcomer is not held', () => {
    bench.observeOnly = true;
    const old = oldStream(20_000);
    old.line.vanished = true;
    const newcomer = opens();
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
    bench.clock.advance(600_000);
    opens();
    bench.clock.advance(600_000);
    expect(old.severedAt).toBeUndefined();
    expect(old.stream.wouldSever).toBe('dead');
    expect(wouldSever().filter((reason) => reason === 'dead')).toHaveLength(1);
    expect(bench.kinds()).not.toContain('stream_severed');
    expect(bench.kinds()).not.toContain('stream_held');
  });

  test('a silent old stream is reported once and not severed', () => {
    bench.observeOnly = true;
    const old = oldStream(20_000);
    opens();
    bench.clock.advance(10_000);
    expect(wouldSever()).toEqual(['silent']);
    expect(old.severedAt).toBeUndefined();
  });

  test('one node is only observed by its own rule, and the other is severed', () => {
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

  test('if a reload switches it off, streams that still lose their contest are severed', () => {
    bench.observeOnly = true;
    const old = oldStream(20_000);
    opens();
    bench.clock.advance(60_000);
    bench.observeOnly = false;
    bench.takeover.rejudgeAll();
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

  test('a shorter threshold applies to an open contest at once, and so does a longer one', () => {
    const old = oldStream(10_000);
    opens();
    bench.clock.advance(5000);
    bench.silentAfterMs = 60_000;
    bench.takeover.rejudgeAll();
    bench.clock.advance(20_000);
    expect(old.severedAt).toBeUndefined();
    bench.silentAfterMs = 20_000;
    bench.takeover.rejudgeAll();
    expect(old.severedBecause).toBe('silent');
  });
});
