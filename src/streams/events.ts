import type { MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { Instant } from '../lib/clock.ts';
import type { ErrorCode } from '../lib/errors.ts';
import type {
  CloseReason,
  EvidenceSource,
  KernelEvidence,
  LossReason,
  NoEvidence,
  SeverReason,
  Stream,
  StreamKind,
} from './stream.ts';

/** How a contest ended. `old_ended` and `newcomer_ended`: that stream ended by itself before there was a verdict. */
export type ContestVerdict = LossReason | 'old_ended' | 'newcomer_ended';
export const CONTEST_VERDICTS: readonly ContestVerdict[] = ['dead', 'left', 'silent', 'old_ended', 'newcomer_ended'];

/** `replayed`: it is readable, but the watchdog has seen it before. */
export type HandshakeResult = 'identified' | 'unreadable' | 'missing' | 'replayed';
export const HANDSHAKE_RESULTS: readonly HandshakeResult[] = ['identified', 'unreadable', 'missing', 'replayed'];

/** A file that is read again when it changes. */
export type WatchedFile = 'Noise key' | 'API key' | 'OAuth client' | 'certificate' | 'secret for notifications';

/** Where Headscale is silent: it answers no request, or it sends nothing on `silent` of its `of` control streams. */
export type Silence =
  | { readonly on: 'requests' }
  | { readonly on: 'streams'; readonly silent: number; readonly of: number };

/** How a node and Headscale disagree. */
export type Disagreement =
  /** It is connected here, and Headscale shows it as offline. */
  | 'shown_offline'
  /** It has no stream here, and Headscale shows it as online. */
  | 'shown_online'
  /** It was deleted in Headscale, and its stream is still open. */
  | 'deleted';
export const DISAGREEMENTS: readonly Disagreement[] = ['shown_offline', 'shown_online', 'deleted'];

/** Why a hold ended. */
export type ReleaseReason = 'old_streams_answered' | 'old_streams_ended' | 'hold_over' | 'error';

/** Everything that can happen. The log, the metrics and the history listen; the rest of the code does not know them. */
export type WatchdogEvent =
  | {
      readonly kind: 'handshake_checked';
      readonly result: HandshakeResult;
      readonly detail: string | undefined;
      readonly remoteAddress: string;
    }
  | { readonly kind: 'stream_opened'; readonly stream: Stream }
  /** This process goes on with a stream that another one opened, and counted. */
  | { readonly kind: 'stream_handed_over'; readonly stream: Stream }
  | {
      readonly kind: 'stream_closed';
      readonly stream: Stream;
      readonly reason: CloseReason;
      readonly lifetimeMs: number;
      /** When the client last gave a sign of life, if its kernel has shown that. */
      readonly lastSignAt?: Instant | undefined;
      /** What showed that the client is gone, if it was the socket of a proxy in front. */
      readonly gone?: GoneBehindProxy | undefined;
    }
  | { readonly kind: 'contest_opened'; readonly old: Stream; readonly newcomer: Stream }
  | {
      readonly kind: 'contest_ended';
      readonly old: Stream;
      readonly newcomer: Stream;
      readonly verdict: ContestVerdict;
      readonly lastedMs: number;
    }
  | { readonly kind: 'stream_held'; readonly stream: Stream; readonly atMostMs: number }
  | {
      readonly kind: 'stream_released';
      readonly stream: Stream;
      readonly reason: ReleaseReason;
      readonly heldMs: number;
    }
  | {
      readonly kind: 'stream_severed';
      readonly stream: Stream;
      readonly newcomer: Stream;
      readonly reason: 'dead' | 'silent';
      /** Since the client's last byte. */
      readonly silentMs: number;
      /** The node's threshold. */
      readonly silentAfterMs: number;
      /** Since the contest opened, which is when the node came back. */
      readonly contestedMs: number;
      /** Undefined if another replica has the stream. */
      readonly source?: EvidenceSource | undefined;
      readonly kernel: KernelEvidence | undefined;
      /** The client's kernel has answered a probe, so its machine is there. */
      readonly answers: boolean;
    }
  /** An observe-only stream that would have been severed otherwise. Once per stream. */
  | { readonly kind: 'would_sever'; readonly stream: Stream; readonly reason: SeverReason }
  | {
      readonly kind: 'machine_key_duplicated';
      readonly machineKey: MachineKey;
      /** The addresses of the two machines' streams, without ports. They may be equal. */
      readonly addresses: readonly [string, string];
      /** How long rule 2 rests for this key. */
      readonly restMs: number;
    }
  /** What Headscale shows of a node contradicts its streams here, and it lasts: see `nodes/reconcile.ts`. */
  | {
      readonly kind: 'node_disagrees';
      readonly machineKey: MachineKey;
      /** As Headscale lists it, or listed it before it was deleted. */
      readonly node: NodeInfo;
      readonly disagreement: Disagreement;
      /** The issue of Headscale that this version of it is known for; undefined if it is not. */
      readonly issue: number | undefined;
      readonly forMs: number;
      /** Undefined if it has none. */
      readonly stream: Stream | undefined;
      readonly lastSignAgoMs: number | undefined;
      /** Whether its stream is ended, so that both sides agree again. */
      readonly isEnded: boolean;
    }
  | { readonly kind: 'nodes_listed'; readonly nodes: number }
  | { readonly kind: 'nodes_list_failed'; readonly detail: string }
  /** There are more nodes than `metrics.max-nodes`, so the series of single nodes are off. */
  | { readonly kind: 'node_metrics_disabled'; readonly maxNodes: number }
  | { readonly kind: 'key_file_reloaded'; readonly key: WatchedFile; readonly file: string }
  | { readonly kind: 'key_file_reload_failed'; readonly code: ErrorCode; readonly detail: string }
  | {
      readonly kind: 'settings_reloaded';
      /** For an operator to read: `silent-after: 30s → 10s`. */
      readonly changes: readonly string[];
      /** Changed settings that apply only after a restart. */
      readonly needRestart: readonly string[];
    }
  | { readonly kind: 'settings_reload_failed'; readonly code: ErrorCode; readonly problems: readonly string[] }
  | { readonly kind: 'upstream_up'; readonly upstream: string; readonly version: string | undefined }
  /** Something answers there, but it has no Noise key. */
  | { readonly kind: 'upstream_not_headscale'; readonly upstream: string }
  | { readonly kind: 'upstream_down'; readonly upstream: string; readonly detail: string }
  /** Headscale accepts connections but does not answer: see `headscale/silence.ts`. */
  | { readonly kind: 'upstream_silent'; readonly upstream: string; readonly silence: Silence }
  | {
      readonly kind: 'upstream_refused';
      readonly streamKind: StreamKind;
      readonly status: number;
      readonly remoteAddress: string;
      /** False if this status was reported within the last minute. */
      readonly isNews: boolean;
    }
  /** Headscale answered 101, but switched to another protocol than the client asked for. The client gets 502. */
  | {
      readonly kind: 'upstream_protocol_mismatched';
      /** The client's Upgrade header; undefined if there was no such header. */
      readonly asked: string | undefined;
      /** Headscale's Upgrade header; empty if there was no such header. */
      readonly switchedTo: string;
      readonly remoteAddress: string;
    }
  | { readonly kind: 'noise_key_checked'; readonly matches: boolean; readonly ours: string; readonly upstreams: string }
  | {
      readonly kind: 'connection_refused';
      readonly reason: RefusalReason;
      readonly detail: string;
      /** Without a port. */
      readonly address: string;
      /** False if this address was refused for the same reason before, as far as the watchdog remembers. */
      readonly isNews: boolean;
    }
  /** Something exceeded a limit and was refused. With `held`, it was let through without a hold. */
  | {
      readonly kind: 'limit_reached';
      readonly limit: Limit;
      /** Without a port; undefined if it is unknown. */
      readonly address: string | undefined;
      readonly detail: string;
      /** False if this limit was reported within the last minute. */
      readonly isNews: boolean;
    }
  /** The watchdog stops. It accepts no more connections, and the streams end evenly over `overMs`, or at once if it is 0. */
  | {
      readonly kind: 'drain_started';
      readonly streams: number;
      readonly overMs: number;
      /** Shorter than the setting, because clients wait in the inherited socket meanwhile. */
      readonly isShortened: boolean;
    }
  | { readonly kind: 'drain_ended'; readonly tookMs: number }
  /** A new process is started, which is to get everything. */
  | { readonly kind: 'handover_started'; readonly streams: number }
  /** The new process cannot take over. `lost` streams had been handed over, and ended with it. */
  | { readonly kind: 'handover_failed'; readonly problems: readonly string[]; readonly lost: number }
  /** The new process listens. */
  | {
      readonly kind: 'handover_ended';
      readonly pid: number;
      readonly moved: number;
      /** How many stay until they end, or the drain has passed. */
      readonly stayed: number;
      readonly tookMs: number;
    }
  /** In the new process. */
  | { readonly kind: 'handover_received'; readonly streams: number }
  /** Linux shows us the sockets of a trusted proxy, so the clients behind it can be watched. Once per address and way. */
  | {
      readonly kind: 'proxy_sockets_found';
      readonly address: string;
      /** The user that the proxy runs as. */
      readonly user: string;
      readonly by: 'port' | 'address';
    }
  /** Nothing is known about the connections of a trusted proxy's clients. Once per address and reason. */
  | {
      readonly kind: 'proxy_sockets_hidden';
      readonly address: string;
      readonly reason: NoEvidence;
      readonly detail: string | undefined;
    }
  | FrontProxyEvent
  /** The watchdogs that share this Redis know each other's streams. */
  | { readonly kind: 'redis_up'; readonly url: string }
  /** Each watchdog goes on alone. */
  | { readonly kind: 'redis_down'; readonly url: string; readonly detail: string }
  /** Another replica has sent nothing for a while, and its lease is over: it died or was stopped. */
  | { readonly kind: 'replica_gone'; readonly replica: string; readonly lastHeardAt: Instant }
  /** A message there is not signed with our Noise key. Once a minute. */
  | { readonly kind: 'replica_message_rejected'; readonly url: string }
  /** `target` never shows the path of a URL. `about` is the notification's title. */
  | {
      readonly kind: 'notification_sent';
      readonly target: string;
      readonly about: string;
      readonly worksAgain: boolean;
    }
  /** An attempt failed, and the watchdog will try again. */
  | {
      readonly kind: 'notification_delayed';
      readonly target: string;
      readonly about: string;
      readonly detail: string;
      /** False if this target has failed since it last worked. */
      readonly isNews: boolean;
    }
  | {
      readonly kind: 'notification_dropped';
      readonly target: string;
      /** Undefined for several. */
      readonly about: string | undefined;
      readonly reason: NotificationLoss;
      readonly detail: string;
      readonly count: number;
      /** False if this target has failed since it last worked. */
      readonly isNews: boolean;
    }
  /** Once, at the start. */
  | {
      readonly kind: 'history_file_read';
      readonly path: string;
      readonly events: number;
      /** Lines that were torn, garbled or of a later version. */
      readonly skipped: number;
      readonly tookMs: number;
    }
  /** It cannot be written. Once, until it can be again. */
  | { readonly kind: 'history_file_failed'; readonly path: string; readonly detail: string }
  | { readonly kind: 'history_file_recovered'; readonly path: string; readonly lost: number }
  | { readonly kind: 'internal_error'; readonly during: string; readonly error: unknown };

/** Whose socket showed that a client is gone, and what Linux said about it. */
export interface GoneBehindProxy {
  readonly source: EvidenceSource;
  readonly kernel: KernelEvidence | undefined;
}

export type EventKind = WatchdogEvent['kind'];
export type EventOf<K extends EventKind> = Extract<WatchdogEvent, { readonly kind: K }>;

/** What is wrong with a proxy in front of the watchdog, as its requests show. Addresses have no port. */
export type FrontProxyEvent =
  /** A private address sends forwarding headers, and they are dropped. Once per address. */
  | {
      readonly kind: 'proxy_not_trusted';
      readonly address: string;
      /** The first such header that was seen, in lower case. */
      readonly header: string;
      /** The value of --trusted-proxies that would trust it. */
      readonly setting: string;
      /** It is an address or a gateway of this machine, so most likely the container engine's proxy. */
      readonly isEngine: boolean;
    }
  /** Several nodes share an address that cannot be their own. Once per address. */
  | {
      readonly kind: 'client_addresses_hidden';
      readonly address: string;
      readonly isTrusted: boolean;
      readonly isEngine: boolean;
    }
  /** A request for /ts2021 without a header that Headscale needs. */
  | {
      readonly kind: 'upgrade_header_lost';
      readonly address: string;
      readonly header: LostHeader;
      readonly isTrusted: boolean;
      /** False if this address was reported within the last hour. */
      readonly isNews: boolean;
    };

export type LostHeader = 'upgrade' | 'handshake';
export const LOST_HEADERS: readonly LostHeader[] = ['upgrade', 'handshake'];

/** Why a notification was not delivered. */
export type NotificationLoss = 'refused' | 'expired' | 'overflow' | 'stopped' | 'removed';
export const NOTIFICATION_LOSSES: readonly NotificationLoss[] = [
  'refused',
  'expired',
  'overflow',
  'stopped',
  'removed',
];

/** Why a connection was closed before, or with, its first request. */
export type RefusalReason =
  | 'untrusted_proxy'
  | 'bad_proxy_header'
  | 'unexpected_proxy_header'
  | 'tls_handshake'
  | 'bad_request';
export const REFUSAL_REASONS: readonly RefusalReason[] = [
  'untrusted_proxy',
  'bad_proxy_header',
  'unexpected_proxy_header',
  'tls_handshake',
  'bad_request',
];

/** What a limit counts. `upstream_rate`: a stream waited too long for its turn at Headscale. */
export type Limit =
  | 'connections'
  | 'connections_per_address'
  | 'handshakes'
  | 'handshakes_per_address'
  | 'streams_per_node'
  | 'held'
  | 'body'
  | 'upstream_rate';
export const LIMITS: readonly Limit[] = [
  'connections',
  'connections_per_address',
  'handshakes',
  'handshakes_per_address',
  'streams_per_node',
  'held',
  'body',
  'upstream_rate',
];

export type Listener = (event: WatchdogEvent) => void;
export type Emit = (event: WatchdogEvent) => void;

/** Whether a stream has begun here, or has come from another process. */
export function hasBegun(event: WatchdogEvent): event is EventOf<'stream_opened' | 'stream_handed_over'> {
  return event.kind === 'stream_opened' || event.kind === 'stream_handed_over';
}

/** Calls every listener with every event, synchronously. A listener that throws affects neither the others nor the stream. */
export class Events {
  readonly #listeners = new Set<Listener>();

  readonly emit: Emit = (event) => {
    for (const listener of this.#listeners) {
      try {
        listener(event);
      } catch (error) {
        if (event.kind !== 'internal_error')
          this.emit({ kind: 'internal_error', during: `reporting ${event.kind}`, error });
      }
    }
  };

  /** @returns a function that removes the listener. */
  listen(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

/** Notes what an observed stream would have been severed for, and reports it once per stream. */
export function reportWouldSever(stream: Stream, reason: SeverReason, emit: Emit): void {
  if (stream.wouldSever !== undefined) return;
  stream.wouldSever = reason;
  emit({ kind: 'would_sever', stream, reason });
}
