import { createServer, type RequestListener, type Server } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { NoAnswerError } from '../../src/lib/errors.ts';
import { AnswerTooLongError, type HttpRequest, sendRequest } from '../../src/lib/http-request.ts';

const open: Server[] = [];
afterEach(async () => {
  for (const server of open.splice(0)) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

async function serve(listener: RequestListener): Promise<URL> {
  const server = createServer(listener).listen(0, '127.0.0.1');
  open.push(server);
  await new Promise((resolve) => server.once('listening', resolve));
  return new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/path?query=1`);
}

function send(url: URL, options: Partial<HttpRequest> = {}) {
  const limits = { withinMs: 10_000, mostBytes: 1000, signal: new AbortController().signal };
  return sendRequest(url, { ...limits, ...options });
}

describe('a request', () => {
  test('is sent as it is, without the user of the URL, and its answer is read', async () => {
    const url = await serve(async (request, response) => {
      let body = '';
      for await (const chunk of request) body += chunk;
      const { method, url: target, headers } = request;
      response.writeHead(201, { 'retry-after': '7' });
      response.end(`${method} ${target} ${headers.accept} ${headers.authorization} ${headers.connection} ${body}`);
    });
    url.username = 'me';
    url.password = 'secret';
    const answer = await send(url, { method: 'POST', headers: { accept: 'x/y' }, body: 'hé' });
    expect(answer).toMatchObject({ status: 201, headers: { 'retry-after': '7' } });
    expect(answer.text).toBe('POST /path?query=1 x/y undefined close hé');
  });

  test('follows no redirect', async () => {
    let requests = 0;
    const url = await serve((_request, response) => {
      requests += 1;
      response.writeHead(302, { location: '/other' }).end();
    });
    expect((await send(url)).status).toBe(302);
    expect(requests).toBe(1);
  });

  test('of which the answer is too long fails, or gets the beginning if that is enough', async () => {
    const url = await serve((_request, response) => void response.end('x'.repeat(5000)));
    await expect(send(url)).rejects.toThrow(AnswerTooLongError);
    expect(await send(url, { mayBeCut: true })).toMatchObject({ status: 200 });
  });

  test('of which the answer breaks off fails, or gets the beginning if that is enough', async () => {
    const url = await serve((_request, response) => {
      response.writeHead(200, { 'content-length': 100 }).write('some');
      setTimeout(() => response.destroy(), 20);
    });
    await expect(send(url)).rejects.toThrow('aborted');
    expect(await send(url, { mayBeCut: true })).toMatchObject({ status: 200, text: 'some' });
  });

  test('of which the answer does not come, or not completely, says that the connection was accepted', async () => {
    const why = 'the connection was accepted, and GET /path?query=1 not answered within 0.1 s';
    const silent = await serve(() => {});
    await expect(send(silent, { withinMs: 100 })).rejects.toThrow(new NoAnswerError(why));
    const slow = await serve((_request, response) => {
      const timer = setInterval(() => response.write('x'), 20);
      response.once('close', () => clearInterval(timer));
    });
    await expect(send(slow, { withinMs: 100 })).rejects.toThrow(new NoAnswerError(why));
  });

  test('says why it failed if nobody listens, and when something else than HTTP answers', async () => {
    let says = 'SSH-2.0\r\n';
    const server = createTcpServer((socket) => {
      socket.on('error', () => {});
      socket.resume();
      socket.end(says);
    }).listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const url = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    await expect(send(url)).rejects.toThrow('Parse Error');
    says = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n';
    await expect(send(url)).rejects.toThrow();
    await new Promise((resolve) => server.close(resolve));
    await expect(send(url)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  test('ends when it is aborted', async () => {
    const end = new AbortController();
    const url = await serve(() => end.abort());
    await expect(send(url, { signal: end.signal })).rejects.toMatchObject({ name: 'AbortError' });
  });
});
