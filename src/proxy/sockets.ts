import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';

/** Ends a connection so that the peer knows it for broken: a FIN would make half a message look whole. */
export function abort(socket: Socket): void {
  // While our FIN is on its way libuv refuses a reset (EINVAL), and Node loses the descriptor. All is written by then.
  const finIsOnItsWay = socket.writableEnded && socket.writableLength === 0;
  if (socket instanceof TLSSocket || finIsOnItsWay) socket.destroy();
  else socket.resetAndDestroy();
}
