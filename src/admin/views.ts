import { z } from 'zod';
import { NODE_STATES } from '../nodes/presence.ts';
import { DISAGREEMENTS, type Silence } from '../streams/events.ts';
import { CLOSE_REASONS, type EvidenceSource, type NoEvidence, SEVER_REASONS } from '../streams/stream.ts';
import { LEVELS } from '../telemetry/event-rows.ts';
import {
  count,
  errorCode,
  eventKind,
  machineKey,
  milliseconds,
  next,
  nodeKey,
  replica,
  streamId,
  streamKind,
  streamState,
  time,
  type View,
} from './schemas.ts';

/*
 * The answers of the admin API, for the server that gives them, the commands and the status page. The types come from the
 * schemas, and so does the description in openapi.json, so they cannot differ. Times are ISO 8601, and null is what is unknown
 * or does not apply.
 *
 * The running watchdog uses only the types. It never loads the schemas or zod.
 */

const nodeView = z
  .strictObject({ id: z.string(), name: z.string(), user: z.string(), nodeKey })
  .meta({ id: 'NodeName', description: 'A node as Headscale lists it.' });

export type NodeView = View<typeof nodeView>;

const evidenceView = z
  .strictObject({
    source: z.enum(['direct', 'proxy', 'none'] satisfies readonly EvidenceSource['kind'][]),
    by: z.enum(['port', 'address']).nullable().describe("How the proxy's connection to the client was found."),
    user: z.string().nullable().describe('The user that the proxy runs as.'),
    reason: z
      .enum([
        ...(['kernel_unavailable', 'netlink_unavailable', 'proxy_elsewhere'] satisfies readonly NoEvidence[]),
        ...(['several_proxies', 'address_hidden', 'socket_not_found'] satisfies readonly NoEvidence[]),
      ])
      .nullable()
      .describe('Why there is no evidence.'),
  })
  .meta({ id: 'Evidence', description: "Where the evidence about a stream's client comes from." });

export type EvidenceView = View<typeof evidenceView>;

const kernelView = z
  .strictObject({
    unackedSegments: count.describe('Segments that were sent and are not acknowledged yet.'),
    unsentBytes: count.describe("Bytes not sent yet: Linux will send them next, or the client's window is full."),
    ackedBytes: count.describe('Bytes that the client has acknowledged so far.'),
    retransmits: count.describe('Retransmission timeouts in a row.'),
    unansweredProbes: count.describe('Probes in a row that were not answered.'),
    receivedAgoMs: milliseconds.describe("Time since the client's kernel last sent any segment."),
    rttMs: milliseconds.describe('The round trip.'),
    rttvarMs: milliseconds.describe('How much the round trip varies.'),
    ended: z.boolean().exactOptional().describe("Only of a proxy's connection: the client has left it."),
    nextProbeInMs: milliseconds
      .exactOptional()
      .describe("Only of a proxy's connection: when the proxy probes next, if it does."),
  })
  .meta({ id: 'Kernel', description: "What Linux knows about a client's TCP connection." });

const streamContestView = z
  .strictObject({
    role: z.enum(['old', 'newcomer']),
    otherStream: streamId,
    otherReplica: z.string().nullable(),
    openedAt: time,
    waitingFor: z
      .string()
      .nullable()
      .describe(
        'What the verdict waits for: `silence` (of the old client), `settling` (the new stream must prove to be real) or `guard` (two machines may use the key).',
      ),
    until: time.nullable().describe('When there will be a verdict.'),
  })
  .meta({ id: 'Contest', description: 'A contest, seen from one of its two streams.' });

const streamView = z
  .strictObject({
    id: streamId,
    replica,
    kind: streamKind,
    machineKey: machineKey.nullable(),
    node: nodeView.nullable(),
    capabilityVersion: count.nullable().describe("Tailscale's number for what the client can, from its handshake."),
    remoteAddress: z.string(),
    openedAt: time,
    lastHeardAt: time.describe('When the client last sent a byte.'),
    upstreamLastHeardAt: time.nullable().describe('When Headscale last sent a byte.'),
    bytesReceived: count,
    bytesSent: count,
    state: streamState,
    heldUntil: time.nullable(),
    closeReason: z.enum(CLOSE_REASONS).nullable().describe('Why a stream with the state `closing` ends.'),
    wouldSever: z
      .enum(SEVER_REASONS)
      .nullable()
      .describe('Why the watchdog would sever the stream if it did more than observe.'),
    evidence: evidenceView,
    kernel: kernelView.nullable().describe('For a client behind a proxy, it may be some seconds old.'),
    contests: z.array(streamContestView),
  })
  .meta({ id: 'Stream', description: 'One upgraded connection.' });

export type StreamView = View<typeof streamView>;

export const streamList = z
  .strictObject({ total: count.describe('How many match.'), next, streams: z.array(streamView) })
  .meta({ id: 'Streams' });

export type StreamList = View<typeof streamList>;

export const eventView = z
  .strictObject({
    seq: z.int().min(1).describe('Counts up, with gaps.'),
    time,
    level: z.enum(LEVELS),
    code: errorCode.nullable().describe('Of a warning or an error.'),
    kind: eventKind,
    machineKey: machineKey.nullable(),
    node: nodeView.nullable(),
    stream: streamId.nullable(),
    streamKind: streamKind.nullable(),
    otherStream: streamId
      .nullable()
      .describe('The old stream of a contest, or the newcomer for which a stream was severed.'),
    remoteAddress: z.string().nullable(),
    reason: z.string().nullable().describe('An identifier: a close reason, a verdict, a limit, …'),
    silentMs: milliseconds.nullable().describe("Since the client's last byte."),
    kernel: kernelView.nullable(),
    sentence: z.string().describe('What happened and why.'),
  })
  .meta({ id: 'Event' });

export type EventView = View<typeof eventView>;

export const eventList = z
  .strictObject({
    lastSeq: count.describe('The `seq` of the newest event of all.'),
    next: z.string().describe('Give it as `after=` to get the events after these, now or later.'),
    since: time.nullable().describe('From when on events were asked for.'),
    knownSince: time.describe('Earlier events are not kept, or not all of them.'),
    fromFile: z.boolean().describe('Whether the watchdog keeps events in a file, so that they outlive a restart.'),
    events: z.array(eventView).describe('Oldest first.'),
  })
  .meta({ id: 'Events' });

export type EventList = View<typeof eventList>;

const nodeStreamView = z
  .strictObject({ id: streamId, replica, state: streamState, evidence: evidenceView })
  .meta({ id: 'NodeStream', description: 'A control stream of a node. `/streams` shows the rest.' });

const presenceView = z
  .strictObject({
    machineKey,
    id: z.string().nullable(),
    name: z.string().nullable(),
    user: z.string().nullable(),
    nodeKey: nodeKey.nullable(),
    others: z.array(nodeView).describe("The machine's other nodes, while it is not clear which one is active."),
    addresses: z.array(z.string()).describe('In the tailnet.'),
    tags: z.array(z.string()),
    os: z.string().nullable(),
    clientVersion: z.string().nullable().describe("Tailscale's version."),
    capabilityVersion: count.nullable().describe('From the newest handshake of an open stream.'),
    isEphemeral: z.boolean().nullable(),
    state: z.enum(NODE_STATES),
    disagreement: z.enum(DISAGREEMENTS).nullable().describe('How the watchdog and Headscale disagree about it.'),
    connectedSince: time.nullable().describe('Since when it has had an open stream without a gap.'),
    remoteAddress: z.string().nullable().describe('Of its newest stream.'),
    rttMs: milliseconds.nullable(),
    evidence: evidenceView.nullable(),
    lastSignAt: time.nullable().describe('When the watchdog last had a sign of it.'),
    isContested: z.boolean().describe('Whether one of its streams is contested.'),
    isDuplicate: z.boolean().describe('Whether two machines use its machine key.'),
    suspectedSince: time
      .nullable()
      .describe(
        'Since when two machines may use its machine key. The watchdog waits longer before it severs its streams, to find out.',
      ),
    shownOnline: z.boolean().nullable().describe('Whether Headscale shows it as online.'),
    shownLastSeenAt: time.nullable().describe('When Headscale last saw it.'),
    keyExpiresAt: time.nullable(),
    streams: z.array(nodeStreamView).describe('Oldest first.'),
  })
  .meta({ id: 'Node', description: 'A node that Headscale lists, or a machine key that has a stream or had one.' });

export type PresenceView = View<typeof presenceView>;

const policyView = z
  .strictObject({
    rule: z.int().min(1).nullable().describe("The rule that matches, by its place in the file's `nodes:`, from 1."),
    isCertain: z
      .boolean()
      .describe('False while it is not clear which rule applies. The most careful values count then.'),
    silentAfterMs: milliseconds,
    goneAfterMs: milliseconds.describe('0: never.'),
    probeIdleMs: milliseconds.describe('0: never.'),
    hold: z.string().describe('`auto`, `off`, or the longest time: `4s`.'),
    observeOnly: z.boolean(),
    offlineAfterMs: milliseconds.describe('0: never.'),
    from: z
      .strictObject({
        ...{ silentAfterMs: z.string(), goneAfterMs: z.string(), probeIdleMs: z.string(), hold: z.string() },
        ...{ observeOnly: z.string(), offlineAfterMs: z.string() },
      })
      .describe('Where each comes from: `default`, a flag, a variable, a line of the file, or a rule and its line.'),
  })
  .meta({ id: 'Policy', description: 'The settings that apply to a node.' });

export type PolicyView = View<typeof policyView>;

export const nodeDetail = presenceView
  .extend({ policy: policyView })
  .meta({ id: 'NodeDetail', description: 'One node.' });

export type NodeDetail = View<typeof nodeDetail>;

export const nodeList = z
  .strictObject({ total: count.describe('How many match.'), next, nodes: z.array(presenceView) })
  .meta({ id: 'Nodes' });

export type NodeList = View<typeof nodeList>;

const listenAddress = z.strictObject({ address: z.string(), family: z.string(), port: count });

export const readiness = z
  .strictObject({
    ready: z.boolean(),
    draining: z.boolean(),
    listen: z
      .array(listenAddress.nullable())
      .describe('Where clients connect; null for a listener that does not listen.'),
    upstream: z.strictObject({
      url: z.string(),
      up: z.boolean().nullable().describe('Null until the first check has ended.'),
      silentOn: z
        .enum(['requests', 'streams'] satisfies readonly Silence['on'][])
        .nullable()
        .describe('Where Headscale is silent, if it accepts connections and does not answer.'),
      isHeadscale: z.boolean().nullable(),
      detail: z.string().nullable().describe('Why Headscale is down.'),
      version: z.string().nullable(),
    }),
    noiseKeyMatches: z.boolean().nullable(),
  })
  .meta({ id: 'Readiness' });

export type Readiness = View<typeof readiness>;

export const shortReadiness = z
  .strictObject({ ready: z.boolean() })
  .meta({ id: 'ShortReadiness', description: 'The answer to a request without the token.' });

const minute = z.strictObject({
  at: time.describe('When the minute began.'),
  streams: count.describe('The highest number of streams that were open at the same time.'),
  takeovers: count,
  gone: count,
});

const FRONT_PROXY_PROBLEMS = ['proxy_not_trusted', 'client_addresses_hidden', 'upgrade_header_lost'] as const;
const PROBLEM_KINDS = [
  ...([
    'upstream_down',
    'upstream_silent',
    'upstream_not_headscale',
    'noise_key_missing',
    'noise_key_mismatch',
  ] as const),
  ...(['machine_keys_duplicated', 'redis_down', 'certificate_expiring', 'certificate_self_signed'] as const),
  ...FRONT_PROXY_PROBLEMS,
  ...([
    'evidence_missing',
    'observe_only',
    'draining',
    'limit_reached',
    'nodes_list_failed',
    'settings_reload_failed',
  ] as const),
  ...(['key_file_reload_failed', 'notifications_failing', 'history_file_failed'] as const),
] as const;

export type ProblemKind = (typeof PROBLEM_KINDS)[number];

const standingProblem = z
  .strictObject({
    kind: z.enum(PROBLEM_KINDS),
    level: z.enum(['info', 'warn', 'error']).describe('`info` is what somebody should know but need not fix.'),
    code: errorCode.nullable(),
    since: time,
    sentence: z.string().describe('What is wrong.'),
    advice: z.string().describe('What to do.'),
  })
  .meta({ id: 'StandingProblem', description: 'Something that is wrong now.' });

export type StandingProblem = View<typeof standingProblem>;

export const overview = readiness
  .extend({
    version: z.string(),
    now: time,
    startedAt: time,
    observeOnly: z.boolean(),
    needsToken: z.boolean().describe('Whether the admin server asks for a token.'),
    mayChange: z.boolean().describe('Whether this request may sever streams and reload.'),
    duplicateKeys: count,
    redisUp: z.boolean().nullable().describe('Null if no Redis is configured.'),
    replica: z.string().nullable().describe('The name of this replica; null if there is only one watchdog.'),
    evidence: z
      .strictObject({ direct: z.boolean(), proxy: z.boolean() })
      .describe('Whether Linux shows the connections of clients and those of proxies.'),
    nodesListedAt: time.nullable().describe('When Headscale was last asked for its nodes and answered.'),
    certificateExpiresAt: time.nullable().describe('Of the certificate that expires first.'),
    descriptors: z.strictObject({ open: count, limit: count }).nullable().describe('Of this process.'),
    problems: z.array(standingProblem).describe('What is wrong now, the worst first.'),
    frontProxies: z
      .array(
        z.strictObject({
          kind: z.enum(FRONT_PROXY_PROBLEMS),
          code: errorCode.nullable(),
          remoteAddress: z.string(),
          sentence: z.string(),
        }),
      )
      .describe('Problems with the proxies in front of the watchdog.'),
    streams: z
      .strictObject({
        ...{ total: count, contested: count },
        ...{ held: count, connecting: count, open: count, closing: count, closed: count },
      })
      .describe('How many there are, how many of them are contested, and how many are in each state.'),
    lastHour: z.strictObject({
      takeovers: count,
      gone: count,
      minutes: z.array(minute).describe('Oldest first; the last one is the current minute.'),
    }),
    lastSeq: count.describe('The `seq` of the newest event.'),
  })
  .meta({ id: 'Overview', description: 'The head of the status page.' });

export type Overview = View<typeof overview>;
