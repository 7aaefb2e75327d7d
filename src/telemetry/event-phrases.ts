import { formatMachineKey, type MachineKey } from '../identity/keys.ts';
import { span } from '../lib/units.ts';
import type {
  ContestVerdict,
  EventOf,
  HandshakeResult,
  Limit,
  RefusalReason,
  ReleaseReason,
} from '../streams/events.ts';
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

/** @returns the name of a machine key's node; undefined while Headscale has not listed it. */
export type NameOf = (key: MachineKey) => string | undefined;

/** What an event is about. The log, `/events` and the page use these names. */
export interface EventSubject {
  readonly machineKey?: MachineKey | undefined;
  readonly stream?: StreamId;
  readonly streamKind?: StreamKind;
  /** The newcomer for which this stream was severed, or the old stream of a contest. */
  readonly otherStream?: StreamId;
  /** `address:port`. The address alone if the event is about more than one connection. */
  readonly remoteAddress?: string | undefined;
  /** An identifier: a close reason, a verdict, a limit, … */
  readonly reason?: string;
  /** Time since the client's last byte. */
  readonly silentMs?: number;
  readonly kernel?: KernelEvidence | undefined;
}

/** `router-1's stream 12`, or `Stream 12 (relay)` if it belongs to no node. */
export function streamOf(stream: Stream, nameOf: NameOf, word = 'stream'): string {
  if (stream.machineKey !== undefined) return `${nodeOf(stream, nameOf)}'s ${word} ${stream.id}`;
  const kinds = { control: 'node not identified', derp: 'relay', other: 'other upgrade' };
  return `Stream ${stream.id} (${kinds[stream.kind]})`;
}

export function nodeOf({ machineKey }: Stream, nameOf: NameOf): string {
  return machineKey === undefined ? 'A node' : nameOrKey(machineKey, nameOf);
}

/** The node's name, or the first digits of the key, enough to tell it from others. */
function nameOrKey(key: MachineKey, nameOf: NameOf): string {
  return nameOf(key) ?? `${formatMachineKey(key).slice(0, 13)}…`;
}

/** `1 node`, `3 nodes`. */
export function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

/** The addresses of two machines with one key. They are equal if both machines are behind one NAT or proxy. */
function machinesAt([one, other]: readonly [string, string]): string {
  return one === other ? `two machines at ${one}` : `two machines, at ${one} and ${other},`;
}

export function describeDisagreement(event: EventOf<'node_disagrees'>): string {
  const { machineKey, node, disagreement, issue, forMs, stream, lastSignAgoMs, isEnded } = event;
  const name = nameOrKey(machineKey, () => node.name || undefined);
  const its = stream === undefined ? 'stream' : `stream ${stream.id} from ${stream.remoteAddress}`;
  const known = issue === undefined ? '' : ` (Headscale's issue ${issue})`;
  // `heal` acts only where this version of Headscale has a known issue.
  const heal = issue === undefined ? '' : ', or let --reconcile heal do it';
  switch (disagreement) {
    case 'shown_offline': {
      const sign = lastSignAgoMs === undefined ? '' : `, last sign of life ${span(lastSignAgoMs)} ago`;
      const what = `${name} is connected (${its}${sign}), but Headscale has shown it as offline for ${span(forMs)}${known}`;
      return isEnded
        ? `${what}. The stream is ended, so that the node comes back and Headscale notices.`
        : `${what}. Sever the stream to set Headscale right${heal}.`;
    }
    case 'shown_online':
      return `Headscale has shown ${name} as online for ${span(forMs)}, but it has no stream here: it reaches Headscale by another way, or Headscale still holds an old session of it.`;
    case 'deleted': {
      const what = `${name} was deleted in Headscale, but its ${its} is still open${known}`;
      return isEnded ? `${what}. It is ended now.` : `${what}. Sever it, so that the node notices${heal}.`;
    }
    default:
      return disagreement satisfies never;
  }
}

export function describeDuplicate(event: EventOf<'machine_key_duplicated'>, nameOf: NameOf): string {
  const { machineKey, addresses, restMs } = event;
  return `Duplicate machine key: ${machinesAt(addresses)} use the machine key of ${nameOrKey(machineKey, nameOf)} and keep ending each other's streams. Delete tailscaled's state on the clone, and log it in again. For the next ${span(restMs)}, silence alone severs no stream of this key.`;
}

export function describeReload({ changes, needRestart }: EventOf<'settings_reloaded'>): string {
  const changed = changes.length === 0 ? 'nothing has changed' : changes.join(', ');
  const waiting = needRestart.length === 0 ? '' : ` These wait for a restart: ${needRestart.join(', ')}.`;
  return `Settings reloaded: ${changed}.${waiting}`;
}

export function describeSilence({ upstream, silence }: EventOf<'upstream_silent'>): string {
  return silence.on === 'requests'
    ? `Headscale accepts connections at ${upstream} but does not answer: clients get 504. Check its log and its load, and restart it.`
    : `Headscale has sent nothing on ${silence.silent} of ${silence.of} control streams for more than two minutes. Unless these nodes wait for a login, it hangs: check its log and its load, and restart it.`;
}

const UNIDENTIFIED: Readonly<Record<Exclude<HandshakeResult, 'identified'>, string>> = {
  unreadable: 'could not be read',
  missing: 'is missing',
  replayed: 'has been seen before',
};

export function describeHandshake({ result, remoteAddress, detail }: EventOf<'handshake_checked'>): string {
  if (result === 'identified') return `The handshake from ${remoteAddress} was read.`;
  const why = detail === undefined ? '' : ` (${detail})`;
  return `The handshake from ${remoteAddress} ${UNIDENTIFIED[result]}${why}: the connection goes to Headscale unidentified.`;
}

export const RELEASED: Readonly<Record<ReleaseReason, string>> = {
  old_streams_answered: 'the old stream is alive',
  old_streams_ended: 'the old stream has ended',
  hold_over: 'the old stream had no verdict in time',
  error: 'an internal error ended the hold',
};

export const WOULD_SEVER: Readonly<Record<SeverReason, string>> = {
  dead: 'nobody answers at its other end, and the node is back on a new stream',
  left: 'its client has closed its connection to the proxy in front, and the node is back on a new stream',
  silent: 'its client has been silent for longer than silent-after, and the node is back on a new stream',
  gone: 'its client has acknowledged nothing for as long as gone-after allows, or has left the proxy in front',
  upstream_silent: 'Headscale has sent nothing on it for more than two minutes',
  surplus: 'its node has too many streams, and this one has no session or has been silent for longest',
  shown_offline: 'Headscale shows its node as offline although it is connected',
  node_deleted: 'its node was deleted in Headscale',
};

export const VERDICT: Readonly<Record<ContestVerdict, string>> = {
  dead: 'the old stream was dead',
  left: "the old stream's client had left the proxy in front",
  silent: 'the old stream had been silent for too long',
  old_ended: 'the old stream ended by itself',
  newcomer_ended: 'the new stream ended first, and the old one stays',
};

const WHY_CLOSED: Readonly<Record<CloseReason, string>> = {
  client_closed: 'ended: the client closed it',
  client_error: "ended: the client's connection broke",
  client_left_early: 'ended: the client left before Headscale answered',
  upstream_closed: 'ended: Headscale closed it',
  upstream_error: 'ended: the connection to Headscale broke',
  upstream_refused: 'ended: Headscale refused it',
  upstream_unreachable: 'ended: Headscale could not be reached',
  upstream_unanswered: 'ended: Headscale accepted the connection but did not answer',
  surplus: 'was closed: its node had too many streams, and this one had no session or had been silent for longest',
  limit: 'ended: it waited too long for its turn at Headscale, and the client tries again',
  client_left: 'ended: the client had closed its connection to the proxy in front, and the node was back',
  severed_dead: 'is closed: it was severed because nobody answered at its other end and the node was back',
  severed_silent: 'is closed: it was severed because its client was silent for too long and the node was back',
  severed_by_operator: 'was severed by an operator',
  gone: 'was severed as gone: its client acknowledged neither data nor probes for as long as gone-after allows',
  not_reading:
    "was severed: the client's machine answered, but the client read nothing for as long as gone-after allows, as a frozen program does",
  upstream_silent: 'was severed: Headscale had sent nothing on it for more than two minutes',
  shown_offline: 'was severed: Headscale showed its node as offline, although it was connected',
  node_deleted: 'was severed: its node was deleted in Headscale',
  shutdown: 'ended: the watchdog stopped',
  not_handed_over: 'ended: it could not go to the new process',
  handover_failed: 'ended with the new process that had taken it over',
};

export function describeSevering(event: EventOf<'stream_severed'>, nameOf: NameOf): string {
  const { stream, newcomer, reason, silentMs, silentAfterMs, source, kernel } = event;
  const what = `${streamOf(stream, nameOf, 'old stream')} from ${stream.remoteAddress} was severed`;
  const back = `the node is back on stream ${newcomer.id} from ${newcomer.remoteAddress}`;
  if (reason === 'dead') return `${what}: ${whyDead(event)}, and ${back}.`;
  const frozen =
    source?.kind !== 'proxy' && kernel?.unansweredProbes === 0
      ? ' (its kernel still answered, as it does for a frozen program)'
      : '';
  return `${what}: its client had sent nothing for ${span(silentMs)}, longer than silent-after (${span(silentAfterMs)})${frozen}, and ${back}.`;
}

function whyDead({ source, kernel, contestedMs }: EventOf<'stream_severed'>): string {
  if (kernel === undefined) return 'its kernel no longer answered';
  if (source?.kind === 'proxy') return whatProxyShows(source, kernel);
  const { unansweredProbes, retransmits, unackedSegments, receivedAgoMs } = kernel;
  const last = `its last sign of life was ${span(receivedAgoMs)} ago`;
  if (unackedSegments > 0 && retransmits >= 2) {
    return `its kernel acknowledged nothing through ${retransmits} retransmissions (${last})`;
  }
  return `its kernel answered none of the last ${unansweredProbes} probes, ${span(contestedMs)} after the node had come back (${last})`;
}

export function describeClosing(
  { stream, reason, lifetimeMs, gone }: EventOf<'stream_closed'>,
  nameOf: NameOf,
): string {
  const why =
    gone?.kernel === undefined
      ? WHY_CLOSED[reason]
      : `was severed as gone: ${whatProxyShows(gone.source, gone.kernel)}`;
  return `${streamOf(stream, nameOf)} from ${stream.remoteAddress} ${why} (it lasted ${span(lifetimeMs)}).`;
}

/** Why a client behind a proxy is gone, as its connection to that proxy shows, or every connection that may be its. */
function whatProxyShows(source: EvidenceSource, kernel: KernelEvidence): string {
  const [by, user] = source.kind === 'proxy' ? [source.by, source.user] : ['address', 'unknown'];
  const proxy = `the proxy (user ${user})`;
  const { ended, unackedSegments, retransmits, unansweredProbes, receivedAgoMs } = kernel;
  if (ended) {
    return by === 'port'
      ? `its client's connection to ${proxy} has ended`
      : `every connection from its client's address to ${proxy} has ended`;
  }
  const where = by === 'port' ? `on its connection to ${proxy}` : `on any connection from its address to ${proxy}`;
  const last = `its last sign of life was ${span(receivedAgoMs)} ago`;
  return unackedSegments > 0 && retransmits > 0
    ? `its kernel acknowledged nothing through ${count(retransmits, 'retransmission')} ${where}; ${last}`
    : `its kernel did not answer the last ${count(unansweredProbes, 'probe')} ${where}; ${last}`;
}

/** Why nothing is known about the clients of a proxy, and what to do. */
const HIDDEN: Readonly<Record<NoEvidence, readonly [why: string, advice: string]>> = {
  kernel_unavailable: ['Linux cannot be asked here', 'Run the watchdog on Linux, with the package koffi.'],
  netlink_unavailable: ['Linux cannot be asked about its connections', 'Allow netlink sockets.'],
  proxy_elsewhere: [
    'it runs on another machine or in another network namespace',
    "Run the watchdog in the proxy's network namespace (Compose: network_mode: service:NAME), or on its machine.",
  ],
  several_proxies: [
    'another proxy stands in front of it, and only that one sees them',
    'Put the watchdog directly behind the outermost proxy.',
  ],
  address_hidden: ['it does not say who they are', 'Have it send X-Forwarded-For or the PROXY protocol.'],
  socket_not_found: [
    'it has no connection with the client that it names',
    'Have it send the address and port of its own client, and not what another proxy has told it.',
  ],
};

export function describeHiddenSockets({ address, reason, detail }: EventOf<'proxy_sockets_hidden'>): string {
  const [why, advice] = HIDDEN[reason];
  const because = detail === undefined ? why : `${why} (${detail})`;
  const effect = '--gone-after does nothing for them, and a dead stream is severed only after --silent-after';
  return `The watchdog cannot see clients of the proxy at ${address}, because ${because}. So ${effect}. ${advice} See docs/proxies.md.`;
}

export function describeFoundSockets({ address, user, by }: EventOf<'proxy_sockets_found'>): string {
  const what = `Linux shows the connections between the proxy at ${address} (user ${user}) and its clients, so the watchdog notices when a client vanishes`;
  if (by === 'port') return `${what}. The proxy sends each client's port, so every client counts for itself.`;
  return `${what}. The proxy does not send the client's port, so all connections from a client's address count: if several nodes share an address, a dead stream stays while one of them is alive. See docs/proxies.md for the line that sends the port.`;
}

export function describeRefusal({ reason, address, detail }: EventOf<'connection_refused'>): string {
  const what: Readonly<Record<RefusalReason, string>> = {
    untrusted_proxy: `a connection from ${address}`,
    bad_proxy_header: `a connection from ${address} without a readable PROXY protocol header`,
    unexpected_proxy_header: `a connection from ${address}`,
    tls_handshake: `a TLS handshake from ${address}`,
    bad_request: `a request from ${address} with 400`,
  };
  return `Refused ${what[reason]}: ${detail}.`;
}

/** For each limit: what there is too much of, what happens to it, and which setting is the limit. */
const LIMITED: Readonly<Record<Limit, readonly [what: string, effect: string, setting: string]>> = {
  connections: ['Too many connections', 'new ones are closed', '--max-connections'],
  connections_per_address: [
    'Too many connections from one address',
    'new ones are closed',
    '--max-connections-per-address',
  ],
  handshakes: ['Too many handshakes', 'new ones get 503', '--max-handshakes'],
  handshakes_per_address: ['Too many handshakes from one address', 'new ones get 503', '--max-handshakes-per-address'],
  streams_per_node: [
    'Too many streams of one machine key',
    'each new one ends an older one: first one without a session, then the one that has been silent for longest',
    '--max-streams-per-node',
  ],
  held: ['Too many held streams', 'new ones go to Headscale at once', '--max-held'],
  body: ['A request body is too large', 'the client gets 413', '--max-body-size'],
  upstream_rate: [
    'A new stream waited too long for its turn at Headscale',
    'the client gets 503 and tries again',
    '--upstream-rate',
  ],
};

export function describeHandover({ pid, moved, stayed, tookMs }: EventOf<'handover_ended'>): string {
  const rest =
    stayed === 0
      ? ''
      : ` ${count(stayed, 'stream')} cannot go, and ${stayed === 1 ? 'stays' : 'stay'} here until --drain has passed: docs/operating.md says which.`;
  return `Handed over to process ${pid} in ${span(tookMs)}: ${count(moved, 'stream')} went on without an interruption.${rest}`;
}

export function describeFailedHandover({ problems, lost }: EventOf<'handover_failed'>): string {
  const effect =
    lost === 0
      ? 'Nothing has changed, and this process goes on'
      : `This process goes on, but ${count(lost, 'stream')} ended with the new one`;
  return `Not handed over: ${problems.join('; ')}. ${effect}.`;
}

export function describeDrain({ streams, overMs, isShortened }: EventOf<'drain_started'>): string {
  const stopping = 'Draining: no new connections are accepted';
  if (streams === 0) return `${stopping}, and no stream is open.`;
  if (overMs === 0) return `${stopping}, and ${count(streams, 'stream')} end now.`;
  const shortened = isShortened ? ' The drain is shortened, because new clients wait in the inherited socket.' : '';
  return `${stopping}, and ${count(streams, 'stream')} end one by one over ${span(overMs)}. A second signal ends all of them now.${shortened}`;
}

export function describeUntrustedProxy(event: EventOf<'proxy_not_trusted'>): string {
  const { address, header, setting, isEngine } = event;
  const what = `${address} sends ${header} and is not trusted, so the header is ignored and every client behind it counts as ${address}`;
  if (!isEngine) return `${what}. If it is your proxy, set --trusted-proxies ${setting}.`;
  return `${what}. It is an address or a gateway of this machine, so these connections most likely come through a proxy of the container engine: publish the port on 127.0.0.1 only, so that nobody but your own proxy can use it, and set --trusted-proxies ${setting}.`;
}

export function describeHiddenAddresses(event: EventOf<'client_addresses_hidden'>): string {
  const { address, isTrusted, isEngine } = event;
  const many = `Several nodes come from ${address}, so their own addresses are unknown`;
  if (isEngine) {
    return `${many}. It is an address or a gateway of this machine: a proxy of the container engine (docker-proxy, rootless Docker, slirp4netns, pasta) puts its own address there. Use the host's network for the watchdog's container, or put a proxy on the host in front that sends X-Forwarded-For: see docs/proxies.md.`;
  }
  if (isTrusted) {
    return `${many}: the proxy there is trusted, and says nothing of its clients. Have it send X-Forwarded-For (HAProxy: option forwardfor) or the PROXY protocol: see docs/proxies.md.`;
  }
  return `${many}. A proxy of the container engine (docker-proxy, rootless Docker, slirp4netns, pasta), a NAT or a proxy that sends no X-Forwarded-For puts its own address there: see docs/proxies.md.`;
}

export function describeLostHeader({ address, header, isTrusted }: EventOf<'upgrade_header_lost'>): string {
  const from = isTrusted ? `the proxy at ${address}` : address;
  const lost = header === 'upgrade' ? 'Upgrade' : 'X-Tailscale-Handshake';
  return `A request for /ts2021 from ${from} has no ${lost} header, so no node can log in with it. A proxy in front of the watchdog must pass on Upgrade, Connection and X-Tailscale-Handshake, with HTTP/1.1 (nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;): see docs/proxies.md.`;
}

/** Why a control stream gets this answer, from Headscale or from something in its place, and what to do. */
function whyUpstreamRefused(status: number): string {
  if (status >= 300 && status < 400) {
    return 'this is a redirect, and nodes do not follow it; point --upstream at the address where Headscale itself answers';
  }
  switch (status) {
    case 400:
      return 'the Upgrade header or the handshake is missing or damaged; every proxy on the way must pass on Upgrade and X-Tailscale-Handshake unchanged';
    case 401:
    case 403:
      return 'something asks for a login that nodes cannot give; let /ts2021 through without a login';
    case 404:
      return "there is no /ts2021 here, so this is not Headscale; point --upstream at Headscale's listen_addr";
    case 405:
      return 'this Headscale takes no WebSocket, which browsers need; use Headscale 0.24 to 0.28, or 0.29.2 or later. If other clients get this too, a proxy behind --upstream does not allow POST';
    case 500:
      return "Headscale saw no Upgrade header, or failed; a proxy between the watchdog and Headscale must pass on Upgrade, and Headscale's log says more";
    case 429:
      return 'a proxy behind --upstream limits the rate; let /ts2021 through without a limit';
    case 502:
    case 503:
    case 504:
      return 'a proxy behind --upstream does not reach Headscale; point --upstream at Headscale itself, or fix that proxy';
    default:
      return "this answer is unexpected; point --upstream at Headscale's listen_addr, and see Headscale's log";
  }
}

/** Puts the node's name into a sentence that was written before the name was known. */
export function withName(sentence: string, key: MachineKey, name: string): string {
  return sentence.replaceAll(
    nameOrKey(key, () => undefined),
    () => name,
  );
}

export function describeLimit({ limit, address, detail }: EventOf<'limit_reached'>): string {
  const [what, effect, setting] = LIMITED[limit];
  return `${what}${address === undefined ? '' : `, last from ${address}`} (${detail}): ${effect}. See ${setting}.`;
}

export function describeUpstreamRefusal({ streamKind, status, remoteAddress }: EventOf<'upstream_refused'>): string {
  return streamKind === 'control'
    ? `Headscale refused a control stream with ${status}, so the node at ${remoteAddress} is cut off: ${whyUpstreamRefused(status)}.`
    : `Headscale refused an upgrade from ${remoteAddress} with ${status}.`;
}

export type HistoryFileEvent = EventOf<'history_file_read' | 'history_file_failed' | 'history_file_recovered'>;

export function describeHistoryFile(event: HistoryFileEvent): string {
  if (event.kind === 'history_file_failed') {
    return `The history file ${event.path} cannot be written (${event.detail}). The watchdog goes on without it, and tries again every ten seconds.`;
  }
  if (event.kind === 'history_file_recovered') {
    const loss = event.lost === 0 ? ', and nothing was lost' : `, but lacks ${count(event.lost, 'record')}`;
    return `The history file ${event.path} can be written again${loss}.`;
  }
  const left = event.skipped === 0 ? '' : `; ${count(event.skipped, 'line')} could not be read`;
  return `Read ${count(event.events, 'event')} and the presence of nodes from the history file ${event.path} in ${span(event.tookMs)}${left}.`;
}
