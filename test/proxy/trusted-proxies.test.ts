import { describe, expect, test } from 'vitest';
import type { Cidr } from '../../src/config/types.ts';
import { clientAddress, trustOf } from '../../src/proxy/trusted-proxies.ts';

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

  test('trusts nobody if no proxy is named', () => {
    expect(trustOf([])('127.0.0.1')).toBe(false);
  });
});

describe('clientAddress', () => {
  test.each([
    // What a client has written itself stands left of what its proxy saw.
    ['6.6.6.6, 203.0.113.7', undefined, '203.0.113.7'],
    ['203.0.113.7', undefined, '203.0.113.7'],
    ['203.0.113.7, 10.0.0.2', undefined, '203.0.113.7'],
    ['203.0.113.7, 10.0.0.2,10.0.0.3', undefined, '203.0.113.7'],
    ['10.0.0.9, 10.0.0.2', undefined, '10.0.0.9'],
    ['2001:DB8::7', undefined, '2001:db8::7'],
    ['[2001:db8::7]:5000', undefined, '2001:db8::7'],
    ['203.0.113.7:5000', undefined, '203.0.113.7'],
    ['::ffff:203.0.113.7', undefined, '203.0.113.7'],
    ['6.6.6.6, unknown', undefined, '127.0.0.1'],
    ['6.6.6.6, unknown, 10.0.0.2', undefined, '10.0.0.2'],
    ['', undefined, '127.0.0.1'],
    [undefined, '203.0.113.7', '203.0.113.7'],
    ['203.0.113.8', '203.0.113.7', '203.0.113.8'],
    [undefined, 'rubbish', '127.0.0.1'],
    [undefined, undefined, '127.0.0.1'],
  ])('X-Forwarded-For %j, X-Real-IP %j: %s', (forwardedFor, realIp, expected) => {
    expect(clientAddress('127.0.0.1', forwardedFor, realIp, trust)).toBe(expected);
  });
});
