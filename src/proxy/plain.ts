import { Agent, type IncomingMessage, type ServerResponse } from 'node:http';
import httpProxy from 'http-proxy';
import { reasonOf } from '../lib/errors.ts';
import { answerHeaders, answerWith } from './answer.ts';
import { type AwaitAnswer, gatewayAnswer, limitAnswerTime, type Upstream } from './upstream.ts';

/** What the plain proxy needs, and what it reports. */
export interface PlainProxyOptions {
  readonly upstream: Upstream;
  upstreamReached(): void;
  upstreamFailed(): void;
  awaitAnswer: AwaitAnswer;
  /** Headscale has answered 101 to a request that asked for no upgrade. */
  mismatched(protocol: string, address: string): void;
}

/** Forwards a request to Headscale, and the answer to the client. @param rawHeaders the headers for Headscale. */
export type PlainProxy = (
  request: IncomingMessage,
  response: ServerResponse,
  rawHeaders: readonly string[],
  address: string,
) => void;

/** The proxy for everything that is not an upgrade: `/key`, `/health`, registration pages, OIDC, the REST API. */
export function plainProxy({
  upstream,
  upstreamReached,
  upstreamFailed,
  awaitAnswer,
  mismatched,
}: PlainProxyOptions): PlainProxy {
  const { host, port } = upstream;
  // With this variable http-proxy would use `fetch`, which ignores our agent, our path and headers, and our time limits.
  delete process.env.FORCE_FETCH_PATH;
  // The agent speaks TLS where Headscale does, so http-proxy only sees plain HTTP.
  const proxy = httpProxy.createProxyServer({ target: { protocol: 'http:', host, port }, agent: agentOf(upstream) });
  const addresses = new WeakMap<IncomingMessage, string>();
  const answerMismatched = (request: IncomingMessage, response: ServerResponse, { headers }: IncomingMessage): void => {
    mismatched(headers.upgrade ?? '', addresses.get(request) ?? '');
    answerWith(response, 502, 'Headscale answered with an upgrade that nobody asked for.');
  };
  proxy.on('proxyReq', (asking, request, response) => {
    limitAnswerTime(asking, awaitAnswer);
    asking.on('upgrade', (answer, socket) => {
      socket.destroy();
      answerMismatched(request, response, answer);
    });
    // http-proxy gives a request up only when its answer is not finished.
    response.once('close', () => asking.destroy());
  });
  proxy.on('proxyRes', (answer, request, response) => {
    // A 101 that names no protocol is a response, not an upgrade, for Node.
    if (answer.statusCode === 101) answerMismatched(request, response, answer);
    else {
      upstreamReached();
      passHeadBack(answer, response);
    }
  });
  return (request, response, rawHeaders, address) => {
    addresses.set(request, address);
    const failed = (error: Error): void => {
      // A client that already has its answer, or has left, says nothing about Headscale.
      if (response.headersSent || response.destroyed || request.socket.destroyed) return;
      upstreamFailed();
      const { status, text } = gatewayAnswer(error);
      answerWith(response, status, text);
    };
    // One connection per request. Requests are few, and Headscale might close an idle connection just as we use it.
    const headers = [...rawHeaders, 'Connection', 'close'];
    try {
      proxy.web(request, response, { toProxy: true, ssl: fixed({ path: request.url, headers }) }, failed);
    } catch (error) {
      answerWith(response, 400, `This request cannot be passed on: ${reasonOf(error)}`);
    }
  };
}

function agentOf(upstream: Upstream): Agent {
  return Object.assign(new Agent(), { createConnection: () => upstream.connect() });
}

/**
 * Options for Node's `request` that nobody can change. http-proxy copies its own values into the object given as `ssl` and
 * passes it to `request`. Its own path turns `*` into `/*` and loses an empty query, and its own headers are in lower case, with
 * repeated ones joined.
 */
function fixed(options: Readonly<Record<string, unknown>>): object {
  const kept = {};
  for (const [name, value] of Object.entries(options)) {
    Object.defineProperty(kept, name, { enumerable: true, get: () => value, set: () => {} });
  }
  return kept;
}

/** Writes the head of Headscale's answer. http-proxy then adds no headers of its own and pipes the body. */
function passHeadBack(answer: IncomingMessage, response: ServerResponse): void {
  // Piping ends only a complete answer. The client of half an answer must not wait for the rest.
  answer.on('error', () => response.destroy());
  if (response.headersSent || response.destroyed) {
    answer.destroy();
    return;
  }
  const status = answer.statusCode ?? 0;
  // Node refuses to write other characters.
  const text = answer.statusMessage?.replace(/[^\t\x20-\x7e\x80-\xff]/g, '') ?? '';
  response.writeHead(status < 200 ? 502 : status, text, answerHeaders(answer.rawHeaders));
}

/**
 * Limits the body of a request. A body with a Content-Length above the limit gets 413 at once. A chunked body gets 413, or is
 * cut off, when it passes the limit.
 *
 * @param most in bytes.
 * @returns whether to forward the request.
 */
export function limitBody(
  request: IncomingMessage,
  response: ServerResponse,
  most: number,
  tooLarge: () => void,
): boolean {
  const refuse = (): void => {
    tooLarge();
    if (response.headersSent) request.socket.destroy();
    else {
      response.shouldKeepAlive = false;
      const text = `This request is larger than ${most} bytes.\n`;
      response.writeHead(413, { 'Content-Type': 'text/plain; charset=utf-8' }).end(text, () => request.destroy());
    }
  };
  if (Number(request.headers['content-length'] ?? 0) > most) {
    refuse();
    return false;
  }
  let length = 0;
  const count = (chunk: Buffer): void => {
    length += chunk.length;
    if (length <= most) return;
    request.off('data', count);
    refuse();
  };
  // Node's parser enforces a Content-Length.
  if (request.headers['transfer-encoding'] !== undefined) request.on('data', count);
  return true;
}
