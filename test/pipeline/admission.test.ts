import { describe, expect, test } from 'vitest';
import { Admission } from '../../src/pipeline/admission.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { FakeClock } from '../support/fake-clock.ts';

function bench(terms = {}) {
  const clock = new FakeClock();
  const events: WatchdogEvent[] = [];
  const rate = { perSecond: 2, burst: 4 };
  const all = { connections: 5, connectionsPerAddress: 2, handshakes: rate, handshakesPerAddress: rate, ...terms };
  const admission = new Admission(
    clock,
    () => all,
    (event) => events.push(event),
  );
  return { clock, events, admission };
}

describe('Admission', () => {
  test('limits connections in total, and admits another when one has closed', () => {
    const { admission, events } = bench();
    const closes = Array.from({ length: 5 }, (_, i) => admission.admitConnection(`192.0.2.${i}`));
    expect(admission.admitConnection('192.0.2.9')).toBeUndefined();
    expect(events).toMatchObject([{ kind: 'limit_reached', limit: 'connections', address: '192.0.2.9', isNews: true }]);
    closes[0]?.();
    expect(admission.admitConnection('192.0.2.9')).toBeDefined();
    expect(admission.connections).toBe(5);
  });

  test('limits connections per IPv4 address or /64, but not those of a trusted proxy', () => {
    const { admission, events } = bench();
    const [first] = ['2001:db8::1', '2001:db8::2'].map((address) => admission.admitConnection(address));
    expect(admission.admitConnection('2001:db8::3')).toBeUndefined();
    expect(admission.admitConnection('2001:db8:0:1::3')).toBeDefined();
    expect(admission.admitConnection(undefined)).toBeDefined();
    first?.();
    expect(admission.admitConnection('2001:db8::3')).toBeDefined();
    expect(events).toMatchObject([{ limit: 'connections_per_address' }]);
  });

  test('limits the rate of handshakes, per address and in total', () => {
    const { admission, clock, events } = bench({ handshakes: { perSecond: 2, burst: 6 } });
    const four = (address: string): boolean[] => Array.from({ length: 5 }, () => admission.admitHandshake(address));
    expect(four('192.0.2.1')).toEqual([true, true, true, true, false]);
    expect(four('192.0.2.2')).toEqual([true, true, false, false, false]);
    expect(events.map((event) => event.kind === 'limit_reached' && event.limit)).toEqual([
      'handshakes_per_address',
      ...['handshakes', 'handshakes', 'handshakes_per_address'],
    ]);
    clock.advance(500);
    expect(admission.admitHandshake('192.0.2.1')).toBe(true);
  });

  test('reports a limit once a minute', () => {
    const { admission, clock, events } = bench({ connections: 0 });
    const news = (): unknown => events.map((event) => event.kind === 'limit_reached' && event.isNews);
    for (let i = 0; i < 3; i++) admission.admitConnection('192.0.2.1');
    clock.advance(60_000);
    admission.admitConnection('192.0.2.1');
    expect(news()).toEqual([true, false, false, true]);
  });
});
