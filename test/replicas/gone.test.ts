import { describe, expect, test } from 'vitest';
import type { Link } from '../../src/replicas/link.ts';
import type { Message } from '../../src/replicas/messages.ts';
import { Replicas } from '../../src/replicas/replicas.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { Registry } from '../../src/streams/registry.ts';
import type { Takeover } from '../../src/takeover/takeover.ts';
import { settle } from '../notify/bench.ts';
import { FakeClock } from '../support/fake-clock.ts';

/** The replica `b`, on virtual time, with a Redis that holds the leases of `alive`. */
function replicaB() {
  const clock = new FakeClock();
  const events: WatchdogEvent[] = [];
  const redis = { isUp: true, alive: new Set<string>() };
  const sent: Message[] = [];
  const link: Partial<Link> = {
    get isUp() {
      return redis.isUp;
    },
    isAlive: async (replica) => redis.alive.has(replica),
    renewLease: async () => true,
    send: (message) => void sent.push(message),
    close: async () => {},
  };
  const replicas = new Replicas({
    ...{ clock, name: 'b#1', registry: new Registry(), emit: (event: WatchdogEvent) => void events.push(event) },
    ...{ link: link as Link, takeover: {} as Takeover },
  });
  replicas.start();
  const hears = (from: string): void => {
    redis.alive.add(from);
    replicas.heard({ kind: 'here', from });
  };
  const pass = async (seconds: number): Promise<void> => {
    for (let i = 0; i < seconds; i++) {
      clock.advance(1000);
      await settle();
    }
  };
  const gone = () => events.flatMap((event) => (event.kind === 'replica_gone' ? [event.replica] : []));
  return { replicas, redis, hears, pass, gone, events, clock };
}

/** The replica `b`, which has heard `a`, when a Redis is back that was away for two minutes and has forgotten everything. */
async function afterRedisWasAway() {
  const b = replicaB();
  b.hears('a#1');
  b.redis.isUp = false;
  b.redis.alive.clear();
  await b.pass(120);
  b.redis.isUp = true;
  return b;
}

describe('another replica', () => {
  test('is gone once it has said nothing for 15 s and its lease is over; this is told once', async () => {
    const { hears, pass, gone, redis, events, clock, replicas } = replicaB();
    hears('a#1');
    const heardAt = clock.now();
    expect(replicas.isFirst).toBe(false);
    redis.alive.clear();
    await pass(14);
    expect(gone()).toEqual([]);
    await pass(60);
    expect(events).toEqual([{ kind: 'replica_gone', replica: 'a#1', lastHeardAt: heardAt }]);
    expect(replicas.isFirst).toBe(true);
    await replicas.close();
    expect(clock.timers).toBe(0);
  });

  test('is not gone while its lease lasts, even if its messages get lost', async () => {
    const { hears, pass, gone, replicas } = replicaB();
    hears('c#1');
    expect(replicas.isFirst).toBe(true);
    await pass(120);
    expect(gone()).toEqual([]);
    await replicas.close();
  });

  test('is not gone because Redis is away, nor at once when a Redis that forgot everything is back', async () => {
    const { hears, pass, gone, replicas } = await afterRedisWasAway();
    replicas.joined();
    await pass(4);
    hears('a#1');
    await pass(14);
    expect(gone()).toEqual([]);
    await replicas.close();
  });

  test('that dies while Redis is away is found gone afterwards', async () => {
    const { pass, gone, replicas } = await afterRedisWasAway();
    await pass(25);
    expect(gone()).toEqual(['a#1']);
    await replicas.close();
  });
});
