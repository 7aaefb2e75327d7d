import type { Socket } from 'node:net';

/**
 * Every connection of a server, from the moment it is accepted until it has closed, whoever holds it meanwhile: the
 * steps before HTTP, the HTTP server, a tunnel, a WebSocket, or nobody any more. A stop ends what it finds here.
 */
export class OpenConnections {
  readonly #open = new Set<Socket>();

  /** Where TLS is spoken, both the TCP socket and the TLS socket above it are added. */
  add(socket: Socket): void {
    this.#open.add(socket);
    socket.once('close', () => this.#open.delete(socket));
  }

  /** Ends the connections that have all they were owed, our FIN included: only their clients still hold them open. */
  endAnswered(): void {
    for (const socket of this.#open) if (socket.writableFinished) socket.destroy();
  }

  endAll(): void {
    for (const socket of this.#open) socket.destroy();
  }
}
