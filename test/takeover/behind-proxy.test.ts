import { describe, expect, test } from 'vitest';
import type { KernelEvidence } from '../../src/streams/stream.ts';
import { bench, opens } from './stage.ts';
import { ALICE, type FakePeer } from './takeover-bench.ts';

const QUIET: KernelEvidence = {
  ...{ unackedSegments: 0, unsentBytes: 0, ackedBytes: 100, retransmits: 0, unansweredProbes: 0 },
  ...{ receivedAgoMs: 3000, rttMs: 20, rttvarMs: 5 },
};

/** An old stream behind a proxy, last heard 3 s ago, and what Linux says of the proxy's connections to its client. */
function oldBehindProxy(...sockets: readonly Partial<KernelEvidence>[]) {
  return behindProxy(true, ...sockets);
}

function behindProxy(isExact: boolean, ...sockets: readonly Partial<KernelEvidence>[]) {
  let said = sockets.map((each): KernelEvidence => ({ ...QUIET, ...each }));
  let saidAt = bench.clock.now();
  const linux = {
    /** Until it says something else, the client's kernel sends nothing. */
    set says(next: readonly KernelEvidence[]) {
      said = [...next];
      saidAt = bench.clock.now();
    },
    get says() {
      const agoMs = bench.clock.now() - saidAt;
      return said.map((each) => ({ ...each, receivedAgoMs: each.receivedAgoMs + agoMs }));
    },
  };
  const old = opens(ALICE, '203.0.113.7', (peer: FakePeer) => {
    peer.behindProxy = { isExact, sockets: () => linux.says };
    peer.source = { kind: 'proxy', by: isExact ? 'port' : 'address', user: 'caddy' };
    peer.evidence = () => linux.says[0];
  });
  bench.clock.advance(3000);
  linux.says = sockets.map((each) => ({ ...QUIET, ...each }));
  return { old, linux };
}

const TWO_PROBES = { unansweredProbes: 2, receivedAgoMs: 40_000, nextProbeInMs: 5000 };

describe('Takeover behind a proxy on this machine', () => {
  test('dead already, by retransmissions or by probes of the proxy: severed at once, and the newcomer waits only for the closing', () => {
    for (const dead of [{ unackedSegments: 1, retransmits: 2 }, TWO_PROBES]) {
      const { old } = oldBehindProxy(dead);
      const newcomer = opens();
      expect(old.severedBecause).toBe('dead');
      expect(newcomer.forwardedAt).toBeUndefined();
      bench.clock.advance(2);
      expect(newcomer.forwardedAt).toBe(bench.clock.now());
      newcomer.leaves();
    }
  });

  test('the client has closed its connection to the proxy: no takeover, and the newcomer waits only for the closing', () => {
    for (const sockets of [[{ ended: true }], [{ ended: true }, { ended: true }]]) {
      const { old } = oldBehindProxy(...sockets);
      const newcomer = opens();
      expect(old.severedBecause).toBe('left');
      expect(old.stream.state).toMatchObject({ reason: 'client_left' });
      expect(newcomer.stream.state.kind).toBe('held');
      bench.clock.advance(2);
      expect(newcomer.forwardedAt).toBe(bench.clock.now());
      newcomer.leaves();
    }
    expect(bench.verdicts()).toEqual(['left', 'left']);
    expect(bench.events.filter(({ kind }) => kind === 'stream_severed')).toEqual([]);
  });

  test('of several connections one has ended, and the others are dead: dead', () => {
    const { old } = behindProxy(false, { ended: true }, TWO_PROBES);
    opens();
    expect(old.severedBecause).toBe('dead');
  });

  test('observe-only: the one that has left would have been ended, and stays', () => {
    bench.observeOnly = true;
    const { old } = oldBehindProxy({ ended: true });
    opens();
    expect([old.severedAt, old.stream.wouldSever]).toEqual([undefined, 'left']);
  });

  test('nothing is under way: the newcomer is not held, and the client is never probed', () => {
    const { old } = oldBehindProxy({});
    const newcomer = opens();
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
    bench.clock.advance(10_000);
    expect([old.severedAt, old.line.probesAsked]).toEqual([undefined, 0]);
  });

  test('what Headscale sends meanwhile goes unacknowledged: severed within a second of the second retransmission', () => {
    const { old, linux } = oldBehindProxy({});
    opens();
    bench.clock.advance(20_000);
    linux.says = [{ ...QUIET, receivedAgoMs: 24_000, unackedSegments: 1, retransmits: 1 }];
    bench.clock.advance(1000);
    expect(old.severedAt).toBeUndefined();
    linux.says = [{ ...QUIET, receivedAgoMs: 24_000, unackedSegments: 1, retransmits: 2 }];
    bench.clock.advance(1000);
    expect(old.severedBecause).toBe('dead');
  });

  test('one retransmission is under way: the newcomer is held, and looked at every 250 ms', () => {
    const { old, linux } = oldBehindProxy({ unackedSegments: 1, retransmits: 1 });
    const newcomer = opens();
    expect(newcomer.stream.state.kind).toBe('held');
    bench.clock.advance(200);
    linux.says = [{ ...QUIET, receivedAgoMs: 24_000, unackedSegments: 1, retransmits: 2 }];
    bench.clock.advance(50);
    expect(old.severedBecause).toBe('dead');
    bench.clock.advance(2);
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
  });

  test('held, and then the client answers: released at once, and both stay', () => {
    const { old, linux } = oldBehindProxy({ unackedSegments: 1, retransmits: 1 });
    const newcomer = opens();
    bench.clock.advance(240);
    linux.says = [{ ...QUIET, receivedAgoMs: 20 }];
    bench.clock.advance(10);
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
    expect(old.severedAt).toBeUndefined();
  });

  test('a client that answered since the newcomer came, and one at the address of the newcomer, need five retransmissions', () => {
    const { old, linux } = oldBehindProxy({});
    opens();
    bench.clock.advance(100);
    linux.says = [{ ...QUIET, receivedAgoMs: 10 }];
    bench.clock.advance(150);
    linux.says = [{ ...QUIET, receivedAgoMs: 24_000, unackedSegments: 1, retransmits: 4 }];
    bench.clock.advance(1000);
    expect(old.severedAt).toBeUndefined();
    linux.says = [{ ...QUIET, receivedAgoMs: 24_000, unackedSegments: 1, retransmits: 5 }];
    bench.clock.advance(1000);
    expect(old.severedBecause).toBe('dead');

    const other = oldBehindProxy({ unackedSegments: 1, retransmits: 4 });
    opens(ALICE, '203.0.113.7');
    expect(other.old.severedAt).toBeUndefined();
  });

  test('by address alone: only if every connection is dead, as behind a NAT with one live node', () => {
    const dead = { unackedSegments: 1, retransmits: 3 };
    const { old, linux } = behindProxy(false, dead, {});
    const newcomer = opens();
    bench.clock.advance(60_000);
    expect(old.severedBecause).toBe('silent');
    newcomer.leaves();

    const { old: second, linux: both } = behindProxy(false, dead, dead);
    opens();
    expect(second.severedBecause).toBe('dead');
    expect([linux.says.length, both.says.length]).toEqual([2, 2]);
  });

  test('no connection, or no answer from Linux: nothing is said, and rule 2 works as ever', () => {
    for (const says of [[], undefined]) {
      const old = opens(ALICE, '203.0.113.7', (peer: FakePeer) => {
        peer.behindProxy = { isExact: false, sockets: () => says };
        peer.evidence = () => undefined;
      });
      const newcomer = opens();
      expect(newcomer.forwardedAt).toBe(bench.clock.now());
      bench.clock.advance(29_999);
      expect(old.severedAt).toBeUndefined();
      bench.clock.advance(1);
      expect(old.severedBecause).toBe('silent');
      newcomer.leaves();
      bench.clock.advance(10);
    }
  });

  test("the event says whose socket it was; and a client that was never asked is not taken for one that doesn't answer", () => {
    oldBehindProxy(TWO_PROBES);
    opens();
    const severed = bench.events.find(({ kind }) => kind === 'stream_severed');
    expect(severed).toMatchObject({
      reason: 'dead',
      source: { kind: 'proxy', by: 'port', user: 'caddy' },
      kernel: TWO_PROBES,
    });
  });

  test('observe-only: said, and nothing severed or held', () => {
    bench.observeOnly = true;
    const { old } = oldBehindProxy(TWO_PROBES);
    const newcomer = opens();
    expect(newcomer.forwardedAt).toBe(bench.clock.now());
    expect([old.severedAt, old.stream.wouldSever]).toEqual([undefined, 'dead']);
  });
});
