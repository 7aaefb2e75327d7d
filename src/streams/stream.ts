import type { MachineKey } from '../identity/keys.ts';
import type { Instant } from '../lib/clock.ts';

export type StreamId = number & { readonly __brand: 'StreamId' };

/** `control`: ts2021, a node's one connection to Headscale. `derp`: Headscale's embedded relay. `other`: any other upgrade. */
export type StreamKind = 'control' | 'derp' | 'other';
export const STREAM_KINDS: readonly StreamKind[] = ['control', 'derp', 'other'];

/** What ended a stream: the first cause, whatever followed from it. */
export type CloseReason =
  /** The client sent FIN. */
  | 'client_closed'
  /** The client's connection broke (reset, timed out). */
  | 'client_error'
  /** The client left while it was held or before Headscale had answered. */
  | 'client_left_early'
  /** Headscale sent FIN. */
  | 'upstream_closed'
  /** The connection to Headscale broke. */
  | 'upstream_error'
  /** Headscale answered the upgrade with something other than 101. */
  | 'upstream_refused'
  /** Headscale could not be reached. */
  | 'upstream_unreachable'
  /** Headscale accepted the connection and did not answer the upgrade. */
  | 'upstream_unanswered'
  /** There was too much of something: see `Limit`. */
  | 'limit'
  /** Its node had as many streams as it may, opened another one, and had said nothing on this one for longest. */
  | 'surplus'
  /** Rule 1: nobody answers at the other end. */
  | 'severed_dead'
  /** Rule 2: silent past its threshold, and its node is back on a newer stream. */
  | 'severed_silent'
  /** An operator asked for it. */
  | 'severed_by_operator'
  /** What was sent to the client, or a probe, stayed unanswered for `gone-after`, or our kernel gave up by itself. */
  | 'gone'
  /** The client's machine answered, but its program read nothing for `gone-after`. */
  | 'not_reading'
  /** Headscale said nothing for too long, and the operator wants such streams ended. */
  | 'upstream_silent'
  /** The watchdog itself stopped. */
  | 'shutdown';
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
  'severed_dead',
  'severed_silent',
  'severed_by_operator',
  'gone',
  'not_reading',
  'upstream_silent',
  'shutdown',
];

/** Why a stream is severed: rule 1, rule 2, gone without a newcomer, or because Headscale fell silent. */
export type SeverReason = 'dead' | 'silent' | 'gone' | 'upstream_silent';
export const SEVER_REASONS: readonly SeverReason[] = ['dead', 'silent', 'gone', 'upstream_silent'];

export type StreamState =
  /** Read, but not yet shown to Headscale: its node's old stream is being asked. */
  | { readonly kind: 'held'; readonly since: Instant; readonly until: Instant }
  /** On its way to Headscale, which has not answered the upgrade yet. */
  | { readonly kind: 'connecting' }
  | { readonly kind: 'open' }
  /** One end is gone; what is still on its way is passed on. */
  | { readonly kind: 'closing'; readonly reason: CloseReason }
  | { readonly kind: 'closed'; readonly reason: CloseReason };

/** One upgraded connection and what is known of it. Bytes and times are those of the client's side. */
export interface Stream {
  readonly id: StreamId;
  readonly kind: StreamKind;
  /** Undefined where no handshake could be read: such a stream takes part in nothing. */
  readonly machineKey: MachineKey | undefined;
  /** The client's, without a port. */
  readonly address: string;
  /** `address:port`, an IPv6 address in brackets; the address alone where a proxy before us told no port. */
  readonly remoteAddress: string;
  readonly openedAt: Instant;
  /** When the client last sent a byte; its upgrade request counts. */
  heardAt: Instant;
  /** When its client may last have logged in as another user: Headscale answered it late, as it answers a login. */
  loginEndedAt?: Instant;
  /** When Headscale last sent a byte; undefined before its 101, and while its bytes wait for a client that does not read. */
  spokenAt: Instant | undefined;
  /** When the client's first whole Noise record had reached an open session. */
  firstRecordAt: Instant | undefined;
  /** From the client, after its request. */
  bytesReceived: number;
  /** To the client, after the 101. */
  bytesSent: number;
  state: StreamState;
  /** The replica that has it, where another one does: then no more is known of it here than that one tells. */
  readonly replica?: string;
  /** What it would have been severed for first, were its node not only observed. */
  wouldSever: SeverReason | undefined;
}

/** The states from which a stream can still become, or is, a session: what a contest is about. */
export function isLive(stream: Stream): boolean {
  const { kind } = stream.state;
  return kind === 'held' || kind === 'connecting' || kind === 'open';
}

/** Whether its two ends are being closed because it has lost a contest, or an operator asked for it. */
export function isBeingSevered({ state }: Stream): boolean {
  return state.kind === 'closing' && state.reason.startsWith('severed_');
}

/**
 * Of a node's streams, oldest first, the one longest unheard, but not the newest. One whose session has never begun goes
 * before all others: it may be a replayed handshake, and those must not push out the node's own.
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

/** Moves a stream on, and says whether that was a legal step: an illegal one changes nothing. */
export function setState(stream: Stream, next: StreamState): boolean {
  if (!FOLLOWERS[stream.state.kind].includes(next.kind)) return false;
  stream.state = next;
  return true;
}

/** What Linux knows of a client's TCP connection at one moment (TCP_INFO; durations in milliseconds). */
export interface KernelEvidence {
  /** Segments sent and not yet acknowledged. */
  readonly unackedSegments: number;
  /** Bytes that wait to be sent: what Linux sends next, or what the client, its receive window full, does not take. */
  readonly unsentBytes: number;
  /** Bytes acknowledged so far. */
  readonly ackedBytes: number;
  /** Retransmission timeouts in a row, without an acknowledgement between them. */
  readonly retransmits: number;
  /** Probes sent in a row that nothing answered. */
  readonly unansweredProbes: number;
  /** Since the client's kernel last sent us any segment. */
  readonly receivedAgoMs: number;
  readonly rttMs: number;
  readonly rttvarMs: number;
}
