import assert from 'node:assert/strict';
import type { IncomingMessage } from 'node:http';
import { isIP } from 'node:net';
import fc from 'fast-check';
import type { Cidr } from '../../src/config/types.ts';
import { addressAndPort } from '../../src/lib/addresses.ts';
import { withUpgrade } from '../../src/proxy/first-bytes.ts';
import { forwardedRawHeaders, originOf } from '../../src/proxy/forwarded.ts';
import { toldByProxies, trustOf } from '../../src/proxy/trusted-proxies.ts';
import { bytes, mutated, target } from './target.ts';

const ORIGIN_HEADERS = [
  'X-Forwarded-For',
  'x-real-ip',
  'X-Forwarded-Proto',
  'X-FORWARDED-HOST',
  'Forwarded',
  'true-client-ip',
  'X-Real-Port',
];
const OURS = ['x-forwarded-for', 'x-forwarded-proto', 'x-real-ip', 'x-forwarded-host'];
const trust = trustOf(['10.0.0.0/8' as Cidr, 'fd00::/8' as Cidr]);

const port = fc.integer({ min: 1, max: 65_535 });
/** What `Forwarded` is made of, in any order. */
const forwardedPiece = fc.oneof(
  fc.constantFrom(
    ...['for=', 'For="', 'proto=https', 'host="a, b"', '"', '\\', '\\"', ',', ', ', ';', '; ', ' ', '\t', '='],
  ),
  fc.constantFrom(
    ...['unknown', '_hidden', 'for=unknown', 'for="[2001:db8::7]:4711"', 'for="10.0.0.1:1"', 'by=_x', 'é'],
  ),
  fc.ipV4(),
);
const forwarded = fc.array(forwardedPiece, { maxLength: 12 }).map((pieces) => pieces.join(''));
const hop = fc.oneof(
  ...[fc.ipV4(), fc.ipV6(), fc.constantFrom('10.1.2.3', '[fd00::1]:443', '::ffff:10.0.0.1', '198.51.100.7:1', '')],
  fc.string({ unit: 'binary', maxLength: 20 }),
);
const value = fc.oneof(
  fc.array(hop, { maxLength: 5 }).map((hops) => hops.join(', ')),
  fc.constantFrom('https', 'http, https', 'gopher', '4711', '0', '65536', '4711, 4712'),
  fc.string({ unit: 'binary', maxLength: 30 }),
  forwarded,
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
  const socket = { remoteAddress, remotePort: 5, localAddress: '::ffff:10.0.0.1', localPort: 6 };
  return { socket, headers } as unknown as IncomingMessage;
}

const plainOf = (address: string): string => address.replace(/^::ffff:(?=[\d.]+$)/, '');

/** Whoever is not trusted is who they are; whoever is says an address or nothing; and Headscale hears each truth once. */
export const forwardedHeaders = target(
  'forwarded headers',
  0.1,
  fc.tuple(fc.array(header, { maxLength: 8 }), peer),
  ([sent, remoteAddress]) => {
    const request = requestOf(sent, remoteAddress);
    const origin = originOf(request, undefined, trust);
    const plain = plainOf(remoteAddress);
    const isTrusted = trust(plain);
    const { path } = origin;
    assert.equal(path.kind === 'direct', !isTrusted);
    if (!isTrusted) {
      const bare = sent.filter(([name]) => name.toLowerCase() === 'host');
      assert.deepEqual(origin, originOf(requestOf(bare, remoteAddress), undefined, trust));
      assert.deepEqual([origin.address, origin.port], [plain, 5]);
    }
    assert.equal(path.kind === 'address_hidden', isTrusted && trust(origin.address));
    if (path.kind === 'one_proxy') {
      assert.deepEqual(path.client, { address: origin.address, port: origin.port });
      assert.deepEqual(path.proxy.local, { address: plain, port: 5 });
    }
    assert.ok(origin.port === undefined || (origin.port > 0 && origin.port <= 65_535), `no port: ${origin.port}`);
    assert.notEqual(isIP(origin.address), 0, `not an address: ${origin.address}`);
    const raw = forwardedRawHeaders(sent.flat(), origin);
    const names = raw.filter((_, i) => i % 2 === 0).map((name) => name.toLowerCase());
    for (const name of OURS.slice(0, 3)) assert.equal(names.filter((each) => each === name).length, 1, name);
    for (const name of ['forwarded', 'true-client-ip', 'x-real-port']) assert.ok(!names.includes(name), name);
  },
);

/** What proxies do to the headers of their client, as measured with each: `set` replaces a header, `add` appends to it. */
type Rewrite = (set: Change, add: Change, at: string, port: number) => void;
type Change = (name: string, text: string) => void;

const quoted = (address: string, number: number): string => `for="${addressAndPort(address, number)}"`;

const REWRITES: Readonly<Record<string, Rewrite>> = {
  caddy: (set, _add, at) => set('x-forwarded-for', at),
  nginx: (set, add, at) => {
    set('x-real-ip', at);
    add('x-forwarded-for', at);
  },
  haproxyOrApache: (_set, add, at) => add('x-forwarded-for', at),
  traefik: (set, _add, at) => {
    set('x-real-ip', at);
    set('x-forwarded-for', at);
  },
  withPorts: (_set, add, at, number) => add('x-forwarded-for', addressAndPort(at, number)),
  onlyRealIp: (set, _add, at) => {
    set('x-forwarded-for', '');
    set('x-real-ip', at);
  },
  onlyForwarded: (set, add, at, number) => {
    set('x-forwarded-for', '');
    set('x-real-ip', '');
    add('forwarded', quoted(at, number));
  },
};

const stranger = fc.oneof(fc.ipV4(), fc.ipV6()).filter((address) => isIP(address) !== 0 && !trust(address));
const ownTelling = fc.tuple(fc.constantFrom('x-forwarded-for', 'x-real-ip', 'x-real-port', 'forwarded'), value);

/** Whatever a client writes: its address is the one that its proxy saw, and its port is, too, where the proxy sends it. */
export const spoofedOrigins = target(
  'spoofed origins',
  0.1,
  fc.tuple(
    fc.array(ownTelling, { maxLength: 6 }),
    ...[fc.constantFrom(...Object.keys(REWRITES)), stranger, port, fc.boolean()],
  ),
  ([written, proxy, client, number, sendsPort]) => {
    const headers = new Map<string, string>();
    const add: Change = (name, text) => {
      const before = headers.get(name);
      headers.set(name, before === undefined ? text : `${before}, ${text}`);
    };
    for (const [name, text] of written) add(name, text);
    REWRITES[proxy]?.((name, text) => headers.set(name, text), add, client, number);
    if (sendsPort) headers.set('x-real-port', String(number));
    const origin = originOf(requestOf([...headers], '10.9.9.9'), undefined, trust);
    const address = plainOf(client.toLowerCase());
    assert.equal(origin.address, address);
    assert.equal(origin.path.kind, 'one_proxy');
    if (proxy === 'withPorts' || proxy === 'onlyForwarded') assert.equal(origin.port, number);
    else if (sendsPort) {
      // A client can only make the port unknown.
      const contradicts = headers.has('forwarded') && origin.port === undefined;
      assert.ok(origin.port === number || contradicts, `another port: ${origin.port}`);
    }
  },
);

/** `Forwarded`, read from the left as RFC 7239 has it. Undefined if it is not valid as a whole. */
function readFromLeft(text: string): readonly (string | undefined)[] | undefined {
  const hops: (string | undefined)[] = [];
  let at = 0;
  const token = (): string => /^[!#$%&'*+.^`|~\w-]*/.exec(text.slice(at))?.[0] ?? '';
  const skipSpace = (): void => {
    while (text[at] === ' ' || text[at] === '\t') at++;
  };
  for (;;) {
    const element = new Map<string, string>();
    for (;;) {
      skipSpace();
      const name = token().toLowerCase();
      at += name.length;
      if (name !== '') {
        if (text[at++] !== '=' || element.has(name)) return undefined;
        let content = '';
        if (text[at] === '"') {
          for (at++; text[at] !== '"'; at++) {
            if (text[at] === '\\') at++;
            if (at >= text.length) return undefined;
            content += text[at];
          }
          at++;
        } else {
          content = token();
          if (content === '') return undefined;
          at += content.length;
        }
        element.set(name, content);
      }
      skipSpace();
      if (text[at] !== ';') break;
      at++;
    }
    if (element.size === 0) return undefined;
    hops.push(element.get('for'));
    if (at === text.length) return hops;
    if (text[at++] !== ',') return undefined;
  }
}

/** A valid header means the same from the right as from the left. */
export const forwardedFromTheRight = target(
  'forwarded, from the right',
  0.1,
  fc.oneof(forwarded, fc.array(fc.oneof(forwarded, fc.constantFrom('for=10.0.0.1', 'for=fd00::1;by=a'))).map(String)),
  (text) => {
    const hops = readFromLeft(text);
    const { client } = toldByProxies((name) => (name === 'forwarded' ? text : undefined), trust);
    if (hops === undefined) return;
    let expected: string | undefined;
    for (const hop of [...hops].reverse()) {
      // A `for` means to this reader what the same text means in the other header.
      const alone = hop === undefined || hop.includes(',') || hop === '' ? undefined : only(hop);
      if (alone === undefined) break;
      expected = addressAndPort(alone.address, alone.port);
      if (!trust(alone.address)) break;
    }
    assert.equal(client && addressAndPort(client.address, client.port), expected);
  },
);

function only(hop: string) {
  return toldByProxies((name) => (name === 'x-forwarded-for' ? hop : undefined), trust).client;
}

const end = fc.tuple(fc.oneof(fc.ipV4(), fc.ipV6()), port).filter(([address]) => isIP(address) !== 0);

/** Each way to say an address and a port says the same. */
export const clientPorts = target('client ports', 0.05, end, ([address, number]) => {
  const of = (headers: Readonly<Record<string, string>>) => {
    const { client } = toldByProxies((name) => headers[name], trust);
    return client && { address: client.address, port: client.port };
  };
  const together = addressAndPort(address, number);
  const expected = of({ 'x-forwarded-for': address, 'x-real-port': String(number) });
  assert.equal(expected?.port, number);
  assert.deepEqual(of({ 'x-forwarded-for': together }), expected);
  assert.deepEqual(of({ 'x-real-ip': together }), expected);
  assert.deepEqual(of({ forwarded: quoted(address, number) }), expected);
  assert.deepEqual(of({ 'x-forwarded-for': address, forwarded: quoted(address, number) }), expected);
});

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
