import { type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { UpgradeRequest } from './tunnel-ports.ts';

/** What becomes of an upgrade that is shown to Headscale: one of the last three, unless it is given up. */
export interface Asked {
  connect(): Socket;
  /** 101. @param head what came behind it. */
  switched(response: IncomingMessage, head: Buffer): void;
  /** Any other answer, its body yet to come. */
  refused(response: IncomingMessage): void;
  failed(): void;
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
  asking.on('upgrade', (response, _socket, head) => asked.switched(response, head));
  asking.on('response', (response) => asked.refused(response));
  asking.on('error', () => asked.failed());
  asking.end();
  return asking;
}
