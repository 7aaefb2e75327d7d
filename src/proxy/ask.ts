import { type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { NoAnswerError } from '../lib/errors.ts';
import type { Protocol } from '../streams/request.ts';
import type { AwaitAnswer } from './tunnel-ports.ts';

/** A request as Headscale is to see it: its target as it came. */
export interface Question {
  readonly method: string | undefined;
  readonly path: string | undefined;
  readonly rawHeaders: readonly string[];
  /** What to switch to; undefined where nothing is to be. */
  readonly protocol: Protocol | undefined;
  readonly body: Readable | undefined;
}

/** What becomes of a request that is shown to Headscale: one of the last four, unless it is given up. */
export interface Asked {
  connect(): Socket;
  /** 101 to what was asked for. @param head what came behind it. */
  switched(response: IncomingMessage, head: Buffer): void;
  /** Any other answer, its body yet to come. */
  answered(response: IncomingMessage): void;
  /** 101, but not to what was asked for. @param protocol what it says it has switched to. */
  misled(protocol: string): void;
  /** @param error a `NoAnswerError` when Headscale does not answer. */
  failed(error: Error): void;
  awaitAnswer: AwaitAnswer;
}

/** Shows a request to Headscale. @throws when its head cannot be sent. */
export function ask(
  { method, path, rawHeaders, protocol, body }: Question,
  { host, port }: { readonly host: string; readonly port: number },
  asked: Asked,
): ClientRequest {
  const asking = httpRequest({
    method,
    path,
    headers: rawHeaders,
    createConnection: () => asked.connect(),
    host,
    port,
  });
  noteAnswer(asking, asked.awaitAnswer);
  const misled = (switchedTo: string | string[] | undefined): void => {
    asked.misled([switchedTo].flat().join(', '));
    asking.destroy();
  };
  asking.on('upgrade', (response, socket, head) => {
    if (protocol !== undefined && response.headers.upgrade?.toLowerCase() === protocol) asked.switched(response, head);
    else {
      socket.destroy();
      misled(response.headers.upgrade);
    }
  });
  asking.on('response', (response) => {
    // One that names no protocol.
    if (response.statusCode === 101) misled(response.headers.upgrade);
    else asked.answered(response);
  });
  asking.on('error', (error) => asked.failed(error));
  if (body === undefined) asking.end();
  else body.pipe(asking);
  return asking;
}

/** Ends a request with a `NoAnswerError` when Headscale does not answer it. */
export function noteAnswer(asking: ClientRequest, awaitAnswer: AwaitAnswer): void {
  const pending = awaitAnswer(() => asking.destroy(new NoAnswerError('Headscale does not answer')));
  asking.once('finish', () => pending.sent());
  for (const answer of ['upgrade', 'response'] as const) asking.once(answer, () => pending.answered());
  asking.once('close', () => pending.ended());
}
