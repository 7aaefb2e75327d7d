import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { afterEach, describe, expect, test } from 'vitest';
import { adviceOn, headscaleApi } from '../../src/headscale/api.ts';
import type { NodesAccess } from '../../src/headscale/capabilities.ts';
import type { NodesLimits } from '../../src/headscale/node-requests.ts';
import { NoAnswerError } from '../../src/lib/errors.ts';
import { Harness } from '../support/harness.ts';
import { ANSWER_0_22, ANSWER_0_29, entry, nodeInfo } from './node-answers.ts';

const API_KEY = 'hskey-api-secret_0123456789';
const ACCESS = { by: 'API key', apiKey: API_KEY, paths: ['/api/v1/node'] } as const;
const harness = new Harness();
afterEach(() => harness.closeAll());

/** An API before a server that answers so. */
async function api(onRequest: RequestListener, limits?: NodesLimits) {
  const upstream = await harness.upstream((_request, socket) => socket.destroy(), onRequest);
  const asked = headscaleApi(new URL(upstream.url), limits && { nodesLimits: limits });
  harness.defer(() => asked.close());
  return { nodes: () => asked.nodes(ACCESS), upstream, close: () => asked.close() };
}

const answer =
  (status: number, text: string, headers = {}) =>
  (_request: IncomingMessage, response: ServerResponse) =>
    void response.writeHead(status, headers).end(text);

/** What the rejection says, after what was asked. */
async function failure(onRequest: RequestListener, limits?: NodesLimits): Promise<string> {
  const { nodes, upstream } = await api(onRequest, limits);
  const said = await nodes().then(
    () => 'no error',
    (error: unknown) => (error instanceof Error ? error.message : 'no Error'),
  );
  expect(said).not.toContain(API_KEY);
  const asked = `asking Headscale for its nodes (GET ${upstream.url}/api/v1/node): `;
  expect(said.slice(0, asked.length)).toBe(asked);
  return said.slice(asked.length);
}

const NEW_KEY =
  'Headscale refuses the API key; create a new one with `headscale apikeys create` and put it into the file that --headscale-api-key-file names';
const POINT = "point --upstream at Headscale's listen_addr";

describe('HeadscaleApi.nodes', () => {
  test('sends the key, and reads the answer', async () => {
    const seen: unknown[] = [];
    const { nodes } = await api((request, response) => {
      seen.push([request.method, request.url, request.headers.authorization]);
      response.end(ANSWER_0_29);
    });
    expect(await nodes()).toMatchObject([{ name: 'n-one' }, { name: 'n-two' }]);
    expect(seen).toEqual([['GET', '/api/v1/node', `Bearer ${API_KEY}`]]);
  });

  test('asks at the second path if Headscale does not know the first, and answers for the first if it knows neither', async () => {
    const seen: unknown[] = [];
    let knows = '/api/v1/machine';
    const upstream = await harness.upstream(
      (_request, socket) => socket.destroy(),
      ({ url }, response) => {
        seen.push(url);
        if (url === knows) response.end(ANSWER_0_22);
        else response.writeHead(404).end();
      },
    );
    const asked = headscaleApi(new URL(upstream.url));
    harness.defer(() => asked.close());
    const access: NodesAccess = { ...ACCESS, paths: ['/api/v1/node', '/api/v1/machine'] };
    expect(await asked.nodes(access)).toMatchObject([{ name: 'n1' }]);
    knows = 'neither';
    await expect(asked.nodes(access)).rejects.toThrow(
      `asking Headscale for its nodes (GET ${upstream.url}/api/v1/node): 404, so this is not Headscale's API; ${POINT}`,
    );
    expect(seen).toEqual(['/api/v1/node', '/api/v1/machine', '/api/v1/node', '/api/v1/machine']);
  });

  test('reads the answer of 8 000 nodes', async () => {
    const nodesThere = Array.from({ length: 8000 }, (_, number) => {
      const more = { machineKey: `mkey:${number.toString(16).padStart(64, '0')}`, filling: 'x'.repeat(800) };
      return entry('a', more);
    });
    const { nodes } = await api(answer(200, JSON.stringify({ nodes: [...nodesThere, entry('b')] })));
    const read = await nodes();
    expect(read).toHaveLength(8001);
    expect(read.at(-1)).toEqual(nodeInfo('b'));
  });

  test.each([
    [401, 'Unauthorized'],
    [403, ''],
    // What 0.23.0 says of a key it does not know.
    [500, 'Unauthorized'],
  ])('%i %s: the key is refused', async (status, text) => {
    expect(await failure(answer(status, text))).toBe(`${status}, ${NEW_KEY}`);
  });

  test.each([
    [404, `so this is not Headscale's API; ${POINT}`],
    [204, `so this is not Headscale's API; ${POINT}`],
    [500, "Headscale or a proxy in front of it failed; look in Headscale's log"],
    [502, "Headscale or a proxy in front of it failed; look in Headscale's log"],
  ])('%i: the error says what to check', async (status, cure) => {
    expect(await failure(answer(status, `no ${API_KEY}`))).toBe(`${status}, ${cure}`);
  });

  test('a redirect is not followed, because it could send the key elsewhere', async () => {
    let elsewhere = 0;
    const other = await harness.upstream(
      (_request, socket) => socket.destroy(),
      (_request, response) => {
        elsewhere += 1;
        response.end(ANSWER_0_29);
      },
    );
    const said = await failure(answer(302, '', { location: `${other.url}/api/v1/node` }));
    expect(said).toBe(`302, a redirect, which is not followed with the API key; ${POINT}`);
    expect(elsewhere).toBe(0);
  });

  test.each([
    ['<html>', 'is not JSON'],
    ['{"nodes":5}', "has no list 'nodes'"],
  ])('200 with %s: the error says that this is not a list of nodes', async (text, why) => {
    expect(await failure(answer(200, text))).toBe(`200, but the answer ${why}; ${POINT}`);
  });

  test('an answer that is too long is not read to the end', async () => {
    const limits = { timeoutMs: 5000, maxAnswerBytes: 1000 };
    const endless: RequestListener = (_request, response) => {
      const more = (): void => {
        while (!response.destroyed && response.write('x'.repeat(500)));
      };
      response.on('drain', more);
      more();
    };
    expect(await failure(endless, limits)).toBe(`the answer is longer than 1000 bytes; ${POINT}`);
  });

  test.each([
    ['that does not begin', () => {}],
    ['that does not end', (_request: IncomingMessage, response: ServerResponse) => void response.write('{"nodes":[')],
  ])('an answer %s ends with a timeout', async (_case, onRequest) => {
    const said = await failure(onRequest, { timeoutMs: 50, maxAnswerBytes: 1000 });
    expect(said).toBe("no complete answer within 50 ms; look in Headscale's log for the cause");
  });

  test('a connection that breaks or cannot be made is an error', async () => {
    const cure = `check that Headscale runs, and ${POINT}`;
    expect(await failure((request) => request.socket.destroy())).toMatch(new RegExp(`; ${cure}$`));
    const begun: RequestListener = (request, response) => {
      response.write('{');
      setImmediate(() => request.socket.destroy());
    };
    expect(await failure(begun)).toMatch(new RegExp(`; ${cure}$`));
    const { nodes, upstream } = await api(answer(200, ANSWER_0_29));
    await new Promise((resolve) => upstream.server.close(resolve));
    await expect(nodes()).rejects.toThrow(/ECONNREFUSED.*; check that Headscale runs/);
  });

  test('close: ends a request in progress', async () => {
    const { nodes, close } = await api(() => void close());
    await expect(nodes()).rejects.toThrow(/^asking Headscale for its nodes/);
  });
});

test('a Headscale that takes connections without an answer runs already: the advice is to restart it', () => {
  const upstream = new URL('http://127.0.0.1:8082');
  expect(adviceOn(new NoAnswerError('not answered'), upstream)).toMatch(
    /^look at its log and load, and restart it, or/,
  );
  expect(adviceOn(new Error('refused'), upstream)).toMatch(/^start it, or point --upstream at/);
});
