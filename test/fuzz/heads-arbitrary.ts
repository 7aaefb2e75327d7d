import fc from 'fast-check';
import { freshHandshake, initiations } from '../support/initiations.ts';
import { bytes, cuts, inPieces, mutated } from './target.ts';

/** What one client does: it sends these pieces one after another, and leaves. */
export interface Client {
  /** To the listener that wants a PROXY protocol header first. */
  readonly byProxyProtocol: boolean;
  readonly pieces: readonly Buffer[];
  /** With a FIN when something has been answered, or will not be; with one at once; or with a reset. */
  readonly leaves: 'answered' | 'fin' | 'reset';
}

/** A request that must never be read as one by itself: it stands where only bodies are. */
const HIDDEN = 'GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n';
const CHUNKED = `${HIDDEN.length.toString(16)}\r\n${HIDDEN}\r\n0\r\n\r\n`;
const recorded = initiations[0];

/** Mostly what is right: where everything is wrong at once, only the first mistake is looked at. */
function mostly<T>(right: fc.Arbitrary<T>, wrong: fc.Arbitrary<T>): fc.Arbitrary<T> {
  return fc.oneof({ weight: 7, arbitrary: right }, { weight: 1, arbitrary: wrong });
}

const line = fc
  .tuple(
    mostly(
      fc.constantFrom('GET', 'POST', 'HEAD', 'PUT'),
      fc.constantFrom('OPTIONS', 'CONNECT', 'PRI', 'get', 'M-SEARCH', ''),
    ),
    mostly(
      fc.constantFrom('/', '/ts2021', '/key?v=999', '/derp', '/generate_204', '/%00', '//', '/x?a=b#c'),
      fc.oneof(fc.constantFrom('*', 'http://h/x', '/a b', '/\\', 'h:1'), fc.string({ unit: 'binary', maxLength: 20 })),
    ),
    mostly(fc.constant('HTTP/1.1'), fc.constantFrom('HTTP/1.0', 'HTTP/2.0', 'HTTP/0.9', 'HTTP/1.1 ', '')),
  )
  .map((parts) => parts.join(' '));

const header = mostly(
  fc.constantFrom(
    ...[
      'Accept: *',
      'Connection: upgrade',
      'Connection: Upgrade, close',
      'Connection: keep-alive',
      'Expect: 100-continue',
    ],
    ...[
      'Upgrade: tailscale-control-protocol',
      'Upgrade: websocket',
      'Upgrade: h2c',
      'HTTP2-Settings: AAAA',
      'TE: trailers',
    ],
    ...['X-Forwarded-For: 198.51.100.7', 'x-forwarded-for: ,,', 'X-Real-IP: ::1', 'Forwarded: for=1', 'X: \xe9\t'],
    ...['Connection: x-real-ip, upgrade', 'Sec-WebSocket-Key: AAAA', 'Trailer: X', 'Connection: x-forwarded-for'],
  ),
  fc.oneof(
    fc.constantFrom('X: a\rb', 'X : y', ' folded', 'X: \0', 'X: a\nY: b', 'Host: other', ': x', 'X\r\n y: z'),
    fc
      .tuple(fc.string({ unit: 'binary', maxLength: 8 }), fc.string({ unit: 'binary', maxLength: 12 }))
      .map((of) => of.join(': ')),
  ),
);

/** A body and the headers that say, truly or not, how long it is. */
const framing = fc.oneof(
  fc.constantFrom(
    ...[
      { headers: [], body: '' },
      { headers: [`Content-Length: ${HIDDEN.length}`], body: HIDDEN },
    ],
    ...[
      { headers: ['Transfer-Encoding: chunked'], body: CHUNKED },
      { headers: ['Content-Length: 0'], body: '' },
    ],
  ),
  fc.constantFrom(
    ...[
      { headers: ['Content-Length: 4'], body: HIDDEN },
      { headers: ['Content-Length: 999'], body: HIDDEN },
    ],
    { headers: ['Transfer-Encoding: chunked', `Content-Length: ${CHUNKED.length}`], body: CHUNKED },
    { headers: ['Content-Length: 4', 'Transfer-Encoding: chunked'], body: CHUNKED },
    { headers: [`Content-Length: ${HIDDEN.length}`, 'Content-Length: 0'], body: HIDDEN },
    ...[
      'xchunked',
      'chunked, gzip',
      'gzip, chunked',
      ' chunked',
      '\tchunked',
      'chunked\x0b',
      'Chunked',
      'identity',
    ].map((encoding) => ({
      headers: [`Transfer-Encoding:${encoding}`],
      body: CHUNKED,
    })),
    ...['+5', '0x5', '5, 5', '-1', '5 5', '', '18446744073709551616'].map((length) => ({
      headers: [`Content-Length: ${length}`],
      body: HIDDEN,
    })),
    ...[
      '1;a=b\r\nx\r\n0\r\n\r\n',
      '0\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n',
      '1\nx\r\n0\r\n\r\n',
      '0x1\r\nx\r\n0\r\n\r\n',
    ].map((body) => ({
      headers: ['Transfer-Encoding: chunked'],
      body: `${body}${HIDDEN}`,
    })),
  ),
);

const request = fc
  .tuple(
    line,
    mostly(fc.constant<string[]>(['Host: h']), fc.constant<string[]>([])),
    fc.array(header, { maxLength: 5 }),
    framing,
  )
  .map(([first, host, headers, { headers: lengths, body }]) => {
    return Buffer.from(`${[first, ...host, ...headers, ...lengths].join('\r\n')}\r\n\r\n${body}`, 'latin1');
  });

/** A control connection as a node begins it, and then whatever. A handshake is made anew each time: a second one is a replay. */
const upgrade = fc.tuple(fc.boolean(), bytes(60)).map(([isFresh, behind]) => {
  const handshake = isFresh ? freshHandshake(recorded) : recorded.header;
  const head = `POST /ts2021 HTTP/1.1\r\nHost: h\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\nContent-Length: 0\r\nX-Tailscale-Handshake: ${handshake}\r\n\r\n`;
  return Buffer.concat([Buffer.from(head), behind]);
});

const proxyHeader = fc.oneof(
  fc
    .constantFrom('PROXY TCP4 203.0.113.5 192.0.2.1 50000 443\r\n', 'PROXY UNKNOWN\r\n', '')
    .map((text) => Buffer.from(text)),
  mutated(fc.constant(Buffer.from('PROXY TCP6 2001:db8::1 2001:db8::2 50000 443\r\n'))),
);

export const client: fc.Arbitrary<Client> = fc
  .record({
    byProxyProtocol: fc.boolean(),
    proxyHeader,
    sent: fc.oneof(
      ...[request, mutated(request), upgrade, mutated(upgrade), bytes(100)],
      fc.array(fc.oneof(request, upgrade), { minLength: 2, maxLength: 4 }).map((requests) => Buffer.concat(requests)),
    ),
    cuts,
    leaves: fc.constantFrom<Client['leaves']>('answered', 'answered', 'answered', 'answered', 'fin', 'reset'),
  })
  .map(({ byProxyProtocol, proxyHeader: before, sent, cuts: at, leaves }) => ({
    ...{ byProxyProtocol, leaves },
    pieces: inPieces(byProxyProtocol ? Buffer.concat([before, sent]) : sent, at),
  }));
