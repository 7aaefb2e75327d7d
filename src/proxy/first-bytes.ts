import type { Socket } from 'node:net';
import { isProtocol } from '../streams/request.ts';

/** What is to be done with the first bytes of a connection. */
export type FirstBytes =
  /** They are not enough. */
  | { readonly kind: 'more' }
  /** Read enough: whoever comes next begins with these. */
  | { readonly kind: 'done'; readonly rest: Buffer }
  | { readonly kind: 'refuse' };

export interface Patience {
  readonly withinMs: number;
  /** Too little has come in time; nobody listens to the socket any more. */
  slow(): void;
}

const MOST_BYTES = 32 * 1024;

const SLOW_ENDS_WITHIN_MS = 1000;

/**
 * Reads the first bytes of a connection for somebody who comes before its server; `done` is called once they have been
 * put back, changed or not. Who sends too much or too slowly, or ends, is let go.
 */
export function readFirstBytes(
  socket: Socket,
  read: (bytes: Buffer) => FirstBytes,
  { withinMs, slow }: Patience,
  done: () => void,
): void {
  let bytes: Buffer = Buffer.alloc(0);
  const give = (): void => void socket.destroy();
  const finish = (): void => {
    clearTimeout(timer);
    socket.off('readable', look).off('end', give).off('close', finish);
  };
  const look = (): void => {
    for (;;) {
      const chunk = socket.read() as Buffer | null;
      if (chunk === null) return;
      bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk]);
      const found = read(bytes);
      if (found.kind === 'more' && bytes.length <= MOST_BYTES) continue;
      finish();
      if (found.kind !== 'done') give();
      else {
        socket.off('error', give);
        if (found.rest.length > 0) socket.unshift(found.rest);
        done();
      }
      return;
    }
  };
  const timer = setTimeout(() => {
    finish();
    slow();
    setTimeout(give, SLOW_ENDS_WITHIN_MS).unref();
  }, withinMs);
  socket.on('readable', look).on('end', give).on('error', give).on('close', finish);
}

const LONGEST_HEAD = 16 * 1024;
const UPGRADE_LINES = /\r\nupgrade:[^\r]*(?=\r)/gi;
const HAS_BODY = /\r\n(?:transfer-encoding:|content-length:(?![ \t]*0?[ \t]*\r))/i;
const NAMES_UPGRADE = /\r\nconnection:(?:[^\r]*[, \t])?upgrade[ \t]*[,\r]/i;

/**
 * Lets Node's parser take for an upgrade what is one to Headscale, and nothing else: adds the `Connection: upgrade` that
 * nginx leaves out with the configuration of Headscale's documentation, and takes away an Upgrade that Headscale does not
 * speak, or that has a body.
 *
 * @param bytes what has come of a connection so far; the head is its first, and changed alone.
 */
export function withUpgrade(bytes: Buffer): FirstBytes {
  const end = bytes.indexOf('\r\n\r\n');
  // Too long a head is Node's to refuse.
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
