import { formatMachineKey, formatNodeKey, type MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import { reasonOf } from '../lib/errors.ts';
import { machinesAt, type Silence, type WatchdogEvent } from '../streams/events.ts';
import type { SeverReason, Stream } from '../streams/stream.ts';
import { drainLine } from './drain-line.ts';
import type { Logger } from './logger.ts';
import { redisLine } from './redis-line.ts';
import { frontProxyLine, limitLine, refusedLine, upstreamRefusedLine } from './refused-line.ts';

type Level = 'debug' | 'info' | 'warn' | 'error';
type Line = readonly [level: Level, fields: object, text: string];

/** Whose machine key it is; undefined where that is not known. */
export type NodeOf = (key: MachineKey | undefined) => NodeInfo | undefined;

/** Writes each event as one line. */
export function logEvents(log: Logger, nodeOf: NodeOf): (event: WatchdogEvent) => void {
  return (event) => {
    const line = lineOf(event, (stream) => about(stream, nodeOf), nodeOf);
    if (line === undefined) return;
    const [level, fields, text] = line;
    log[level](fields, text);
  };
}

type About = (stream: Stream) => Record<string, unknown>;
type Of<K extends WatchdogEvent['kind']> = Extract<WatchdogEvent, { readonly kind: K }>;

function lineOf(event: WatchdogEvent, about: About, nodeOf: NodeOf): Line | undefined {
  switch (event.kind) {
    case 'handshake_checked':
      return handshakeLine(event);
    case 'stream_opened':
    case 'stream_closed':
    case 'stream_held':
    case 'stream_released':
    case 'stream_severed':
    case 'would_sever':
      return streamLine(event, about);
    case 'contest_opened':
    case 'contest_ended':
      return contestLine(event, about);
    case 'machine_key_duplicated':
      return duplicateLine(event, nodeOf);
    case 'upstream_up':
    case 'upstream_down':
    case 'upstream_silent':
    case 'upstream_not_headscale':
    case 'upstream_refused':
    case 'upstream_protocol_mismatched':
    case 'noise_key_checked':
      return upstreamLine(event);
    case 'nodes_listed':
    case 'nodes_list_failed':
    case 'node_metrics_disabled':
      return nodesLine(event);
    case 'key_file_reloaded':
    case 'key_file_reload_failed':
    case 'settings_reloaded':
    case 'settings_reload_failed':
      return settingsLine(event);
    case 'connection_refused':
      return refusedLine(event);
    case 'limit_reached':
      return limitLine(event);
    case 'drain_started':
    case 'drain_ended':
      return drainLine(event);
    case 'redis_up':
    case 'redis_down':
    case 'replica_message_rejected':
      return redisLine(event);
    case 'proxy_not_trusted':
    case 'client_addresses_hidden':
    case 'upgrade_header_lost':
      return frontProxyLine(event);
    case 'internal_error':
      return ['error', errorFields(event.during, event.error), 'internal error: traffic flows on'];
    default:
      return event satisfies never;
  }
}

function handshakeLine({ result, remoteAddress, detail }: Of<'handshake_checked'>): Line | undefined {
  if (result === 'identified') return undefined;
  return ['debug', { remoteAddress, detail }, `handshake ${result}: passed on unidentified`];
}

const SEVERED: Readonly<Record<SeverReason, string>> = {
  dead: 'nobody answers at its other end, and its node is back on a new one',
  silent: 'silent past its threshold, and its node is back on a new one',
  gone: 'its client has taken nothing of what was sent to it for too long',
  upstream_silent: 'Headscale has said nothing on it for more than two minutes',
};

function streamLine(
  event: Of<'stream_opened' | 'stream_closed' | 'stream_held' | 'stream_released' | 'stream_severed' | 'would_sever'>,
  about: About,
): Line {
  const { stream } = event;
  switch (event.kind) {
    case 'stream_opened':
      return ['debug', about(stream), 'stream opened'];
    case 'stream_closed':
      return closedLine(event, about);
    case 'stream_held':
      return ['debug', { ...about(stream), atMostMs: event.atMostMs }, 'newcomer held'];
    case 'stream_released':
      return ['debug', { ...about(stream), heldMs: whole(event.heldMs) }, `newcomer released: ${event.reason}`];
    case 'stream_severed': {
      const { newcomer, reason, silentMs, kernel } = event;
      const fields = { ...about(stream), newcomer: newcomer.id, silentMs: whole(silentMs), kernel };
      return ['info', fields, `stream severed: ${SEVERED[reason]}`];
    }
    case 'would_sever':
      return ['info', about(stream), `observed only; the stream would be severed: ${SEVERED[event.reason]}`];
    default:
      return event satisfies never;
  }
}

function closedLine({ stream, reason, lifetimeMs }: Of<'stream_closed'>, about: About): Line {
  const fields = { ...about(stream), reason, lifetimeMs: whole(lifetimeMs) };
  if (reason === 'gone' || reason === 'upstream_silent') return ['info', fields, `stream severed: ${SEVERED[reason]}`];
  if (reason === 'not_reading')
    return ['info', fields, 'stream severed: its machine answers, but the client has read nothing for too long'];
  if (reason === 'severed_by_operator') return ['info', fields, 'stream severed: an operator asked for it'];
  return ['debug', fields, 'stream closed'];
}

function contestLine(event: Of<'contest_opened' | 'contest_ended'>, about: About): Line {
  const fields = { ...about(event.newcomer), oldStream: event.old.id, oldRemoteAddress: event.old.remoteAddress };
  if (event.kind === 'contest_opened') {
    return ['info', fields, 'contest opened: the node is back on a new stream while its old one is open'];
  }
  const { verdict, lastedMs } = event;
  return ['info', { ...fields, verdict, lastedMs: whole(lastedMs) }, `contest ended: ${verdict.replace('_', ' ')}`];
}

function duplicateLine({ machineKey, addresses, restMs }: Of<'machine_key_duplicated'>, nodeOf: NodeOf): Line {
  const fields = { node: nodeFields(nodeOf(machineKey)), machineKey: formatMachineKey(machineKey), addresses };
  return [
    'warn',
    fields,
    `duplicate machine key: ${machinesAt(addresses)} use the same one and are in each other's way; delete the clone's tailscaled state and log it in anew; until then rule 2 rests for ${minutes(restMs)}`,
  ];
}

function minutes(ms: number): string {
  return ms === 60_000 ? 'a minute' : `${ms / 60_000} minutes`;
}

const SILENT: Readonly<Record<Silence['on'], string>> = {
  requests:
    "Headscale accepts connections but does not answer: clients get 504; see Headscale's log and load, and restart it",
  streams:
    "Headscale has said nothing on these control streams for more than two minutes, unless they wait for a login: see Headscale's log and load, and restart it",
};

const NOT_HEADSCALE =
  "what answers there is not Headscale: GET /key?v=142 told no key; point --upstream at Headscale's listen_addr";
const WRONG_KEY =
  "the noise key is not Headscale's: no node can be told apart; point --noise-key at the running Headscale's noise_private.key";

const MISLED =
  'Headscale switched to a protocol that it was not asked for, so its client got 502: look at what stands between the watchdog and Headscale';

function upstreamLine(
  event: Of<
    | 'upstream_up'
    | 'upstream_down'
    | 'upstream_silent'
    | 'upstream_not_headscale'
    | 'upstream_refused'
    | 'upstream_protocol_mismatched'
    | 'noise_key_checked'
  >,
): Line {
  switch (event.kind) {
    case 'upstream_up': {
      const { upstream, version } = event;
      return ['info', { upstream, version }, 'Headscale is up'];
    }
    case 'upstream_down': {
      const { upstream, detail } = event;
      return ['error', { upstream, detail }, 'Headscale cannot be reached: clients get 502'];
    }
    case 'upstream_silent': {
      const { upstream, silence } = event;
      return ['error', { upstream, ...silence }, SILENT[silence.on]];
    }
    case 'upstream_not_headscale':
      return ['error', { upstream: event.upstream }, NOT_HEADSCALE];
    case 'upstream_refused':
      return upstreamRefusedLine(event);
    case 'upstream_protocol_mismatched': {
      const { asked, switchedTo, remoteAddress } = event;
      return ['warn', { asked, switchedTo, remoteAddress }, MISLED];
    }
    case 'noise_key_checked': {
      const { ours, upstreams } = event;
      if (event.matches) return ['info', { key: ours }, "the noise key is Headscale's"];
      return ['error', { ours, upstreams }, WRONG_KEY];
    }
    default:
      return event satisfies never;
  }
}

function nodesLine(event: Of<'nodes_listed' | 'nodes_list_failed' | 'node_metrics_disabled'>): Line {
  switch (event.kind) {
    case 'nodes_listed':
      return ['info', { nodes: event.nodes }, "Headscale's nodes are known by name"];
    case 'nodes_list_failed':
      return ['error', { detail: event.detail }, "Headscale's nodes cannot be listed: the last known names stay"];
    case 'node_metrics_disabled': {
      const { maxNodes } = event;
      return ['warn', { maxNodes }, 'metrics of single nodes are off: there are more than --metrics-max-nodes'];
    }
    default:
      return event satisfies never;
  }
}

function settingsLine(
  event: Of<'key_file_reloaded' | 'key_file_reload_failed' | 'settings_reloaded' | 'settings_reload_failed'>,
): Line {
  switch (event.kind) {
    case 'key_file_reloaded':
      return ['info', { file: event.file }, `the ${event.key} was read again: its file has changed`];
    case 'key_file_reload_failed':
      return ['error', { problem: event.problem }, 'a key file has changed and cannot be used: the key in use stays'];
    case 'settings_reloaded':
      if (event.needRestart.length > 0) {
        return [
          'warn',
          { changes: event.changes, needRestart: event.needRestart },
          'reloaded; some wait for a restart',
        ];
      }
      return ['info', { changes: event.changes }, 'reloaded'];
    case 'settings_reload_failed':
      return ['error', { problems: event.problems }, 'not reloaded: nothing has changed'];
    default:
      return event satisfies never;
  }
}

function errorFields(during: string, error: unknown): object {
  return { during, reason: reasonOf(error), stack: error instanceof Error ? error.stack : undefined };
}

function about(stream: Stream, nodeOf: NodeOf): Record<string, unknown> {
  return {
    stream: stream.id,
    streamKind: stream.kind,
    node: nodeFields(nodeOf(stream.machineKey)),
    machineKey: stream.machineKey === undefined ? undefined : formatMachineKey(stream.machineKey),
    remoteAddress: stream.remoteAddress,
  };
}

function nodeFields(node: NodeInfo | undefined): object | undefined {
  if (node === undefined) return undefined;
  const { id, name, user, nodeKey } = node;
  return { id, name, user, nodeKey: formatNodeKey(nodeKey) };
}

function whole(duration: number): number {
  return Math.round(duration);
}
