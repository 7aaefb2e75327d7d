import { formatMachineKey, type MachineKey } from '../identity/keys.ts';
import { reasonOf } from '../lib/errors.ts';
import { span } from '../lib/units.ts';
import { type FrontProxyEvent, machinesAt, type WatchdogEvent } from '../streams/events.ts';
import type { CloseReason, SeverReason, Stream } from '../streams/stream.ts';
import { whyRefused } from './refused-status.ts';

/** The name of a machine key's node; undefined where nobody knows it. */
export type NameOf = (key: MachineKey) => string | undefined;

type Of<K extends WatchdogEvent['kind']> = Extract<WatchdogEvent, { readonly kind: K }>;
type StreamEvent = Of<
  'stream_opened' | 'stream_closed' | 'stream_held' | 'stream_released' | 'stream_severed' | 'would_sever'
>;

/** What happened and why, in a sentence that needs no other one. */
export function sentenceOf(event: WatchdogEvent, nameOf: NameOf): string {
  switch (event.kind) {
    case 'stream_opened':
    case 'stream_closed':
    case 'stream_held':
    case 'stream_released':
    case 'stream_severed':
    case 'would_sever':
      return streamSentence(event, nameOf);
    case 'contest_opened':
    case 'contest_ended':
      return contestSentence(event, nameOf);
    case 'machine_key_duplicated': {
      const who = nameOf(event.machineKey) ?? shortKey(event.machineKey);
      return `${capital(machinesAt(event.addresses))} use the machine key of ${who} and keep ending each other's streams. Delete the clone's tailscaled state and log it in anew. Silence alone severs nobody of this key for ${span(event.restMs)}.`;
    }
    default:
      return healthSentence(event);
  }
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function streamSentence(event: StreamEvent, nameOf: NameOf): string {
  const { stream } = event;
  switch (event.kind) {
    case 'stream_opened':
      return `${nodesStream(stream, nameOf)} was opened from ${stream.remoteAddress}.`;
    case 'stream_closed':
      return closedSentence(event, nameOf);
    case 'stream_held':
      return `${nodesStream(stream, nameOf)} is held back for ${span(event.atMostMs)} at most, while its node's old stream is asked whether anybody is still there.`;
    case 'stream_released':
      return `${nodesStream(stream, nameOf)} was let through to Headscale after ${span(event.heldMs)}: ${RELEASED[event.reason]}.`;
    case 'stream_severed':
      return severedSentence(event, nameOf);
    case 'would_sever':
      return `${nodesStream(stream, nameOf)} from ${stream.remoteAddress} would have been severed, were it not only observed: ${SPARED[event.reason]}.`;
    default:
      return event satisfies never;
  }
}

const RELEASED: Readonly<Record<Of<'stream_released'>['reason'], string>> = {
  old_streams_answered: 'its old stream answered, so there is nothing to wait for',
  old_streams_ended: 'its old stream has ended',
  hold_over: 'there was no verdict on its old stream in time',
  error: 'an error of the watchdog, which never costs a node its stream',
};

const SPARED: Readonly<Record<SeverReason, string>> = {
  dead: 'nobody answered at its other end, and the node was back on a new stream',
  silent: 'it was silent past its threshold, and the node was back on a new stream',
  gone: 'its client took nothing of what was sent to it for as long as gone-after allows',
  upstream_silent: 'Headscale had said nothing on it for more than two minutes',
};

function severedSentence(event: Of<'stream_severed'>, nameOf: NameOf): string {
  const { stream, newcomer, reason, silentMs, silentAfterMs, kernel } = event;
  const what = `${nodesStream(stream, nameOf, 'old stream')} from ${stream.remoteAddress} was severed`;
  const back = `the node is back on stream ${newcomer.id} from ${newcomer.remoteAddress}`;
  if (reason === 'dead') return `${what}: ${deadBecause(event)}, and ${back}.`;
  const frozen = kernel?.unansweredProbes === 0 ? ' (its kernel still answered, as that of a frozen program does)' : '';
  return `${what}: its client had sent nothing for ${span(silentMs)}, longer than silent-after, ${span(silentAfterMs)}${frozen}, and ${back}.`;
}

function deadBecause({ kernel, contestedMs }: Of<'stream_severed'>): string {
  if (kernel === undefined) return 'its kernel no longer answered';
  const { unansweredProbes, retransmits, unackedSegments, receivedAgoMs } = kernel;
  const last = `its last sign of life was ${span(receivedAgoMs)} ago`;
  if (unackedSegments > 0 && retransmits >= 2) {
    return `its kernel acknowledged nothing through ${retransmits} retransmissions (${last})`;
  }
  return `its kernel answered none of the last ${unansweredProbes} probes, ${span(contestedMs)} after the node had come back (${last})`;
}

function closedSentence({ stream, reason, lifetimeMs }: Of<'stream_closed'>, nameOf: NameOf): string {
  return `${nodesStream(stream, nameOf)} from ${stream.remoteAddress} ${CLOSED[reason]} (it lasted ${span(lifetimeMs)}).`;
}

const CLOSED: Readonly<Record<CloseReason, string>> = {
  client_closed: 'ended: the client closed it',
  client_error: "ended: the client's connection broke",
  client_left_early: 'ended: the client left before Headscale had answered',
  upstream_closed: 'ended: Headscale closed it',
  upstream_error: 'ended: the connection to Headscale broke',
  upstream_refused: 'ended: Headscale refused it',
  upstream_unreachable: 'ended: Headscale could not be reached',
  upstream_unanswered: 'ended: Headscale accepted the connection and did not answer',
  surplus: 'ended: its node had too many streams, and had said nothing on this one for longest',
  limit: 'ended: its turn at Headscale had not come in time, and its client comes again',
  severed_dead: 'is closed, severed because nobody answered at its other end and the node was back',
  severed_silent: 'is closed, severed because its client was silent for too long and the node was back',
  severed_by_operator: 'is closed, severed by an operator',
  gone: 'was severed as gone: its client answered neither data nor probes for as long as gone-after allows, so nobody was there',
  not_reading:
    'was severed: its machine answered, but the client read nothing of what was sent to it for as long as gone-after allows, as a frozen program does',
  upstream_silent: 'was severed: Headscale had said nothing on it for more than two minutes',
  shutdown: 'ended: the watchdog stopped',
};

function contestSentence(event: Of<'contest_opened' | 'contest_ended'>, nameOf: NameOf): string {
  const { old, newcomer } = event;
  const who = ownerOf(newcomer, nameOf);
  if (event.kind === 'contest_opened') {
    return `${who} is back on stream ${newcomer.id} from ${newcomer.remoteAddress} while its stream ${old.id} from ${old.remoteAddress} is still open: the old one has to show that it is alive.`;
  }
  return `The contest between ${who}'s streams ${old.id} (old) and ${newcomer.id} (new) ended after ${span(event.lastedMs)}: ${VERDICT[event.verdict]}.`;
}

const VERDICT: Readonly<Record<Of<'contest_ended'>['verdict'], string>> = {
  dead: 'the old one was dead',
  silent: 'the old one had been silent for too long',
  old_ended: 'the old one ended by other means',
  newcomer_ended: 'the new one ended first, and the old one stays',
};

/** `router-1's stream 12`, or `Stream 12 (relay)` where it is nobody's. */
function nodesStream(stream: Stream, nameOf: NameOf, word = 'stream'): string {
  if (stream.machineKey !== undefined) return `${ownerOf(stream, nameOf)}'s ${word} ${stream.id}`;
  const kinds = { control: 'of a node that could not be identified', derp: 'to the relay', other: 'of another kind' };
  return `Stream ${stream.id}, ${kinds[stream.kind]},`;
}

function ownerOf({ machineKey }: Stream, nameOf: NameOf): string {
  if (machineKey === undefined) return 'A node';
  return nameOf(machineKey) ?? shortKey(machineKey);
}

/** A sentence from before the node's name was known, with the name. */
export function withName(sentence: string, key: MachineKey, name: string): string {
  return sentence.replaceAll(shortKey(key), () => name);
}

/** Enough of a key to tell it from others by eye. */
function shortKey(key: MachineKey): string {
  return `${formatMachineKey(key).slice(0, 13)}…`;
}

type HealthEvent = Exclude<
  WatchdogEvent,
  {
    readonly kind:
      | 'stream_opened'
      | 'stream_closed'
      | 'stream_held'
      | 'stream_released'
      | 'stream_severed'
      | 'would_sever'
      | 'contest_opened'
      | 'contest_ended'
      | 'machine_key_duplicated';
  }
>;

/** What happened to the watchdog itself, to Headscale, or to somebody who could not be identified. */
export function healthSentence(event: HealthEvent): string {
  switch (event.kind) {
    case 'handshake_checked':
      return handshakeSentence(event);
    case 'upstream_up':
      return `Headscale is up at ${event.upstream}${event.version === undefined ? '' : `, version ${event.version}`}.`;
    case 'upstream_down':
      return `Headscale cannot be reached at ${event.upstream} (${event.detail}): clients get 502.`;
    case 'upstream_silent':
      return event.silence.on === 'requests'
        ? `Headscale accepts connections at ${event.upstream} but does not answer: clients get 504. See its log and load, and restart it.`
        : `Headscale has said nothing on ${event.silence.silent} of ${event.silence.of} control streams for more than two minutes. Unless they wait for a login it hangs: see its log and load, and restart it.`;
    case 'upstream_not_headscale':
      return `What answers at ${event.upstream} is not Headscale: point --upstream at Headscale's listen_addr.`;
    case 'upstream_refused':
      return event.streamKind === 'control'
        ? `Headscale refused a control stream from ${event.remoteAddress} with ${event.status}: ${whyRefused(event.status)}.`
        : `Headscale refused an upgrade from ${event.remoteAddress} with ${event.status}.`;
    case 'upstream_protocol_mismatched':
      return `Headscale switched a request from ${event.remoteAddress} to ${event.switchedTo || 'no protocol'}, which it was not asked for; the client got 502.`;
    case 'noise_key_checked':
      return event.matches
        ? "The noise key is Headscale's."
        : "The noise key is not Headscale's, so no node can be told apart: point --noise-key at the running Headscale's noise_private.key.";
    case 'nodes_listed':
      return `Headscale lists ${event.nodes} ${event.nodes === 1 ? 'node' : 'nodes'}: they are known by name.`;
    case 'nodes_list_failed':
      return `Headscale's nodes cannot be listed (${event.detail}): the last known names stay.`;
    case 'node_metrics_disabled':
      return `The metrics of single nodes are off: there are more nodes than --metrics-max-nodes, ${event.maxNodes}.`;
    case 'connection_refused':
      return `A connection from ${event.address} was refused: ${event.detail}.`;
    case 'limit_reached':
      return `A limit was reached, ${event.limit.replaceAll('_', ' ')}${event.address === undefined ? '' : ` (${event.address})`}: ${event.detail}.`;
    case 'drain_started':
      return `The watchdog is stopping: ${event.streams} ${event.streams === 1 ? 'stream ends' : 'streams end'} ${event.overMs === 0 ? 'at once' : `one by one over ${span(event.overMs)}`}.`;
    case 'drain_ended':
      return `The watchdog has stopped; all streams had ended after ${span(event.tookMs)}.`;
    case 'redis_up':
      return `Redis is up at ${event.url}: the watchdogs that use it know of each other's streams.`;
    case 'redis_down':
      return `Redis cannot be used at ${event.url} (${event.detail}): this watchdog goes on alone.`;
    case 'replica_message_rejected':
      return `A message in Redis at ${event.url} was not believed: another watchdog there reads another noise key, or somebody else writes there.`;
    case 'proxy_not_trusted':
    case 'client_addresses_hidden':
    case 'upgrade_header_lost':
      return frontProxySentence(event);
    case 'internal_error':
      return `An error of the watchdog while ${event.during} (${reasonOf(event.error)}): traffic flows on, see its log.`;
    default:
      return settingsSentence(event);
  }
}

/** Also in the log, in `/overview` and in what `check` says: each says what to do. */
export function frontProxySentence(event: FrontProxyEvent): string {
  const { address } = event;
  switch (event.kind) {
    case 'proxy_not_trusted': {
      const dropped = `so the header is ignored and every client behind it counts as ${address}`;
      const what = event.isEngine
        ? `${address} sends ${event.header} and is not trusted, ${dropped}. It is an address or a gateway of this machine, so these connections most likely come through a proxy of the container engine: publish the port on 127.0.0.1 only, so that nobody but your own proxy can use it`
        : `${address} sends ${event.header} and is not trusted, ${dropped}. If it is your proxy`;
      return `${what}${event.isEngine ? ', and' : ','} set --trusted-proxies ${event.setting}.`;
    }
    case 'client_addresses_hidden':
      return hiddenSentence(event);
    case 'upgrade_header_lost': {
      const from = event.isTrusted ? `the proxy at ${address}` : address;
      const lost = event.header === 'upgrade' ? 'Upgrade' : 'X-Tailscale-Handshake';
      return `A request for /ts2021 from ${from} has no ${lost} header, so no node can log in with it. A proxy in front of the watchdog must pass on Upgrade, Connection and X-Tailscale-Handshake, with HTTP/1.1 (nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;): see docs/proxies.md.`;
    }
    default:
      return event satisfies never;
  }
}

function hiddenSentence({
  address,
  isTrusted,
  isEngine,
}: Extract<FrontProxyEvent, { readonly kind: 'client_addresses_hidden' }>): string {
  const many = `Several nodes come from ${address}, so their own addresses are not known`;
  if (isEngine) {
    return `${many}. It is an address or a gateway of this machine: a proxy of the container engine (docker-proxy, rootless Docker, slirp4netns, pasta) puts its own address there. Use the host's network for the watchdog's container, or put a proxy on the host in front that sends X-Forwarded-For: see docs/proxies.md.`;
  }
  if (isTrusted) {
    return `${many}: the proxy there is trusted, and says nothing of its clients. Have it send X-Forwarded-For (HAProxy: option forwardfor) or the PROXY protocol: see docs/proxies.md.`;
  }
  return `${many}. A proxy of the container engine (docker-proxy, rootless Docker, slirp4netns, pasta), a NAT or a proxy that sends no X-Forwarded-For puts its own address there: see docs/proxies.md.`;
}

type SettingsEvent = Extract<
  HealthEvent,
  { readonly kind: 'key_file_reloaded' | 'key_file_reload_failed' | 'settings_reloaded' | 'settings_reload_failed' }
>;

function settingsSentence(event: SettingsEvent): string {
  switch (event.kind) {
    case 'key_file_reloaded':
      return `The ${event.key} was read again, since its file has changed.`;
    case 'key_file_reload_failed':
      return `A key file has changed and cannot be used, so the key in use stays: ${event.problem}.`;
    case 'settings_reloaded': {
      const changed = event.changes.length === 0 ? 'no setting has changed' : event.changes.join(', ');
      const waiting =
        event.needRestart.length === 0 ? '' : `; these wait for a restart: ${event.needRestart.join(', ')}`;
      return `The settings were reloaded: ${changed}${waiting}.`;
    }
    case 'settings_reload_failed':
      return `The settings were not reloaded, and nothing has changed: ${event.problems.join('; ')}.`;
    default:
      return event satisfies never;
  }
}

function handshakeSentence(event: Extract<WatchdogEvent, { readonly kind: 'handshake_checked' }>): string {
  const { result, remoteAddress, detail } = event;
  const passedOn = 'it was passed on without knowing whose it is';
  switch (result) {
    case 'identified':
      return `A handshake from ${remoteAddress} was read.`;
    case 'unreadable':
      return `A handshake from ${remoteAddress} could not be read${detail === undefined ? '' : ` (${detail})`}: ${passedOn}.`;
    case 'missing':
      return `A connection from ${remoteAddress} had no handshake: ${passedOn}.`;
    case 'replayed':
      return `A handshake from ${remoteAddress} had been seen before: ${passedOn}.`;
    default:
      return result satisfies never;
  }
}
