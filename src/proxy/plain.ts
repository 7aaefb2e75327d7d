import type { ClientRequest, IncomingMessage, ServerResponse } from 'node:http';
import { reasonOf } from '../lib/errors.ts';
import { answerHeaders, answerWith } from './answer.ts';
import { ask } from './ask.ts';
import type { AwaitAnswer } from './tunnel-ports.ts';
import { gatewayAnswer, type Upstream } from './upstream.ts';

export interface PlainPorts {
  readonly upstream: Upstream;
  upstreamReached(): void;
  upstreamFailed(): void;
  awaitAnswer: AwaitAnswer;
  /** Headscale has answered 101 to a request that asked for none. */
  misled(protocol: string, address: string): void;
}

/** Passes a request on to Headscale and its answer back. @param rawHeaders what Headscale is to see. */
export type PlainProxy = (
  request: IncomingMessage,
  response: ServerResponse,
  rawHeaders: readonly string[],
  address: string,
) => void;

/** The proxy for all that is not an upgrade: `/key`, `/health`, registration pages, OIDC, the REST API. */
export function plainProxy({ upstream, upstreamReached, upstreamFailed, awaitAnswer, misled }: PlainPorts): PlainProxy {
  return (request, response, rawHeaders, address) => {
    // Whoever has its answer, or has left, says nothing about Headscale any more.
    const isOver = (): boolean => response.headersSent || response.destroyed || request.socket.destroyed;
    const question = {
      ...{ method: request.method, path: request.url, protocol: undefined, body: request },
      // One connection for each request: they are few, and Headscale might close one that is kept the moment it is used.
      rawHeaders: [...rawHeaders, 'Connection', 'close'],
    };
    let asking: ClientRequest;
    try {
      asking = ask(question, upstream, {
        connect: () => upstream.connect(),
        // Never: it asks for nothing.
        switched: (answer) => answer.destroy(),
        answered: (answer) => {
          upstreamReached();
          passBack(answer, response);
        },
        misled: (protocol) => {
          misled(protocol, address);
          answerWith(response, 502, 'Headscale answered with an upgrade that nobody asked for.');
        },
        failed: (error) => {
          if (isOver()) return;
          upstreamFailed();
          const { status, text } = gatewayAnswer(error);
          answerWith(response, status, text);
        },
        awaitAnswer,
      });
    } catch (error) {
      answerWith(response, 400, `This request cannot be passed on: ${reasonOf(error)}`);
      return;
    }
    response.once('close', () => asking.destroy());
  };
}

function passBack(answer: IncomingMessage, response: ServerResponse): void {
  if (response.headersSent || response.destroyed) {
    answer.resume();
    return;
  }
  const status = answer.statusCode ?? 0;
  // What Node would refuse to write.
  const text = answer.statusMessage?.replace(/[^\t\x20-\x7e\x80-\xff]/g, '') ?? '';
  response.writeHead(status < 200 ? 502 : status, text, answerHeaders(answer.rawHeaders));
  // A pipe ends well only: half an answer must not leave its client waiting for the rest.
  answer.on('error', () => response.destroy());
  answer.pipe(response);
}

/**
 * Bounds a request's body: one that is too large gets 413, told by its length before it comes, or else cut off where it is.
 *
 * @returns whether the request may go on for now.
 */
export function boundBody(
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
  // A length that is told is kept to by Node's parser.
  if (request.headers['transfer-encoding'] !== undefined) request.on('data', count);
  return true;
}
