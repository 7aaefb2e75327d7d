import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** Of each connection the requests that have not been answered whole. */
export class Unanswered {
  readonly #bySocket = new Map<Socket, Map<IncomingMessage, ServerResponse>>();

  /** An answer that waits behind another one never closes when its connection does: then all of that are forgotten. */
  note(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    const requests = this.#bySocket.get(socket) ?? new Map<IncomingMessage, ServerResponse>();
    if (!this.#bySocket.has(socket)) {
      this.#bySocket.set(socket, requests);
      socket.once('close', () => this.#bySocket.delete(socket));
    }
    requests.set(request, response);
    response.once('close', () => requests.delete(request));
  }

  has(socket: Socket): boolean {
    return (this.#bySocket.get(socket)?.size ?? 0) > 0;
  }

  /** Whether the connection ends behind one of them: what was sent after that is nobody's. */
  endsConnection(socket: Socket): boolean {
    for (const response of this.#bySocket.get(socket)?.values() ?? []) if (!response.shouldKeepAlive) return true;
    return false;
  }

  all(): readonly (readonly [IncomingMessage, ServerResponse])[] {
    return [...this.#bySocket.values()].flatMap((requests) => [...requests]);
  }
}
