import { createServer, type IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { readFirstUpgrade } from '../../src/proxy/first-bytes.ts';
import { readRequest } from '../../src/streams/request.ts';

const socket = new Socket();
const read = (head: string, longest = 16_384) => readFirstUpgrade(Buffer.from(head, 'latin1'), socket, longest);

const USUAL = ['Host: hs.example', 'Upgrade: tailscale-control-protocol', 'Connection: upgrade', 'Content-Length: 0'];
const headOf = (lines: readonly string[], first = 'POST /ts2021 HTTP/1.1'): string =>
  `${[first, ...lines].join('\r\n')}\r\n\r\n`;

const server = createServer();
afterAll(() => server.close());

/** The same head as Node's HTTP server reads it. Undefined if it is no upgrade for it. */
function readByNode(bytes: Buffer): Promise<{ request: IncomingMessage; rest: Buffer } | undefined> {
  return new Promise((resolve) => {
    const client = new Duplex({ read() {}, write: (_chunk, _encoding, written) => written() });
    client.on('error', () => {});
    const upgraded = (request: IncomingMessage, _socket: Duplex, rest: Buffer): void => resolve({ request, rest });
    server.removeAllListeners('upgrade').on('upgrade', upgraded);
    server.emit('connection', client);
    client.push(bytes);
    setImmediate(() => setImmediate(() => resolve(undefined)));
  });
}

describe('readFirstUpgrade', () => {
  test('reads what a Tailscale client sends, and keeps what comes after it', () => {
    const found = read(`${headOf([...USUAL, 'X-Tailscale-Handshake:  abc= '])}early`);
    expect(found?.request).toMatchObject({ method: 'POST', url: '/ts2021', httpVersion: '1.1' });
    expect(found?.request.rawHeaders.slice(-2)).toEqual(['X-Tailscale-Handshake', 'abc=']);
    expect(found?.request.headers['x-tailscale-handshake']).toBe('abc=');
    expect(found?.read.asked).toMatchObject({ streamKind: 'control', handshake: 'abc=' });
    expect(found?.head.toString()).toBe('early');
  });

  test('of two Hosts the first counts, and the values of other headers are joined', () => {
    const lines = ['X-Forwarded-For: 1.1.1.1', ...USUAL, 'x-forwarded-for: 2.2.2.2'];
    expect(read(headOf(lines))?.request.headers['x-forwarded-for']).toBe('1.1.1.1, 2.2.2.2');
  });

  test.each([
    ['a head without an end', headOf(USUAL).slice(0, -1)],
    ['another method', headOf(USUAL, 'PUT /ts2021 HTTP/1.1')],
    ['another version', headOf(USUAL, 'POST /ts2021 HTTP/1.0')],
    ['a whole URL', headOf(USUAL, 'POST http://hs.example/ts2021 HTTP/1.1')],
    ['a fragment', headOf(USUAL, 'POST /ts2021#x HTTP/1.1')],
    ['two spaces in the first line', headOf(USUAL, 'POST  /ts2021 HTTP/1.1')],
    ['an empty line before it', `\r\n${headOf(USUAL)}`],
    ['no Upgrade', headOf(['Host: a', 'Connection: upgrade'])],
    ['an unknown protocol', headOf(['Host: a', 'Upgrade: h2c', 'Connection: upgrade'])],
    ['two protocols', headOf([...USUAL, 'Upgrade: websocket'])],
    ['a body', headOf([...USUAL.slice(0, 3), 'Content-Length: 3'])],
    ['two lengths', headOf([...USUAL, 'Content-Length: 0'])],
    ['chunks', headOf([...USUAL.slice(0, 3), 'Transfer-Encoding: chunked'])],
    ['Expect', headOf([...USUAL, 'Expect: 100-continue'])],
    ['two Hosts', headOf([...USUAL, 'Host: b'])],
    ['two handshakes', headOf([...USUAL, 'X-Tailscale-Handshake: a', 'X-Tailscale-Handshake: b'])],
    ['a folded header', headOf([...USUAL, 'X-A: b', ' c'])],
    ['a space before the colon', headOf([...USUAL, 'X-A : b'])],
    ['a line without a colon', headOf([...USUAL, 'X-A'])],
    ['a header without a name', headOf([...USUAL, ': b'])],
    ['a bare line feed', headOf([...USUAL, 'X-A: b\nUpgrade: websocket'])],
    ['a bare carriage return', headOf([...USUAL, 'X-A: b\rc'])],
    ['a zero byte', headOf([...USUAL, 'X-A: \0'])],
    ['a letter that is not ASCII', headOf([...USUAL, 'X-A: caf\xe9'])],
  ])('%s is left to Node', (_what, head) => {
    expect(read(head)).toBeUndefined();
  });

  test('a head that is longer than the limit is left to Node, which refuses it', () => {
    const head = headOf([...USUAL, `X-A: ${'a'.repeat(500)}`]);
    expect(read(head)).toBeDefined();
    expect(read(head, 500)).toBeUndefined();
  });

  test('whatever it reads, Node reads in the same way', async () => {
    const odd = fc.constantFrom(
      '\r',
      '\n',
      '\r\n',
      ' ',
      '\t',
      ':',
      ',',
      '\0',
      '\x7f',
      '\xe9',
      '"',
      '#',
      '%2f',
      'HTTP/1.1',
    );
    const line = fc.oneof(
      { weight: 6, arbitrary: fc.constantFrom(...USUAL) },
      fc.constantFrom('upgrade:websocket', 'UPGRADE: derp', 'Connection: close', 'connection: Upgrade, x', 'Host: b'),
      fc.constantFrom('Content-Length: 1', 'content-length:0', 'Transfer-Encoding: chunked', 'Expect: 100-continue'),
      fc
        .tuple(fc.constantFrom('X-A', 'x-forwarded-for', 'X-Tailscale-Handshake', ''), fc.string(), odd)
        .map(([name, value, strange]) => `${name}: ${value}${strange}`),
    );
    const first = fc.oneof(
      { weight: 6, arbitrary: fc.constantFrom('POST /ts2021 HTTP/1.1', 'GET /derp?a=b HTTP/1.1') },
      fc.tuple(fc.string(), odd).map(([text, strange]) => `GET /${text}${strange} HTTP/1.1`),
    );
    const heads = fc
      .tuple(first, fc.array(line, { maxLength: 3 }), fc.constantFrom('', 'early'))
      .map(([start, lines, rest]) => `${headOf([...USUAL.slice(0, 3), ...lines], start)}${rest}`);
    let found = 0;
    await fc.assert(
      fc.asyncProperty(heads, async (head) => {
        const ours = read(head);
        if (ours === undefined) return;
        found += 1;
        const node = await readByNode(Buffer.from(head, 'latin1'));
        const { method, url, rawHeaders, headers } = node?.request ?? {};
        expect([ours.request.method, ours.request.url, ours.request.rawHeaders]).toEqual([method, url, rawHeaders]);
        expect({ ...ours.request.headers }).toEqual({ ...headers });
        expect(ours.read).toEqual(node && readRequest(node.request));
        expect(ours.head.toString('latin1')).toBe(node?.rest.toString('latin1'));
      }),
      { numRuns: 3000 },
    );
    expect(found).toBeGreaterThan(500);
  });
});
