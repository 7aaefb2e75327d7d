import { describe, expect, test } from 'vitest';
import type { MachineKey } from '../../src/identity/keys.ts';
import type { NodeInfo } from '../../src/identity/node-info.ts';
import { type Instant, plus } from '../../src/lib/clock.ts';
import {
  allPresences,
  isConnected,
  lastSignAgoMs,
  type NodeFacts,
  type NodeState,
  type PresenceStream,
  presenceOf,
  Sightings,
} from '../../src/nodes/presence.ts';
import type { CloseReason, Stream, StreamId } from '../../src/streams/stream.ts';
import { nodeInfo } from '../headscale/node-answers.ts';
import { FakeClock } from '../support/fake-clock.ts';

const NOW = Date.parse('2026-11-27T12:00:00Z');
const ago = (seconds: number): number => NOW - seconds * 1000;
const KEY = nodeInfo('a').machineKey;

function stream(state: PresenceStream['state'], openedAgo: number, signAgo = 0): PresenceStream {
  return { state, openedAt: ago(openedAgo), lastSignAt: ago(signAgo) };
}

function presence(facts: Partial<NodeFacts<PresenceStream>>) {
  const nothing = { streams: [], sighting: undefined, disagreement: undefined };
  return presenceOf({ machineKey: KEY, node: nodeInfo('a'), isListed: true, ...nothing, ...facts }, NOW);
}

const expired: Partial<NodeInfo> = { expiry: new Date(ago(1)) };

describe('the state of a node', () => {
  test.each<[NodeState, string, Partial<NodeFacts<PresenceStream>>]>([
    ['connected', 'it has an open stream', { streams: [stream('open', 60)] }],
    ['connected', 'a newcomer is held beside its open stream', { streams: [stream('open', 60), stream('held', 1)] }],
    ['connected', 'its old stream is closing', { streams: [stream('closing', 60), stream('open', 1)] }],
    ['connected', 'nobody can ask Headscale', { streams: [stream('open', 60)], node: undefined, isListed: false }],
    ['connecting', 'its only stream is held', { streams: [stream('held', 1)] }],
    ['connecting', 'Headscale has not answered its stream', { streams: [stream('connecting', 1)] }],
    ['offline', 'it has no stream', {}],
    ['offline', 'its only stream is closing', { streams: [stream('closing', 60)] }],
    ['offline', 'Headscale shows it as online, but not for long enough', { node: nodeInfo('a', { online: true }) }],
    ['expired', 'its key has expired', { node: nodeInfo('a', expired) }],
    ['expired', 'it is connected with an expired key', { node: nodeInfo('a', expired), streams: [stream('open', 60)] }],
    [
      'connected',
      'its key expires later',
      { node: nodeInfo('a', { expiry: new Date(NOW + 1) }), streams: [stream('open', 9)] },
    ],
    ['unknown', 'Headscale does not list it', { node: undefined, streams: [stream('open', 60)] }],
    [
      'deleted',
      'it was deleted',
      { node: undefined, disagreement: { kind: 'deleted', node: nodeInfo('a') }, streams: [stream('open', 60)] },
    ],
    [
      'disagrees',
      'Headscale shows it as offline',
      { disagreement: { kind: 'shown_offline', node: nodeInfo('a') }, streams: [stream('open', 60)] },
    ],
    ['disagrees', 'Headscale shows it as online', { disagreement: { kind: 'shown_online', node: nodeInfo('a') } }],
  ])('is %s if %s', (state, _why, facts) => {
    expect(presence(facts).state).toBe(state);
  });

  test('counts as connected for a probe if it is connected here, whatever Headscale shows', () => {
    const open = [stream('open', 60)];
    expect(isConnected(presence({ streams: open }))).toBe(true);
    expect(isConnected(presence({ streams: open, disagreement: { kind: 'shown_offline', node: nodeInfo('a') } }))).toBe(
      true,
    );
    expect(isConnected(presence({ disagreement: { kind: 'shown_online', node: nodeInfo('a') } }))).toBe(false);
    expect(isConnected(presence({ streams: [stream('held', 1)] }))).toBe(false);
    expect(isConnected(presence({ streams: open, node: nodeInfo('a', expired) }))).toBe(false);
    expect(isConnected(presence({ streams: open, node: undefined }))).toBe(false);
  });
});

describe('presence', () => {
  test('has been connected since the first of the streams that overlap, and the newest open one is current', () => {
    const streams = [stream('open', 10, 2), stream('held', 1, 1), stream('open', 50, 40)];
    const sighting = { connectedSince: ago(100), lastSeenAt: ago(30) };
    expect(presence({ streams, sighting })).toMatchObject({
      connectedSince: ago(100),
      current: streams[0],
      lastSignAt: ago(1),
      streams: [streams[2], streams[0], streams[1]],
    });
    expect(presence({ streams }).connectedSince).toBe(ago(50));
    // At another replica only.
    expect(presence({ streams, sighting: { connectedSince: undefined, lastSeenAt: ago(30) } }).connectedSince).toBe(
      ago(50),
    );
  });

  test('an absent node was last seen when the watchdog and when Headscale last saw it', () => {
    const node = nodeInfo('a', { lastSeen: new Date(ago(20)), online: false });
    const sighting = { connectedSince: undefined, lastSeenAt: ago(30) };
    const all = presence({ node, sighting });
    expect(all).toMatchObject({ connectedSince: undefined, lastSignAt: ago(30), shownLastSeenAt: ago(20) });
    expect(all.shownOnline).toBe(false);
    expect(presence({}).lastSignAt).toBeUndefined();
  });

  test('while two nodes share a machine key, the more careful statement counts', () => {
    const other = (more: Partial<NodeInfo>) => nodeInfo('a', { nodeKey: nodeInfo('b').nodeKey, id: '2', ...more });
    const both = (one: Partial<NodeInfo>, two: Partial<NodeInfo>) =>
      presence({ node: nodeInfo('a', { ...one, others: [other(two)] }) });
    expect(both({ online: false }, { online: true }).shownOnline).toBe(true);
    expect(both({ online: false }, { online: undefined }).shownOnline).toBeUndefined();
    expect(both({ online: false }, { online: false }).shownOnline).toBe(false);
    expect(both(expired, {}).state).toBe('offline');
    expect(both(expired, expired).state).toBe('expired');
    const later = { expiry: new Date(NOW + 5000) };
    expect(both(expired, later).keyExpiresAt).toBe(NOW + 5000);
    expect(both({ expiry: new Date(NOW + 9000) }, later).keyExpiresAt).toBe(NOW + 5000);
    expect(both(expired, expired).keyExpiresAt).toBe(ago(1));
    expect(both({}, {}).keyExpiresAt).toBeUndefined();
    const seen = (seconds: number) => ({ lastSeen: new Date(ago(seconds)) });
    expect(both(seen(9), seen(4)).shownLastSeenAt).toBe(ago(4));
  });

  test("the kernel's evidence is a sign of life, and so are bytes", () => {
    const kernel = { unackedSegments: 0, unsentBytes: 0, ackedBytes: 0, retransmits: 0, unansweredProbes: 0 };
    const evidence = (receivedAgoMs: number) => ({ ...kernel, receivedAgoMs, rttMs: 1, rttvarMs: 1 });
    expect([lastSignAgoMs(500_000, evidence(20_000)), lastSignAgoMs(500, evidence(20_000))]).toEqual([20_000, 500]);
    expect(lastSignAgoMs(500_000, undefined)).toBe(500_000);
    // The client has left its proxy: nothing of it is a sign of life now.
    expect(lastSignAgoMs(500_000, { ...evidence(0), ended: true })).toBe(500_000);
  });
});

/** Streams come and go on a virtual clock. */
function bench(most?: number) {
  const clock = new FakeClock();
  const open = new Map<MachineKey, Stream[]>();
  const strangers = new Set<MachineKey>();
  const sightings = new Sightings(
    { clock, isNode: (key) => !strangers.has(key), streamsOf: (key) => open.get(key)?.length ?? 0 },
    most,
  );
  let id = 0;
  return {
    ...{ clock, sightings, strangers },
    begun: clock.now() as number,
    opened(who: MachineKey | 'nobody' = KEY, kind: Stream['kind'] = 'control'): Stream {
      const machineKey = who === 'nobody' ? undefined : who;
      const now = clock.now();
      const unused = { spokenAt: undefined, firstRecordAt: undefined, bytesReceived: 0, bytesSent: 0 };
      const state = { kind: 'open' } as const;
      const one = { id: ++id as StreamId, kind, machineKey, address: 'a', remoteAddress: 'a:1' };
      const stream = { ...one, ...unused, openedAt: now, heardAt: now, state, wouldSever: undefined };
      if (machineKey !== undefined) open.set(machineKey, [...(open.get(machineKey) ?? []), stream]);
      sightings.listen({ kind: 'stream_opened', stream });
      return stream;
    },
    closed(stream: Stream, reason: CloseReason, lastSignAt?: Instant): void {
      const { machineKey } = stream;
      if (machineKey !== undefined)
        open.set(
          machineKey,
          (open.get(machineKey) ?? []).filter((each) => each !== stream),
        );
      sightings.listen({ kind: 'stream_closed', stream, reason, lifetimeMs: 0, lastSignAt });
    },
  };
}

describe('Sightings', () => {
  test('a node is connected since its first stream, as long as the next one overlaps', () => {
    const { clock, sightings, opened, closed, begun } = bench();
    const first = opened();
    clock.advance(5000);
    const second = opened();
    clock.advance(5000);
    closed(first, 'severed_dead');
    expect(sightings.of(KEY)?.connectedSince).toBe(begun);
    closed(second, 'client_closed');
    expect(sightings.of(KEY)).toEqual({ connectedSince: undefined, lastSeenAt: begun + 10_000 });
    clock.advance(1);
    opened();
    expect(sightings.of(KEY)).toEqual({ connectedSince: begun + 10_001, lastSeenAt: begun + 10_000 });
  });

  test.each<[CloseReason, number]>([
    ['client_closed', 60_000],
    ['upstream_closed', 60_000],
    ['gone', 20_000],
    ['severed_dead', 20_000],
    ['client_error', 20_000],
  ])('a node whose stream ended with %s was last seen %i ms after the start', (reason, seenMs) => {
    const { clock, sightings, opened, closed, begun } = bench();
    const stream = opened();
    clock.advance(20_000);
    stream.heardAt = clock.now();
    clock.advance(40_000);
    closed(stream, reason);
    expect(sightings.of(KEY)?.lastSeenAt).toBe(begun + seenMs);
  });

  test.each<[string, number, number]>([
    ["what the client's kernel showed last counts, if it is newer than the last byte", 50_000, 50_000],
    ['the last byte counts, if it is newer', 10_000, 20_000],
  ])('after a stream that was severed, %s', (_what, signMs, seenMs) => {
    const { clock, sightings, opened, closed, begun } = bench();
    const stream = opened();
    clock.advance(20_000);
    stream.heardAt = clock.now();
    clock.advance(40_000);
    closed(stream, 'severed_dead', plus(stream.openedAt, signMs));
    expect(sightings.of(KEY)?.lastSeenAt).toBe(begun + seenMs);
  });

  test('an older stream that ends later does not take the sighting back', () => {
    const { clock, sightings, opened, closed, begun } = bench();
    const old = opened();
    clock.advance(10_000);
    closed(opened(), 'client_closed');
    clock.advance(60_000);
    closed(old, 'gone');
    expect(sightings.of(KEY)?.lastSeenAt).toBe(begun + 10_000);
  });

  test('remembers no relay connection, no stranger without a stream, and the newest keys up to its limit', () => {
    const { sightings, opened, closed, strangers } = bench(2);
    const key = (digit: string): MachineKey => nodeInfo(digit).machineKey;
    opened(key('9'), 'derp');
    opened('nobody');
    strangers.add(key('8'));
    const stranger = opened(key('8'));
    expect([...sightings.keys()]).toEqual([key('8')]);
    closed(stranger, 'client_closed');
    expect([...sightings.keys()]).toEqual([]);
    for (const digit of ['1', '2', '3']) closed(opened(key(digit)), 'client_closed');
    closed(opened(key('2')), 'client_closed');
    closed(opened(key('4')), 'client_closed');
    expect([...sightings.keys()]).toEqual([key('2'), key('4')]);
  });
});

describe('allPresences', () => {
  const [a, b, c] = ['a', 'b', 'c'].map((digit) => nodeInfo(digit)) as [NodeInfo, NodeInfo, NodeInfo];

  test('has each listed node and each key with a stream; without a list, each key that was seen', () => {
    const { sightings, opened, closed } = bench();
    closed(opened(b.machineKey), 'client_closed');
    const streams = new Map([[c.machineKey, [stream('open', 5)]]]);
    const states = (listed: readonly NodeInfo[], isListed: boolean) =>
      allPresences({ listed, isListed, streams, sightings, disagreementOf: () => undefined }, NOW).map(
        ({ machineKey, state }) => [machineKey, state],
      );
    expect(states([a], true)).toEqual([
      [a.machineKey, 'offline'],
      [c.machineKey, 'unknown'],
    ]);
    expect(states([], false)).toEqual([
      [b.machineKey, 'offline'],
      [c.machineKey, 'connected'],
    ]);
  });
});
