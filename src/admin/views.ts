import type { AddressInfo } from 'node:net';
import type { Minute } from '../history/minutes.ts';
import type { ErrorCode } from '../lib/errors.ts';
import type { NodeState } from '../nodes/presence.ts';
import type { Disagreement, EventKind, FrontProxyEvent, Silence } from '../streams/events.ts';
import type {
  CloseReason,
  EvidenceSource,
  KernelEvidence,
  NoEvidence,
  SeverReason,
  Stream,
  StreamId,
  StreamKind,
} from '../streams/stream.ts';
import type { Level } from '../telemetry/event-table.ts';

/**
 * The answers of the admin API, for the server that gives them, the commands and the status page. Times are ISO 8601, and
 * null is what is unknown or does not apply. docs/api.md explains each name.
 */

/** A node as Headscale lists it. */
export interface NodeView {
  readonly id: string;
  readonly name: string;
  readonly user: string;
  /** `nodekey:<64 hex>` */
  readonly nodeKey: string;
}

/** A stream in `/streams`. */
export interface StreamView {
  readonly id: StreamId;
  /** The replica that has the stream; null if there is only one watchdog. */
  readonly replica: string | null;
  readonly kind: StreamKind;
  /** `mkey:<64 hex>` */
  readonly machineKey: string | null;
  readonly node: NodeView | null;
  /** The client's capability version, from its handshake. */
  readonly capabilityVersion: number | null;
  readonly remoteAddress: string;
  readonly openedAt: string;
  readonly lastHeardAt: string;
  readonly upstreamLastHeardAt: string | null;
  readonly bytesReceived: number;
  readonly bytesSent: number;
  readonly state: Stream['state']['kind'];
  readonly heldUntil: string | null;
  /** The reason, while the stream is closing. */
  readonly closeReason: CloseReason | null;
  /** The reason for which the watchdog would sever the stream if it did more than observe. */
  readonly wouldSever: SeverReason | null;
  readonly evidence: EvidenceView;
  /** What the evidence is. For a client behind a proxy, it may be some seconds old. */
  readonly kernel: KernelEvidence | null;
  readonly contests: readonly StreamContestView[];
}

/** Where the evidence about a stream's client comes from. */
export interface EvidenceView {
  readonly source: EvidenceSource['kind'];
  /** How the proxy's connection to the client was found; null if it is not about a proxy's connection. */
  readonly by: 'port' | 'address' | null;
  /** The user that the proxy runs as. */
  readonly user: string | null;
  /** Why there is no evidence. */
  readonly reason: NoEvidence | null;
}

/** A contest, seen from one of its two streams. */
interface StreamContestView {
  readonly role: 'old' | 'newcomer';
  /** The other stream, and its replica. */
  readonly otherStream: StreamId;
  readonly otherReplica: string | null;
  readonly openedAt: string;
  /** What the verdict depends on, and when there will be one. */
  readonly waitingFor: string | null;
  readonly until: string | null;
}

/** An event in `/events` and in the live feed. */
export interface EventView {
  /** Counts up, with gaps. */
  readonly seq: number;
  readonly time: string;
  readonly level: Level;
  /** Of a warning or an error: see docs/errors.md. */
  readonly code: ErrorCode | null;
  readonly kind: EventKind;
  /** `mkey:<64 hex>` */
  readonly machineKey: string | null;
  readonly node: NodeView | null;
  readonly stream: StreamId | null;
  readonly streamKind: StreamKind | null;
  /** The old stream of a contest, or the newcomer that a severed stream made room for. */
  readonly otherStream: StreamId | null;
  readonly remoteAddress: string | null;
  /** An identifier: a close reason, a verdict, a limit, … */
  readonly reason: string | null;
  /** Since the client's last byte. */
  readonly silentMs: number | null;
  readonly kernel: KernelEvidence | null;
  /** What happened and why, in one sentence. */
  readonly sentence: string;
}

/** An entry of `/nodes`: a node that Headscale lists, or a machine key that has a stream or had one. */
export interface PresenceView {
  /** `mkey:<64 hex>` */
  readonly machineKey: string;
  readonly id: string | null;
  readonly name: string | null;
  readonly user: string | null;
  readonly nodeKey: string | null;
  /** The machine's other nodes, while it is not clear which one is active. */
  readonly others: readonly NodeView[];
  /** In the tailnet. */
  readonly addresses: readonly string[];
  readonly tags: readonly string[];
  readonly os: string | null;
  /** Tailscale's version. */
  readonly clientVersion: string | null;
  /** From the newest handshake of an open stream. */
  readonly capabilityVersion: number | null;
  readonly isEphemeral: boolean | null;
  readonly state: NodeState;
  /** How the watchdog and Headscale disagree about it. */
  readonly disagreement: Disagreement | null;
  /** Since when it has had an open stream. */
  readonly connectedSince: string | null;
  /** Of its newest stream. */
  readonly remoteAddress: string | null;
  readonly rttMs: number | null;
  readonly evidence: EvidenceView | null;
  /** When the watchdog last had a sign of it. */
  readonly lastSignAt: string | null;
  /** Whether Headscale shows it as online, and when it last saw it. */
  readonly shownOnline: boolean | null;
  readonly shownLastSeenAt: string | null;
  readonly keyExpiresAt: string | null;
  readonly streams: readonly NodeStreamView[];
}

/** A control stream in an entry of `/nodes`. `/streams` shows the rest. */
interface NodeStreamView {
  readonly id: StreamId;
  readonly replica: string | null;
  readonly state: Stream['state']['kind'];
  readonly evidence: EvidenceView;
}

/** What `/nodes/NODE/health` says. */
export interface NodeHealth {
  readonly machineKey: string;
  readonly name: string | null;
  readonly connected: boolean;
  readonly state: NodeState;
  readonly connectedSince: string | null;
  readonly lastSignAt: string | null;
}

/** What `/readyz` says. */
export interface Readiness {
  readonly ready: boolean;
  readonly draining: boolean;
  /** Where clients connect; null for a listener that does not listen. */
  readonly listen: readonly (AddressInfo | null)[];
  readonly upstream: {
    readonly url: string;
    /** Null until the first check has ended. */
    readonly up: boolean | null;
    /** Where Headscale is silent, if it accepts connections and does not answer. */
    readonly silentOn: Silence['on'] | null;
    readonly isHeadscale: boolean | null;
    /** Why Headscale is down. */
    readonly detail: string | null;
    readonly version: string | null;
  };
  readonly noiseKeyMatches: boolean | null;
}

/** What `/overview` says: the head of the status page. */
export interface Overview extends Readiness {
  readonly version: string;
  readonly now: string;
  readonly observeOnly: boolean;
  /** Whether the admin server asks for a token. */
  readonly needsToken: boolean;
  readonly duplicateKeys: number;
  /** Whether Redis is up; null if no Redis is configured. */
  readonly redisUp: boolean | null;
  /** Problems with the proxies in front of the watchdog. */
  readonly frontProxies: readonly {
    readonly kind: FrontProxyEvent['kind'];
    readonly code: ErrorCode | null;
    readonly remoteAddress: string;
    readonly sentence: string;
  }[];
  /** How many there are, how many of them are contested, and how many are in each state. */
  readonly streams: Readonly<Record<'total' | 'contested' | Stream['state']['kind'], number>>;
  readonly lastHour: { readonly takeovers: number; readonly gone: number; readonly minutes: readonly Minute[] };
  /** The `seq` of the newest event. */
  readonly lastSeq: number;
}
