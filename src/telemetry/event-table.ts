import type { ErrorCode } from '../lib/errors.ts';
import { span } from '../lib/units.ts';
import type { EventKind, EventOf, WatchdogEvent } from '../streams/events.ts';
import {
  count,
  describeClosing,
  describeDisagreement,
  describeDuplicate,
  describeFoundSockets,
  describeHandshake,
  describeHiddenAddresses,
  describeHiddenSockets,
  describeHistoryFile,
  describeLimit,
  describeLostHeader,
  describeRefusal,
  describeSevering,
  describeSilence,
  describeUntrustedProxy,
  describeUpstreamRefusal,
  type EventSubject,
  type HistoryFileEvent,
  type NameOf,
  nodeOf,
  RELEASED,
  streamOf,
  VERDICT,
  WOULD_SEVER,
} from './event-phrases.ts';
import { about, type Level, type Row, warnOnce } from './event-rows.ts';
import { PROGRAM_EVENTS } from './program-events.ts';

const HISTORY_FILE = {
  fields: ({ kind: _, path, ...counts }: HistoryFileEvent) => ({ file: path, ...counts }),
  sentence: describeHistoryFile,
};

const EVENT_TABLE: { readonly [K in EventKind]: Row<EventOf<K>> } = {
  ...PROGRAM_EVENTS,
  handshake_checked: {
    // `stream_opened` follows and has the node's name.
    level: ({ result }) => (result === 'identified' ? undefined : 'debug'),
    subject: ({ remoteAddress, result }) => ({ remoteAddress, reason: result }),
    fields: ({ detail }) => ({ detail }),
    sentence: describeHandshake,
  },
  stream_opened: {
    level: 'debug',
    subject: ({ stream }) => about(stream),
    sentence: ({ stream }, nameOf) => `${streamOf(stream, nameOf)} was opened from ${stream.remoteAddress}.`,
  },
  stream_closed: {
    level: ({ reason }) => (SEVERED_WITHOUT_CONTEST.has(reason) ? 'info' : 'debug'),
    subject: ({ stream, reason, gone }) => ({ ...about(stream), reason, ...(gone && { kernel: gone.kernel }) }),
    fields: ({ lifetimeMs, gone }) => ({ lifetimeMs: Math.round(lifetimeMs), evidence: gone?.source.kind }),
    sentence: describeClosing,
  },
  contest_opened: {
    level: 'info',
    subject: ({ old, newcomer }) => ({ ...about(newcomer), otherStream: old.id }),
    fields: ({ old }) => ({ otherRemoteAddress: old.remoteAddress }),
    sentence: ({ old, newcomer }, nameOf) =>
      `${nodeOf(newcomer, nameOf)} is back on stream ${newcomer.id} from ${newcomer.remoteAddress} while its old stream ${old.id} from ${old.remoteAddress} is still open.`,
  },
  contest_ended: {
    level: 'info',
    subject: ({ old, newcomer, verdict }) => ({ ...about(newcomer), otherStream: old.id, reason: verdict }),
    fields: ({ old, lastedMs }) => ({ otherRemoteAddress: old.remoteAddress, lastedMs: Math.round(lastedMs) }),
    sentence: ({ old, newcomer, verdict, lastedMs }, nameOf) =>
      `The contest between ${nodeOf(newcomer, nameOf)}'s old stream ${old.id} and its new stream ${newcomer.id} ended after ${span(lastedMs)}: ${VERDICT[verdict]}.`,
  },
  stream_held: {
    level: 'debug',
    subject: ({ stream }) => about(stream),
    fields: ({ atMostMs }) => ({ atMostMs }),
    sentence: ({ stream, atMostMs }, nameOf) =>
      `${streamOf(stream, nameOf)} is held for up to ${span(atMostMs)} while the watchdog checks whether the node's old stream is alive.`,
  },
  stream_released: {
    level: 'debug',
    subject: ({ stream, reason }) => ({ ...about(stream), reason }),
    fields: ({ heldMs }) => ({ heldMs: Math.round(heldMs) }),
    sentence: ({ stream, reason, heldMs }, nameOf) =>
      `${streamOf(stream, nameOf)} was released to Headscale after ${span(heldMs)}: ${RELEASED[reason]}.`,
  },
  stream_severed: {
    level: 'info',
    subject: ({ stream, newcomer, reason, silentMs, kernel }) => ({
      ...about(stream),
      ...{ otherStream: newcomer.id, reason, silentMs: Math.round(silentMs), kernel },
    }),
    fields: ({ newcomer, source }) => ({ otherRemoteAddress: newcomer.remoteAddress, evidence: source?.kind }),
    sentence: describeSevering,
  },
  would_sever: {
    level: 'info',
    subject: ({ stream, reason }) => ({ ...about(stream), reason }),
    sentence: ({ stream, reason }, nameOf) =>
      `${streamOf(stream, nameOf)} from ${stream.remoteAddress} would have been severed, but it is treated as observe-only: ${WOULD_SEVER[reason]}.`,
  },
  machine_key_duplicated: {
    level: 'warn',
    code: 'HSW_MACHINE_KEY_DUPLICATED',
    subject: ({ machineKey }) => ({ machineKey }),
    fields: ({ addresses, restMs }) => ({ addresses, restMs }),
    sentence: describeDuplicate,
  },
  node_disagrees: {
    // What is healed needs nobody, and another way to Headscale may be meant so.
    level: ({ isEnded, disagreement }) => (isEnded || disagreement === 'shown_online' ? 'info' : 'warn'),
    code: 'HSW_NODE_DISAGREES',
    subject: ({ machineKey, stream, disagreement }) => ({
      ...(stream === undefined ? {} : about(stream)),
      ...{ machineKey, reason: disagreement },
    }),
    fields: ({ issue, forMs, lastSignAgoMs, isEnded }) => ({ issue, forMs: Math.round(forMs), lastSignAgoMs, isEnded }),
    sentence: describeDisagreement,
  },
  nodes_listed: {
    level: 'info',
    fields: ({ nodes }) => ({ nodes }),
    sentence: ({ nodes }) => `Headscale lists ${count(nodes, 'node')}, which are now shown by name.`,
  },
  nodes_list_failed: {
    level: 'error',
    code: 'HSW_NODES_LIST_FAILED',
    fields: ({ detail }) => ({ detail }),
    sentence: ({ detail }) => `Cannot list Headscale's nodes (${detail}). The last known names stay in use.`,
  },
  node_metrics_disabled: {
    level: 'warn',
    code: 'HSW_NODE_METRICS_DISABLED',
    fields: ({ maxNodes }) => ({ maxNodes }),
    sentence: ({ maxNodes }) =>
      `Metrics of single nodes are off, because Headscale has more nodes than --metrics-max-nodes allows (${maxNodes}).`,
  },
  upstream_up: {
    level: 'info',
    fields: ({ upstream, version }) => ({ upstream, version }),
    sentence: ({ upstream, version }) =>
      `Headscale is up at ${upstream}${version === undefined ? '' : `, version ${version}`}.`,
  },
  upstream_not_headscale: {
    level: 'error',
    code: 'HSW_UPSTREAM_NOT_HEADSCALE',
    fields: ({ upstream }) => ({ upstream }),
    sentence: ({ upstream }) =>
      `${upstream} is not Headscale, since GET /key?v=142 returns no key: point --upstream at Headscale's listen_addr.`,
  },
  upstream_down: {
    level: 'error',
    code: 'HSW_UPSTREAM_UNREACHABLE',
    fields: ({ upstream, detail }) => ({ upstream, detail }),
    sentence: ({ upstream, detail }) => `Headscale cannot be reached at ${upstream} (${detail}): clients get 502.`,
  },
  upstream_silent: {
    level: 'error',
    code: 'HSW_UPSTREAM_SILENT',
    subject: ({ silence }) => ({ reason: silence.on }),
    fields: ({ upstream, silence: { on: _, ...counts } }) => ({ upstream, ...counts }),
    sentence: describeSilence,
  },
  upstream_refused: {
    // A node without its control stream is cut off. A relay that is switched off refuses all day.
    level: ({ streamKind, isNews }) => (streamKind === 'control' && isNews ? 'warn' : 'debug'),
    code: 'HSW_UPSTREAM_REFUSED',
    subject: ({ streamKind, remoteAddress }) => ({ streamKind, remoteAddress }),
    fields: ({ status }) => ({ status }),
    sentence: describeUpstreamRefusal,
  },
  upstream_protocol_mismatched: {
    level: 'warn',
    code: 'HSW_UPSTREAM_PROTOCOL_MISMATCHED',
    subject: ({ remoteAddress }) => ({ remoteAddress }),
    fields: ({ asked, switchedTo }) => ({ asked, switchedTo }),
    sentence: ({ asked, switchedTo, remoteAddress }) =>
      `Headscale switched a request from ${remoteAddress} to ${switchedTo || 'no protocol'}, but the client had asked for ${asked ?? 'no upgrade'} and got 502. Check what stands between the watchdog and Headscale.`,
  },
  noise_key_checked: {
    level: ({ matches }) => (matches ? 'info' : 'error'),
    code: 'HSW_NOISE_KEY_MISMATCH',
    subject: ({ matches }) => ({ reason: matches ? 'matches' : 'differs' }),
    fields: ({ ours, upstreams }) => ({ noiseKey: ours, upstreamNoiseKey: upstreams }),
    sentence: ({ matches }) =>
      matches
        ? "The Noise key is Headscale's."
        : "The Noise key is not Headscale's, so the watchdog cannot tell nodes apart: point --noise-key at the running Headscale's noise_private.key.",
  },
  connection_refused: {
    // Scanners fail at TLS all day, but a refused proxy is a mistake that somebody can mend.
    level: ({ reason, isNews }) => (isNews && reason !== 'tls_handshake' ? 'warn' : 'debug'),
    code: 'HSW_CONNECTION_REFUSED',
    subject: ({ address, reason }) => ({ remoteAddress: address, reason }),
    fields: ({ detail }) => ({ detail }),
    sentence: describeRefusal,
  },
  limit_reached: {
    level: warnOnce,
    code: 'HSW_LIMIT_REACHED',
    subject: ({ address, limit }) => ({ remoteAddress: address, reason: limit }),
    fields: ({ detail }) => ({ detail }),
    sentence: describeLimit,
  },
  redis_up: {
    level: 'info',
    fields: ({ url }) => ({ redis: url }),
    sentence: ({ url }) => `Redis is up at ${url}: the watchdogs that use it share their streams.`,
  },
  redis_down: {
    level: 'error',
    code: 'HSW_REDIS_UNREACHABLE',
    fields: ({ url, detail }) => ({ redis: url, detail }),
    sentence: ({ url, detail }) => `Redis cannot be used at ${url} (${detail}): this watchdog goes on alone.`,
  },
  replica_gone: {
    level: 'info',
    fields: ({ replica }) => ({ replica }),
    sentence: ({ replica }) => `The watchdog ${replica} is gone: it has sent nothing for 15 s, and its lease is over.`,
  },
  replica_message_rejected: {
    level: 'warn',
    code: 'HSW_REPLICA_MESSAGE_REJECTED',
    fields: ({ url }) => ({ redis: url }),
    sentence: ({ url }) =>
      `Rejected a message in Redis at ${url}, because another Noise key signed it. Give all watchdogs of this Headscale the same --noise-key, and each Headscale its own --redis-prefix.`,
  },
  proxy_not_trusted: {
    level: 'warn',
    code: 'HSW_PROXY_NOT_TRUSTED',
    subject: ({ address }) => ({ remoteAddress: address }),
    sentence: describeUntrustedProxy,
  },
  proxy_sockets_found: {
    level: 'info',
    subject: ({ address }) => ({ remoteAddress: address }),
    fields: ({ user, by }) => ({ user, by }),
    sentence: describeFoundSockets,
  },
  proxy_sockets_hidden: {
    // A proxy that stands elsewhere is no mistake.
    level: ({ reason }) => (reason === 'proxy_elsewhere' || reason === 'several_proxies' ? 'info' : 'warn'),
    code: 'HSW_PROXY_SOCKETS_HIDDEN',
    subject: ({ address, reason }) => ({ remoteAddress: address, reason }),
    fields: ({ detail }) => ({ detail }),
    sentence: describeHiddenSockets,
  },
  client_addresses_hidden: {
    level: 'warn',
    code: 'HSW_CLIENT_ADDRESSES_HIDDEN',
    subject: ({ address }) => ({ remoteAddress: address }),
    sentence: describeHiddenAddresses,
  },
  upgrade_header_lost: {
    level: warnOnce,
    code: 'HSW_UPGRADE_HEADER_LOST',
    subject: ({ address, header }) => ({ remoteAddress: address, reason: header }),
    sentence: describeLostHeader,
  },
  history_file_read: { level: 'info', ...HISTORY_FILE },
  history_file_failed: { level: 'error', code: 'HSW_HISTORY_FILE_FAILED', ...HISTORY_FILE },
  history_file_recovered: { level: 'info', ...HISTORY_FILE },
};

/** Reasons for which the watchdog ends a stream without a `stream_severed` before it. */
const SEVERED_WITHOUT_CONTEST: ReadonlySet<string> = new Set([
  ...['gone', 'not_reading', 'upstream_silent', 'shown_offline', 'node_deleted', 'severed_by_operator'],
]);

export const EVENT_KINDS = Object.keys(EVENT_TABLE) as EventKind[];

/** @returns undefined if the event is not reported, because another one says the same. */
export function levelOf(event: WatchdogEvent): Level | undefined {
  const { level } = rowOf(event);
  return typeof level === 'string' ? level : level(event);
}

/** @returns the code of a warning or an error; undefined for every other event. */
export function errorCodeOf(event: WatchdogEvent): ErrorCode | undefined {
  const level = levelOf(event);
  return level === 'warn' || level === 'error' ? problemCodeOf(event) : undefined;
}

/** The code of the problem that an event reports, even if it is a repetition and therefore no warning. */
export function problemCodeOf(event: WatchdogEvent): ErrorCode | undefined {
  const { code } = rowOf(event);
  return typeof code === 'function' ? code(event) : code;
}

export function subjectOf(event: WatchdogEvent): EventSubject {
  return rowOf(event).subject?.(event) ?? {};
}

/** The fields of a log line besides the subject. */
export function fieldsOf(event: WatchdogEvent): object {
  return rowOf(event).fields?.(event) ?? {};
}

export function describeEvent(event: WatchdogEvent, nameOf: NameOf): string {
  return rowOf(event).sentence(event, nameOf);
}

function rowOf({ kind }: WatchdogEvent): Row<WatchdogEvent> {
  return EVENT_TABLE[kind] as Row<WatchdogEvent>;
}
