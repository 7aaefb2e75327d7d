import type { IncomingMessage, ServerResponse } from 'node:http';
import httpProxy from 'http-proxy';
import { noteAnswer } from './ask.ts';
import { type Origin, setForwarded } from './forwarded.ts';
import type { AwaitAnswer } from './tunnel-ports.ts';
import { gatewayAnswer, type Upstream } from './upstream.ts';

export interface PlainPorts {
  readonly upstream: Upstream;
  upstreamReached(): void;
  upstreamFailed(): void;
  awaitAnswer: AwaitAnswer;
}

/** Passes a request on to Headscale and its answer back. */
export type PlainProxy = (request: IncomingMessage, response: ServerResponse, origin: Origin) => void;

/** The proxy for all that is not an upgrade: `/key`, `/health`, registration pages, OIDC, the REST API. */
export function plainProxy(ports: PlainPorts): PlainProxy {
  const { upstream } = ports;
  const proxy = httpProxy.createProxyServer({
    target: upstream.url.origin,
    agent: upstream.agent,
    headers: { connection: 'close' },
  });
  proxy.before('web', 'stream', keepEncoding);
  // Nobody asked for a 101: http-proxy would wait on.
  proxy.on('proxyReq', (asking, _request, response) => {
    noteAnswer(asking, ports.awaitAnswer);
    asking.on('upgrade', (_answer, socket) => {
      socket.destroy();
      answerWith(response, 502, 'Headscale answered with an upgrade that nobody asked for.');
    });
  });
  proxy.on('proxyRes', (answer, _request, response) => {
    ports.upstreamReached();
    makePassable(answer);
    // A pipe ends well only: half an answer must not leave its client waiting for the rest.
    answer.on('error', () => response.destroy());
  });
  return (request, response, origin) => {
    setForwarded(request.headers, origin);
    // Not an upgrade for us (Connection does not name it), so it must be none for Headscale either: nobody awaits a 101.
    delete request.headers.upgrade;
    // Node has answered it already, and http-proxy would not tell of a request that has it.
    delete request.headers.expect;
    const failed = (error: Error): void => {
      // A client that left in the middle says nothing about Headscale.
      if (request.socket.destroyed) return;
      ports.upstreamFailed();
      const { status, text } = gatewayAnswer(error);
      answerWith(response, status, text);
    };
    try {
      proxy.web(request, response, {}, failed);
    } catch {
      answerWith(response, 400, 'This request has a target that cannot be passed on.');
    }
  };
}

/**
 * http-proxy gives a DELETE or OPTIONS without a length one of 0, and takes its encoding away, but passes its body on all
 * the same: to Headscale it would be the next request.
 */
function keepEncoding({ headers, headersDistinct }: IncomingMessage): void {
  const encoding = headersDistinct['transfer-encoding'];
  if (encoding === undefined) return;
  headers['transfer-encoding'] = encoding.join(', ');
  delete headers['content-length'];
}

/** Takes from an answer what only concerns our connection to Headscale, and what Node would refuse to write. */
function makePassable(answer: IncomingMessage): void {
  delete answer.headers.connection;
  if ((answer.statusCode ?? 0) < 100) answer.statusCode = 502;
  answer.statusMessage = answer.statusMessage?.replace(/[^\t\x20-\x7e\x80-\xff]/g, '') ?? '';
}

function answerWith(response: ServerResponse, status: number, text: string): void {
  if (response.headersSent) response.destroy();
  else response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
}
