import type { Socket } from 'node:net';

/** A connection's two ends: the one name that it has both below TLS and above it. */
export function endsOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string {
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`;
}

/** Connections on their way to the HTTP server, of which it does not know yet: a stop must not wait for them. */
export class Newborn {
  readonly #byEnds = new Map<string, Socket>();

  /** One has been accepted. */
  note(socket: Socket): void {
    const ends = endsOf(socket);
    this.#byEnds.set(ends, socket);
    socket.once('close', () => {
      if (this.#byEnds.get(ends) === socket) this.#byEnds.delete(ends);
    });
  }

  /** The HTTP server has it now. */
  served(socket: Socket): void {
    if (this.#byEnds.size > 0) this.#byEnds.delete(endsOf(socket));
  }

  end(): void {
    for (const socket of this.#byEnds.values()) socket.destroy();
  }
}
