import type { IncomingMessage } from 'node:http';
import { describe, expect, test } from 'vitest';
import { addressAndPort, plainAddress } from '../../src/proxy/forwarded.ts';
import { kindOf } from '../../src/proxy/listener.ts';

describe('plainAddress', () => {
  test.each([
    ['::ffff:192.0.2.7', '192.0.2.7'],
    ['2001:db8::7', '2001:db8::7'],
    ['192.0.2.7', '192.0.2.7'],
    [undefined, 'unknown'],
  ])('of %s is %s', (given, plain) => {
    expect(plainAddress(given)).toBe(plain);
  });
});

describe('addressAndPort', () => {
  test('puts an IPv6 address in brackets', () => {
    expect(addressAndPort('2001:db8::7', 80)).toBe('[2001:db8::7]:80');
    expect(addressAndPort('192.0.2.7', 80)).toBe('192.0.2.7:80');
  });
});

describe('kindOf', () => {
  test.each([
    ['/ts2021', 'control'],
    ['/ts2021?X-Tailscale-Handshake=x', 'control'],
    ['/derp', 'derp'],
    ['/derp/probe', 'other'],
    ['/ts2021x', 'other'],
  ])('of an upgrade of %s is %s', (url, kind) => {
    expect(kindOf({ url } as IncomingMessage)).toBe(kind);
  });
});
