import { type IncomingMessage, ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { abort } from './sockets.ts';

/**
 * Passes Headscale's answer on, whole, to a client whose socket Node's server has let go of.
 *
 * @returns whether its head could be passed on (a status of 99, say, cannot); `done` is called when all has been written.
 */
export function passOn(request: IncomingMessage, response: IncomingMessage, client: Socket, done: () => void): boolean {
  const answer = new ServerResponse(request);
  answer.shouldKeepAlive = false;
  try {
    answer.writeHead(response.statusCode ?? 502, response.statusMessage, withoutConnection(response.rawHeaders));
    answer.assignSocket(client);
  } catch {
    return false;
  }
  // The server would have told it of the socket's drains.
  client.on('drain', () => answer.emit('drain'));
  response.on('error', () => abort(client));
  answer.on('finish', () => {
    answer.detachSocket(client);
    done();
  });
  response.pipe(answer);
  return true;
}

/** The head of an answer as it came, to be written as latin1. */
export function headOf(response: IncomingMessage): string {
  let head = `HTTP/1.1 ${response.statusCode} ${response.statusMessage ?? ''}\r\n`;
  for (let i = 0; i + 1 < response.rawHeaders.length; i += 2) {
    head += `${response.rawHeaders[i]}: ${response.rawHeaders[i + 1]}\r\n`;
  }
  return `${head}\r\n`;
}

function withoutConnection(rawHeaders: readonly string[]): string[] {
  const kept: string[] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] as string;
    const hopByHop = /^(connection|keep-alive|transfer-encoding)$/i.test(name);
    if (!hopByHop) kept.push(name, rawHeaders[i + 1] as string);
  }
  return kept;
}

/** A whole answer of our own, behind which the connection ends. @param more further header lines, each with its end. */
export function ownAnswer(status: number, text: string, more = ''): string {
  const body = `${text}\n`;
  return (
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\nContent-Type: text/plain; charset=utf-8\r\n` +
    `Content-Length: ${Buffer.byteLength(body)}\r\n${more}Connection: close\r\n\r\n${body}`
  );
}

/** Clients wait longer from try to try by themselves; this is for those that ask. */
const RETRY_AFTER_S = 5;

/** The answer to what is too much. */
export function tooMuch(text: string): string {
  return ownAnswer(503, text, `Retry-After: ${RETRY_AFTER_S}\r\n`);
}

const GONE_WITHIN_MS = 10_000;

/** Answers an upgrade that no tunnel is made for, and ends its connection. */
export function refuseUpgrade(client: Socket, text: string): void {
  client.on('error', () => client.destroy());
  client.setTimeout(GONE_WITHIN_MS, () => client.destroy());
  client.on('end', () => client.destroy());
  client.end(tooMuch(text));
  // What it still says is dropped, so that no reset overtakes the answer.
  client.resume();
}

/** So that its client sends no other request into a connection that is about to close. */
export function endConnectionAfter(request: IncomingMessage, response: ServerResponse): void {
  response.shouldKeepAlive = false;
  // What the proxy answers with.
  request.headers.connection = 'close';
}
