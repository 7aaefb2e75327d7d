import { describe, expect, test } from 'vitest';
import type { Cidr } from '../../src/config/types.ts';
import { addressAndPort } from '../../src/lib/addresses.ts';
import { toldByProxies, trustOf } from '../../src/proxy/trusted-proxies.ts';

const trust = trustOf(['127.0.0.1', '10.0.0.0/8', 'fd00::/8'] as Cidr[]);

describe('trustOf', () => {
  test.each([
    ['127.0.0.1', true],
    ['127.0.0.2', false],
    ['10.255.0.1', true],
    ['11.0.0.1', false],
    ['fd12::1', true],
    ['fe80::1', false],
    ['unknown', false],
    ['', false],
  ])('%j: %s', (address, expected) => {
    expect(trust(address)).toBe(expected);
  });

  test('of many addresses each has its own answer, also when it is asked again', () => {
    for (let round = 0; round < 2; round++) {
      for (let i = 0; i < 2000; i++) {
        const rest = `${i >> 8}.${i & 255}.1`;
        expect([trust(`10.${rest}`), trust(`11.${rest}`)]).toEqual([true, false]);
      }
    }
  });

  test('trusts nobody if no proxy is named', () => {
    expect(trustOf([])('127.0.0.1')).toBe(false);
  });
});

type Headers = Readonly<Record<string, string>>;
const clientIn = (headers: Headers) => toldByProxies((name) => headers[name], trust).client;

/** What is told, as `address`, `address:port` or `nobody`; with `from afar` if the nearest proxy has not seen it. */
function shown(headers: Headers): string {
  const client = clientIn(headers);
  if (client === undefined) return 'nobody';
  return `${addressAndPort(client.address, client.port)}${client.isSeenByNearest ? '' : ' from afar'}`;
}

describe('toldByProxies', () => {
  test.each([
    // What a client has written itself stands left of what its proxy saw.
    ['6.6.6.6, 203.0.113.7', '203.0.113.7'],
    ['203.0.113.7', '203.0.113.7'],
    ['203.0.113.7, 10.0.0.2', '203.0.113.7 from afar'],
    ['203.0.113.7, 10.0.0.2,10.0.0.3', '203.0.113.7 from afar'],
    ['10.0.0.9, 10.0.0.2', '10.0.0.9 from afar'],
    ['10.0.0.9', '10.0.0.9'],
    ['2001:DB8::7', '2001:db8::7'],
    ['[2001:db8::7]:5000', '[2001:db8::7]:5000'],
    ['[2001:db8::7]', '2001:db8::7'],
    ['1:2:3:4:5:6:7:8:5000', '[1:2:3:4:5:6:7:8]:5000'],
    ['203.0.113.7:5000', '203.0.113.7:5000'],
    ['203.0.113.7:5000, 10.0.0.2:5001', '203.0.113.7:5000 from afar'],
    ['6.6.6.6:66, 203.0.113.7', '203.0.113.7'],
    ['203.0.113.7:0', '203.0.113.7'],
    ['203.0.113.7:65536', '203.0.113.7'],
    ['203.0.113.7:123456', '203.0.113.7'],
    ['203.0.113.7:', 'nobody'],
    ['203.0.113.7:http', 'nobody'],
    ['::ffff:203.0.113.7', '203.0.113.7'],
    ['[::ffff:203.0.113.7]:5000', '203.0.113.7:5000'],
    ['6.6.6.6, unknown', 'nobody'],
    ['6.6.6.6, unknown, 10.0.0.2', '10.0.0.2'],
    ['203.0.113.7, ', 'nobody'],
  ])('X-Forwarded-For: %s means %s', (forwardedFor, expected) => {
    expect(shown({ 'x-forwarded-for': forwardedFor })).toBe(expected);
  });

  test.each([
    ['for=203.0.113.7', '203.0.113.7'],
    ['For="203.0.113.7:4711"', '203.0.113.7:4711'],
    ['for="[2001:db8::7]:4711";proto=https;host=hs.example', '[2001:db8::7]:4711'],
    ['for="[2001:db8::7]"', '2001:db8::7'],
    ['for="203.0.113.7:_port"', '203.0.113.7'],
    ['for="203.0.113.7:99999"', '203.0.113.7'],
    ['host=x; for="203.0.113.\\7:4711" ;by=_me;', '203.0.113.7:4711'],
    ['for=6.6.6.6, for="203.0.113.7:4711"', '203.0.113.7:4711'],
    ['for="203.0.113.7:4711", for="10.0.0.2:1"', '203.0.113.7:4711 from afar'],
    ['for=203.0.113.7;host="a, for=6.6.6.6"', '203.0.113.7'],
    ['for=203.0.113.7;host="a\\", for=6.6.6.6"', '203.0.113.7'],
    // The client does not close its quotation marks, so that its proxy's element looks like a part of its own.
    ['for="6.6.6.6, for="203.0.113.7:4711"', '203.0.113.7:4711'],
    ['for=6.6.6.6;host="\\, for=203.0.113.7', '203.0.113.7'],
    ['for=6.6.6.6;host=", for="203.0.113.7:4711"', '203.0.113.7:4711'],
    // A proxy that hides its client, or one that cannot be read: what stands before is anybody's.
    ['for=6.6.6.6, for=unknown', 'nobody'],
    ['for=6.6.6.6, for="unknown:4711"', 'nobody'],
    ['for=6.6.6.6, for=_hidden', 'nobody'],
    ['for=6.6.6.6, proto=https', 'nobody'],
    ['for=6.6.6.6, for=unknown, for=10.0.0.2', '10.0.0.2'],
    ['for=6.6.6.6,, for=10.0.0.2', '10.0.0.2'],
    ['for=6.6.6.6, for = 203.0.113.7', 'nobody'],
    ['for=6.6.6.6, for=203.0.113.7:4711', 'nobody'],
    ['for=6.6.6.6, for=203.0.113.7;for=10.0.0.2', 'nobody'],
    ['for=6.6.6.6, for=203.0.113.7 proto=http', 'nobody'],
    ['for=6.6.6.6, for="203.0.113.7', 'nobody'],
    ['for=6.6.6.6, for=203.0.113.7"', 'nobody'],
    ['for=6.6.6.6,', 'nobody'],
  ])('Forwarded: %s means %s', (forwarded, expected) => {
    expect(shown({ forwarded })).toBe(expected);
  });

  const [AGREES, OTHER] = ['for="203.0.113.7:4711";proto=https', 'for="6.6.6.6:4711"'];
  test.each([
    // X-Forwarded-For, then X-Real-IP, then Forwarded.
    ['203.0.113.8', '203.0.113.7', AGREES, undefined, '203.0.113.8'],
    [undefined, '203.0.113.8', AGREES, undefined, '203.0.113.8'],
    [undefined, '203.0.113.8:5000', undefined, '4711', '203.0.113.8:5000'],
    [undefined, undefined, AGREES, undefined, '203.0.113.7:4711'],
    [undefined, 'rubbish', AGREES, undefined, 'nobody'],
    [undefined, '6.6.6.6, 203.0.113.7', undefined, undefined, 'nobody'],
    // The address of our own proxy is one, so a client's X-Real-IP does not take its place.
    ['127.0.0.1', '6.6.6.6', AGREES, undefined, '127.0.0.1'],
    ['unknown', '6.6.6.6', AGREES, undefined, 'nobody'],
    // The port.
    ['203.0.113.7', undefined, undefined, '4711', '203.0.113.7:4711'],
    ['203.0.113.7', undefined, undefined, ' 4711 ', '203.0.113.7:4711'],
    [undefined, '203.0.113.7', undefined, '4711', '203.0.113.7:4711'],
    [undefined, undefined, 'for=203.0.113.7', '4711', '203.0.113.7:4711'],
    [undefined, undefined, undefined, '4711', 'nobody'],
    ['203.0.113.7', undefined, AGREES, undefined, '203.0.113.7:4711'],
    [undefined, '203.0.113.7', AGREES, undefined, '203.0.113.7:4711'],
    ['203.0.113.7', undefined, OTHER, undefined, '203.0.113.7'],
    ['203.0.113.7', undefined, `${AGREES}, ${OTHER}`, undefined, '203.0.113.7'],
    ['203.0.113.7', undefined, `${OTHER}, ${AGREES}`, undefined, '203.0.113.7:4711'],
    ['203.0.113.7:5000', undefined, AGREES, '4712', '203.0.113.7:5000'],
    ['203.0.113.7', undefined, AGREES, '4711', '203.0.113.7:4711'],
    ['203.0.113.7', undefined, OTHER, '4712', '203.0.113.7:4712'],
    ['203.0.113.7', undefined, AGREES, '4712', '203.0.113.7'],
    ['203.0.113.7', undefined, undefined, '77, 78', '203.0.113.7'],
    ['203.0.113.7', undefined, undefined, '(null)', '203.0.113.7'],
    ['203.0.113.7', undefined, undefined, '0', '203.0.113.7'],
    ['203.0.113.7', undefined, undefined, '65536', '203.0.113.7'],
    // Another proxy saw the client, so the port that the nearest one saw is that other proxy's.
    ['203.0.113.7, 10.0.0.2', undefined, AGREES, '4711', '203.0.113.7 from afar'],
  ])('X-Forwarded-For %j, X-Real-IP %j, Forwarded %j, X-Real-Port %j mean %s', (...given) => {
    const [forwardedFor, realIp, forwarded, realPort, expected] = given;
    const headers = Object.entries({
      'x-forwarded-for': forwardedFor,
      'x-real-ip': realIp,
      forwarded,
      'x-real-port': realPort,
    });
    expect(
      shown(Object.fromEntries(headers.flatMap(([name, text]) => (text === undefined ? [] : [[name, text]])))),
    ).toBe(expected);
  });

  test('the protocol and the host are those of the nearest proxy, where Forwarded counts', () => {
    const forwarded = 'for=6.6.6.6;proto=http;host=evil, for=203.0.113.7;proto=https;host="hs.example:8443"';
    const of = (headers: Headers) => {
      const { proto, host } = toldByProxies((name) => headers[name], trust);
      return { proto, host };
    };
    expect(of({ forwarded })).toEqual({ proto: 'https', host: 'hs.example:8443' });
    for (const name of ['x-forwarded-for', 'x-real-ip']) {
      expect(of({ forwarded, [name]: '203.0.113.7' }), name).toEqual({ proto: undefined, host: undefined });
    }
    expect(of({ forwarded: 'for=203.0.113.7;host=""' })).toEqual({ proto: undefined, host: undefined });
  });

  test.each([
    ['spaces', ' '.repeat(60_000)],
    ['quotation marks', '"'.repeat(60_000)],
    ['backslashes', `"${'\\'.repeat(60_000)}"`],
    ['semicolons', ';'.repeat(60_000)],
    ['commas', ','.repeat(60_000)],
    ['colons', ':1'.repeat(30_000)],
    ['trusted hops', 'for=10.0.0.1,'.repeat(5000)],
  ])('a header of many %s is read quickly', (_name, text) => {
    const startedAt = performance.now();
    for (const name of ['x-forwarded-for', 'x-real-ip', 'forwarded']) {
      clientIn({ [name]: text });
      for (const start of ['for=1.1.1.1;', 'for=1.1.1.1;host=']) clientIn({ [name]: `${start}${text}x` });
    }
    expect(performance.now() - startedAt).toBeLessThan(1000);
  });
});
