import assert from 'node:assert/strict';
import fc from 'fast-check';
import { readProxyHeader } from '../../src/proxy/proxy-protocol.ts';
import { bytes, mutated, target } from './target.ts';

const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1');
const port = fc.integer({ min: 0, max: 65_535 });

const v1 = fc
  .tuple(fc.constantFrom('TCP4', 'TCP6', 'UNKNOWN'), ...[fc.ipV4(), fc.ipV4()], ...[fc.ipV6(), fc.ipV6()], port, port)
  .map(([family, four, toFour, six, toSix, from, to]) => {
    const client = { address: family === 'TCP4' ? four : six, port: from };
    const listener = { address: family === 'TCP4' ? toFour : toSix, port: to };
    const rest = family === 'UNKNOWN' ? '' : ` ${client.address} ${listener.address} ${from} ${to}`;
    const claimed = family === 'UNKNOWN' ? undefined : { client, listener };
    return { header: Buffer.from(`PROXY ${family}${rest}\r\n`), claimed };
  })
  // An IPv4 address written within an IPv6 one, zeros and all, would make it longer than the protocol allows.
  .filter(({ header }) => header.length <= 107);

const v2 = fc
  .tuple(fc.constantFrom(4, 16), fc.uint8Array({ minLength: 32, maxLength: 32 }), port, port, bytes(40))
  .map(([width, addresses, from, to, fields]) => {
    const header = Buffer.alloc(16 + 2 * width + 4);
    SIGNATURE.copy(header);
    header.writeUInt8(0x21, 12);
    header.writeUInt8(width === 4 ? 0x11 : 0x21, 13);
    header.writeUInt16BE(2 * width + 4 + fields.length, 14);
    header.set(addresses.subarray(0, 2 * width), 16);
    header.writeUInt16BE(from, 16 + 2 * width);
    header.writeUInt16BE(to, 18 + 2 * width);
    const end = (at: number, number: number) => ({
      address: width === 4 ? addresses.subarray(at, at + 4).join('.') : undefined,
      port: number,
    });
    return { header: Buffer.concat([header, fields]), claimed: { client: end(0, from), listener: end(width, to) } };
  });

/** A whole header is read as what it says, whatever follows it; a part of one is none yet. */
export const proxyProtocolHeaders = target(
  'PROXY protocol, whole',
  0.1,
  fc.tuple(fc.oneof(v1, v2), bytes(60), fc.double({ min: 0, max: 0.99, noNaN: true })),
  ([{ header, claimed }, rest, cut]) => {
    const part = header.subarray(0, Math.floor(cut * header.length));
    assert.equal(readProxyHeader(part).kind, 'more');
    const read = readProxyHeader(Buffer.concat([header, rest]));
    assert.equal(read.kind, 'header');
    if (read.kind !== 'header') return;
    assert.equal(read.length, header.length);
    assert.equal(read.claimed === undefined, claimed === undefined);
    for (const end of ['client', 'listener'] as const) {
      assert.equal(read.claimed?.[end].port, claimed?.[end].port);
      if (claimed?.[end].address !== undefined) assert.equal(read.claimed?.[end].address, claimed[end].address);
    }
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
