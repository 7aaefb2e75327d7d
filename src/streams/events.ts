import type { MachineKey } from '../identity/keys.ts';
import type { ErrorCode } from '../lib/errors.ts';
import type { CloseReason, KernelEvidence, SeverReason, Stream, StreamKind } from './stream.ts';

/** How a contest ended. `old_ended`, `newcomer_ended`: by itself, before there was a verdict. */
export type ContestVerdict = 'dead' | 'silent' | 'old_ended' | 'newcomer_ended';
export const CONTEST_VERDICTS: readonly ContestVerdict[] = ['dead', 'silent', 'old_ended', 'newcomer_ended'];

/** `replayed`: it could be read, but was seen before. */
export type HandshakeResult = 'identified' | 'unreadable' | 'missing' | 'replayed';
export const HANDSHAKE_RESULTS: readonly HandshakeResult[] = ['identified', 'unreadable', 'missing', 'replayed'];

/** What is read again when its file changes. */
export type WatchedFile = 'noise key' | 'API key' | 'certificate';

/** On what Headscale is silent: on all requests, or on so many of its control streams. */
export type Silence =
  | { readonly on: 'requests' }
  | { readonly on: 'streams'; readonly silent: number; readonly of: number };

/** Why a held newcomer was let go. */
export type ReleaseReason = 'old_streams_answered' | 'old_streams_ended' | 'hold_over' | 'error';

/** All that happens. Log, metrics and the page listen; nothing else knows that they exist. */
export type WatchdogEvent =
  | {
      readonly kind: 'handshake_checked';
      readonly result: HandshakeResult;
      readonly detail: string | undefined;
      readonly remoteAddress: string;
    }
  | { readonly kind: 'stream_opened'; readonly stream: Stream }
  | {
      readonly kind: 'stream_closed';
      readonly stream: Stream;
      readonly reason: CloseReason;
      readonly lifetimeMs: number;
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
      /** How long it might have been silent. */
      readonly silentAfterMs: number;
      /** Since the contest opened: since the node came back. */
      readonly contestedMs: number;
      readonly kernel: KernelEvidence | undefined;
      /** Its client's kernel has answered a probe: its machine is there. */
      readonly answers: boolean;
    }
  /** What `severed` or a stream gone would have been, had the node's policy not been to observe only. Once a stream. */
  | { readonly kind: 'would_sever'; readonly stream: Stream; readonly reason: SeverReason }
  | {
      readonly kind: 'machine_key_duplicated';
      readonly machineKey: MachineKey;
      /** Of the two machines' streams, without ports; the same twice where both come from one. */
      readonly addresses: readonly [string, string];
      /** For how long rule 2 rests for this key. */
      readonly restMs: number;
    }
  | { readonly kind: 'nodes_listed'; readonly nodes: number }
  | { readonly kind: 'nodes_list_failed'; readonly detail: string }
  /** More nodes than `metrics.max-nodes`: the series of single nodes are off. */
  | { readonly kind: 'node_metrics_disabled'; readonly maxNodes: number }
  | { readonly kind: 'key_file_reloaded'; readonly key: WatchedFile; readonly file: string }
  | { readonly kind: 'key_file_reload_failed'; readonly code: ErrorCode; readonly problem: string }
  | {
      readonly kind: 'settings_reloaded';
      /** Each as an operator reads it: `silent-after: 30s → 10s`. */
      readonly changes: readonly string[];
      /** Settings that differ now and wait for a restart. */
      readonly needRestart: readonly string[];
    }
  | { readonly kind: 'settings_reload_failed'; readonly code: ErrorCode; readonly problems: readonly string[] }
  | { readonly kind: 'upstream_up'; readonly upstream: string; readonly version: string | undefined }
  /** Something answers there, but without Headscale's Noise key. */
  | { readonly kind: 'upstream_not_headscale'; readonly upstream: string }
  | { readonly kind: 'upstream_down'; readonly upstream: string; readonly detail: string }
  /** It accepts connections but does not answer: see `headscale/silence.ts`. */
  | { readonly kind: 'upstream_silent'; readonly upstream: string; readonly silence: Silence }
  | {
      readonly kind: 'upstream_refused';
      readonly streamKind: StreamKind;
      readonly status: number;
      readonly remoteAddress: string;
      /** Whether this status was not told of within the last minute. */
      readonly isNews: boolean;
    }
  /** Headscale answered 101, but not to what it was asked for: its client gets 502. */
  | {
      readonly kind: 'upstream_protocol_mismatched';
      /** What it was asked to switch to; undefined where it was asked for nothing. */
      readonly asked: string | undefined;
      /** What it says it has switched to; empty where it says nothing. */
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
      /** Whether this address was not refused for this before, as far as that is remembered. */
      readonly isNews: boolean;
    }
  /** Something was too much, and was refused; where it is `held`, let through unheld. */
  | {
      readonly kind: 'limit_reached';
      readonly limit: Limit;
      /** Without a port; undefined where it is not known. */
      readonly address: string | undefined;
      readonly detail: string;
      /** Whether it was not told of within the last minute. */
      readonly isNews: boolean;
    }
  /** Stopping: no connection is accepted any more, and the streams end evenly over `overMs`; 0: at once. */
  | {
      readonly kind: 'drain_started';
      readonly streams: number;
      readonly overMs: number;
      /** Shorter than was set, since clients wait in an inherited socket meanwhile. */
      readonly isShortened: boolean;
    }
  | { readonly kind: 'drain_ended'; readonly tookMs: number }
  | FrontProxyEvent
  /** Where several watchdogs meet: they know of each other's streams again. */
  | { readonly kind: 'redis_up'; readonly url: string }
  /** Each goes on alone. */
  | { readonly kind: 'redis_down'; readonly url: string; readonly detail: string }
  /** A message there is not signed with our noise key. Told once a minute. */
  | { readonly kind: 'replica_message_rejected'; readonly url: string }
  | { readonly kind: 'internal_error'; readonly during: string; readonly error: unknown };

export type EventKind = WatchdogEvent['kind'];
export type EventOf<K extends EventKind> = Extract<WatchdogEvent, { readonly kind: K }>;

/** What is wrong with a proxy in front of this one, as far as its requests show it. Addresses are without a port. */
export type FrontProxyEvent =
  /** It sends forwarding headers from a private address, and they are dropped. Told once an address. */
  | {
      readonly kind: 'proxy_not_trusted';
      readonly address: string;
      /** The first of the headers that was seen, in lower case. */
      readonly header: string;
      /** What --trusted-proxies has to say for it to be trusted. */
      readonly setting: string;
      /** It is an address or a gateway of this machine: most likely of a proxy of the container engine. */
      readonly isEngine: boolean;
    }
  /** Nodes arrive from one address, which is not theirs. Told once an address. */
  | {
      readonly kind: 'client_addresses_hidden';
      readonly address: string;
      readonly isTrusted: boolean;
      readonly isEngine: boolean;
    }
  /** A request for /ts2021 without what Headscale needs to take it. */
  | {
      readonly kind: 'upgrade_header_lost';
      readonly address: string;
      readonly header: LostHeader;
      readonly isTrusted: boolean;
      /** Whether it was not told of this address within the last hour. */
      readonly isNews: boolean;
    };

export type LostHeader = 'upgrade' | 'handshake';
export const LOST_HEADERS: readonly LostHeader[] = ['upgrade', 'handshake'];

/** Why a connection was closed before its first request, or with it. */
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

/** What there may be too much of. `upstream_rate`: who waited for his turn in vain. */
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

/** Hands every event to every listener at once. A listener that throws harms neither the others nor the stream. */
export class Events {
  readonly #listeners = new Set<Listener>();

  readonly emit: Emit = (event) => {
    for (const listener of this.#listeners) {
      try {
        listener(event);
      } catch (error) {
        if (event.kind !== 'internal_error')
          this.emit({ kind: 'internal_error', during: `telling of '${event.kind}'`, error });
      }
    }
  };

  /** @returns what ends the listening. */
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
