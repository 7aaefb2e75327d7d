import assert from 'node:assert/strict';
import fc from 'fast-check';
import { readProxyHeader } from '../../src/proxy/proxy-protocol.ts';
import { bytes, mutated, target } from './target.ts';

const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1');
const port = fc.integer({ min: 0, max: 65_535 });

const v1 = fc
  .tuple(fc.constantFrom('TCP4', 'TCP6', 'UNKNOWN'), fc.ipV4(), fc.ipV6(), port)
  .map(([family, four, six, from]) => {
    const address = family === 'TCP4' ? four : six;
    const rest = family === 'UNKNOWN' ? '' : ` ${address} ${address} ${from} 443`;
    const expected = family === 'UNKNOWN' ? undefined : { address, port: from };
    return { header: Buffer.from(`PROXY ${family}${rest}\r\n`), from: expected };
  })
  // An IPv4 address written within an IPv6 one, zeros and all, would make it longer than the protocol allows.
  .filter(({ header }) => header.length <= 107);

const v2 = fc
  .tuple(fc.constantFrom(4, 16), fc.uint8Array({ minLength: 32, maxLength: 32 }), port, bytes(40))
  .map(([width, addresses, from, fields]) => {
    const header = Buffer.alloc(16 + 2 * width + 4);
    SIGNATURE.copy(header);
    header.writeUInt8(0x21, 12);
    header.writeUInt8(width === 4 ? 0x11 : 0x21, 13);
    header.writeUInt16BE(2 * width + 4 + fields.length, 14);
    header.set(addresses.subarray(0, 2 * width), 16);
    header.writeUInt16BE(from, 16 + 2 * width);
    const four = [...addresses.subarray(0, 4)].join('.');
    return { header: Buffer.concat([header, fields]), from: { address: width === 4 ? four : undefined, port: from } };
  });

/** A whole header is read as what it says, whatever follows it; a part of one is none yet. */
export const proxyProtocolHeaders = target(
  'PROXY protocol, whole',
  0.1,
  fc.tuple(fc.oneof(v1, v2), bytes(60), fc.double({ min: 0, max: 0.99, noNaN: true })),
  ([{ header, from }, rest, cut]) => {
    const part = header.subarray(0, Math.floor(cut * header.length));
    assert.equal(readProxyHeader(part).kind, 'more');
    const read = readProxyHeader(Buffer.concat([header, rest]));
    assert.equal(read.kind, 'header');
    if (read.kind !== 'header') return;
    assert.equal(read.length, header.length);
    assert.equal(read.from?.port, from?.port);
    if (from?.address !== undefined) assert.equal(read.from?.address, from.address);
  },
);

/** Whatever comes: no throw, and more of it changes nothing about what has been decided. */
export const proxyProtocolRubbish = target(
  'PROXY protocol, any bytes',
  0.1,
  fc.tuple(fc.oneof(mutated(fc.oneof(v1, v2).map(({ header }) => header)), bytes(120)), bytes(60)),
  ([start, rest]) => {
    const before = readProxyHeader(start);
    const after = readProxyHeader(Buffer.concat([start, rest]));
    if (before.kind === 'more') assert.ok(start.length < 16 + 4096, 'waits for ever more');
    else assert.deepEqual(after, before);
    if (after.kind === 'header') assert.ok(after.length <= start.length + rest.length);
    if (after.kind === 'bad') assert.notEqual(after.why, '');
  },
);
