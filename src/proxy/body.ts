import type { IncomingMessage, ServerResponse } from 'node:http';

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
