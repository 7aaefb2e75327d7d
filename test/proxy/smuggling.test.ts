import { type AddressInfo, createServer } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { Harness, readAll, until } from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const HOST = 'Host: h\r\n';
const HIDDEN = 'GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n';

/** What comes back for these bytes, and which targets Headscale saw. */
async function send(bytes: string) {
  const seen: string[] = [];
  const upstream = await harness.upstream(
    (request, socket) => {
      seen.push(`upgrade ${request.url}`);
      socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno');
    },
    (request, response) => {
      if (request.url !== '/key?v=142' && request.url !== '/version') seen.push(request.url ?? '');
      request
        .resume()
        .on('end', () => response.end('answer'))
        .on('error', () => {});
    },
  );
  const { port, watchdog } = await harness.watchdog(upstream.url);
  const client = harness.client(port);
  client.write(bytes, 'latin1');
  const answer = (await readAll(client)).toString('latin1');
  await watchdog.close();
  return { answer, seen };
}

describe('a request that two parsers may read differently', () => {
  test.each([
    [
      'both lengths',
      `POST /x HTTP/1.1\r\n${HOST}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${HIDDEN}`,
    ],
    [
      'both lengths, the other way round',
      `POST /x HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n${HIDDEN}`,
    ],
    [
      'two lengths',
      `POST /x HTTP/1.1\r\n${HOST}Content-Length: 0\r\nContent-Length: ${HIDDEN.length}\r\n\r\n${HIDDEN}`,
    ],
    ['a length that is no number', `POST /x HTTP/1.1\r\n${HOST}Content-Length: +4\r\n\r\nbody`],
    ['a list of lengths', `POST /x HTTP/1.1\r\n${HOST}Content-Length: 4, 4\r\n\r\nbody`],
    [
      'an encoding that is not chunked at its end',
      `POST /x HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n${HIDDEN}`,
    ],
    ['an encoding nobody knows', `POST /x HTTP/1.1\r\n${HOST}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n${HIDDEN}`],
    ['a space before the colon', `POST /x HTTP/1.1\r\n${HOST}Content-Length : 4\r\n\r\nbody`],
    ['a folded line', `POST /x HTTP/1.1\r\n${HOST}X: a\r\n b\r\n\r\n`],
    ['a bare CR in a header', `GET /x HTTP/1.1\r\n${HOST}X: a\rTransfer-Encoding: chunked\r\n\r\n`],
    ['a NUL in a header', `GET /x HTTP/1.1\r\n${HOST}X: a\0b\r\n\r\n`],
    ['no Host', 'GET /x HTTP/1.1\r\n\r\n'],
    ['a space in its target', `GET /x /y HTTP/1.1\r\n${HOST}\r\n`],
    ['a header without a name', `GET /x HTTP/1.1\r\n: y\r\n${HOST}\r\n`],
    ['a name with a byte that is no ASCII', `GET /x HTTP/1.1\r\n${HOST}\xefX: y\r\n\r\n`],
    ['white space before the first header', `GET /x HTTP/1.1\r\n ${HOST}\r\n`],
    ['a version of its own', `GET /x HTTP/1.32\r\n${HOST}\r\n`],
    ['a method that is none', `G=":<>(e),[T];?" /x HTTP/1.1\r\n${HOST}\r\n`],
    ['a target that is none', `GET ! HTTP/1.1\r\n${HOST}\r\n`],
    ['an empty length', `POST /x HTTP/1.1\r\n${HOST}Content-Length: \r\n\r\n`],
    ['a length with an underscore', `POST /x HTTP/1.1\r\n${HOST}Content-Length: 1_0\r\n\r\n0123456789`],
    ['spaces that are none', `POST /x HTTP/1.1\r\n${HOST}Transfer-Encoding: \xa0chunked\xa0\r\n\r\n0\r\n\r\n`],
    ['chunked twice', `POST /x HTTP/1.1\r\n${HOST}${'Transfer-Encoding: chunked\r\n'.repeat(2)}\r\n0\r\n\r\n`],
    ['two Hosts', `GET /x HTTP/1.1\r\n${HOST}Host: other\r\n\r\n`],
    ['a Host that is none', 'GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n'],
    ['another Host than its target', `GET http://other/x HTTP/1.1\r\n${HOST}\r\n`],
    ['chunks in HTTP/1.0', `POST /x HTTP/1.0\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n${HIDDEN}`],
    ['an empty encoding first', `POST /x HTTP/1.1\r\n${HOST}Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n${HIDDEN}`],
    ['two encodings', `POST /x HTTP/1.1\r\n${HOST}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n${HIDDEN}`],
    ['an octal length', `POST /x HTTP/1.1\r\n${HOST}Content-Length: 010\r\n\r\n12345678${HIDDEN}`],
    ['HTTP/2.0', `GET /x HTTP/2.0\r\n${HOST}\r\n`],
    ['a path that hides behind percent signs', `POST /%74s2021 HTTP/1.1\r\n${HOST}Content-Length: 0\r\n\r\n`],
    ['another protocol', `GET /x HTTQ/1.1\r\n${HOST}\r\n`],
  ])('%s: 400, and Headscale sees none of it', async (_name, bytes) => {
    const { answer, seen } = await send(bytes);
    expect(answer).toMatch(/^HTTP\/1\.1 400 /);
    expect(answer.match(/HTTP\/1\.1/g)).toHaveLength(1);
    expect(seen).toEqual([]);
  });

  test.each([
    ['a chunk size that is no number', 'xyz\r\nbody\r\n0\r\n\r\n'],
    ['a chunk longer than it says', '2\r\nbody\r\n0\r\n\r\n'],
    ['a chunk size of too many digits', 'fffffffffffffffff\r\nbody\r\n0\r\n\r\n'],
    ['a bare LF behind a chunk size', '4\nbody\r\n0\r\n\r\n'],
    ['a chunk size with an underscore', '0_4\r\nbody\r\n0\r\n\r\n'],
    ['a chunk size with 0x', '0x4\r\nbody\r\n0\r\n\r\n'],
    ['an empty line for a chunk size', '\r\n4\r\nbody\r\n0\r\n\r\n'],
  ])('bad chunking, %s: 400, and what follows is not read', async (_name, body) => {
    const { answer, seen } = await send(
      `POST /x HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n${body}${HIDDEN}`,
    );
    expect(answer).toMatch(/^HTTP\/1\.1 400 /);
    expect(seen).not.toContain('/hidden');
  });

  test.each(['DELETE', 'OPTIONS', 'POST'])('the chunked body of a %s is passed on as its body', async (method) => {
    const sent: string[] = [];
    // No HTTP server: what follows a request that it ends the connection after, it would not read.
    const upstream = createServer((socket) =>
      socket.on('error', () => {}).on('data', (chunk) => sent.push(String(chunk))),
    );
    await new Promise<void>((resolve) => upstream.listen(0, '127.0.0.1', resolve));
    harness.defer(() => upstream.close());
    const { port } = await harness.watchdog(`http://127.0.0.1:${(upstream.address() as AddressInfo).port}`);
    const chunked = `${HIDDEN.length.toString(16)}\r\n${HIDDEN}\r\n0\r\n\r\n`;
    harness.client(port).write(`${method} /x HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n${chunked}`);
    await until(() => sent.join('').includes('/hidden'), 'the body reaches Headscale');
    const request = sent.join('').slice(sent.join('').indexOf(`${method} /x`));
    expect(request).toMatch(/\r\ntransfer-encoding: chunked\r\n/i);
    expect(request).not.toMatch(/\r\ncontent-length:/i);
    expect(request).toContain(`\r\n\r\n${chunked.slice(0, chunked.indexOf(HIDDEN))}${HIDDEN}`);
  });

  test('after a refused upgrade nothing more is read, whether it arrives together or later', async () => {
    const upgrade = `POST /ts2021 HTTP/1.1\r\n${HOST}Upgrade: derp\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n`;
    const { answer, seen } = await send(`${upgrade}${HIDDEN}`);
    expect(answer).toMatch(/^HTTP\/1\.1 404 [\s\S]*no$/);
    expect(seen).toEqual(['upgrade /ts2021']);
  });

  test('an upgrade after a request without an answer is ignored', async () => {
    const upgrade = `POST /ts2021 HTTP/1.1\r\n${HOST}Upgrade: derp\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n`;
    const { seen } = await send(`GET /x HTTP/1.1\r\n${HOST}\r\n${upgrade}`);
    expect(seen).not.toContain('upgrade /ts2021');
  });
});
