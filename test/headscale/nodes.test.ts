import { describe, expect, test } from 'vitest';
import { NodeDirectory } from '../../src/headscale/nodes.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { A, B, bench, C, MINUTE, settled } from './directory-bench.ts';

describe('NodeDirectory', () => {
  test('start: asks at once, and then every five minutes', async () => {
    const { listing, asked, pass } = bench();
    await listing(A);
    await pass(15 * MINUTE);
    expect(asked()).toEqual([0, 300, 600, 900]);
  });

  test('nodeOf, all, loaded: nothing before the first answer, and then what Headscale lists', async () => {
    const { directory, out } = bench();
    directory.start();
    expect([directory.loaded, directory.nodeOf(A.machineKey), directory.all()]).toEqual([false, undefined, []]);
    await out[0]?.answer([A, B]);
    expect([directory.loaded, directory.nodeOf(A.machineKey), directory.all()]).toEqual([true, A, [A, B]]);
    expect([directory.nodeOf(C.machineKey), directory.nodeOf(undefined)]).toEqual([undefined, undefined]);
  });

  test('without a credential nothing is known, which is not the same as that there are no nodes', async () => {
    const { directory, events, says, pass, changes } = bench();
    says.hasCredential = false;
    directory.start();
    await pass(6 * MINUTE);
    expect([directory.loaded, changes(), events]).toEqual([false, 0, []]);
    says.hasCredential = true;
    says.nodes = [A];
    await pass(6 * MINUTE);
    expect(directory.all()).toEqual([A]);
    says.hasCredential = false;
    await pass(6 * MINUTE);
    expect(directory.all()).toEqual([A]);
    expect(events).toEqual([{ kind: 'nodes_listed', nodes: 1 }]);
  });

  test('nodes_listed is emitted at the first success only', async () => {
    const { events, listing, pass } = bench();
    await listing(A, B);
    await pass(10 * MINUTE);
    expect(events).toEqual([{ kind: 'nodes_listed', nodes: 2 }]);
  });

  test('onChange is called for other content, but not for the same content in another order', async () => {
    const { listing, pass, says, changes, directory } = bench();
    await listing(A, B);
    expect(changes()).toBe(1);
    says.nodes = [{ ...B }, { ...A }];
    await pass(5 * MINUTE);
    expect(changes()).toBe(1);
    const others = [[A], [A, C], [A, { ...C, name: 'x' }], [A, { ...C, user: 'x' }], [A, { ...C, id: '9' }]];
    for (const [at, nodes] of [...others, [A, { ...C, nodeKey: A.nodeKey }], []].entries()) {
      says.nodes = nodes;
      await pass(5 * MINUTE);
      expect(changes()).toBe(at + 2);
      expect(directory.all()).toEqual(nodes);
    }
  });

  test('onRefresh is called for each list, after onChange; what changes all the time is new, and changes no policy', async () => {
    const { directory, listing, pass, says, changes } = bench();
    const seen: unknown[] = [];
    const end = directory.onRefresh(() => {
      const { online, lastSeen } = directory.nodeOf(A.machineKey) ?? {};
      seen.push([changes(), online, lastSeen?.getTime()]);
    });
    expect(directory.listedAt).toBeUndefined();
    await listing({ ...A, online: true });
    const moving = { online: false, lastSeen: new Date(5000), expiry: new Date(9000), addresses: ['100.64.0.9'] };
    says.nodes = [{ ...A, ...moving, tags: ['tag:x'], os: 'linux', clientVersion: '1.102.3', isEphemeral: true }];
    await pass(5 * MINUTE);
    const listedAt = directory.listedAt;
    says.nodes = new Error('no');
    await pass(5 * MINUTE);
    expect(directory.listedAt).toBe(listedAt);
    expect(seen).toEqual([
      [1, true, undefined],
      [1, false, 5000],
    ]);
    end();
    says.nodes = [A];
    await pass(5 * MINUTE);
    expect(seen).toHaveLength(2);
  });

  test('onRefresh is called when the nodes are forgotten', async () => {
    const { directory, listing } = bench();
    const left: number[] = [];
    directory.onRefresh(() => void left.push(directory.all().length));
    await listing(A, B);
    directory.stop();
    expect(left).toEqual([2, 0]);
    expect(directory.listedAt).toBeUndefined();
  });

  test('onChange is called for the first list even if it is empty; a listener that throws does no harm; a listener can be removed', async () => {
    const { directory, listing, changes, events, pass, says } = bench();
    const end = directory.onChange(() => {
      throw new Error('of the listener');
    });
    await listing();
    expect(changes()).toBe(1);
    expect(events.map(({ kind }) => kind)).toEqual(['nodes_listed', 'internal_error']);
    end();
    says.nodes = [A];
    await pass(5 * MINUTE);
    expect(changes()).toBe(2);
    expect(events).toHaveLength(2);
  });
});

describe('NodeDirectory failures', () => {
  test('a failure is reported once, tried again every 30 s, and keeps the last good list', async () => {
    const { directory, listing, asked, pass, says, kinds, changes } = bench();
    await listing(A);
    says.nodes = new Error('no');
    await pass(6 * MINUTE);
    expect(asked()).toEqual([0, 300, 330, 360]);
    expect(directory.nodeOf(A.machineKey)).toBe(A);
    expect(directory.loaded).toBe(true);
    expect(kinds()).toEqual(['nodes_listed', 'no']);
    says.nodes = [A];
    await pass(6 * MINUTE);
    expect(asked()).toEqual([390, 690]);
    expect(kinds()).toEqual(['nodes_listed']);
    expect(changes()).toBe(1);
  });

  test('each reason is reported once until a request succeeds', async () => {
    const { directory, pass, says, kinds } = bench();
    const fail = async (...reasons: string[]): Promise<void> => {
      for (const reason of reasons) {
        says.nodes = new Error(reason);
        await pass(30_000);
      }
    };
    says.nodes = new Error('one');
    directory.start();
    await fail('two', 'one', 'two', 'three');
    expect(kinds()).toEqual(['one', 'two', 'three']);
    expect(directory.loaded).toBe(false);
    says.nodes = [];
    await pass(30_000);
    says.nodes = new Error('two');
    await pass(5 * MINUTE);
    expect(kinds()).toEqual(['nodes_listed', 'two']);
  });

  test('an unknown key causes no request while Headscale fails, but one as soon as it answers', async () => {
    const { directory, pass, says, asked } = bench();
    says.nodes = new Error('no');
    directory.start();
    await pass(10_000);
    directory.refreshFor(B.machineKey);
    await pass(10_000);
    expect(asked()).toEqual([0]);
    says.nodes = [A];
    await pass(30_000);
    expect(asked()).toEqual([30, 35, 45]);
  });

  test('a list that throws instead of rejecting is a failure too', async () => {
    const clock = new FakeClock();
    const events: WatchdogEvent[] = [];
    const list = (): never => {
      throw new Error('unreadable');
    };
    const directory = new NodeDirectory({ clock, list, emit: (event) => events.push(event) });
    directory.start();
    await settled();
    expect(events).toEqual([{ kind: 'nodes_list_failed', detail: 'unreadable' }]);
    await directory.close();
  });
});

describe('NodeDirectory.refresh', () => {
  test('asks at once, also after a failure, and reports nothing twice', async () => {
    const { directory, pass, says, asked, kinds } = bench();
    says.nodes = new Error('refused');
    directory.start();
    await pass(3000);
    directory.refresh();
    await settled();
    expect(asked()).toEqual([0, 3]);
    expect(kinds()).toEqual(['refused']);
  });

  test('keyChanged: reports a failure again for the new key', async () => {
    const { directory, pass, says, asked, kinds } = bench();
    says.nodes = new Error('refused');
    directory.start();
    await pass(3000);
    directory.keyChanged();
    await settled();
    expect(asked()).toEqual([0, 3]);
    expect(kinds()).toEqual(['refused', 'refused']);
    await pass(30_000);
    expect(asked()).toEqual([33]);
  });

  test('during a request it asks once more afterwards, and the failure of the first is not reported', async () => {
    const { directory, out, asked, kinds, pass } = bench();
    directory.start();
    await pass(1000);
    directory.refresh();
    directory.refresh();
    expect(asked()).toEqual([0]);
    await out[0]?.fail('refused');
    expect(asked()).toEqual([1]);
    await out[1]?.answer([A]);
    await pass(MINUTE);
    expect(asked()).toEqual([]);
    expect(kinds()).toEqual(['nodes_listed']);
  });

  test('does nothing before start and after close', async () => {
    const { directory, asked, says } = bench();
    says.nodes = [A];
    directory.refresh();
    await directory.close();
    directory.refresh();
    expect(asked()).toEqual([]);
  });
});

describe('NodeDirectory.close', () => {
  test('leaves no timer, and sends no more requests', async () => {
    const { directory, listing, clock, asked, pass } = bench();
    await listing(A);
    await directory.close();
    directory.refreshFor(B.machineKey);
    directory.start();
    await pass(10 * MINUTE);
    expect(clock.timers).toBe(0);
    expect(asked()).toEqual([0]);
    expect(directory.nodeOf(A.machineKey)).toBe(A);
  });

  test.each([['answer'], ['fail']] as const)(
    'waits for the request in progress, and ignores its result: %s',
    async (how) => {
      const { directory, clock, events, out, changes } = bench();
      directory.start();
      directory.refresh();
      let closed = false;
      const closing = directory.close().then(() => {
        closed = true;
      });
      await settled();
      expect(closed).toBe(false);
      await (how === 'answer' ? out[0]?.answer([A]) : out[0]?.fail('closed'));
      await closing;
      expect([clock.timers, events, changes(), out.length]).toEqual([0, [], 0, 1]);
    },
  );

  test('stop: forgets all nodes, stops asking, and ignores the answer to an older request; start begins again', async () => {
    const { directory, listing, changes, asked, pass, out, says } = bench();
    await listing(A);
    says.nodes = undefined;
    directory.refresh();
    directory.stop();
    expect([directory.loaded, directory.nodeOf(A.machineKey), changes()]).toEqual([false, undefined, 2]);
    await out.at(-1)?.answer([A, B]);
    expect(directory.loaded).toBe(false);
    expect(asked()).toHaveLength(2);
    await pass(20 * MINUTE);
    expect(asked()).toEqual([]);
    directory.start();
    expect(asked()).toHaveLength(1);
    await out.at(-1)?.answer([]);
  });
});
