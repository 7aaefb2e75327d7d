import { type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { NoAnswerError } from '../errors.ts';
import type { AwaitAnswer, UpgradeRequest } from './tunnel-ports.ts';

/** What becomes of an upgrade that is shown to Headscale: one of the last three, unless it is given up. */
export interface Asked {
  connect(): Socket;
  /** 101. @param head what came behind it. */
  switched(response: IncomingMessage, head: Buffer): void;
  /** Any other answer, its body yet to come. */
  refused(response: IncomingMessage): void;
  /** @param error a `NoAnswerError` when Headscale does not answer. */
  failed(error: Error): void;
  awaitAnswer: AwaitAnswer;
}

/** Shows an upgrade to Headscale. @throws when its head cannot be sent. */
export function ask(
  { request, rawHeaders }: UpgradeRequest,
  { host, port }: { readonly host: string; readonly port: number },
  asked: Asked,
): ClientRequest {
  const asking = httpRequest({
    method: request.method,
    path: request.url,
    headers: rawHeaders,
    createConnection: () => asked.connect(),
    host,
    port,
  });
  noteAnswer(asking, asked.awaitAnswer);
  asking.on('upgrade', (response, _socket, head) => asked.switched(response, head));
  asking.on('response', (response) => asked.refused(response));
  asking.on('error', (error) => asked.failed(error));
  asking.end();
  return asking;
}

/** Ends a request with a `NoAnswerError` when Headscale does not answer it. */
export function noteAnswer(asking: ClientRequest, awaitAnswer: AwaitAnswer): void {
  const pending = awaitAnswer(() => asking.destroy(new NoAnswerError('Headscale does not answer')));
  asking.once('finish', () => pending.sent());
  for (const answer of ['upgrade', 'response'] as const) asking.once(answer, () => pending.answered());
  asking.once('close', () => pending.ended());
}
