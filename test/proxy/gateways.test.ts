import { networkInterfaces } from 'node:os';
import { describe, expect, test } from 'vitest';
import { Gateways, gateways6In, gatewaysIn } from '../../src/proxy/front-proxies.ts';
import { FakeClock } from '../support/fake-clock.ts';

const ROUTES = `Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010012AC\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000012AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
`;
const ROUTES6 = `fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0
`;

describe('Gateways', () => {
  test('are read from the routes, in the form of client addresses', () => {
    expect(gatewaysIn(ROUTES)).toEqual(['172.18.0.1']);
    expect(gateways6In(ROUTES6)).toEqual(['fd00::1']);
    for (const strange of ['', 'a b c', '\n\n', 'eth0 0 zz 0003']) {
      expect([...gatewaysIn(strange), ...gateways6In(strange)]).toEqual([]);
    }
  });

  test("include this machine's own addresses", () => {
    const gateways = new Gateways(new FakeClock());
    const own = Object.values(networkInterfaces()).flatMap((each) => (each ?? []).map(({ address }) => address));
    for (const address of [...own, '127.0.0.53']) expect(gateways.has(address)).toBe(true);
    expect(gateways.has('203.0.113.7')).toBe(false);
  });

  test('are read once a minute at most', () => {
    const clock = new FakeClock();
    let reads = 0;
    const gateways = new Gateways(clock, () => new Set(reads++ === 0 ? ['10.0.2.2'] : []));
    for (let i = 0; i < 1000; i++) expect(gateways.has('10.0.2.2')).toBe(true);
    clock.advance(60_000);
    expect([gateways.has('10.0.2.2'), reads]).toEqual([false, 2]);
  });
});
