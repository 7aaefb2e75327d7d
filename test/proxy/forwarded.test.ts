import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { describe, expect, test } from 'vitest';
import type { Cidr } from '../../src/config/types.ts';
import { forwardedRawHeaders, originOf } from '../../src/proxy/forwarded.ts';
import { trustOf } from '../../src/proxy/trusted-proxies.ts';

const trust = trustOf(['127.0.0.1', '10.0.0.0/8'] as Cidr[]);
const OWN = { localAddress: '127.0.0.1', localPort: 8081 };

function requestFrom(remoteAddress: string, headers: IncomingHttpHeaders = {}, socket: object = OWN): IncomingMessage {
  const all = { host: 'hs.example', ...headers };
  return { headers: all, socket: { remoteAddress, remotePort: 40_000, ...socket } } as unknown as IncomingMessage;
}

const claimedBy = (address: string, port = 50_000) => ({
  client: { address, port },
  listener: { address: '192.0.2.1', port: 443 },
});

const PROXY = { local: { address: '127.0.0.1', port: 40_000 }, remote: { address: '127.0.0.1', port: 8081 } };

describe('originOf', () => {
  test('an untrusted sender is the client, whatever its headers say', () => {
    const headers = {
      'x-forwarded-for': '203.0.113.7:1',
      'x-real-ip': '203.0.113.7',
      'x-real-port': '4711',
      'x-forwarded-proto': 'https',
      'x-forwarded-host': 'evil',
      forwarded: 'for="203.0.113.7:1";proto=https;host=evil',
    };
    expect(originOf(requestFrom('198.51.100.9', headers), undefined, trust)).toEqual({
      address: '198.51.100.9',
      port: 40_000,
      path: { kind: 'direct' },
      proto: 'http',
      host: 'hs.example',
    });
  });

  test('one proxy that saw the client: both connections are known', () => {
    const headers = { 'x-forwarded-for': '203.0.113.7', 'x-real-port': '4711' };
    const client = { address: '203.0.113.7', port: 4711 };
    expect(originOf(requestFrom('127.0.0.1', headers), undefined, trust)).toMatchObject({
      ...client,
      path: { kind: 'one_proxy', proxy: PROXY, client, listener: undefined },
    });
  });

  test('IPv4 on a dual-stack listener is IPv4', () => {
    const socket = { localAddress: '::ffff:127.0.0.1', localPort: 8081 };
    const request = requestFrom('::ffff:127.0.0.1', { 'x-real-ip': '203.0.113.7' }, socket);
    expect(originOf(request, undefined, trust).path).toMatchObject({ kind: 'one_proxy', proxy: PROXY });
  });

  test("the PROXY protocol tells all four numbers, and then headers are the client's own", () => {
    const headers = { 'x-forwarded-for': '6.6.6.6', 'x-real-port': '66', 'x-forwarded-proto': 'https' };
    const claimed = claimedBy('203.0.113.7');
    expect(originOf(requestFrom('127.0.0.1', headers), claimed, trust)).toEqual({
      ...claimed.client,
      path: { kind: 'one_proxy', proxy: PROXY, ...claimed },
      proto: 'http',
      host: 'hs.example',
    });
  });

  test('a PROXY protocol header with the port 0 does not know it', () => {
    const { port, path } = originOf(requestFrom('127.0.0.1'), claimedBy('203.0.113.7', 0), trust);
    expect(port).toBeUndefined();
    expect(path).toMatchObject({ client: { address: '203.0.113.7', port: undefined } });
  });

  test.each([
    ['two hops in a header', { 'x-forwarded-for': '203.0.113.7, 10.0.0.2' }, undefined, 'several_proxies'],
    ['two hops in Forwarded', { forwarded: 'for=203.0.113.7, for=10.0.0.2' }, undefined, 'several_proxies'],
    ['PROXY protocol from a proxy', { 'x-forwarded-for': '203.0.113.7' }, '10.0.0.2', 'several_proxies'],
    ['a proxy that says nothing', {}, undefined, 'address_hidden'],
    ['a proxy that says unknown', { 'x-forwarded-for': 'unknown' }, undefined, 'address_hidden'],
    ['a proxy that names itself', { 'x-forwarded-for': '127.0.0.1' }, undefined, 'address_hidden'],
    ['a proxy that names another one', { 'x-forwarded-for': '10.0.0.2' }, undefined, 'address_hidden'],
    ['PROXY protocol, and nothing else', {}, '10.0.0.2', 'address_hidden'],
  ])('%s', (_name, headers, claimed, kind) => {
    const from = claimed === undefined ? undefined : claimedBy(claimed);
    expect(originOf(requestFrom('127.0.0.1', headers), from, trust).path).toMatchObject({ kind });
  });

  test('a port that a proxy further out has seen is shown, though there is no evidence', () => {
    const headers = { 'x-forwarded-for': '203.0.113.7:4711, 10.0.0.2' };
    expect(originOf(requestFrom('127.0.0.1', headers), undefined, trust)).toMatchObject({
      address: '203.0.113.7',
      port: 4711,
    });
  });

  test("a client on the proxy's own address does not get the port of the proxy's connection", () => {
    const headers = { 'x-forwarded-for': '127.0.0.1' };
    const { address, port } = originOf(requestFrom('127.0.0.1', headers), undefined, trust);
    expect([address, port]).toEqual(['127.0.0.1', undefined]);
  });

  test('Forwarded says the protocol and the host as well; where it does not, the others do', () => {
    const others = { 'x-forwarded-proto': 'https', 'x-forwarded-host': 'other.example' };
    const of = (headers: IncomingHttpHeaders) => {
      const { proto, host } = originOf(requestFrom('127.0.0.1', headers), undefined, trust);
      return [proto, host];
    };
    expect(of({ forwarded: 'for=203.0.113.7;proto=HTTPS;host=a.example' })).toEqual(['https', 'a.example']);
    expect(of({ ...others, forwarded: 'for=203.0.113.7;proto=http;host=a.example' })).toEqual(['http', 'a.example']);
    expect(of({ ...others, forwarded: 'for=203.0.113.7;proto=gopher' })).toEqual(['https', 'other.example']);
    expect(of({ ...others, 'x-real-ip': '203.0.113.7', forwarded: 'for=203.0.113.7;proto=http;host=a' })).toEqual([
      'https',
      'other.example',
    ]);
    expect(of({ forwarded: 'for=203.0.113.7' })).toEqual(['http', 'hs.example']);
  });

  test('a socket that closed meanwhile has a path as well, to no connection', () => {
    const request = requestFrom('127.0.0.1', { 'x-forwarded-for': '203.0.113.7' }, { remotePort: undefined });
    const nowhere = { local: { address: '127.0.0.1', port: 0 }, remote: { address: '::', port: 0 } };
    expect(originOf(request, undefined, trust).path).toMatchObject({ kind: 'one_proxy', proxy: nowhere });
  });
});

test('Headscale hears no port, neither ours nor what a client says', () => {
  const origin = originOf(requestFrom('127.0.0.1', { 'x-forwarded-for': '203.0.113.7:4711' }), undefined, trust);
  const sent = forwardedRawHeaders(['X-Real-Port', '1', 'Forwarded', 'for="1.1.1.1:1"', 'Accept', '*/*'], origin);
  expect(sent.filter((_, i) => i % 2 === 0)).toEqual([
    'Accept',
    'X-Forwarded-For',
    'X-Forwarded-Proto',
    'X-Real-IP',
    'X-Forwarded-Host',
  ]);
  expect(sent).toContain('203.0.113.7');
});
