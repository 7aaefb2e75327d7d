import type { ClientRequest, IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import type { Clock, Instant } from '../lib/clock.ts';
import { reasonOf } from '../lib/errors.ts';
import { FirstRecord } from '../streams/first-record.ts';
import type { AskedUpgrade } from '../streams/request.ts';
import { type CloseReason, isLive, type Stream, setState } from '../streams/stream.ts';
import {
  answerHead,
  forwardAnswer,
  isKernelTimeout,
  resetConnection,
  setLingerTimeout,
  textAnswer,
  unavailableAnswer,
} from './answer.ts';
import { readPooled } from './pooled-reads.ts';
import { type AwaitAnswer, gatewayAnswer, requestUpgrade, type Upstream } from './upstream.ts';

/** Whom a tunnel tells. */
export interface TunnelHandlers {
  readonly clock: Clock;
  readonly upstream: Upstream;
  /** How much a client may send before Headscale has answered. */
  earlyBytes(): number;
  /** The client's first whole record has reached an open session. */
  firstRecord(stream: Stream): void;
  /** One end is gone. */
  ending(stream: Stream, reason: CloseReason): void;
  /** The connection to Headscale is closed, or there will never be one. */
  upstreamClosed(stream: Stream): void;
  closed(stream: Stream, reason: CloseReason): void;
  /** The connection to Headscale is open: what it was asked for may have got there. */
  upstreamReached(stream: Stream): void;
  upstreamFailed(): void;
  awaitAnswer: AwaitAnswer;
  /** Headscale has answered a request on an open stream long after it came. */
  answeredLate(stream: Stream): void;
  upstreamRefused(stream: Stream, status: number): void;
  /** Headscale has switched to something that it was not asked for. */
  upstreamMisled(stream: Stream, asked: string, switchedTo: string): void;
}

/** The client's line, see `Line`. */
export interface ClientLine {
  beforeSend(): void;
  isNotReading(now: Instant): boolean;
}

/** An upgrade request as it came in. */
export interface UpgradeRequest {
  readonly request: IncomingMessage;
  readonly asked: AskedUpgrade;
  readonly client: Socket;
  /** What the client sent behind its request's head. */
  readonly head: Buffer;
  /** What Headscale is to see. */
  readonly rawHeaders: string[];
}

/** More than HTTP/2 says beside requests (a pair of window updates has 45 bytes here), and less than any request. */
const REQUEST_BYTES = 200;
/** Headscale answers all requests at once but a login that waits for its owner. */
const LATE_ANSWER_MS = 1000;

/**
 * One upgrade, both directions: bytes unchanged, backpressure and half-close passed on. Nothing is sent to
 * Headscale before `forward`, and nothing the client sent after its request before Headscale's 101.
 */
export class Tunnel {
  readonly stream: Stream;
  /** Also for those who ask the kernel about it. */
  readonly client: Socket;
  readonly #ports: TunnelHandlers;
  readonly #line: ClientLine;
  /** Undefined once it has been answered: a tunnel lives long, and its request is not needed for it. */
  #upgrade: UpgradeRequest | undefined;
  #firstRecord: FirstRecord | undefined;
  readonly #early: EarlyBytes;
  #asking: ClientRequest | undefined;
  #upstream: Socket | undefined;
  /** Headscale has answered 101: what comes in goes out at the other side. */
  #joined = false;
  #upstreamIsClosed = false;
  #clientIsClosed = false;
  /** The client's connection goes as soon as the upstream's has gone. */
  #clientFollows = false;
  /** From the client since Headscale last said anything. */
  #unansweredBytes = 0;

  constructor(stream: Stream, upgrade: UpgradeRequest, line: ClientLine, ports: TunnelHandlers) {
    this.stream = stream;
    this.#line = line;
    this.#upgrade = upgrade;
    this.#ports = ports;
    this.#early = new EarlyBytes(ports.earlyBytes());
    this.client = upgrade.client;
    this.#firstRecord = stream.kind === 'control' ? new FirstRecord(upgrade.asked.protocol === 'websocket') : undefined;
    // In front of what has come in since.
    if (upgrade.head.length > 0) this.client.unshift(upgrade.head);
    this.#attachClient();
  }

  /**
   * Whether Headscale owes the client an answer: to its upgrade, or to a request on its control stream, such as a login that
   * waits for its owner. A map stream waits for nothing: Headscale answers its request at once, and speaks when there is news.
   */
  get owesAnswer(): boolean {
    const { kind, state } = this.stream;
    if (state.kind === 'held' || state.kind === 'connecting') return true;
    return kind === 'control' && state.kind === 'open' && this.#unansweredBytes >= REQUEST_BYTES;
  }

  /** Shows the upgrade to Headscale. */
  forward(): void {
    if (!isLive(this.stream) || this.#upgrade === undefined) return;
    setState(this.stream, { kind: 'connecting' });
    try {
      const { request, rawHeaders, asked } = this.#upgrade;
      const head = { method: request.method, path: request.url, rawHeaders, protocol: asked.protocol };
      this.#asking = requestUpgrade(head, this.#ports.upstream, {
        connect: () => this.#connect(),
        awaitAnswer: this.#ports.awaitAnswer,
        switched: (answer, rest) => this.#open(answer, rest),
        refused: (answer) => this.#forwardAnswer(answer),
        mismatched: (protocol) => this.#misled(asked.protocol, protocol),
        failed: (error) => this.#unanswered(error),
      });
    } catch (error) {
      this.#answer(textAnswer(400, `This request cannot be passed on: ${reasonOf(error)}`), 'upstream_refused');
    }
  }

  /** Ends what has not been shown to Headscale, and will not be: its client is to come again. */
  refuse(text: string): void {
    if (isLive(this.stream)) this.#answer(unavailableAnswer(text), 'limit');
  }

  /** Ends the upstream connection, and once that has closed, the client's. */
  end(reason: CloseReason): void {
    this.#leave(reason);
    this.#clientFollows = true;
    this.#asking?.destroy();
    if (this.#upstream !== undefined && !this.#upstreamIsClosed) this.#upstream.destroy();
    else this.client.destroy();
  }

  #connect(): Socket {
    const socket = this.#ports.upstream.connect();
    this.#upstream = socket;
    socket.once(socket instanceof TLSSocket ? 'secureConnect' : 'connect', () =>
      this.#ports.upstreamReached(this.stream),
    );
    socket.once('close', () => this.#upstreamClosed());
    return socket;
  }

  #attachClient(): void {
    readPooled(this.client, (chunk, written) => this.#fromClient(chunk, written));
    // A FIN is an event here: unhandled, the socket would stay in CLOSE_WAIT and look alive.
    this.client.on('end', () => {
      if (this.#joined) {
        this.#leave('client_closed');
        this.#upstream?.end();
        setLingerTimeout(this.client, this.#upstream);
      } else if (isLive(this.stream)) {
        this.end('client_left_early');
      }
    });
    this.client.on('drain', () => {
      if (this.#joined) this.stream.spokenAt = this.#ports.clock.now();
      this.#upstream?.resume();
    });
    this.client.on('error', (error) => this.#leave(isKernelTimeout(error) ? this.#gone() : 'client_error'));
    this.client.on('timeout', () => this.client.destroy());
    this.client.on('close', () => {
      this.#clientIsClosed = true;
      this.#leave('client_error');
      this.#asking?.destroy();
      const upstream = this.#upstream;
      if (upstream === undefined) this.#upstreamClosed();
      // Ended both ways it only flushes; anything else is cut short, and Headscale is told so.
      else if (!upstream.readableEnded || !upstream.writableEnded) resetConnection(upstream);
      this.#closeWhenDone();
    });
  }

  #gone(): CloseReason {
    return this.#line.isNotReading(this.#ports.clock.now()) ? 'not_reading' : 'gone';
  }

  /** See `Consumer`. */
  #fromClient(chunk: Buffer, written?: () => void): boolean {
    this.stream.heardAt = this.#ports.clock.now();
    this.stream.bytesReceived += chunk.length;
    this.#unansweredBytes += chunk.length;
    if (this.#joined) {
      const upstream = this.#upstream as Socket;
      const hasRoom = upstream.write(chunk, written);
      if (this.#firstRecord) this.#seekFirstRecord(chunk);
      // Whatever Node says of room: where nothing is left to write there is some.
      if (upstream.writableLength === 0) return true;
      if (!hasRoom) this.client.pause();
      return false;
    }
    if (isLive(this.stream) && this.#early.keep(chunk)) this.client.pause();
    written?.();
    return true;
  }

  #seekFirstRecord(chunk: Buffer): void {
    if (!this.#firstRecord?.feed(chunk)) return;
    this.#firstRecord = undefined;
    this.stream.firstRecordAt = this.#ports.clock.now();
    this.#ports.firstRecord(this.stream);
  }

  #open(response: IncomingMessage, head: Buffer): void {
    const upstream = this.#upstream as Socket;
    if (!setState(this.stream, { kind: 'open' })) {
      upstream.destroy();
      return;
    }
    this.#asking = undefined;
    this.#upgrade = undefined;
    this.#joined = true;
    this.stream.spokenAt = this.#ports.clock.now();
    this.#attachUpstream(upstream);
    this.client.write(answerHead(response), 'latin1');
    if (head.length > 0) this.#fromUpstream(head);
    for (const chunk of this.#early.take()) {
      upstream.write(chunk);
      if (this.#firstRecord) this.#seekFirstRecord(chunk);
    }
    this.client.resume();
  }

  #attachUpstream(upstream: Socket): void {
    readPooled(upstream, (chunk, written) => this.#fromUpstream(chunk, written));
    upstream.on('end', () => {
      this.#leave('upstream_closed');
      this.client.end();
      setLingerTimeout(this.client, this.#upstream);
    });
    upstream.on('drain', () => this.client.resume());
    upstream.on('error', () => {
      this.#leave('upstream_error');
      resetConnection(this.client);
    });
    upstream.on('timeout', () => upstream.destroy());
  }

  /** See `Consumer`. */
  #fromUpstream(chunk: Buffer, written?: () => void): boolean {
    const now = this.#ports.clock.now();
    if (now - this.stream.heardAt >= LATE_ANSWER_MS && this.owesAnswer) this.#ports.answeredLate(this.stream);
    this.stream.spokenAt = now;
    this.stream.bytesSent += chunk.length;
    this.#unansweredBytes = 0;
    this.#line.beforeSend();
    const hasRoom = this.client.write(chunk, written);
    if (this.client.writableLength === 0) return true;
    if (!hasRoom) {
      // While we do not listen, its silence is ours.
      this.stream.spokenAt = undefined;
      this.#upstream?.pause();
    }
    return false;
  }

  #upstreamClosed(): void {
    if (this.#upstreamIsClosed) return;
    this.#upstreamIsClosed = true;
    if (this.#joined) this.#leave('upstream_error');
    this.#ports.upstreamClosed(this.stream);
    if (this.#clientFollows) this.client.destroy();
    else if (this.#joined && !this.client.writableEnded) resetConnection(this.client);
    this.#closeWhenDone();
  }

  /** Passes an answer that is no 101 on, whole, and closes behind it: what the client sends now goes nowhere. */
  #forwardAnswer(response: IncomingMessage): void {
    const { request } = this.#upgrade ?? {};
    if (request === undefined || !forwardAnswer(request, response, this.client, () => this.#finishClient())) {
      this.#unanswered(undefined);
      return;
    }
    this.#ports.upstreamRefused(this.stream, response.statusCode ?? 0);
    this.#leave('upstream_refused');
    setLingerTimeout(this.client, this.#upstream);
  }

  #misled(asked: string, switchedTo: string): void {
    if (!isLive(this.stream)) return;
    this.#ports.upstreamMisled(this.stream, asked, switchedTo);
    this.#answer(textAnswer(502, 'Headscale answered with an upgrade that nobody asked for.'), 'upstream_refused');
  }

  #unanswered(error: Error | undefined): void {
    if (!isLive(this.stream)) return;
    this.#ports.upstreamFailed();
    const { status, text } = gatewayAnswer(error);
    this.#answer(textAnswer(status, text), status === 504 ? 'upstream_unanswered' : 'upstream_unreachable');
  }

  #answer(whole: string, reason: CloseReason): void {
    this.#leave(reason);
    this.#upstream?.destroy();
    this.client.write(whole);
    this.#finishClient();
  }

  /** FIN behind what was written, and the rest of what the client says is read and dropped, so that no RST overtakes the answer. */
  #finishClient(): void {
    this.client.end();
    this.client.resume();
    setLingerTimeout(this.client, this.#upstream);
  }

  /** Notes the first cause of the end; later ones follow from it. */
  #leave(reason: CloseReason): void {
    this.#early.take();
    if (setState(this.stream, { kind: 'closing', reason })) this.#ports.ending(this.stream, reason);
  }

  #closeWhenDone(): void {
    if (!this.#clientIsClosed || !this.#upstreamIsClosed || this.stream.state.kind !== 'closing') return;
    const { reason } = this.stream.state;
    setState(this.stream, { kind: 'closed', reason });
    this.#ports.closed(this.stream, reason);
  }
}

/** What a client has sent before it knew that Headscale would take the upgrade. */
export class EarlyBytes {
  readonly #most: number;
  #chunks: Buffer[] = [];
  #length = 0;

  /** @param most bytes; then the client is not read on. */
  constructor(most: number) {
    this.#most = most;
  }

  /** Keeps a copy. @returns whether there is no room for more. */
  keep(chunk: Buffer): boolean {
    this.#chunks.push(Buffer.from(chunk));
    this.#length += chunk.length;
    return this.#length >= this.#most;
  }

  /** Gives all of it away. */
  take(): readonly Buffer[] {
    const chunks = this.#chunks;
    this.#chunks = [];
    return chunks;
  }
}
