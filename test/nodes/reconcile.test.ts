import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { NodeInfo } from '../../src/identity/node-info.ts';
import { isPlausibleAfter, mismatchOf } from '../../src/nodes/reconcile.ts';
import type { Stream } from '../../src/streams/stream.ts';
import { nodeInfo } from '../headscale/node-answers.ts';
import { bench } from './reconcile-bench.ts';

const node = (digit: string, online: boolean | undefined, more: Partial<NodeInfo> = {}): NodeInfo =>
  nodeInfo(digit, { online, ...more });
const [A, B, C, D] = ['a', 'b', 'c', 'd'].map((digit) => node(digit, false)) as [
  NodeInfo,
  NodeInfo,
  NodeInfo,
  NodeInfo,
];
const up = (some: NodeInfo): NodeInfo => ({ ...some, online: true });
const MINUTE = 60;

describe('a node that is connected and shown as offline', () => {
  test('is told once after 30 s, and again after ten minutes; it disagrees for as long', async () => {
    const { opened, pass, listing, told, reconciler, world, ended } = bench();
    await listing(A);
    opened(A);
    await pass(31);
    expect(told()).toEqual([]);
    expect(reconciler.disagreementOf(A.machineKey)).toBeUndefined();
    await pass(4);
    expect(told()).toEqual([{ key: 'a', disagreement: 'shown_offline', seconds: 30, isEnded: false, stream: 1 }]);
    expect(reconciler.disagreementOf(A.machineKey)?.kind).toBe('shown_offline');
    await pass(9 * MINUTE);
    expect(told()).toEqual([]);
    await pass(7 * MINUTE);
    expect(told()).toMatchObject([{ disagreement: 'shown_offline', stream: 1 }]);
    world.nodes = [up(A)];
    await pass(5 * MINUTE);
    expect(reconciler.disagreementOf(A.machineKey)).toBeUndefined();
    expect([told(), ended]).toEqual([[], []]);
  });

  test('with heal its stream is ended once, and Headscale is right again', async () => {
    const { opened, pass, listing, told, world, ended, reconciler, seconds } = bench('heal');
    await listing(A);
    opened(A);
    await pass(40);
    expect(ended).toEqual([[1, 'shown_offline', 33, A.machineKey]]);
    expect(told()).toMatchObject([{ isEnded: true, stream: 1 }]);
    world.nodes = [up(A)];
    opened(A);
    await pass(30 * MINUTE);
    expect(seconds()).toBeGreaterThan(1800);
    expect([told(), ended.length]).toEqual([[], 1]);
    expect(reconciler.disagreementOf(A.machineKey)).toBeUndefined();
  });

  test('is never ended twice within ten minutes, even if nothing helps', async () => {
    const { opened, pass, listing, ended, told } = bench('heal');
    await listing(A);
    for (let i = 0; i < 100; i++) {
      opened(A);
      await pass(50);
    }
    // 5000 s
    const at = ended.map(([, , seconds]) => seconds);
    expect(at.length).toBeGreaterThan(3);
    for (const [i, when] of at.entries()) if (i > 0) expect(when - (at[i - 1] as number)).toBeGreaterThanOrEqual(600);
    expect(told().length).toBeLessThanOrEqual(9);
  });

  test.each<[string, { stream?: Partial<Stream>; node?: Partial<NodeInfo>; lastSignAgoMs?: number }]>([
    ['its client gave no sign of life for a minute', { lastSignAgoMs: 61_000 }],
    ['it has sent no whole record', { stream: { firstRecordAt: undefined } }],
    ['Headscale has not answered its stream', { stream: { state: { kind: 'connecting' } } }],
    ['Headscale has never spoken on its stream', { stream: { spokenAt: undefined } }],
    ['its key has expired', { node: { expiry: new Date(1) } }],
    ['Headscale does not say whether it is online', { node: { online: undefined } }],
    ['another node of the machine is online', { node: { others: [up(B)] } }],
  ])('is neither told nor ended if %s', async (_why, { stream, node: more, lastSignAgoMs = 1000 }) => {
    const { world, listing, opened, pass, told, ended } = bench('heal');
    world.lastSignAgoMs = lastSignAgoMs;
    await listing({ ...A, ...more });
    opened(A, stream);
    await pass(5 * MINUTE);
    expect([told(), ended]).toEqual([[], []]);
  });

  test('is not told if its only session is old, and Headscale sends nothing on it any more', async () => {
    // `tailscale down`: the connection stays, the map session does not.
    const { opened, pass, listing, told, ended, world } = bench('heal');
    await listing(up(A));
    const stream = opened(A);
    await pass(20 * MINUTE);
    world.nodes = [A];
    const silent = stream.spokenAt;
    Object.defineProperty(stream, 'spokenAt', { get: () => silent, set: () => {} });
    await pass(20 * MINUTE);
    expect([told(), ended]).toEqual([[], []]);
  });

  test('is told if Headscale shows an old session as offline and still sends keepalives on it', async () => {
    const { opened, pass, listing, told, world } = bench();
    await listing(up(A));
    opened(A);
    await pass(20 * MINUTE);
    world.nodes = [A];
    await pass(7 * MINUTE);
    expect(told()).toMatchObject([{ disagreement: 'shown_offline', stream: 1 }]);
  });

  test('starts anew with each new stream', async () => {
    const { opened, closed, pass, listing, told } = bench();
    await listing(A);
    for (let i = 0; i < 10; i++) {
      const stream = opened(A);
      await pass(25);
      closed(stream);
    }
    expect(told()).toEqual([]);
  });

  test('that is observe-only is told, and only reported as one that would have been ended', async () => {
    const { opened, pass, listing, told, ended, world, wouldSever } = bench('heal');
    world.observed.add(A.machineKey);
    await listing(A);
    opened(A);
    await pass(40);
    expect([wouldSever(), ended]).toEqual([[[1, 'shown_offline']], []]);
    expect(told()).toMatchObject([{ isEnded: false }]);
  });

  test('of thirty, ten are ended with each list', async () => {
    const { opened, pass, listing, ended } = bench('heal');
    const keys = Array.from({ length: 30 }, (_, i) => `${(i + 100).toString(16)}`.padStart(2, '0'));
    const many = keys.map((key) => ({ ...A, machineKey: key.repeat(32) as NodeInfo['machineKey'] }));
    await listing(...many);
    for (const each of many) opened(each);
    await pass(90);
    const counts = new Map<number, number>();
    for (const [, , at] of ended) counts.set(at, (counts.get(at) ?? 0) + 1);
    expect(ended).toHaveLength(30);
    expect([...counts.values()]).toEqual([10, 10, 10]);
  });
});

describe('a node that is shown as online and has no stream here', () => {
  test('is told after two minutes, once, and no stream ends', async () => {
    const { pass, listing, told, ended, reconciler } = bench('heal');
    await listing(up(A));
    await pass(119);
    expect(told()).toEqual([]);
    await pass(4);
    expect(told()).toEqual([
      { key: 'a', disagreement: 'shown_online', seconds: 120, isEnded: false, stream: undefined },
    ]);
    expect(reconciler.disagreementOf(A.machineKey)?.kind).toBe('shown_online');
    await pass(30 * MINUTE);
    expect([told(), ended]).toEqual([[], []]);
  });

  test('is asked for two minutes after its last stream has ended, and is right by then', async () => {
    const { opened, closed, pass, listing, told, world, reconciler } = bench();
    await listing(up(A));
    const stream = opened(A);
    await pass(60);
    closed(stream);
    const before = world.asked.length;
    world.nodes = [A];
    await pass(125);
    expect(world.asked.length).toBe(before + 1);
    expect([told(), reconciler.disagreementOf(A.machineKey)]).toEqual([[], undefined]);
  });

  test('no longer disagrees as soon as it has a stream', async () => {
    const { opened, pass, listing, reconciler } = bench();
    await listing(up(A));
    await pass(125);
    expect(reconciler.disagreementOf(A.machineKey)?.kind).toBe('shown_online');
    opened(A);
    expect(reconciler.disagreementOf(A.machineKey)).toBeUndefined();
  });

  test('is not told if it has a stream at another replica, or if Redis is down', async () => {
    for (const elsewhere of [new Set([A.machineKey]), undefined]) {
      const { pass, listing, told, world } = bench();
      world.elsewhere = elsewhere;
      await listing(up(A));
      await pass(10 * MINUTE);
      expect(told()).toEqual([]);
    }
  });
});

describe('a version of Headscale that is not known for a disagreement', () => {
  test('with heal, it is told, and no stream is ended', async () => {
    const { opened, pass, listing, told, ended, world } = bench('heal');
    world.issues.clear();
    await listing(A, up(B), C, D);
    opened(A);
    opened(B);
    await pass(40);
    expect(told()).toMatchObject([{ key: 'a', disagreement: 'shown_offline', isEnded: false }]);
    world.nodes = [up(A), C, D];
    await pass(10 * MINUTE);
    expect(told()).toMatchObject([{ key: 'b', disagreement: 'deleted', isEnded: false }]);
    expect(ended).toEqual([]);
  });
});

test('a node whose key has expired keeps its stream, though Headscale shows it as online', async () => {
  const { opened, pass, listing, told, ended } = bench('heal');
  await listing({ ...up(A), expiry: new Date(1) }, B, C, D);
  opened(A);
  await pass(20 * MINUTE);
  expect([told(), ended]).toEqual([[], []]);
});

describe('a node that was deleted', () => {
  test('is told once it is missing in two lists; with heal its stream is ended', async () => {
    const { opened, pass, listing, told, world, ended, reconciler } = bench();
    await listing(up(A), B);
    opened(A);
    await pass(20);
    world.nodes = [B];
    await pass(5 * MINUTE);
    expect(told()).toMatchObject([{ key: 'a', disagreement: 'deleted', isEnded: false, stream: 1 }]);
    expect(reconciler.disagreementOf(A.machineKey)).toMatchObject({ kind: 'deleted', node: { name: 'node-a' } });
    expect(ended).toEqual([]);
    world.mode = 'heal';
    await pass(5 * MINUTE);
    expect(ended.map(([id, reason]) => [id, reason])).toEqual([[1, 'node_deleted']]);
    expect(reconciler.disagreementOf(A.machineKey)).toBeUndefined();
  });

  test('keeps a stream that opened after the deletion: its owner may be logging in', async () => {
    const { opened, pass, listing, world, ended } = bench('heal');
    await listing(up(A), B);
    opened(A);
    await pass(20);
    world.nodes = [B];
    await pass(5 * MINUTE);
    expect(ended).toHaveLength(1);
    opened(A);
    await pass(30 * MINUTE);
    expect(ended).toHaveLength(1);
  });

  test('loses its old stream only, not the one that opened after the deletion', async () => {
    const { opened, pass, listing, world, ended, directory } = bench('heal');
    await listing(up(A), B);
    opened(A);
    await pass(60);
    world.nodes = [B];
    directory.refresh();
    await pass(2);
    opened(A);
    await pass(5 * MINUTE);
    expect(ended.map(([id, reason]) => [id, reason])).toEqual([[1, 'node_deleted']]);
  });

  test('that is listed again in the second list was not deleted', async () => {
    const { opened, pass, listing, world, ended, directory, told } = bench('heal');
    await listing(up(A), B);
    opened(A);
    await pass(60);
    world.nodes = [B];
    directory.refresh();
    await pass(5);
    world.nodes = [up(A), B];
    await pass(30 * MINUTE);
    expect([ended, told()]).toEqual([[], []]);
  });

  test('that is observe-only keeps its stream', async () => {
    const { opened, pass, listing, world, ended, wouldSever } = bench('heal');
    world.observed.add(A.machineKey);
    await listing(up(A), B);
    opened(A);
    await pass(20);
    world.nodes = [B];
    await pass(10 * MINUTE);
    expect([ended, wouldSever()]).toEqual([[], [[1, 'node_deleted']]]);
  });

  test('without a stream is nobody to tell of', async () => {
    const { pass, listing, world, told } = bench('heal');
    await listing(A, B);
    world.nodes = [B];
    await pass(10 * MINUTE);
    expect(told()).toEqual([]);
  });
});

describe('an API that is away, fails or answers nonsense', () => {
  test('ends no stream and tells nothing; the last good list counts afterwards', async () => {
    const { opened, pass, listing, world, ended, told } = bench('heal');
    await listing(up(A), up(B), up(C), up(D));
    for (const each of [A, B, C, D]) opened(each);
    await pass(30);
    for (const answer of [new Error('connect ECONNREFUSED'), [] as NodeInfo[]]) {
      world.nodes = answer;
      await pass(30 * MINUTE);
      expect([ended, told()]).toEqual([[], []]);
    }
    // A is deleted meanwhile.
    world.nodes = [up(B), up(C), up(D)];
    await pass(10 * MINUTE);
    expect(ended.map(([id]) => id)).toEqual([1]);
  });

  test('an empty list after another, or one that lacks most nodes, proves no deletion', async () => {
    const some = (count: number) => new Set(Array.from({ length: count }, (_, i) => i));
    expect(isPlausibleAfter(some(0), some(0))).toBe(true);
    expect(isPlausibleAfter(some(0), some(5))).toBe(true);
    expect(isPlausibleAfter(some(1), some(0))).toBe(false);
    expect(isPlausibleAfter(some(4), some(1))).toBe(true);
    expect(isPlausibleAfter(some(9), some(5))).toBe(true);
    expect(isPlausibleAfter(some(9), some(4))).toBe(false);
    expect(isPlausibleAfter(some(60), some(30))).toBe(true);
    expect(isPlausibleAfter(some(60), some(29))).toBe(false);
    const { opened, pass, listing, world, ended } = bench('heal');
    const many = Array.from({ length: 60 }, (_, i) => {
      const key = `${(i + 16).toString(16)}`.repeat(32) as NodeInfo['machineKey'];
      return up({ ...A, machineKey: key });
    });
    await listing(...many);
    for (const each of many) opened(each);
    await pass(30);
    // A new Headscale with an empty database: one node has logged in again.
    world.nodes = many.slice(0, 1);
    await pass(30 * MINUTE);
    expect(ended).toEqual([]);
  });

  test('a list with a node that cannot be read proves no deletion', async () => {
    const { opened, pass, listing, world, ended } = bench('heal');
    await listing(up(A), B, C);
    opened(A);
    await pass(30);
    world.nodes = Object.assign([B, C], { unreadable: 1 });
    await pass(20 * MINUTE);
    expect(ended).toEqual([]);
    world.nodes = [B, C];
    await pass(10 * MINUTE);
    expect(ended).toHaveLength(1);
  });

  test('a nonsense list between two that lack a node is not the second of them', async () => {
    const { opened, pass, listing, world, ended, directory } = bench('heal');
    await listing(up(A), up(B));
    opened(A);
    await pass(60);
    world.nodes = [up(B)];
    directory.refresh();
    await pass(1);
    world.nodes = [];
    await pass(4 * MINUTE);
    expect(ended).toEqual([]);
  });

  test('without an API key all is forgotten', async () => {
    const { opened, pass, listing, reconciler, directory, ended } = bench('heal');
    await listing(up(B));
    await pass(130);
    expect(reconciler.disagreementOf(B.machineKey)?.kind).toBe('shown_online');
    directory.stop();
    expect(reconciler.disagreementOf(B.machineKey)).toBeUndefined();
    opened(A);
    await listing(up(C));
    await pass(10 * MINUTE);
    expect(ended).toEqual([]);
  });
});

describe('requests because of a disagreement', () => {
  test('with off there are none, and nothing is told or ended', async () => {
    const { opened, pass, listing, told, ended, world } = bench('off');
    await listing(A, up(B));
    opened(A);
    await pass(20 * MINUTE);
    const quiet = bench('off');
    await quiet.listing(up(A), up(B));
    quiet.opened(A);
    await quiet.pass(20 * MINUTE);
    expect([told(), ended]).toEqual([[], []]);
    expect(world.asked).toEqual(quiet.world.asked);
  });

  test('come at most every ten seconds, whatever happens, and end once nothing can be settled', async () => {
    const { opened, closed, pass, listing, world, directory } = bench();
    const nodes = Array.from({ length: 100 }, (_, i) => {
      const key = (i + 16).toString(16).repeat(32) as NodeInfo['machineKey'];
      return { ...A, machineKey: key };
    });
    await listing(...nodes.map(up));
    directory.refreshFor = () => {};
    for (const each of nodes) {
      const stream = opened(each);
      await pass(3);
      closed(stream);
    }
    const gaps = world.asked.slice(1).map((at, i) => at - (world.asked[i] as number));
    expect(gaps.length).toBeGreaterThan(10);
    expect(Math.min(...gaps)).toBeGreaterThanOrEqual(10);
    world.lastSignAgoMs = 1_000_000;
    opened(A);
    world.nodes = nodes;
    await pass(5 * MINUTE);
    world.asked.length = 0;
    await pass(60 * MINUTE);
    expect(world.asked.length).toBeLessThanOrEqual(13);
  });

  test('close: it asks for nothing more', async () => {
    const { pass, listing, reconciler, clock, directory } = bench();
    await listing(up(A));
    reconciler.close();
    await directory.close();
    await pass(10 * MINUTE);
    expect(clock.timers).toBe(0);
  });
});

describe('whatever Headscale and the nodes do', () => {
  /** One step: some seconds, and something that happens in them. */
  const step = fc.record({
    seconds: fc.integer({ min: 1, max: 90 }),
    act: fc.constantFrom(
      'open',
      'close',
      'online',
      'offline',
      'unlist',
      'relist',
      'fail',
      'empty',
      'answer',
      'nothing',
    ),
    who: fc.integer({ min: 0, max: 3 }),
  });

  test('no node loses a stream twice in ten minutes, and none while the API fails or lists nothing', async () => {
    let ends = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 60 }), async (steps) => {
        const on = bench('heal');
        const listed = new Map([A, B, C, D].map((each) => [each.machineKey, each]));
        const nodes = [A, B, C, D];
        let answers: 'well' | 'fails' | 'nothing' = 'well';
        const say = (): void => {
          if (answers === 'fails') on.world.nodes = new Error('away');
          else on.world.nodes = answers === 'nothing' ? [] : [...listed.values()];
        };
        await on.listing(...nodes);
        const open = new Map<number, ReturnType<typeof on.opened>>();
        for (const { seconds, act, who } of steps) {
          const each = nodes[who] as NodeInfo;
          const before = on.ended.length;
          const wasWell = answers === 'well';
          if (act === 'open') open.set(who, on.opened(each));
          if (act === 'close') {
            const stream = open.get(who);
            if (stream !== undefined && !on.ended.some(([id]) => id === stream.id)) on.closed(stream);
            open.delete(who);
          }
          if (act === 'online' || act === 'offline') {
            if (listed.has(each.machineKey)) listed.set(each.machineKey, { ...each, online: act === 'online' });
          }
          if (act === 'unlist') listed.delete(each.machineKey);
          if (act === 'relist') listed.set(each.machineKey, each);
          if (act === 'fail') answers = 'fails';
          if (act === 'empty') answers = 'nothing';
          if (act === 'answer') answers = 'well';
          say();
          await on.pass(seconds);
          if (!wasWell && answers !== 'well') expect(on.ended.length).toBe(before);
        }
        for (const key of nodes.map(({ machineKey }) => machineKey)) {
          const own = on.ended.filter(([, , , whose]) => whose === key);
          const shown = own.filter(([, reason]) => reason === 'shown_offline').map(([, , seconds]) => seconds);
          expect(new Set(shown).size).toBe(shown.length);
          // A deleted node's streams end together.
          const at = [...new Set(own.map(([, , seconds]) => seconds))];
          for (const [n, when] of at.entries())
            if (n > 0) expect(when - (at[n - 1] as number)).toBeGreaterThanOrEqual(600);
        }
        ends += on.ended.length;
      }),
      { numRuns: 60 },
    );
    expect(ends).toBeGreaterThan(0);
  }, 60_000);

  test('mismatchOf: a node that is online with a stream, or offline without one, is right', () => {
    const online = fc.constantFrom(true, false, undefined);
    fc.assert(
      fc.property(online, online, fc.boolean(), (one, other, hasStream) => {
        const { opened, clock } = bench();
        const streams = hasStream ? [opened(A)] : [];
        clock.advance(1);
        const both = { ...A, online: one, others: [{ ...B, online: other }] };
        const found = mismatchOf(both, streams, clock.now(), 0)?.kind;
        if (hasStream) expect(found).toBe(one === false && other === false ? 'shown_offline' : undefined);
        else expect(found).toBe(one === true || other === true ? 'shown_online' : undefined);
      }),
    );
  });
});
