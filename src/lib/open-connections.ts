import type { Socket } from 'node:net';

/**
 * All open connections of a server. A connection changes hands: from the steps before HTTP to the HTTP server, and from
 * there to a tunnel or a WebSocket. None of these knows all connections, but a shutdown must close them all.
 */
export class OpenConnections {
  readonly #open = new Map<Socket, (() => void) | undefined>();
  /** One listener for all sockets: there are two sockets for each stream. */
  readonly #removed: (this: Socket) => void;

  constructor() {
    const open = this.#open;
    this.#removed = function removed() {
      const closed = open.get(this);
      open.delete(this);
      closed?.();
    };
  }

  /**
   * Removes the socket when it closes. With TLS, add both the TCP socket and the TLS socket on top of it.
   *
   * @param closed called then, too. As a listener of its own it would cost more: Node makes room for 19 when there is a third.
   */
  add(socket: Socket, closed?: () => void): void {
    this.#open.set(socket, closed);
    socket.on('close', this.#removed);
  }

  /** Closes the connections on which everything has been sent, including our FIN: only the client keeps them open. */
  endAnswered(): void {
    for (const socket of this.#open.keys()) if (socket.writableFinished) socket.destroy();
  }

  endAll(): void {
    for (const socket of this.#open.keys()) socket.destroy();
  }
}
