import type { Socket } from 'node:net';
import type { Clock } from '../lib/clock.ts';
import { stopReading } from '../lib/handles.ts';
import type { ClientConnection } from '../liveness/client-connection.ts';
import type { AskedUpgrade, Protocol } from '../streams/request.ts';
import type { CloseReason, Stream, StreamKind } from '../streams/stream.ts';
import type { UpgradeMessage } from './first-bytes.ts';
import { type Consumer, readPooled, releaseBuffer } from './pooled-reads.ts';
import type { AwaitAnswer, Upstream } from './upstream.ts';

/** What a tunnel needs, and what it reports. */
export interface TunnelHandlers {
  readonly clock: Clock;
  readonly upstream: Upstream;
  /** How many bytes a client may send before Headscale has answered. */
  earlyBytes(): number;
  /** The client's first complete record has reached an open session. */
  firstRecord(stream: Stream): void;
  /** One end of the stream is gone. */
  ending(stream: Stream, reason: CloseReason): void;
  /** The connection to Headscale has closed, or there will never be one. */
  upstreamClosed(stream: Stream): void;
  closed(stream: Stream, reason: CloseReason): void;
  /** The connection to Headscale is open, so Headscale may see the handshake. */
  upstreamReached(stream: Stream): void;
  upstreamFailed(): void;
  awaitAnswer: AwaitAnswer;
  /** Headscale has answered a request on an open stream late, as it does for a login. */
  answeredLate(stream: Stream): void;
  upstreamRefused(stream: Stream, status: number): void;
  /** Headscale has switched to another protocol than the client asked for. */
  upstreamMismatched(stream: Stream, asked: string, switchedTo: string): void;
}

/** What a tunnel needs of a `ClientConnection`. */
export type TunnelClient = Pick<ClientConnection, 'beforeSend' | 'isNotReading'>;

/** An upgrade request from a client. */
export interface UpgradeRequest {
  readonly request: UpgradeMessage;
  readonly asked: AskedUpgrade;
  readonly client: Socket;
  /** The bytes that came after the head of the request. */
  readonly head: Buffer;
  /** The headers for Headscale: name, value, name, value, … */
  readonly rawHeaders: string[];
}

/** Bytes that a client sends before Headscale has accepted the upgrade. */
export class EarlyBytes {
  readonly #most: number;
  readonly #chunks: Buffer[] = [];
  #length = 0;

  /** @param most how many bytes to keep before reading pauses. */
  constructor(most: number) {
    this.#most = most;
  }

  /** Keeps a copy. @returns whether the limit is reached. */
  keep(chunk: Buffer): boolean {
    this.#chunks.push(Buffer.from(chunk));
    this.#length += chunk.length;
    return this.#length >= this.#most;
  }

  get chunks(): readonly Buffer[] {
    return this.#chunks;
  }
}

/** Why a stream cannot go to another process. Only `tls` lasts. */
export type StaysBecause =
  /** A TLS session is in the memory of this process. */
  | 'tls'
  /** Headscale has not answered the upgrade, or the client has not sent its first record. */
  | 'unanswered'
  /** The other side does not read what is to be sent to it. */
  | 'unwritten'
  | 'ending';

/** What goes with an upgrade that has not been forwarded to Headscale. */
export interface HandedUpgrade {
  readonly method: string;
  /** The request target, exactly as the client sent it. */
  readonly url: string;
  readonly httpMinor: number;
  /** The headers for Headscale: name, value, name, value, … */
  readonly rawHeaders: readonly string[];
  readonly protocol: Protocol;
  /** What the client has sent since. */
  readonly early: Buffer;
}

/** The two sockets of an open stream that another process had before. */
export interface HandedSockets {
  readonly client: Socket;
  readonly upstream: Socket;
  /** See `Tunnel.unansweredBytes`. */
  readonly unansweredBytes: number;
}

export function handedUpgradeOf({ request, asked, rawHeaders }: UpgradeRequest, early: Buffer): HandedUpgrade {
  const { method = 'GET', url = '/', httpVersionMinor } = request;
  return { method, url, httpMinor: httpVersionMinor, rawHeaders, protocol: asked.protocol, early };
}

/** The upgrade request again, as this process would have read it itself. */
export function upgradeFrom(handed: HandedUpgrade, client: Socket, streamKind: StreamKind): UpgradeRequest {
  const { method, url, httpMinor, rawHeaders, protocol, early } = handed;
  const version = { httpVersion: `1.${httpMinor}`, httpVersionMajor: 1, httpVersionMinor: httpMinor };
  // Nobody asks for the headers any more: those for Headscale are in `rawHeaders`.
  const request: UpgradeMessage = { method, url, ...version, rawHeaders: [], headers: {}, socket: client };
  // Nobody reads the handshake again: the stream says whose it is.
  return {
    request,
    client,
    head: early,
    rawHeaders: [...rawHeaders],
    asked: { protocol, streamKind, handshake: undefined },
  };
}

/** Stops reading from a socket, and passes on what Node has read already. What comes later stays in the kernel. */
export function restSocket(socket: Socket): void {
  stopReading(socket);
  // Only with 'data' events, see `readPooled`. `read` makes Node read from the kernel again.
  while (socket.readableLength > 0) {
    socket.read();
    stopReading(socket);
  }
}

/** What can happen on a socket. */
interface SocketEvents<Owner> {
  /** See `Consumer`. */
  read(owner: Owner, chunk: Buffer, written?: () => void): boolean;
  ended(owner: Owner): void;
  drained(owner: Owner): void;
  failed(owner: Owner, error: Error): void;
  closed(owner: Owner): void;
}

const OWNER = Symbol('owner');

/**
 * Listeners that all sockets share: they find the owner of a socket at the socket itself. If each tunnel had its own, they would be
 * a tenth of its memory.
 */
export function socketListeners<Owner>({ read, ended, drained, failed, closed }: SocketEvents<Owner>): {
  /** Tells the owner what happens. */
  listen(socket: Socket, owner: Owner): void;
  /** Begins to read. */
  read(socket: Socket): void;
} {
  type Owned = Socket & { [OWNER]: Owner };
  const consume: Consumer = (socket, chunk, written) => read((socket as Owned)[OWNER], chunk, written);
  return {
    listen(socket, owner) {
      (socket as Owned)[OWNER] = owner;
      socket.on('end', onEnd).on('drain', onDrain).on('error', onError).on('timeout', onTimeout).on('close', onClose);
    },
    read: (socket) => readPooled(socket, consume),
  };

  function onEnd(this: Socket): void {
    ended((this as Owned)[OWNER]);
  }
  function onDrain(this: Socket): void {
    drained((this as Owned)[OWNER]);
  }
  function onError(this: Socket, error: Error): void {
    failed((this as Owned)[OWNER], error);
  }
  function onTimeout(this: Socket): void {
    this.destroy();
  }
  function onClose(this: Socket): void {
    releaseBuffer(this);
    closed((this as Owned)[OWNER]);
  }
}
