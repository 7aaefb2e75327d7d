import { type IncomingMessage, ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { codeOf } from '../lib/errors.ts';
import { endToEnd } from '../streams/request.ts';
import type { UpgradeMessage } from './first-bytes.ts';

/**
 * Forwards Headscale's complete answer to a client after an upgrade request, when Node's server no longer handles the socket.
 *
 * @param done is called when everything has been written.
 * @returns false if Node refuses to write this head, for example with status 99.
 */
export function forwardAnswer(
  request: UpgradeMessage,
  response: IncomingMessage,
  client: Socket,
  done: () => void,
): boolean {
  // Node looks only at its method and version.
  const answer = new ServerResponse(request as IncomingMessage);
  answer.shouldKeepAlive = false;
  try {
    answer.writeHead(response.statusCode ?? 502, response.statusMessage, answerHeaders(response.rawHeaders));
    answer.assignSocket(client);
  } catch {
    return false;
  }
  // Node's server would forward this event.
  client.on('drain', () => answer.emit('drain'));
  response.on('error', () => resetConnection(client));
  answer.on('finish', () => {
    answer.detachSocket(client);
    done();
  });
  response.pipe(answer);
  return true;
}

/** The head of an answer, unchanged. Write it as latin1. */
export function answerHead({ statusCode, statusMessage = '', rawHeaders }: IncomingMessage): string {
  return headText(`HTTP/1.1 ${statusCode} ${statusMessage}`, rawHeaders);
}

/** The head of a message. @param first its first line. @param rawHeaders name, value, name, value, … */
export function headText(first: string, rawHeaders: readonly string[]): string {
  let head = `${first}\r\n`;
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) head += `${rawHeaders[i]}: ${rawHeaders[i + 1]}\r\n`;
  return `${head}\r\n`;
}

/** The headers of an answer for the client. Node frames the body again, and trailers are dropped. */
export function answerHeaders(rawHeaders: readonly string[]): string[] {
  const headers = endToEnd(rawHeaders);
  return headers.filter((_, i) => headers[i - (i % 2)]?.toLowerCase() !== 'transfer-encoding');
}

/** A complete text answer of our own that closes the connection. @param more further header lines, each with CRLF. */
export function textAnswer(status: number, text: string, more = ''): string {
  const body = `${text}\n`;
  return (
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\nContent-Type: text/plain; charset=utf-8\r\n` +
    `Content-Length: ${Buffer.byteLength(body)}\r\n${more}Connection: close\r\n\r\n${body}`
  );
}

/** For clients that read Retry-After. Tailscale clients wait longer after each attempt by themselves. */
const RETRY_AFTER_S = 5;

/** A 503 answer, for when a limit is reached. */
export function unavailableAnswer(text: string): string {
  return textAnswer(503, text, `Retry-After: ${RETRY_AFTER_S}\r\n`);
}

const GONE_WITHIN_MS = 10_000;

/** Answers an upgrade that gets no tunnel, and closes its connection. @param whole the complete answer. */
export function refuseUpgrade(client: Socket, whole: string): void {
  client.on('error', () => client.destroy());
  client.setTimeout(GONE_WITHIN_MS, () => client.destroy());
  client.on('end', () => client.destroy());
  client.end(whole);
  // Further data is read and dropped, so that no reset overtakes the answer.
  client.resume();
}

/** Answers a request with a line of text. If an answer has already begun, it is cut off instead. */
export function answerWith(response: ServerResponse, status: number, text: string): void {
  if (response.headersSent) response.destroy();
  else response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
}

/** Closes the connection after this answer, and says so in it, so that the client sends no other request there. */
export function closeAfter(response: ServerResponse): void {
  response.shouldKeepAlive = false;
}

/** Resets a connection. A FIN would make half a message look complete. */
export function resetConnection(socket: Socket): void {
  // Node would make an error for it, with a stack.
  if (socket.destroyed) return;
  // While our FIN is being sent, libuv refuses a reset (EINVAL) and Node leaks the descriptor. Everything is written by then.
  const isSendingFin = socket.writableEnded && socket.writableLength === 0;
  if (socket instanceof TLSSocket || isSendingFin) socket.destroy();
  else socket.resetAndDestroy();
}

/**
 * Whether Linux gave a connection up because nothing was acknowledged: TCP_USER_TIMEOUT, or the limit of retransmissions. If a
 * router reported the peer as unreachable, Linux gives that error instead (`tcp_write_err`).
 */
export function isKernelTimeout(error: unknown): boolean {
  return ['ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH'].includes(codeOf(error) ?? '');
}

/** A tunnel with one end gone is closed when nothing has moved for this long. */
const LINGER_MS = 60_000;

/** Sets this timeout on both ends of a tunnel. */
export function setLingerTimeout(...ends: readonly (Socket | undefined)[]): void {
  for (const end of ends) end?.setTimeout(LINGER_MS);
}
