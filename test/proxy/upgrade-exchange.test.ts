import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterEach, describe, expect, test } from 'vitest';
import { NoAnswerError } from '../../src/lib/errors.ts';
import { UpgradeExchange } from '../../src/proxy/upgrade-exchange.ts';
import { Harness } from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const REQUEST = {
  ...{ method: 'POST', path: '/ts2021?x', protocol: 'tailscale-control-protocol' as const },
  rawHeaders: ['Host', 'hs.example', 'X-Odd', 'caf\xe9'],
};

const SWITCH =
  'HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\nX-A: b\r\n\r\n';

interface Outcome {
  /** What came of the request, in words. */
  readonly what: string;
  /** The request as Headscale got it. */
  readonly request: string;
  /** Whether `pending` heard of an answer. */
  readonly answered: boolean;
}

/** Sends the request to a server that answers with these pieces, one after the other, and then closes or not. */
async function exchange(pieces: readonly string[], { closes = false, giveUp = false } = {}): Promise<Outcome> {
  let request = '';
  const server = createServer({ noDelay: true }, (socket) => {
    socket.on('error', () => socket.destroy());
    socket.on('data', async (chunk) => {
      request += chunk.toString('latin1');
      for (const piece of pieces) {
        socket.write(piece, 'latin1');
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
      if (closes) socket.end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  harness.defer(() => new Promise((resolve) => server.close(resolve)));
  const socket: Socket = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', noDelay: true });
  harness.defer(() => socket.destroy());
  let answered = false;
  const what = await new Promise<string>((resolve) => {
    let giveUpNow = (): void => {};
    let after = '';
    const made = new UpgradeExchange(REQUEST, socket, {
      awaitAnswer: (give) => {
        giveUpNow = give;
        return {
          sent() {},
          ended() {},
          answered() {
            answered = true;
          },
        };
      },
      switched(head, rest) {
        after = rest.toString('latin1');
        const shown = `switched: ${head.toString('latin1')}`;
        setTimeout(() => resolve(`${shown}then ${after}`), 5 * pieces.length);
      },
      refused(answer) {
        void text(answer).then(
          (body) => resolve(`refused: ${answer.statusCode} ${answer.rawHeaders.join(' ')} | ${body}`),
          (error: Error) => resolve(`cut off: ${error.message}`),
        );
      },
      mismatched: (protocol) => resolve(`mismatched: ${protocol}`),
      failed: (error) => resolve(`${error instanceof NoAnswerError ? 'no answer' : 'failed'}: ${error.message}`),
    });
    socket.on('data', (chunk) => {
      if (after === '') made.read(chunk);
      else after += chunk.toString('latin1');
    });
    socket.on('end', () => made.ended());
    socket.on('error', (error) => made.failed(error));
    socket.on('close', () => made.ended());
    if (giveUp) setTimeout(() => giveUpNow(), 20);
  });
  return { what, request, answered };
}

const inPieces = (whole: string, length: number): string[] =>
  Array.from({ length: Math.ceil(whole.length / length) }, (_, i) => whole.slice(i * length, (i + 1) * length));

describe('UpgradeExchange', () => {
  test('sends the head as it was given, and every byte of its header values', async () => {
    const { request } = await exchange([`${SWITCH}!`]);
    expect(request).toBe('POST /ts2021?x HTTP/1.1\r\nHost: hs.example\r\nX-Odd: caf\xe9\r\n\r\n');
  });

  test.each([1, 7, 60, 1000])('a 101 in pieces of %d bytes, and what comes after it', async (length) => {
    const { what, answered } = await exchange(inPieces(`${SWITCH}abc`, length));
    expect(what.startsWith(`switched: ${SWITCH}then `)).toBe(true);
    expect('abc'.startsWith(what.slice(`switched: ${SWITCH}then `.length))).toBe(true);
    expect(answered).toBe(true);
  });

  test.each([
    ['names in other cases', 'HTTP/1.1 101 \r\nuPGRADE:Tailscale-Control-Protocol\r\nCONNECTION: Upgrade\r\n\r\n'],
    ['an empty header, and one of other characters', SWITCH.replace('X-A: b', 'X-A:\r\nX-B: caf\xe9')],
    ['Connection with a list', SWITCH.replace('Connection: upgrade', 'Connection: keep-alive, Upgrade')],
    ['a 100 before it', `HTTP/1.1 100 Continue\r\n\r\n${SWITCH}`],
    ['a 103 before it', `HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n${SWITCH}`],
    ['a length, which means nothing here', SWITCH.replace('X-A', 'Content-Length: 5\r\nX-A')],
  ])('%s: it is a 101, whoever reads it, and no byte after it is lost', async (_what, head) => {
    for (const pieces of [[`${head}abc`], inPieces(`${head}abc`, 25)]) {
      expect((await exchange(pieces)).what).toMatch(/^switched: HTTP\/1\.1 101 .*\r\n\r\nthen (a|ab|abc)$/s);
    }
  });

  test.each([
    ['another protocol', SWITCH.replace('tailscale-control-protocol', 'websocket'), 'mismatched: websocket'],
    [
      'two protocols',
      SWITCH.replace('X-A: b', 'Upgrade: websocket'),
      'mismatched: tailscale-control-protocol, websocket',
    ],
    ['no protocol', SWITCH.replace(/Upgrade: .*?\r\n/, ''), 'mismatched: '],
    ['no Connection', SWITCH.replace(/Connection: .*?\r\n/, ''), 'mismatched: tailscale-control-protocol'],
    ['a header with a space in its name', SWITCH.replace('X-A', 'X A'), 'failed: Parse Error'],
    ['a line without a colon', SWITCH.replace('X-A: b', 'X-A b'), 'failed: Parse Error'],
    ['a bare line feed', SWITCH.replace('X-A: b', 'X-A: b\nUpgrade: websocket'), 'failed: Parse Error'],
    ['another version of HTTP', SWITCH.replace('/1.1', '/3.0'), 'failed: Parse Error'],
    ['no HTTP', 'SSH-2.0-OpenSSH\r\n\r\n', 'failed: Parse Error'],
    [
      'a head without an end',
      `${SWITCH.slice(0, -2)}${'X-A: bbbbbb\r\n'.repeat(4000)}`,
      'failed: Parse Error: Header overflow',
    ],
  ])('%s is no switch', async (_what, answer, expected) => {
    expect((await exchange([answer])).what).toMatch(new RegExp(`^${expected}`));
  });

  test.each([1, 30, 1000])('any other answer is passed on with its body, in pieces of %d bytes', async (length) => {
    const whole = 'HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nX-A: b\r\n\r\ngone';
    const { what, answered } = await exchange(inPieces(whole, length));
    expect(what).toBe('refused: 404 Content-Length 4 X-A b | gone');
    expect(answered).toBe(true);
  });

  test('a body of many chunks is passed on, and one that ends with the connection', async () => {
    const chunk = `3e8\r\n${'x'.repeat(1000)}\r\n`;
    const chunked = [
      'HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n',
      ...Array<string>(300).fill(chunk),
      '0\r\n\r\n',
    ];
    expect((await exchange([chunked.join('')])).what).toBe(
      `refused: 500 Transfer-Encoding chunked | ${'x'.repeat(300_000)}`,
    );
    const { what } = await exchange(['HTTP/1.0 403 No\r\n\r\n', 'not ', 'you'], { closes: true });
    expect(what).toBe('refused: 403  | not you');
  });

  test('half a body is told from a whole one', async () => {
    const { what } = await exchange(['HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n', 'gone'], { closes: true });
    expect(what).toBe('cut off: aborted');
  });

  test.each([
    ['no answer', []],
    ['half a head', [SWITCH.slice(0, 40)]],
    ['half a word', ['HTT']],
  ])('Headscale closes after %s: it has failed', async (_what, pieces) => {
    const { what, answered } = await exchange(pieces, { closes: true });
    expect(what).toMatch(/^failed: /);
    expect(answered).toBe(false);
  });

  test.each([
    ['nothing', []],
    ['half a head', [SWITCH.slice(0, 40)]],
    ['half a head of another answer', ['HTTP/1.1 200 OK\r\nX']],
  ])('it is given up after %s: there was no answer', async (_what, pieces) => {
    expect((await exchange(pieces, { giveUp: true })).what).toBe('no answer: Headscale does not answer');
  });
});
