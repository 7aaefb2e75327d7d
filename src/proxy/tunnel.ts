import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { FirstRecord } from '../streams/first-record.ts';
import { type CloseReason, isLive, type Stream, setState } from '../streams/stream.ts';
import {
  forwardAnswer,
  isKernelTimeout,
  resetConnection,
  setLingerTimeout,
  textAnswer,
  unavailableAnswer,
} from './answer.ts';
import {
  EarlyBytes,
  type HandedSockets,
  type HandedUpgrade,
  handedUpgradeOf,
  restSocket,
  type StaysBecause,
  socketListeners,
  type TunnelClient,
  type TunnelHandlers,
  type UpgradeRequest,
} from './tunnel-parts.ts';
import { UpgradeExchange } from './upgrade-exchange.ts';
import { gatewayAnswer } from './upstream.ts';

/** More than HTTP/2 sends between requests (two window updates take 45 bytes), and less than any request. */
const REQUEST_BYTES = 200;
/** Headscale answers every request at once, except a login that waits for its user. */
const LATE_ANSWER_MS = 1000;
/** One object for all streams. */
const OPEN = { kind: 'open' } as const;

/**
 * One upgraded connection, in both directions. Bytes are not changed; backpressure and half-close are passed on. Nothing goes to
 * Headscale before `forward`, and nothing that follows the request goes there before Headscale's 101.
 */
export class Tunnel {
  readonly stream: Stream;
  /** The client's socket. */
  readonly client: Socket;
  readonly #handlers: TunnelHandlers;
  readonly #connection: TunnelClient;
  /** Dropped once it is answered: a tunnel lives long and does not need its request. */
  #upgrade: UpgradeRequest | undefined;
  #firstRecord: FirstRecord | undefined;
  /** Until the upgrade is answered. */
  #early: EarlyBytes | undefined;
  /** Set until Headscale has answered the upgrade. */
  #exchange: UpgradeExchange | undefined;
  #upstream: Socket | undefined;
  /** Headscale has answered 101, so bytes go through. */
  #isOpen = false;
  #upstreamIsClosed = false;
  #clientIsClosed = false;
  /** Close the client's connection as soon as the upstream connection has closed. */
  #clientFollows = false;
  /** Bytes from the client since Headscale last sent anything. */
  #unansweredBytes = 0;
  /** Set while it may go to another process: nothing is read, and what should happen waits. */
  #rest: { postponed?: () => void } | undefined;
  /** Another process has the sockets. */
  #isReleased = false;

  /** @param from an upgrade request, or the sockets of an open stream. Those read nothing before `wake`. */
  constructor(
    stream: Stream,
    from: UpgradeRequest | HandedSockets,
    connection: TunnelClient,
    handlers: TunnelHandlers,
  ) {
    this.stream = stream;
    this.#connection = connection;
    this.#handlers = handlers;
    this.client = from.client;
    if ('upstream' in from) {
      this.#isOpen = true;
      this.#rest = {};
      this.#unansweredBytes = from.unansweredBytes;
      this.#upstream = from.upstream;
    } else {
      this.#upgrade = from;
      this.#early = new EarlyBytes(handlers.earlyBytes());
      this.#firstRecord = stream.kind === 'control' ? new FirstRecord(from.asked.protocol === 'websocket') : undefined;
      // Put them in front of everything that has arrived since.
      if (from.head.length > 0) this.client.unshift(from.head);
    }
    Tunnel.#ofClient.listen(this.client, this);
    Tunnel.#ofClient.read(this.client);
    if (this.#upstream !== undefined) this.#attachUpstream(this.#upstream);
  }

  /** Why it cannot go to another process now; undefined if it can. */
  get staysBecause(): StaysBecause | undefined {
    const { kind } = this.stream.state;
    if (this.client instanceof TLSSocket || this.#upstream instanceof TLSSocket) return 'tls';
    if (kind === 'closing' || kind === 'closed') return 'ending';
    if (this.#isOpen) return this.#firstRecord === undefined ? undefined : 'unanswered';
    return this.#upstream === undefined ? undefined : 'unanswered';
  }

  /** Stops reading on both sides, so that it can go to another process. @returns whether everything that was read is written. */
  rest(): boolean {
    this.#rest ??= {};
    restSocket(this.client);
    if (this.#upstream !== undefined) restSocket(this.#upstream);
    return this.client.writableLength === 0 && (this.#upstream?.writableLength ?? 0) === 0;
  }

  /** Goes on after a rest. */
  wake(): void {
    const { postponed } = this.#rest ?? {};
    this.#rest = undefined;
    if (!this.client.writableNeedDrain) this.#upstream?.resume();
    if (!this.#upstream?.writableNeedDrain) this.client.resume();
    postponed?.();
  }

  /** The two sockets, while it rests. The second is missing if nothing was forwarded to Headscale. */
  get sockets(): readonly [Socket, Socket?] {
    return this.#upstream === undefined ? [this.client] : [this.client, this.#upstream];
  }

  /** The upgrade, if it has not been forwarded to Headscale. */
  get handedUpgrade(): HandedUpgrade | undefined {
    return this.#upgrade && handedUpgradeOf(this.#upgrade, Buffer.concat(this.#early?.chunks ?? []));
  }

  /** Bytes from the client since Headscale last sent anything. */
  get unansweredBytes(): number {
    return this.#unansweredBytes;
  }

  /** Forgets the sockets, which another process has now. The peers notice nothing. */
  release(): void {
    this.#isReleased = true;
    this.#early = undefined;
    this.client.destroy();
    this.#upstream?.destroy();
  }

  /**
   * Whether the client waits for an answer from Headscale: to its upgrade, or to a request on its control stream, such as a
   * login that waits for its user. A map stream does not wait: Headscale answers it at once and later sends updates.
   */
  get owesAnswer(): boolean {
    const { kind, state } = this.stream;
    if (state.kind === 'held' || state.kind === 'connecting') return true;
    return kind === 'control' && state.kind === 'open' && this.#unansweredBytes >= REQUEST_BYTES;
  }

  /** Forwards the upgrade to Headscale. */
  forward(): void {
    if (this.#postpone(() => this.forward())) return;
    if (!isLive(this.stream) || this.#upgrade === undefined) return;
    setState(this.stream, { kind: 'connecting' });
    const { request, rawHeaders, asked } = this.#upgrade;
    const { method = '', url: path = '' } = request;
    const upstream = this.#handlers.upstream.connect();
    this.#upstream = upstream;
    this.#exchange = new UpgradeExchange({ method, path, rawHeaders, protocol: asked.protocol }, upstream, {
      awaitAnswer: this.#handlers.awaitAnswer,
      switched: (head, rest) => this.#open(head, rest),
      refused: (answer) => this.#forwardAnswer(answer),
      mismatched: (protocol) => this.#mismatched(asked.protocol, protocol),
      failed: (error) => this.#unanswered(error),
    });
    this.#attachUpstream(upstream);
  }

  /** Answers 503 to an upgrade that was not forwarded to Headscale. The client will try again. */
  refuse(text: string): void {
    if (this.#postpone(() => this.refuse(text))) return;
    if (isLive(this.stream)) this.#answer(unavailableAnswer(text), 'limit');
  }

  /** Closes the upstream connection, and then the client's. */
  end(reason: CloseReason): void {
    if (this.#postpone(() => this.end(reason))) return;
    this.#leave(reason);
    this.#clientFollows = true;
    this.#exchange?.drop();
    if (this.#upstream !== undefined && !this.#upstreamIsClosed) this.#upstream.destroy();
    else this.client.destroy();
  }

  /** While it rests, what should happen waits: the last call counts. @returns whether it waits. */
  #postpone(act: () => void): boolean {
    if (this.#rest !== undefined) this.#rest.postponed = act;
    return this.#rest !== undefined;
  }

  static readonly #ofClient = socketListeners<Tunnel>({
    read: (tunnel, chunk, written) => tunnel.#fromClient(chunk, written),
    // The socket allows half-open connections, so an unhandled FIN would leave it in CLOSE_WAIT for ever.
    ended(tunnel) {
      if (tunnel.#isOpen) {
        tunnel.#leave('client_closed');
        tunnel.#upstream?.end();
        setLingerTimeout(tunnel.client, tunnel.#upstream);
      } else if (isLive(tunnel.stream)) {
        tunnel.end('client_left_early');
      }
    },
    drained(tunnel) {
      if (tunnel.#isOpen) tunnel.stream.spokenAt = tunnel.#handlers.clock.now();
      if (tunnel.#rest === undefined) tunnel.#upstream?.resume();
    },
    failed: (tunnel, error) => tunnel.#leave(isKernelTimeout(error) ? tunnel.#gone() : 'client_error'),
    closed(tunnel) {
      if (tunnel.#isReleased) return;
      tunnel.#clientIsClosed = true;
      tunnel.#leave('client_error');
      tunnel.#exchange?.drop();
      const upstream = tunnel.#upstream;
      if (upstream === undefined) tunnel.#upstreamClosed();
      // If both directions have ended, it only flushes. Otherwise a reset tells Headscale that data is missing.
      else if (!upstream.readableEnded || !upstream.writableEnded) resetConnection(upstream);
      tunnel.#closeWhenDone();
    },
  });

  static readonly #ofUpstream = socketListeners<Tunnel>({
    read: (tunnel, chunk, written) => tunnel.#fromUpstream(chunk, written),
    ended(tunnel) {
      if (!tunnel.#isOpen) {
        tunnel.#exchange?.ended();
        return;
      }
      tunnel.#leave('upstream_closed');
      tunnel.client.end();
      setLingerTimeout(tunnel.client, tunnel.#upstream);
    },
    drained(tunnel) {
      if (tunnel.#isOpen && tunnel.#rest === undefined) tunnel.client.resume();
    },
    failed(tunnel, error) {
      if (!tunnel.#isOpen) {
        tunnel.#exchange?.failed(error);
        return;
      }
      tunnel.#leave('upstream_error');
      resetConnection(tunnel.client);
    },
    closed(tunnel) {
      tunnel.#exchange?.ended();
      tunnel.#upstreamClosed();
    },
  });

  #gone(): CloseReason {
    return this.#connection.isNotReading(this.#handlers.clock.now()) ? 'not_reading' : 'gone';
  }

  /** A `Consumer` of what the client sends. */
  #fromClient(chunk: Buffer, written?: () => void): boolean {
    this.stream.heardAt = this.#handlers.clock.now();
    this.stream.bytesReceived += chunk.length;
    this.#unansweredBytes += chunk.length;
    if (this.#isOpen) {
      const upstream = this.#upstream as Socket;
      const hasRoom = upstream.write(chunk, written);
      if (this.#firstRecord) this.#seekFirstRecord(chunk);
      // Whatever `write` returned: if nothing is left to write, there is room.
      if (upstream.writableLength === 0) return true;
      if (!hasRoom) this.client.pause();
      return false;
    }
    if (isLive(this.stream) && this.#early?.keep(chunk)) this.client.pause();
    written?.();
    return true;
  }

  #seekFirstRecord(chunk: Buffer): void {
    if (!this.#firstRecord?.feed(chunk)) return;
    this.#firstRecord = undefined;
    this.stream.firstRecordAt = this.#handlers.clock.now();
    this.#handlers.firstRecord(this.stream);
  }

  /** @param rest what Headscale has sent after the head of its answer. */
  #open(head: Buffer, rest: Buffer): void {
    const upstream = this.#upstream as Socket;
    if (!setState(this.stream, OPEN)) {
      upstream.destroy();
      return;
    }
    this.#exchange = undefined;
    this.#upgrade = undefined;
    this.#isOpen = true;
    this.stream.spokenAt = this.#handlers.clock.now();
    this.client.write(head);
    if (rest.length > 0) this.#fromUpstream(rest);
    const early = this.#early?.chunks ?? [];
    this.#early = undefined;
    for (const chunk of early) {
      upstream.write(chunk);
      if (this.#firstRecord) this.#seekFirstRecord(chunk);
    }
    this.client.resume();
  }

  #attachUpstream(upstream: Socket): void {
    Tunnel.#ofUpstream.listen(upstream, this);
    if (this.#isOpen) Tunnel.#ofUpstream.read(upstream);
    else {
      upstream.once(upstream instanceof TLSSocket ? 'secureConnect' : 'connect', () => {
        this.#handlers.upstreamReached(this.stream);
        Tunnel.#ofUpstream.read(upstream);
      });
    }
  }

  /** A `Consumer` of what Headscale sends. */
  #fromUpstream(chunk: Buffer, written?: () => void): boolean {
    if (!this.#isOpen) {
      this.#exchange?.read(written === undefined ? chunk : Buffer.from(chunk));
      written?.();
      return true;
    }
    const now = this.#handlers.clock.now();
    if (now - this.stream.heardAt >= LATE_ANSWER_MS && this.owesAnswer) this.#handlers.answeredLate(this.stream);
    this.stream.spokenAt = now;
    this.stream.bytesSent += chunk.length;
    this.#unansweredBytes = 0;
    this.#connection.beforeSend();
    const hasRoom = this.client.write(chunk, written);
    if (this.client.writableLength === 0) return true;
    if (!hasRoom) {
      // While we do not read from Headscale, its silence means nothing.
      this.stream.spokenAt = undefined;
      this.#upstream?.pause();
    }
    return false;
  }

  #upstreamClosed(): void {
    if (this.#upstreamIsClosed || this.#isReleased) return;
    this.#upstreamIsClosed = true;
    if (this.#isOpen) this.#leave('upstream_error');
    this.#handlers.upstreamClosed(this.stream);
    if (this.#clientFollows) this.client.destroy();
    else if (this.#isOpen && !this.client.writableEnded) resetConnection(this.client);
    this.#closeWhenDone();
  }

  /** Forwards an answer other than 101 completely, then closes. What the client sends now is dropped. */
  #forwardAnswer(response: IncomingMessage): void {
    const { request } = this.#upgrade ?? {};
    if (request === undefined || !forwardAnswer(request, response, this.client, () => this.#finishClient())) {
      this.#unanswered(undefined);
      return;
    }
    this.#handlers.upstreamRefused(this.stream, response.statusCode ?? 0);
    this.#leave('upstream_refused');
    setLingerTimeout(this.client, this.#upstream);
  }

  #mismatched(asked: string, switchedTo: string): void {
    if (!isLive(this.stream)) return;
    this.#handlers.upstreamMismatched(this.stream, asked, switchedTo);
    this.#answer(textAnswer(502, 'Headscale answered with an upgrade that nobody asked for.'), 'upstream_refused');
  }

  #unanswered(error: Error | undefined): void {
    if (!isLive(this.stream)) return;
    this.#handlers.upstreamFailed();
    const { status, text } = gatewayAnswer(error);
    this.#answer(textAnswer(status, text), status === 504 ? 'upstream_unanswered' : 'upstream_unreachable');
  }

  #answer(whole: string, reason: CloseReason): void {
    this.#leave(reason);
    this.#upstream?.destroy();
    this.client.write(whole);
    this.#finishClient();
  }

  /** Sends a FIN after the answer. Further data from the client is read and dropped, so that no reset overtakes the answer. */
  #finishClient(): void {
    this.client.end();
    this.client.resume();
    setLingerTimeout(this.client, this.#upstream);
  }

  /** Notes why the stream ends. Only the first reason counts. */
  #leave(reason: CloseReason): void {
    this.#early = undefined;
    if (setState(this.stream, { kind: 'closing', reason })) this.#handlers.ending(this.stream, reason);
  }

  #closeWhenDone(): void {
    if (!this.#clientIsClosed || !this.#upstreamIsClosed || this.stream.state.kind !== 'closing') return;
    const { reason } = this.stream.state;
    setState(this.stream, { kind: 'closed', reason });
    this.#handlers.closed(this.stream, reason);
  }
}
