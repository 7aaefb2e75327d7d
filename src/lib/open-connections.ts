import type { Socket } from 'node:net';

/**
 * All open connections of a server. A connection changes hands: from the steps before HTTP to the HTTP server, and from
 * there to a tunnel or a WebSocket. None of these knows all connections, but a shutdown must close them all.
 */
export class OpenConnections {
  readonly #open = new Set<Socket>();
  /** One listener for all sockets: there are two sockets for each stream. */
  readonly #removed: (this: Socket) => void;

  constructor() {
    const open = this.#open;
    this.#removed = function removed() {
      open.delete(this);
    };
  }

  /** Removes the socket when it closes. With TLS, add both the TCP socket and the TLS socket on top of it. */
  add(socket: Socket): void {
    this.#open.add(socket);
    socket.on('close', this.#removed);
  }

  /** Closes the connections on which everything has been sent, including our FIN: only the client keeps them open. */
  endAnswered(): void {
    for (const socket of this.#open) if (socket.writableFinished) socket.destroy();
  }

  endAll(): void {
    for (const socket of this.#open) socket.destroy();
  }
}
