import assert from 'node:assert/strict';
import type { IncomingMessage } from 'node:http';
import { isIP } from 'node:net';
import fc from 'fast-check';
import type { Cidr } from '../../src/config/types.ts';
import { withUpgrade } from '../../src/proxy/first-bytes.ts';
import { forwardedRawHeaders, originOf } from '../../src/proxy/forwarded.ts';
import { trustOf } from '../../src/proxy/trusted-proxies.ts';
import { bytes, mutated, target } from './target.ts';

const ORIGIN_HEADERS = [
  'X-Forwarded-For',
  'x-real-ip',
  'X-Forwarded-Proto',
  'X-FORWARDED-HOST',
  'Forwarded',
  'true-client-ip',
];
const OURS = ['x-forwarded-for', 'x-forwarded-proto', 'x-real-ip', 'x-forwarded-host'];
const trust = trustOf(['10.0.0.0/8' as Cidr, 'fd00::/8' as Cidr]);

const hop = fc.oneof(
  ...[fc.ipV4(), fc.ipV6(), fc.constantFrom('10.1.2.3', '[fd00::1]:443', '::ffff:10.0.0.1', '198.51.100.7:1', '')],
  fc.string({ unit: 'binary', maxLength: 20 }),
);
const value = fc.oneof(
  fc.array(hop, { maxLength: 5 }).map((hops) => hops.join(', ')),
  fc.constantFrom('https', 'http, https', 'gopher'),
  fc.string({ unit: 'binary', maxLength: 30 }),
);
const header = fc.tuple(
  fc.oneof(fc.constantFrom(...ORIGIN_HEADERS, 'Host', 'Accept'), fc.string({ minLength: 1 })),
  value,
);
const peer = fc.oneof(
  fc.ipV4(),
  fc.ipV6(),
  fc.constantFrom('10.9.9.9', '::ffff:10.9.9.9', '::ffff:192.0.2.1', 'fd00::2'),
);

function requestOf(rawHeaders: readonly (readonly [string, string])[], remoteAddress: string): IncomingMessage {
  const headers: Record<string, string> = Object.create(null);
  for (const [name, text] of rawHeaders) {
    const known = headers[name.toLowerCase()];
    headers[name.toLowerCase()] = known === undefined ? text : `${known}, ${text}`;
  }
  return { socket: { remoteAddress, remotePort: 5 }, headers } as unknown as IncomingMessage;
}

/** Whoever is not trusted is who they are; whoever is says an address or nothing; and Headscale hears each truth once. */
export const forwardedHeaders = target(
  'forwarded headers',
  0.1,
  fc.tuple(fc.array(header, { maxLength: 8 }), peer),
  ([sent, remoteAddress]) => {
    const request = requestOf(sent, remoteAddress);
    const origin = originOf(request, undefined, trust);
    const plain = remoteAddress.replace(/^::ffff:(?=.*\.)/, '');
    assert.equal(origin.isDirect, !trust(plain));
    if (origin.isDirect) assert.deepEqual([origin.address, origin.port], [plain, 5]);
    assert.notEqual(isIP(origin.address), 0, `not an address: ${origin.address}`);
    const raw = forwardedRawHeaders(sent.flat(), origin);
    const names = raw.filter((_, i) => i % 2 === 0).map((name) => name.toLowerCase());
    for (const name of OURS.slice(0, 3)) assert.equal(names.filter((each) => each === name).length, 1, name);
    for (const name of ['forwarded', 'true-client-ip']) assert.ok(!names.includes(name), name);
  },
);

const head = fc
  .tuple(
    fc.constantFrom('POST /ts2021 HTTP/1.1', 'GET /x HTTP/1.1', ''),
    fc.array(
      fc.constantFrom(
        ...[
          'Upgrade: tailscale-control-protocol',
          'upgrade: WebSocket',
          'Connection: keep-alive',
          'connection: upgrade',
        ],
        ...['Content-Length: 4', 'X: y', ' folded', 'Connection:', 'Upgrade : derp', 'Host: h'],
      ),
      { maxLength: 7 },
    ),
    bytes(30),
  )
  .map(([line, headers, body]) => Buffer.concat([Buffer.from(`${[line, ...headers].join('\r\n')}\r\n\r\n`), body]));

/** A connection's first head gets one line more, or loses its Upgrade; nothing else changes, and nothing behind it. */
export const upgradeHeads = target('upgrade heads', 0.05, fc.oneof(head, mutated(head), bytes(200)), (some) => {
  const read = withUpgrade(some);
  if (read.kind !== 'done') return assert.equal(some.indexOf('\r\n\r\n'), -1);
  const [before, after] = [some, read.rest].map((each) => each.toString('latin1')) as [string, string];
  const others = (text: string): string =>
    text.replace('Connection: upgrade\r\n', '').replace(/\r\nupgrade:[^\r]*(?=\r)/gi, '');
  const end = before.indexOf('\r\n\r\n');
  assert.equal(after.slice(after.length - before.length + end), before.slice(end), 'what follows the head');
  assert.equal(others(after), others(before));
});
