import { type IncomingMessage, ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { codeOf } from '../lib/errors.ts';
import { endToEnd } from '../streams/request.ts';

/**
 * Passes Headscale's answer on, whole, to a client whose socket Node's server has let go of.
 *
 * @returns whether its head could be passed on (a status of 99, say, cannot); `done` is called when all has been written.
 */
export function forwardAnswer(
  request: IncomingMessage,
  response: IncomingMessage,
  client: Socket,
  done: () => void,
): boolean {
  const answer = new ServerResponse(request);
  answer.shouldKeepAlive = false;
  try {
    answer.writeHead(response.statusCode ?? 502, response.statusMessage, answerHeaders(response.rawHeaders));
    answer.assignSocket(client);
  } catch {
    return false;
  }
  // The server would have told it of the socket's drains.
  client.on('drain', () => answer.emit('drain'));
  response.on('error', () => resetConnection(client));
  answer.on('finish', () => {
    answer.detachSocket(client);
    done();
  });
  response.pipe(answer);
  return true;
}

/** The head of an answer as it came, to be written as latin1. */
export function answerHead(response: IncomingMessage): string {
  let head = `HTTP/1.1 ${response.statusCode} ${response.statusMessage ?? ''}\r\n`;
  for (let i = 0; i + 1 < response.rawHeaders.length; i += 2) {
    head += `${response.rawHeaders[i]}: ${response.rawHeaders[i + 1]}\r\n`;
  }
  return `${head}\r\n`;
}

/** The headers of an answer that go on to the client: Node frames its body anew, and passes no trailers on. */
export function answerHeaders(rawHeaders: readonly string[]): string[] {
  const headers = endToEnd(rawHeaders);
  return headers.filter((_, i) => headers[i - (i % 2)]?.toLowerCase() !== 'transfer-encoding');
}

/** A whole answer of our own, behind which the connection ends. @param more further header lines, each with its end. */
export function textAnswer(status: number, text: string, more = ''): string {
  const body = `${text}\n`;
  return (
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\nContent-Type: text/plain; charset=utf-8\r\n` +
    `Content-Length: ${Buffer.byteLength(body)}\r\n${more}Connection: close\r\n\r\n${body}`
  );
}

/** Clients wait longer from try to try by themselves; this is for those that ask. */
const RETRY_AFTER_S = 5;

/** The answer to what is too much. */
export function unavailableAnswer(text: string): string {
  return textAnswer(503, text, `Retry-After: ${RETRY_AFTER_S}\r\n`);
}

const GONE_WITHIN_MS = 10_000;

/** Answers an upgrade that no tunnel is made for, and ends its connection. */
export function refuseUpgrade(client: Socket, whole: string): void {
  client.on('error', () => client.destroy());
  client.setTimeout(GONE_WITHIN_MS, () => client.destroy());
  client.on('end', () => client.destroy());
  client.end(whole);
  // What it still says is dropped, so that no reset overtakes the answer.
  client.resume();
}

/** Answers a request with a line of our own; what has begun already is cut off instead. */
export function answerWith(response: ServerResponse, status: number, text: string): void {
  if (response.headersSent) response.destroy();
  else response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
}

/** So that its client sends no other request into a connection that is about to close. */
export function closeAfter(response: ServerResponse): void {
  response.shouldKeepAlive = false;
}

/** Ends a connection so that the peer knows it for broken: a FIN would make half a message look whole. */
export function resetConnection(socket: Socket): void {
  // While our FIN is on its way libuv refuses a reset (EINVAL), and Node loses the descriptor. All is written by then.
  const finIsOnItsWay = socket.writableEnded && socket.writableLength === 0;
  if (socket instanceof TLSSocket || finIsOnItsWay) socket.destroy();
  else socket.resetAndDestroy();
}

/**
 * Whether Linux gave a connection up because nobody acknowledged anything (TCP_USER_TIMEOUT, or its own limit of retransmissions).
 * Where a router said on the way that the peer cannot be reached, the error is that router's (tcp_write_err).
 */
export function isKernelTimeout(error: unknown): boolean {
  return ['ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH'].includes(codeOf(error) ?? '');
}

/** A tunnel with one end gone is ended when nothing has moved for this long. */
const LINGER_MS = 60_000;

/** The ends of such a tunnel: from now on they time out. */
export function setLingerTimeout(...ends: readonly (Socket | undefined)[]): void {
  for (const end of ends) end?.setTimeout(LINGER_MS);
}
