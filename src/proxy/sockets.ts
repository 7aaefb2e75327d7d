import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { codeOf } from '../lib/errors.ts';

/** Ends a connection so that the peer knows it for broken: a FIN would make half a message look whole. */
export function abort(socket: Socket): void {
  // While our FIN is on its way libuv refuses a reset (EINVAL), and Node loses the descriptor. All is written by then.
  const finIsOnItsWay = socket.writableEnded && socket.writableLength === 0;
  if (socket instanceof TLSSocket || finIsOnItsWay) socket.destroy();
  else socket.resetAndDestroy();
}

/**
 * Whether Linux gave a connection up because nobody acknowledged anything (TCP_USER_TIMEOUT, or its own limit of retransmissions).
 * Where a router said on the way that the peer cannot be reached, the error is that router's (tcp_write_err).
 */
export function gaveUp(error: unknown): boolean {
  return ['ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH'].includes(codeOf(error) ?? '');
}

/** A tunnel with one end gone is ended when nothing has moved for this long. */
const LINGER_MS = 60_000;

/** The ends of such a tunnel: from now on they time out. */
export function linger(...ends: readonly (Socket | undefined)[]): void {
  for (const end of ends) end?.setTimeout(LINGER_MS);
}
