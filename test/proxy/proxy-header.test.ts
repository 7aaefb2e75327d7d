import { describe, expect, test } from 'vitest';
import { readProxyHeader } from '../../src/proxy/proxy-protocol.ts';

const v1 = (line: string): Buffer => Buffer.from(`${line}\r\n`, 'latin1');

/** A header of version 2, as its specification lays it out. */
function v2(versionAndCommand: number, family: number, body: Buffer): Buffer {
  const start = Buffer.from('0d0a0d0a000d0a515549540a', 'hex');
  const length = Buffer.alloc(2);
  length.writeUInt16BE(body.length);
  return Buffer.concat([start, Buffer.from([versionAndCommand, family]), length, body]);
}

const IPV4 = Buffer.from('cb007107c0000201c35001bb', 'hex');
const IPV6 = Buffer.from(`${'20010db8'.padEnd(31, '0')}7${'20010db8'.padEnd(31, '0')}1c35001bb`, 'hex');
const MAPPED = Buffer.from(`${'ffffcb007107'.padStart(32, '0')}${'ffffc0000201'.padStart(32, '0')}c35001bb`, 'hex');
const A_FIELD = Buffer.from([0x04, 0x00, 0x02, 0x61, 0x62]);

const CLAIMED = {
  client: { address: '203.0.113.7', port: 50_000 },
  listener: { address: '192.0.2.1', port: 443 },
};
const CLAIMED6 = {
  client: { address: '2001:db8::7', port: 50_000 },
  listener: { address: '2001:db8::1', port: 443 },
};

const whole: readonly (readonly [string, Buffer, object | undefined])[] = [
  ['v1, IPv4', v1('PROXY TCP4 203.0.113.7 192.0.2.1 50000 443'), CLAIMED],
  ['v1, IPv6', v1('PROXY TCP6 2001:db8::7 2001:db8::1 50000 443'), CLAIMED6],
  ['v1, unknown', v1('PROXY UNKNOWN'), undefined],
  ['v1, unknown with more', v1('PROXY UNKNOWN ffff::1 ffff::2 1 2'), undefined],
  ['v2, IPv4', v2(0x21, 0x11, IPV4), CLAIMED],
  ['v2, IPv4, with fields', v2(0x21, 0x11, Buffer.concat([IPV4, A_FIELD])), CLAIMED],
  ['v2, IPv6', v2(0x21, 0x21, IPV6), CLAIMED6],
  ['v2, IPv6, of an IPv4 client', v2(0x21, 0x21, MAPPED), CLAIMED],
  ['v2, local', v2(0x20, 0x00, Buffer.alloc(0)), undefined],
  ['v2, local with an address', v2(0x20, 0x11, IPV4), undefined],
  ['v2, a Unix socket', v2(0x21, 0x31, Buffer.alloc(216)), undefined],
];

describe('readProxyHeader', () => {
  test.each(whole)('%s: is read when it is complete and not before, whatever follows', (_name, header, claimed) => {
    for (let length = 1; length < header.length; length++) {
      expect(readProxyHeader(header.subarray(0, length)), `${length} bytes`).toEqual({ kind: 'more' });
    }
    const found = { kind: 'header', length: header.length, claimed };
    expect(readProxyHeader(header)).toEqual(found);
    expect(readProxyHeader(Buffer.concat([header, Buffer.from('PROXY GET / HTTP/1.1')]))).toEqual(found);
  });

  test.each([
    ['no header', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
    ['TLS', Buffer.from('160301', 'hex')],
    ['v1, no addresses', v1('PROXY TCP4')],
    ['v1, a name for an address', v1('PROXY TCP4 localhost 192.0.2.1 1 2')],
    ['v1, an address of the other family', v1('PROXY TCP4 2001:db8::7 2001:db8::1 1 2')],
    ['v1, another family', v1('PROXY UDP4 203.0.113.7 192.0.2.1 1 2')],
    ['v1, a port too large', v1('PROXY TCP4 203.0.113.7 192.0.2.1 65536 2')],
    ['v1, a port with a zero before it', v1('PROXY TCP4 203.0.113.7 192.0.2.1 01 2')],
    ['v1, no port', v1('PROXY TCP4 203.0.113.7 192.0.2.1 1')],
    ['v1, one more word', v1('PROXY TCP4 203.0.113.7 192.0.2.1 1 2 3')],
    ['v1, a line without end', Buffer.from(`PROXY TCP4 ${'1'.repeat(200)}`)],
    ['v2, another version', v2(0x11, 0x11, IPV4)],
    ['v2, another command', v2(0x22, 0x11, IPV4)],
    ['v2, too short for its addresses', v2(0x21, 0x21, IPV4)],
    ['v2, far too long', v2(0x21, 0x11, Buffer.alloc(5000))],
  ])('%s: is refused, with a reason', (_name, bytes) => {
    expect(readProxyHeader(bytes)).toEqual({ kind: 'bad', why: expect.stringMatching(/\w+ \w+/) });
  });
});
