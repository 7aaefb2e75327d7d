import { type Server, Socket } from 'node:net';

/*
 * A socket's handle, as libuv has it. Node has no public way to its descriptor, to stop reading at once, or to give a socket to
 * another process without closing it here. This file has all of that, and nobody else touches `_handle` for it.
 */

/** What is used of a handle of `tcp_wrap`. Only `child_process` looks at the rest. */
export interface SocketHandle {
  readonly fd?: number;
  reading?: boolean;
  readStop?(): number;
  close(): void;
}

interface WithHandle {
  readonly _handle?: SocketHandle | null;
}

export function handleOf(socket: Socket | Server): SocketHandle | undefined {
  return (socket as unknown as WithHandle)._handle ?? undefined;
}

/** The file descriptor of a TCP or TLS socket, or of a server. Undefined if it is closed. */
export function descriptorOf(socket: Socket | Server): number | undefined {
  const fd = handleOf(socket)?.fd;
  return fd !== undefined && fd >= 0 ? fd : undefined;
}

/** Stops reading at once: what arrives from now on stays in the kernel. `resume` reads again. @returns whether it has. */
export function stopReading(socket: Socket): boolean {
  // With 'data' events, `pause` alone would go on reading until Node's own buffer is full.
  socket.pause();
  const handle = handleOf(socket);
  if (handle?.readStop === undefined) return false;
  handle.reading = false;
  return handle.readStop() === 0;
}

/** A socket from a handle that another process has given us. It reads nothing before `resume`. */
export function socketFrom(handle: SocketHandle): Socket {
  const options = { handle, allowHalfOpen: true, pauseOnCreate: true, readable: true, writable: true };
  return new Socket(options as object);
}
