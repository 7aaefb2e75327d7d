import { type IncomingHttpHeaders, type IncomingMessage, request as requestByHttp } from 'node:http';
import { request as requestByHttps } from 'node:https';
import { NoAnswerError } from './errors.ts';

/** How to send a request, and what to accept as its answer. */
export interface HttpRequest {
  readonly method?: 'GET' | 'POST';
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
  /** The time limit for the whole answer. */
  readonly withinMs: number;
  /** The time limit for the connection. */
  readonly connectWithinMs?: number;
  readonly mostBytes: number;
  /** If the answer is longer, or breaks off, what has arrived counts. Without this it is an error. */
  readonly mayBeCut?: boolean;
  /** Ends the request when it aborts. */
  readonly signal: AbortSignal;
}

export interface HttpAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
}

/** The answer has more bytes than it may have. */
export class AnswerTooLongError extends Error {
  override readonly name = 'AnswerTooLongError';
}

/**
 * Sends a request on a connection of its own, and reads the answer. It follows no redirect, which could lead a secret to another
 * server.
 *
 * @throws NoAnswerError if the connection was accepted, but there was no whole answer in time.
 * @throws AnswerTooLongError
 */
export function sendRequest(url: URL, options: HttpRequest): Promise<HttpAnswer> {
  const { method = 'GET', headers, body, withinMs, mostBytes, mayBeCut = false, signal } = options;
  const { connectWithinMs = withinMs } = options;
  return new Promise((resolve, reject) => {
    // The user of the URL is never meant to be sent.
    const { origin, pathname, search } = url;
    const send = url.protocol === 'https:' ? requestByHttps : requestByHttp;
    const request = send(origin + pathname + search, { method, headers, agent: false, signal });
    let isAccepted = false;
    request.once('socket', (socket) => socket.once('connect', () => (isAccepted = true)));
    const fail = (error: Error): void => {
      reject(error);
      request.destroy();
    };
    const giveUp = (afterMs: number): void => {
      const within = `within ${afterMs / 1000} s`;
      const answered = `the connection was accepted, and ${method} ${pathname}${search} not answered ${within}`;
      fail(isAccepted ? new NoAnswerError(answered) : new Error(`no connection ${within}`));
    };
    const timers = [
      setTimeout(() => isAccepted || giveUp(connectWithinMs), connectWithinMs),
      setTimeout(() => giveUp(withinMs), withinMs),
    ];
    request.on('error', reject);
    request.once('close', () => {
      for (const timer of timers) clearTimeout(timer);
      // Nothing else may be said if it was closed after a 101.
      setImmediate(() => reject(new Error('the connection was closed')));
    });
    request.once('response', (response: IncomingMessage) => {
      const chunks: Buffer[] = [];
      let length = 0;
      const done = (): void => {
        const text = Buffer.concat(chunks).toString();
        resolve({ status: response.statusCode ?? 0, headers: response.headers, text });
      };
      response.on('data', (chunk: Buffer) => {
        length += chunk.length;
        chunks.push(chunk);
        if (length <= mostBytes) return;
        if (mayBeCut) done();
        fail(new AnswerTooLongError(`the answer has more than ${mostBytes} bytes`));
      });
      response.once('end', done);
      response.once('error', mayBeCut ? done : reject);
    });
    request.end(body);
  });
}
