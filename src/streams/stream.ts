import type { MachineKey } from '../identity/keys.ts';
import type { Instant } from '../lib/clock.ts';

export type StreamId = number & { readonly __brand: 'StreamId' };

/** `control`: ts2021, the one connection of a node to Headscale. `derp`: Headscale's embedded relay. `other`: any other upgrade. */
export type StreamKind = 'control' | 'derp' | 'other';
export const STREAM_KINDS: readonly StreamKind[] = ['control', 'derp', 'other'];

/** What ended a stream. Only the first cause counts. */
export type CloseReason =
  /** The client sent FIN. */
  | 'client_closed'
  /** The client's connection broke (reset, timed out). */
  | 'client_error'
  /** The client left while its stream was held, or before Headscale answered. */
  | 'client_left_early'
  /** Headscale sent FIN. */
  | 'upstream_closed'
  /** The connection to Headscale broke. */
  | 'upstream_error'
  /** Headscale did not answer the upgrade with 101. */
  | 'upstream_refused'
  /** Headscale could not be reached. */
  | 'upstream_unreachable'
  /** Headscale accepted the connection but did not answer the upgrade. */
  | 'upstream_unanswered'
  /** A limit was reached: see `Limit`. */
  | 'limit'
  /** The node had too many streams, and `leastNeeded` chose this one. */
  | 'surplus'
  /** Its client has closed its connection to the proxy in front, and its node is back on a newer stream. */
  | 'client_left'
  /** Rule 1: the client's kernel does not answer. */
  | 'severed_dead'
  /** Rule 2: the client was silent for longer than the threshold, and its node is back on a newer stream. */
  | 'severed_silent'
  /** An operator severed it. */
  | 'severed_by_operator'
  /** Data or a probe stayed unanswered for `gone-after`, or our kernel gave the connection up. */
  | 'gone'
  /** The client's kernel answered, but its program read nothing for `gone-after`. */
  | 'not_reading'
  /** Headscale sent nothing for too long, and `upstream-silent-sever` is on. */
  | 'upstream_silent'
  /** Headscale showed its node as offline, and `reconcile` is `heal`. */
  | 'shown_offline'
  /** Its node was deleted in Headscale, and `reconcile` is `heal`. */
  | 'node_deleted'
  /** The watchdog stopped. */
  | 'shutdown'
  /** It had been handed over to a new process, which ended before it could take over everything. */
  | 'handover_failed'
  /** It could not be handed over to a new process, and `drain` has passed since, or its node was back there. */
  | 'not_handed_over';
export const CLOSE_REASONS: readonly CloseReason[] = [
  'client_closed',
  'client_error',
  'client_left_early',
  'upstream_closed',
  'upstream_error',
  'upstream_refused',
  'upstream_unreachable',
  'upstream_unanswered',
  'limit',
  'surplus',
  'client_left',
  'severed_dead',
  'severed_silent',
  'severed_by_operator',
  'gone',
  'not_reading',
  'upstream_silent',
  'shown_offline',
  'node_deleted',
  'shutdown',
  'handover_failed',
  'not_handed_over',
];

/** Why an old stream loses a contest. */
export type LossReason =
  /** Rule 1. */
  | 'dead'
  /** Rule 1, but the client ended it itself: the proxy in front has only not told us yet. */
  | 'left'
  /** Rule 2. */
  | 'silent';

/** How a stream that loses a contest is closed. */
export const CLOSES_WITH = {
  dead: 'severed_dead',
  left: 'client_left',
  silent: 'severed_silent',
} as const satisfies Record<LossReason, CloseReason>;

/** Why a stream is severed, or would be. */
export type SeverReason =
  | LossReason
  /** Gone without a newcomer. */
  | 'gone'
  /** Headscale fell silent. */
  | 'upstream_silent'
  /** Its node has too many. */
  | 'surplus'
  /** Its node and Headscale disagree: see `nodes/reconcile.ts`. */
  | 'shown_offline'
  | 'node_deleted';
export const SEVER_REASONS: readonly SeverReason[] = [
  ...(['dead', 'left', 'silent', 'gone', 'upstream_silent', 'surplus', 'shown_offline', 'node_deleted'] as const),
];

export type StreamState =
  /** Not forwarded to Headscale yet: the kernel of the old stream's client is being probed. */
  | { readonly kind: 'held'; readonly since: Instant; readonly until: Instant }
  /** Forwarded to Headscale, which has not answered the upgrade yet. */
  | { readonly kind: 'connecting' }
  | { readonly kind: 'open' }
  /** One end is gone. What has been read already is still delivered. */
  | { readonly kind: 'closing'; readonly reason: CloseReason }
  | { readonly kind: 'closed'; readonly reason: CloseReason };

/** One upgraded connection and what is known about it. Bytes and times are measured on the client's side. */
export interface Stream {
  readonly id: StreamId;
  readonly kind: StreamKind;
  /** Undefined when no handshake could be read. Such a stream takes part in no contest. */
  readonly machineKey: MachineKey | undefined;
  /** The client's capability version, from its handshake. Undefined without a machine key. */
  readonly capabilityVersion?: number | undefined;
  /** The client's address, without a port. */
  readonly address: string;
  /** `address:port`, with an IPv6 address in brackets. The address alone if a proxy in front of us named no port. */
  readonly remoteAddress: string;
  readonly openedAt: Instant;
  /** When the client last sent a byte. The upgrade request counts. */
  heardAt: Instant;
  /** When the client may last have logged in as another user: Headscale answered late, as it does for a login. */
  loginEndedAt?: Instant;
  /** When Headscale last sent a byte. Undefined before its 101, and while a client that does not read blocks its bytes. */
  spokenAt: Instant | undefined;
  /** When the client's first complete Noise record reached an open session. */
  firstRecordAt: Instant | undefined;
  /** From the client, after the upgrade request. */
  bytesReceived: number;
  /** To the client, after the 101. */
  bytesSent: number;
  state: StreamState;
  /** The replica that has this stream, if it is not this one. We then know only what that replica reports. */
  readonly replica?: string;
  /** The first reason for which this stream would have been severed, if its node were not observe-only. */
  wouldSever: SeverReason | undefined;
}

/** Whether a stream is a session or can still become one. Only such streams take part in contests. */
export function isLive(stream: Stream): boolean {
  const { kind } = stream.state;
  return kind === 'held' || kind === 'connecting' || kind === 'open';
}

/** Whether the stream is closing because it lost a contest or an operator severed it. */
export function isBeingSevered({ state }: Stream): boolean {
  return state.kind === 'closing' && (state.reason === 'client_left' || state.reason.startsWith('severed_'));
}

/**
 * Chooses the stream to close when a node has too many. The newest always stays, because it is the live one. Streams without
 * a session (no first record yet) go first: one may be a replayed handshake, which must not push out the node's own streams.
 * Then goes the stream that was silent for the longest time.
 *
 * @param streams the streams of one node, oldest first.
 */
export function leastNeeded(streams: readonly Stream[]): Stream | undefined {
  const older = streams.slice(0, -1);
  const unproven = older.filter(({ firstRecordAt }) => firstRecordAt === undefined);
  const candidates = unproven.length > 0 ? unproven : older;
  return candidates.reduce<Stream | undefined>(
    (found, each) => (found === undefined || each.heardAt < found.heardAt ? each : found),
    undefined,
  );
}

const FOLLOWERS: { readonly [from in StreamState['kind']]: readonly StreamState['kind'][] } = {
  held: ['connecting', 'closing', 'closed'],
  connecting: ['held', 'open', 'closing', 'closed'],
  open: ['closing', 'closed'],
  closing: ['closed'],
  closed: [],
};

/** Changes the state of a stream. @returns false if the change is not allowed; then the state stays as it was. */
export function setState(stream: Stream, next: StreamState): boolean {
  if (!FOLLOWERS[stream.state.kind].includes(next.kind)) return false;
  stream.state = next;
  return true;
}

/** What Linux knows about a client's TCP connection at one moment (TCP_INFO). Durations are in milliseconds. */
export interface KernelEvidence {
  /** Segments that were sent and are not acknowledged yet. */
  readonly unackedSegments: number;
  /** Bytes not sent yet: Linux will send them next, or the client's receive window is full. */
  readonly unsentBytes: number;
  /** Bytes that the client has acknowledged so far. */
  readonly ackedBytes: number;
  /** Retransmission timeouts in a row, without an acknowledgement in between. */
  readonly retransmits: number;
  /** Probes in a row that were not answered. */
  readonly unansweredProbes: number;
  /** Time since the client's kernel last sent any segment. */
  readonly receivedAgoMs: number;
  readonly rttMs: number;
  readonly rttvarMs: number;
  /** The client has left: its connection is ending, or there is none any more. Only a proxy's socket can show it. */
  readonly ended?: boolean;
  /** Until the owner of the socket sends its next keepalive probe. Undefined if it sends none, or if we own the socket. */
  readonly nextProbeInMs?: number;
}

/** Where the evidence about a stream's client comes from. */
export type EvidenceSource =
  /** The client's connection to us. */
  | { readonly kind: 'direct' }
  /** The client's connection to a proxy on this machine. Without the client's port, all its connections to that proxy count. */
  | { readonly kind: 'proxy'; readonly by: 'port' | 'address'; readonly user: string }
  | { readonly kind: 'none'; readonly reason: NoEvidence };

/** Why nothing is known about the client's connection. */
export type NoEvidence =
  /** Linux cannot be asked about our own sockets here. */
  | 'kernel_unavailable'
  /** Linux cannot be asked about a proxy's sockets here. */
  | 'netlink_unavailable'
  /** The proxy runs on another machine or in another network namespace. */
  | 'proxy_elsewhere'
  /** The client's connection leads to another proxy, further out. */
  | 'several_proxies'
  /** The proxy does not say who its client is. */
  | 'address_hidden'
  /** The proxy has no connection with the client's address and port. */
  | 'socket_not_found';
