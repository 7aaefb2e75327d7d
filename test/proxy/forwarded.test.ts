import { describe, expect, test } from 'vitest';
import { addressAndPort, plainAddress } from '../../src/lib/addresses.ts';

describe('plainAddress', () => {
  test.each([
    ['::ffff:192.0.2.7', '192.0.2.7'],
    ['2001:db8::7', '2001:db8::7'],
    ['192.0.2.7', '192.0.2.7'],
    [undefined, 'unknown'],
  ])('turns %s into %s', (given, plain) => {
    expect(plainAddress(given)).toBe(plain);
  });
});

describe('addressAndPort', () => {
  test('puts an IPv6 address in brackets', () => {
    expect(addressAndPort('2001:db8::7', 80)).toBe('[2001:db8::7]:80');
    expect(addressAndPort('192.0.2.7', 80)).toBe('192.0.2.7:80');
  });
});
