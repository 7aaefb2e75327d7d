import type { IncomingHttpHeaders } from 'node:http';
import type { Socket } from 'node:net';
import { isProtocol, type ReadRequest, type RequestHead, readRequest } from '../streams/request.ts';

/** What to do with the first bytes of a connection. */
export type FirstBytes =
  /** Wait for more bytes. */
  | { readonly kind: 'more' }
  /** Continue. The next reader of the connection starts with `rest`. */
  | { readonly kind: 'done'; readonly rest: Buffer }
  /** Close the connection. */
  | { readonly kind: 'refuse' };

/** How long to wait for the first bytes. */
export interface Patience {
  readonly withinMs: number;
  /** Called when too little has arrived in time. The socket has no listeners then. */
  slow(): void;
}

const MOST_BYTES = 32 * 1024;

const SLOW_ENDS_WITHIN_MS = 1000;

/**
 * Reads the first bytes of a connection before its server does. A client that sends too much or too slowly, or closes, is
 * disconnected.
 *
 * @param done gets the bytes, changed or not, for the next reader of the connection. The socket flows, and has no listeners.
 */
export function readFirstBytes(
  socket: Socket,
  read: (bytes: Buffer) => FirstBytes,
  { withinMs, slow }: Patience,
  done: (rest: Buffer) => void,
): void {
  let bytes: Buffer = Buffer.alloc(0);
  const destroy = (): void => void socket.destroy();
  const finish = (): void => {
    clearTimeout(timer);
    socket.off('data', look).off('end', destroy).off('close', finish);
  };
  const look = (chunk: Buffer): void => {
    bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk]);
    const found = read(bytes);
    if (found.kind === 'more' && bytes.length <= MOST_BYTES) return;
    finish();
    if (found.kind !== 'done') destroy();
    else {
      socket.off('error', destroy);
      done(found.rest);
    }
  };
  const timer = setTimeout(() => {
    finish();
    slow();
    setTimeout(destroy, SLOW_ENDS_WITHIN_MS).unref();
  }, withinMs);
  socket.on('data', look).on('end', destroy).on('error', destroy).on('close', finish);
  // The step before may have paused it.
  if (socket.isPaused()) socket.resume();
}

const LONGEST_HEAD = 16 * 1024;
const UPGRADE_LINES = /\r\nupgrade:[^\r]*(?=\r)/gi;
const HAS_BODY = /\r\n(?:transfer-encoding:|content-length:(?![ \t]*0?[ \t]*\r))/i;
const NAMES_UPGRADE = /\r\nconnection:(?:[^\r]*[, \t])?upgrade[ \t]*[,\r]/i;

/**
 * Makes Node's parser see an upgrade exactly when Headscale would. It adds the `Connection: upgrade` that nginx leaves out with
 * the configuration in Headscale's documentation. It removes an Upgrade header that Headscale does not know, or that comes
 * with a body.
 *
 * @param bytes what has arrived on a connection so far. Only the head of the first request is changed.
 */
export function withUpgrade(bytes: Buffer): FirstBytes {
  const end = bytes.indexOf('\r\n\r\n');
  // Node refuses a head that is too long.
  if (end < 0) return bytes.length < LONGEST_HEAD ? { kind: 'more' } : { kind: 'done', rest: bytes };
  const head = bytes.toString('latin1', 0, end + 2);
  const asked = /\r\nupgrade:([^\r]*)\r/i.exec(head)?.[1];
  if (asked === undefined) return { kind: 'done', rest: bytes };
  if (!isProtocol(asked.trim().toLowerCase()) || HAS_BODY.test(head)) {
    return withHead(head.replace(UPGRADE_LINES, ''), bytes, end);
  }
  if (NAMES_UPGRADE.test(head)) return { kind: 'done', rest: bytes };
  return withHead(head.replace('\r\n', '\r\nConnection: upgrade\r\n'), bytes, end);
}

function withHead(head: string, bytes: Buffer, end: number): FirstBytes {
  return { kind: 'done', rest: Buffer.concat([Buffer.from(head, 'latin1'), bytes.subarray(end + 2)]) };
}

/** What the proxy needs of an upgrade request. An `IncomingMessage` has all of it. */
export interface UpgradeMessage extends RequestHead {
  readonly httpVersionMajor: number;
  readonly httpVersionMinor: number;
  readonly headers: IncomingHttpHeaders;
  readonly socket: Socket;
}

/** An upgrade request at the start of a connection. */
export interface FirstUpgrade {
  readonly request: UpgradeMessage;
  readonly read: Extract<ReadRequest, { kind: 'upgrade' }>;
  /** The bytes after its head. */
  readonly head: Buffer;
}

const REQUEST_LINE = /(GET|POST) (\/[\w.~%!$&'()*+,;=:@/?-]*) HTTP\/1\.1\r\n/y;
const HEADER_LINE = /([\w!#$%&'*+.^`|~-]+):[ \t]*((?:[\t\x20-\x7e]*[\x21-\x7e])?)[ \t]*\r\n/y;

/**
 * Reads an upgrade request that everybody would read in the same way. Node's HTTP server would do the same, for an eighth of
 * the whole time of an upgrade, and leave its own functions on the socket for as long as the stream lasts.
 *
 * @param bytes what has arrived on a connection so far.
 * @returns undefined for everything else: part of a head, a body, another method, unusual characters. Node's server reads those.
 */
export function readFirstUpgrade(bytes: Buffer, socket: Socket, longestHead: number): FirstUpgrade | undefined {
  const end = bytes.indexOf('\r\n\r\n');
  if (end < 0 || end > longestHead) return undefined;
  const text = bytes.toString('latin1', 0, end + 2);
  REQUEST_LINE.lastIndex = 0;
  const [line, method, url] = REQUEST_LINE.exec(text) ?? [];
  if (line === undefined) return undefined;
  const rawHeaders: string[] = [];
  const headers: Record<string, string> = Object.create(null);
  for (let at = line.length; at < text.length; at = HEADER_LINE.lastIndex) {
    HEADER_LINE.lastIndex = at;
    const found = HEADER_LINE.exec(text);
    if (found === null) return undefined;
    const [, name = '', value = ''] = found;
    const key = name.toLowerCase();
    const before = headers[key];
    // As Node does: the first Host counts, and the values of all other headers that we look at are joined.
    headers[key] = before === undefined ? value : key === 'host' ? before : `${before}, ${value}`;
    rawHeaders.push(name, value);
  }
  // Most heads that are no upgrade need no closer look. Node's server answers Expect.
  if (!isProtocol(headers.upgrade?.toLowerCase() ?? '') || headers.expect !== undefined) return undefined;
  const version = { httpVersion: '1.1', httpVersionMajor: 1, httpVersionMinor: 1 };
  const request: UpgradeMessage = { method, url, ...version, rawHeaders, headers, socket };
  const read = readRequest(request);
  return read.kind === 'upgrade' ? { request, read, head: bytes.subarray(end + 4) } : undefined;
}
