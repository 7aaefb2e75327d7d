import { describe, expect, test } from 'vitest';
import { type MachineKey, machineKeyOf } from '../../src/identity/keys.ts';
import type { Instant } from '../../src/lib/clock.ts';
import { Registry } from '../../src/streams/registry.ts';
import { leastNeeded, type Stream, type StreamState, setState } from '../../src/streams/stream.ts';

const KEY = machineKeyOf(Buffer.alloc(32, 1));
const OTHER = machineKeyOf(Buffer.alloc(32, 2));
const NOW = 0 as Instant;

function stream(registry: Registry, machineKey: MachineKey | undefined = KEY): Stream {
  return {
    ...{ id: registry.nextId(), kind: 'control', machineKey, address: '192.0.2.1', remoteAddress: '192.0.2.1:1000' },
    ...{ openedAt: NOW, heardAt: NOW, spokenAt: undefined, firstRecordAt: undefined },
    ...{ bytesReceived: 0, bytesSent: 0, state: { kind: 'connecting' }, wouldSever: undefined },
  };
}

describe('Registry', () => {
  test("lists a node's streams, oldest first, without those that were removed", () => {
    const registry = new Registry();
    const [first, second] = [stream(registry), stream(registry)];
    for (const each of [first, second]) registry.add(each);
    expect(registry.ofMachineKey(KEY)).toEqual([first, second]);
    registry.remove(first);
    expect(registry.ofMachineKey(KEY)).toEqual([second]);
    expect(registry.get(first.id)).toBeUndefined();
    registry.remove(second);
    expect(registry.ofMachineKey(KEY)).toEqual([]);
    expect(registry.size).toBe(0);
  });
});

describe('Registry, addresses', () => {
  test('an address is shared by the nodes that have a stream from it, each counted once', () => {
    const registry = new Registry();
    const add = (key: MachineKey | undefined, address: string): void =>
      registry.add({ ...stream(registry), machineKey: key, address });
    for (const key of [KEY, KEY, undefined]) add(key, '192.0.2.1');
    expect([registry.isShared('192.0.2.1', 1), registry.isShared('192.0.2.1', 2)]).toEqual([true, false]);
    add(OTHER, '192.0.2.1');
    expect([registry.isShared('192.0.2.1', 2), registry.isShared('192.0.2.2', 1)]).toEqual([true, false]);
  });
});

describe('setState', () => {
  const at = (kind: StreamState['kind']): StreamState => {
    if (kind === 'held') return { kind, since: NOW, until: NOW };
    return kind === 'closing' || kind === 'closed' ? { kind, reason: 'shutdown' } : { kind };
  };
  const KINDS = ['held', 'connecting', 'open', 'closing', 'closed'] as const;
  const LEGAL = [
    ['held', ['connecting', 'closing', 'closed']],
    ['connecting', ['held', 'open', 'closing', 'closed']],
    ['open', ['closing', 'closed']],
    ['closing', ['closed']],
    ['closed', []],
  ] as const;

  test.each(LEGAL)('from %s: accepts the legal changes, and refuses all others without a change', (from, legal) => {
    for (const to of KINDS) {
      const one: Stream = { ...stream(new Registry()), state: at(from) };
      const taken = (legal as readonly string[]).includes(to);
      expect(setState(one, at(to)), to).toBe(taken);
      expect(one.state.kind).toBe(taken ? to : from);
    }
  });
});

describe('leastNeeded', () => {
  const heard = (heardAt: number, firstRecordAt: number | undefined): Stream => ({
    ...stream(new Registry()),
    ...{ heardAt: heardAt as Instant, firstRecordAt: firstRecordAt as Instant | undefined },
  });

  test.each([
    ['chooses the stream that was silent for longest', [heard(50, 1), heard(20, 1), heard(40, 1)], 1],
    ['never chooses the newest, however long it was silent', [heard(50, 1), heard(60, 1), heard(1, undefined)], 0],
    [
      'chooses a stream without a session first',
      [heard(1, 1), heard(50, undefined), heard(40, undefined), heard(60, 1)],
      2,
    ],
    ['chooses no stream if there is only one', [heard(1, undefined)], -1],
  ])('%s', (_which, streams, expected) => {
    expect(leastNeeded(streams)).toBe(streams[expected]);
  });
});
