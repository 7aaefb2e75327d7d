import { isIPv6 } from 'node:net';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { addressAndPort, addressBytes, addressText, ownAddresses, plainAddress } from '../../src/lib/addresses.ts';

const hexOf = (address: string): string | undefined => addressBytes(address)?.toString('hex');

describe('addressBytes', () => {
  test.each([
    ['192.0.2.7', 'c0000207'],
    ['255.255.255.255', 'ffffffff'],
    ['::ffff:192.0.2.7', 'c0000207'],
    ['::FFFF:c000:207', 'c0000207'],
    ['0:0:0:0:0:ffff:192.0.2.7', 'c0000207'],
    ['::', '00000000000000000000000000000000'],
    ['::1', '00000000000000000000000000000001'],
    ['2001:DB8::A:0:1', '20010db8000000000000000a00000001'],
    ['2001:db8:1:2:3:4:5:6', '20010db8000100020003000400050006'],
    ['64:ff9b::192.0.2.7', '0064ff9b0000000000000000c0000207'],
    ['fe80::1%eth0', 'fe800000000000000000000000000001'],
  ])('%s', (address, hex) => {
    expect(hexOf(address)).toBe(hex);
  });

  test.each(['', 'unknown', '192.0.2', '192.0.2.7:80', '[::1]', '::1::', 'example.org', '1:2:3:4:5:6:7'])(
    '%j is not one',
    (text) => {
      expect(addressBytes(text)).toBeUndefined();
    },
  );
});

describe('addressText', () => {
  test.each([
    ['c0000207', '192.0.2.7'],
    ['00000000000000000000ffffc0000207', '192.0.2.7'],
    ['00000000000000000000000000000000', '::'],
    ['00000000000000000000000000000001', '::1'],
    ['00010000000000000000000000000000', '1::'],
    ['20010db8000000000001000000000001', '2001:db8::1:0:0:1'],
    ['20010db8000000010000000000000001', '2001:db8:0:1::1'],
    ['20010db8000000010001000100010001', '2001:db8:0:1:1:1:1:1'],
    ['20010db800010002000300040005ABCD', '2001:db8:1:2:3:4:5:abcd'],
  ])('%s is %s', (hex, text) => {
    const bytes = Buffer.from(`ff${hex}ff`, 'hex');
    expect(addressText(bytes, 1, bytes.length - 2)).toBe(text);
  });

  test('writes every IPv6 address as the URL parser does, and addressBytes reads it back', () => {
    const groups = fc.array(fc.oneof(fc.constant(0), fc.constant(0), fc.nat(0xffff)), { minLength: 8, maxLength: 8 });
    fc.assert(
      fc.property(groups, (numbers) => {
        const bytes = Buffer.alloc(16);
        numbers.forEach((group, i) => {
          bytes.writeUInt16BE(group, 2 * i);
        });
        const text = addressText(bytes, 0, 16);
        if (!isIPv6(text)) return bytes.toString('hex').startsWith('00000000000000000000ffff');
        expect(`[${text}]`).toBe(new URL(`http://[${numbers.map((group) => group.toString(16)).join(':')}]`).hostname);
        return addressBytes(text)?.equals(bytes);
      }),
    );
  });
});

describe('plainAddress', () => {
  test.each([
    ['::ffff:192.0.2.7', '192.0.2.7'],
    ['::FFFF:192.0.2.7', '192.0.2.7'],
    ['::ffff:0:192.0.2.7', '::ffff:0:192.0.2.7'],
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

describe('ownAddresses', () => {
  test('are those of this machine, the loopback among them', () => expect(ownAddresses()).toContain('127.0.0.1'));

  test('are unknown where the system does not tell, as with a seccomp profile without netlink', () => {
    const refused = (): never => {
      throw new Error('uv_interface_addresses returned Unknown system error 1');
    };
    expect(ownAddresses(refused)).toEqual([]);
  });
});
