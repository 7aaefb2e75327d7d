import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Instant } from '../../src/lib/clock.ts';
import {
  type OldCommand,
  type OldSays,
  Predecessor,
  Successor,
  type SuccessorSays,
} from '../../src/service/handover.ts';
import type { StreamId } from '../../src/streams/stream.ts';

const at = (ms: number): Instant => ms as Instant;
const ids = (...all: number[]): StreamId[] => all as StreamId[];
const READY: SuccessorSays = { kind: 'ready', version: '1' };
const kinds = (commands: readonly OldCommand[]): string[] =>
  commands.map((command) => ('id' in command ? `${command.kind} ${command.id}` : command.kind));

describe('the old process', () => {
  test('offers nothing before the successor is ready, then every stream, and switches when all are taken', () => {
    const old = new Predecessor(at(0));
    expect(old.next(ids(1, 2), at(10))).toEqual([]);
    expect(old.heard(READY, at(20))).toEqual([]);
    expect(kinds(old.next(ids(1, 2), at(20)))).toEqual(['offer 1', 'offer 2']);
    expect(kinds(old.next(ids(1, 2), at(30)))).toEqual([]);
    expect(kinds(old.heard({ kind: 'taken', id: 1 as StreamId }, at(31)))).toEqual(['settle 1']);
    expect(kinds(old.next(ids(2), at(40)))).toEqual([]);
    expect(kinds(old.heard({ kind: 'taken', id: 2 as StreamId }, at(41)))).toEqual(['settle 2']);
    expect(kinds(old.next([], at(50)))).toEqual(['switch']);
    expect(kinds(old.heard({ kind: 'listening' }, at(60)))).toEqual(['leave']);
    expect(old).toMatchObject({ phase: 'leaving', moved: 2 });
    // What becomes free later still goes.
    expect(kinds(old.next(ids(7), at(70)))).toEqual(['offer 7']);
  });

  test('without any stream, it switches at once', () => {
    const old = new Predecessor(at(0));
    old.heard(READY, at(1));
    expect(kinds(old.next([], at(2)))).toEqual(['switch']);
  });

  test('newcomers that come meanwhile do not keep it from switching', () => {
    const old = new Predecessor(at(0));
    old.heard(READY, at(1));
    old.next(ids(1), at(1));
    old.next(ids(1, 2), at(2));
    old.heard({ kind: 'taken', id: 1 as StreamId }, at(3));
    expect(kinds(old.next(ids(3), at(4)))).toEqual(['offer 3', 'switch']);
  });

  test('says why the successor cannot take over, and nothing else happens', () => {
    const old = new Predecessor(at(0));
    const why = { kind: 'refused', code: 'HSW_CONFIG_INVALID', problems: ['listen is wrong'] } as const;
    expect(old.heard({ kind: 'failed', code: why.code, problems: why.problems }, at(5))).toEqual([
      { kind: 'give_up', why },
    ]);
    expect(old.ended('ended with exit code 1')).toEqual([]);
    expect(old.next(ids(1), at(6))).toEqual([]);
  });

  test('gives up on a successor that is not ready in time, that ends, or that never listens', () => {
    const late = new Predecessor(at(0));
    expect(late.next(ids(1), at(29_999))).toEqual([]);
    expect(late.next(ids(1), at(30_000))).toEqual([
      { kind: 'give_up', why: { kind: 'late', missed: 'ready', afterMs: 30_000 } },
    ]);
    const dead = new Predecessor(at(0));
    expect(dead.ended('was ended by SIGKILL')).toEqual([
      { kind: 'give_up', why: { kind: 'ended', how: 'was ended by SIGKILL' } },
    ]);
    const deaf = new Predecessor(at(0));
    deaf.heard(READY, at(1));
    deaf.next([], at(2));
    expect(kinds(deaf.next([], at(10_001)))).toEqual([]);
    expect(kinds(deaf.next([], at(10_002)))).toEqual(['give_up']);
  });

  test('goes on with a stream that the successor refuses, or does not answer for, and does not offer it again', () => {
    const old = new Predecessor(at(0));
    old.heard(READY, at(0));
    old.next(ids(1, 2), at(0));
    expect(kinds(old.heard({ kind: 'refused', id: 1 as StreamId }, at(1)))).toEqual(['take_back 1']);
    // It has answered for another one meanwhile.
    expect(kinds(old.next(ids(1, 2), at(5000)))).toEqual(['take_back 2', 'switch']);
    // Too late: the successor has been told that it does not have it.
    expect(old.heard({ kind: 'taken', id: 2 as StreamId }, at(5001))).toEqual([]);
  });

  test('gives up on a successor that is ready and then does not answer at all, and has everything back', () => {
    const old = new Predecessor(at(0));
    old.heard(READY, at(0));
    old.next(ids(...Array.from({ length: 20 }, (_, i) => i + 1)), at(1));
    expect(old.next([], at(5000))).toEqual([]);
    const last = old.next([], at(5001));
    expect(kinds(last).filter((each) => each.startsWith('take_back'))).toHaveLength(8);
    expect(last.at(-1)).toEqual({ kind: 'give_up', why: { kind: 'late', missed: 'answer', afterMs: 5001 } });
  });

  test('when it is to stop, the successor ends with it, unless that listens', () => {
    const moving = new Predecessor(at(0));
    moving.heard(READY, at(0));
    moving.next(ids(1), at(0));
    expect(kinds(moving.cancel())).toEqual(['take_back 1', 'give_up']);
    // It was too late to listen.
    expect(moving.heard({ kind: 'listening' }, at(1))).toEqual([]);
    const gone = new Predecessor(at(0));
    gone.heard(READY, at(0));
    gone.next([], at(0));
    gone.heard({ kind: 'listening' }, at(1));
    expect(gone.cancel()).toEqual([]);
  });

  test('takes back what is on its way when the successor dies, at any time', () => {
    const old = new Predecessor(at(0));
    old.heard(READY, at(0));
    old.next(ids(1, 2, 3), at(0));
    old.heard({ kind: 'taken', id: 1 as StreamId }, at(1));
    expect(kinds(old.ended('was ended by SIGKILL'))).toEqual(['take_back 2', 'take_back 3', 'give_up']);
  });

  test('a successor that dies after it listens is not its affair, but what is on its way comes back', () => {
    const old = new Predecessor(at(0));
    old.heard(READY, at(0));
    old.next([], at(0));
    old.heard({ kind: 'listening' }, at(1));
    old.next(ids(5), at(2));
    expect(kinds(old.ended('was ended by SIGKILL'))).toEqual(['take_back 5']);
  });

  test('tries a stream again that could not be written out', () => {
    const old = new Predecessor(at(0));
    old.heard(READY, at(0));
    old.next(ids(1), at(0));
    old.notOffered(1 as StreamId);
    expect(kinds(old.next(ids(1), at(1)))).toEqual(['offer 1']);
  });
});

describe('the successor', () => {
  const record = { format: 1 };
  const stream = (id: number, sockets: number, isFirst: boolean): OldSays => ({
    ...{ kind: 'stream', id: id as StreamId, sockets },
    ...(isFirst && { record }),
  });

  test('takes a stream once both sockets are there, and goes on with it when it is told', () => {
    const successor = new Successor<string>(() => true);
    expect(successor.heard(stream(1, 2, true), 'client')).toEqual([]);
    expect(successor.heard(stream(1, 2, false), 'upstream')).toEqual([{ kind: 'say', says: { kind: 'taken', id: 1 } }]);
    expect(successor.heard({ kind: 'yours', id: 1 as StreamId }, undefined)).toEqual([
      { kind: 'adopt', id: 1, record, handles: ['client', 'upstream'] },
    ]);
  });

  test('leaves what it does not understand, and closes its copies', () => {
    const successor = new Successor<string>(() => false);
    expect(successor.heard(stream(1, 1, true), 'client')).toEqual([
      { kind: 'close', handles: ['client'] },
      { kind: 'say', says: { kind: 'refused', id: 1 } },
    ]);
  });

  test('refuses a stream whose socket has closed on its way', () => {
    const successor = new Successor<string>(() => true);
    successor.heard(stream(1, 2, true), 'client');
    expect(successor.heard(stream(1, 2, false), undefined)).toEqual([
      { kind: 'close', handles: ['client'] },
      { kind: 'say', says: { kind: 'refused', id: 1 } },
    ]);
  });

  test('ignores kinds of messages that it does not know', () => {
    const successor = new Successor<string>(() => true);
    expect(successor.heard({ kind: 'something_new' } as unknown as OldSays, undefined)).toEqual([]);
    expect(successor.heard({ kind: 'something_new' } as unknown as OldSays, 'handle')).toEqual([
      { kind: 'close', handles: ['handle'] },
    ]);
  });

  test('when the old process dies once it is to listen, it goes on with what it has taken, and gives up the rest', () => {
    const successor = new Successor<string>(() => true);
    successor.heard({ kind: 'listen' }, undefined);
    successor.heard(stream(1, 1, true), 'one');
    successor.heard(stream(2, 2, true), 'two');
    expect(successor.alone()).toEqual([
      { kind: 'adopt', id: 1, record, handles: ['one'] },
      { kind: 'close', handles: ['two'] },
    ]);
    expect(successor.alone()).toEqual([]);
  });

  test('when the old process dies earlier, it ends', () => {
    const successor = new Successor<string>(() => true);
    successor.heard(stream(1, 1, true), 'one');
    expect(successor.alone()).toEqual([{ kind: 'close', handles: ['one'] }, { kind: 'end' }]);
  });
});

/** Who reads from a stream. */
type Reader = 'old' | 'successor' | 'nobody';

describe('both together', () => {
  test('whatever dies when: no stream is read by both, and each has exactly one owner in the end', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 20 }),
        fc.array(fc.constantFrom('old speaks', 'successor speaks', 'look', 'late'), { maxLength: 120 }),
        fc.constantFrom('nobody', 'successor', 'old'),
        fc.func(fc.boolean()),
        (count, steps, dies, understands) => {
          let now = 0;
          const old = new Predecessor(at(0));
          const successor = new Successor<number>((fields) => understands(fields.id));
          const all = Array.from({ length: count }, (_, i) => (i + 1) as StreamId);
          const reads = new Map<StreamId, Reader>(all.map((id) => [id, 'old']));
          const released = new Set<StreamId>();
          const toSuccessor: { said: OldSays; handle?: number }[] = [];
          const toOld: SuccessorSays[] = [READY];
          const doOld = (commands: readonly OldCommand[]): void => {
            for (const command of commands) {
              if (command.kind === 'offer') {
                expect(reads.get(command.id)).toBe('old');
                reads.set(command.id, 'nobody');
                const said = { kind: 'stream', id: command.id, sockets: 2 } as const;
                toSuccessor.push({ said: { ...said, record: { id: command.id } }, handle: 1 }, { said, handle: 2 });
              } else if (command.kind === 'settle') {
                released.add(command.id);
                toSuccessor.push({ said: { kind: 'yours', id: command.id } });
              } else if (command.kind === 'take_back') {
                expect(reads.get(command.id)).toBe('nobody');
                expect(released.has(command.id)).toBe(false);
                reads.set(command.id, 'old');
                toSuccessor.push({ said: { kind: 'back', id: command.id } });
              } else if (command.kind === 'switch') toSuccessor.push({ said: { kind: 'listen' } });
            }
          };
          const doSuccessor = (commands: ReturnType<typeof successor.alone>): void => {
            for (const command of commands) {
              if (command.kind === 'adopt') {
                expect(reads.get(command.id)).toBe('nobody');
                expect(command.handles).toHaveLength(2);
                reads.set(command.id, 'successor');
              } else if (command.kind === 'say') toOld.push(command.says);
              else if (command.kind === 'listen') toOld.push({ kind: 'listening' });
            }
          };
          const able = (): StreamId[] => all.filter((id) => reads.get(id) === 'old');
          const step = (what: string): void => {
            now += what === 'late' ? 6000 : 1;
            if (what === 'old speaks') {
              const message = toSuccessor.shift();
              if (message) doSuccessor(successor.heard(message.said, message.handle));
            } else if (what === 'successor speaks') {
              const said = toOld.shift();
              if (said) doOld(old.heard(said, at(now)));
            } else doOld(old.next(able(), at(now)));
          };
          for (const what of steps) step(what);
          if (dies === 'successor') {
            doOld(old.ended('was ended by SIGKILL'));
            // What it had not read is the old one's again; what it had been given has ended with it.
            for (const id of all)
              expect(released.has(id) ? 'successor' : reads.get(id)).toBe(released.has(id) ? 'successor' : 'old');
            return;
          }
          if (dies === 'old') {
            while (toSuccessor.length > 0) step('old speaks');
            const last = successor.alone();
            doSuccessor(last);
            // If it ends, nobody reads any more.
            if (last.some(({ kind }) => kind === 'end')) return;
            // A stream that was on its way is the successor's, unless it did not understand it.
            for (const id of all) if (released.has(id)) expect(reads.get(id)).toBe('successor');
            return;
          }
          for (let i = 0; i < 400; i++)
            for (const what of ['look', 'old speaks', 'old speaks', 'successor speaks']) step(what);
          for (const id of all) expect(['old', 'successor']).toContain(reads.get(id));
        },
      ),
      { numRuns: 2000 },
    );
  });
});
