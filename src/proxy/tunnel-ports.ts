import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { Clock, Instant } from '../lib/clock.ts';
import type { AskedUpgrade } from '../streams/request.ts';
import type { CloseReason, Stream } from '../streams/stream.ts';
import type { Upstream } from './upstream.ts';

/** A request that waits for Headscale's answer. */
export interface PendingAnswer {
  /** The whole request has been sent. */
  sent(): void;
  answered(): void;
  /** Nobody waits for the answer any more. */
  ended(): void;
}

/** Notes that a request goes to Headscale; `giveUp` is called when it will not be answered. */
export type AwaitAnswer = (giveUp: () => void) => PendingAnswer;

/** Whom a tunnel tells. */
export interface TunnelPorts {
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
  sending(): void;
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
