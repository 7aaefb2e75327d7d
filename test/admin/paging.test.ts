import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { eventQuery, eventView, listEvents } from '../../src/admin/event-list.ts';
import { listNodes } from '../../src/admin/node-list.ts';
import { listStreams } from '../../src/admin/stream-list.ts';
import type { PresenceView, StreamView } from '../../src/admin/views.ts';
import { History, historyBounds } from '../../src/history/history.ts';
import { FakeClock } from '../support/fake-clock.ts';

const NOBODY = () => new Set<never>();

/** What happens between two pages, and how large the next page is. */
const steps = <Step>(happens: fc.Arbitrary<Step>) =>
  fc.array(fc.record({ happens: fc.array(happens, { maxLength: 12 }), limit: fc.integer({ min: 1, max: 6 }) }), {
    minLength: 1,
    maxLength: 30,
  });

describe('/events', () => {
  const newHistory = (clock: FakeClock) =>
    new History(clock, { nameOf: () => undefined, isNode: () => false }, historyBounds(100_000));
  /** Searching takes a while, as a file does: more may happen before the search and before the answer. */
  const read = (history: History, query: Record<string, string>, happens = [() => {}, () => {}]) => {
    const asked = eventQuery(new URLSearchParams(query), history, NOBODY, Date.now());
    const before = { run: history.run, lastSeq: history.lastSeq };
    happens[0]?.();
    const found = { entries: history.find(asked), knownSince: history.knownSince, fromFile: false };
    happens[1]?.();
    return listEvents(before, asked, found, (entry) => eventView(entry, undefined));
  };
  const happen = (history: History, kind: 'redis_up' | 'redis_down') =>
    history.listen(kind === 'redis_up' ? { kind, url: 'redis://r' } : { kind, url: 'redis://r', detail: 'x' });
  const kinds = fc.constantFrom('redis_up' as const, 'redis_down' as const);

  test('with next as after=, no event is skipped or repeated while more arrive', () => {
    fc.assert(
      fc.property(steps(kinds), fc.boolean(), (all, isFiltered) => {
        const history = newHistory(new FakeClock());
        const filter: Record<string, string> = isFiltered ? { kind: 'redis_up' } : {};
        const told: number[] = [];
        const follow = (limit: number, happens = [() => {}, () => {}]) => {
          const { events, next } = read(history, { ...filter, after: cursor, limit: String(limit) }, happens);
          told.push(...events.map(({ seq }) => seq));
          cursor = next;
          return events.length;
        };
        let cursor = '0';
        const due: number[] = [];
        for (const { happens, limit } of all) {
          const third = Math.ceil(happens.length / 3);
          const part = (from: number) => () => {
            for (const kind of happens.slice(from * third, (from + 1) * third)) {
              happen(history, kind);
              if (!isFiltered || kind === 'redis_up') due.push(history.lastSeq);
            }
          };
          part(0)();
          follow(limit, [part(1), part(2)]);
        }
        while (follow(3) > 0);
        expect(told).toEqual(due);
      }),
    );
  });

  test('a cursor from before a restart gets everything since, however many events there have been', () => {
    fc.assert(
      fc.property(fc.nat({ max: 8 }), fc.nat({ max: 8 }), (before, since) => {
        const clock = new FakeClock();
        const first = newHistory(clock);
        for (let i = 0; i < before; i++) happen(first, 'redis_up');
        const { next } = read(first, {});
        clock.advance(1000);
        const second = newHistory(clock);
        for (let i = 0; i < since; i++) happen(second, 'redis_up');
        expect(read(second, { after: next }).events).toHaveLength(since);
      }),
    );
  });

  test('after= must be a seq or a cursor', () => {
    const history = newHistory(new FakeClock());
    for (const after of ['x', '-1', '1.5', 'a-b', '99999999999999999'])
      expect(() => read(history, { after })).toThrow(/^after= is invalid\. Use the seq of an event/);
  });
});

describe.each([
  {
    what: '/streams',
    itemOf: (id: number): { id: number } & Record<string, unknown> => ({
      id,
      replica: id % 3 === 0 ? 'b' : 'a',
      machineKey: null,
      node: null,
    }),
    read: (items: readonly { id: number }[], query: Record<string, string>) => {
      const { streams, next } = listStreams(items as unknown as StreamView[], new URLSearchParams(query), NOBODY);
      return { ids: streams.map(({ id }) => id), next };
    },
  },
  {
    what: '/nodes',
    itemOf: (id: number): { id: number } & Record<string, unknown> => ({
      id,
      machineKey: `mkey:${String((id * 7919) % 1000).padStart(64, '0')}`,
      addresses: [],
      tags: [],
      others: [],
    }),
    read: (items: readonly { id: number }[], query: Record<string, string>) => {
      const { nodes, next } = listNodes(items as unknown as PresenceView[], new URLSearchParams(query));
      return { ids: nodes.map(({ id }) => Number(id)), next };
    },
  },
])('$what', ({ itemOf, read }) => {
  test('with next as after=, an item that is there all the time comes exactly once, whatever comes and goes', () => {
    const change = fc.record({ isNew: fc.boolean(), which: fc.nat({ max: 30 }) });
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 30 }), steps(change), (first, all) => {
        let items = Array.from({ length: first }, (_, i) => itemOf(i + 1));
        let lasting = items.map(({ id }) => id);
        let newest = first;
        const told: number[] = [];
        let cursor: string | null = '';
        for (let step = 0; cursor !== null; step++) {
          const { happens, limit } = all[step] ?? { happens: [], limit: 1 };
          const page: { ids: number[]; next: string | null } = read(items, {
            limit: String(limit),
            ...(cursor !== '' && { after: cursor }),
          });
          expect(page.ids.length).toBeLessThanOrEqual(limit);
          told.push(...page.ids);
          cursor = page.next;
          for (const { isNew, which } of happens) {
            if (isNew) items = [...items, itemOf(++newest)];
            else items = items.filter(({ id }) => id !== which);
            if (!isNew) lasting = lasting.filter((id) => id !== which);
          }
        }
        expect(new Set(told).size).toBe(told.length);
        expect(lasting.filter((id) => !told.includes(id))).toEqual([]);
      }),
    );
  });

  test('a sorted list has no next page, and refuses after=', () => {
    const items = [1, 2, 3].map(itemOf);
    expect(read(items, { limit: '2' }).next).toEqual(expect.any(String));
    expect(() => read(items, { sort: 'state', after: '/' })).toThrow(/after= cannot be combined with sort=/);
    expect(read(items, {})).toEqual({ ids: [1, 2, 3], next: null });
  });
});
