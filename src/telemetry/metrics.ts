import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry as PromRegistry } from 'prom-client';
import type { NodePresence } from '../nodes/presence.ts';
import {
  CONTEST_VERDICTS,
  type FrontProxyEvent,
  HANDSHAKE_RESULTS,
  LIMITS,
  LOST_HEADERS,
  NOTIFICATION_LOSSES,
  REFUSAL_REASONS,
  type WatchdogEvent,
} from '../streams/events.ts';
import { CLOSE_REASONS, type EvidenceSource, SEVER_REASONS, STREAM_KINDS, type Stream } from '../streams/stream.ts';
import { ContinuedMetrics, type MetricsState } from './continued-metrics.ts';
import { createNodeMetrics, createPresenceMetrics } from './node-metrics.ts';
import { NodeSeries, type NodeSeriesSource } from './node-series.ts';

/** Where the gauges get their values at each scrape. */
export interface MetricsSource extends NodeSeriesSource {
  upstreamUp(): boolean | undefined;
  connections(): number;
  held(): number;
  paced(): number;
  /** Undefined without Redis. */
  redisUp(): boolean | undefined;
  keyMatches(): boolean | undefined;
  /** Whether Linux can be asked about clients' connections to us, and to proxies on this machine. */
  readonly evidenceAvailable: { direct(): boolean; proxy(): boolean };
  evidenceSourceOf(stream: Stream): EvidenceSource['kind'];
  readsArePooled(): boolean;
  /** For how many machine keys rule 2 is suspended, because two machines use each. */
  duplicateKeys(): number;
  /** Whether Headscale accepts connections but does not answer; undefined until the first check. */
  upstreamSilent(): boolean | undefined;
  /** On how many control streams Headscale has been silent for longer than it normally is. */
  upstreamSilentStreams(): number;
  /** The problems with proxies in front of the watchdog that still exist. */
  frontProxies(): readonly FrontProxyEvent[];
  /** Every node. Only streams of this watchdog count. */
  presences(): readonly NodePresence[];
  /** Undefined without a history file. */
  historyFile(): { readonly isWorking: boolean; readonly bytes: number } | undefined;
  /** How many notifications wait to be delivered. */
  notificationsWaiting(): number;
  /** When the first of the listeners' certificates expires; undefined if no listener uses TLS. */
  certificateExpires(): Date | undefined;
  readonly version: string;
}

export interface Metrics {
  readonly contentType: string;
  /** The text of `/metrics`. */
  render(): Promise<string>;
  listen(event: WatchdogEvent): void;
  /** All that was counted. @param isElsewhere whether another process has the stream, and counts it. */
  counted(isElsewhere: (stream: Stream) => boolean): Promise<MetricsState>;
  /** Goes on from what another process has counted. Given again, it replaces what was given before. */
  continueFrom(before: MetricsState): void;
  /** Call it when the limit of nodes or the list of nodes may have changed, so that the next scrape has the right series. */
  reconsider(): void;
}

const PREFIX = 'headscale_watchdog_';
const HOLD_BUCKETS = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5];
const CONTEST_BUCKETS = [0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 600];
const LIFETIME_BUCKETS = [1, 10, 60, 600, 3600, 21_600, 86_400, 604_800];

/**
 * All series exist from the start, except those of single nodes. If a counter appeared with its first event, a rate over
 * it would miss that event.
 */
export function createMetrics(source: MetricsSource): Metrics {
  const registers = [new PromRegistry()];
  const [registry] = registers as [PromRegistry];
  const counters = createCounters(registers);
  const histograms = createHistograms(registers);
  createGauges(registers, source);
  const continued = new ContinuedMetrics(Object.values({ ...counters, ...histograms }));
  const series = new NodeSeries(source);
  const process = metricsOfProcess();
  const showNodes = createNodeMetrics(registers, PREFIX);
  const showPresences = createPresenceMetrics(registers, PREFIX);
  return {
    contentType: registry.contentType,
    async render() {
      showNodes(series.rows());
      showPresences(source.presences(), source.maxNodes());
      return (await Promise.all([registry.metrics(), process.metrics()])).join('\n');
    },
    listen(event) {
      count(event, counters, histograms);
      series.listen(event);
    },
    reconsider: () => series.reconsider(),
    counted: async (isElsewhere) => ({ counters: await continued.counted(), nodes: series.counted(isElsewhere) }),
    continueFrom(before) {
      continued.continueFrom(before.counters);
      series.continueFrom(before.nodes);
    },
  };
}

let ofProcess: PromRegistry | undefined;

/**
 * prom-client's metrics of Node and of this process. They are created once per process, even if tests start several
 * watchdogs in it, because each call of `collectDefaultMetrics` leaves an observer behind.
 */
function metricsOfProcess(): PromRegistry {
  if (ofProcess !== undefined) return ofProcess;
  ofProcess = new PromRegistry();
  // Each sample of the event loop wakes the process. At 10 ms, an idle watchdog takes twice the CPU.
  collectDefaultMetrics({ register: ofProcess, eventLoopMonitoringPrecision: 50 });
  // These gauges have the names of counters. Each scrape would visit all handles, two for each stream.
  for (const what of ['handles', 'requests', 'resources']) {
    ofProcess.removeSingleMetric(`nodejs_active_${what}`);
    ofProcess.removeSingleMetric(`nodejs_active_${what}_total`);
  }
  return ofProcess;
}

/** The statuses with a series of their own. All others count as `other`. */
const REFUSED_STATUSES = ['400', '403', '404', '405', '500', '502', '503', '504', 'other'] as const;
type RefusedStatus = (typeof REFUSED_STATUSES)[number];

function refusedStatus(status: number): RefusedStatus {
  const known: readonly string[] = REFUSED_STATUSES;
  return known.includes(String(status)) ? (String(status) as RefusedStatus) : 'other';
}

/** What is counted, each by its labels. */
interface Counters {
  readonly opened: Counter<'kind'>;
  readonly closed: Counter<'kind' | 'reason'>;
  readonly handshakes: Counter<'result'>;
  readonly contests: Counter<'verdict'>;
  readonly takeovers: Counter<'evidence'>;
  readonly wouldSever: Counter<'reason'>;
  readonly refused: Counter<'reason'>;
  readonly upstreamRefused: Counter<'status'>;
  readonly lostHeaders: Counter<'header'>;
  readonly limited: Counter<'limit'>;
  readonly notifications: Counter<'result'>;
  readonly handovers: Counter<'result'>;
  readonly internalErrors: Counter;
}

/** Durations, in seconds. */
interface Histograms {
  readonly hold: Histogram;
  readonly contest: Histogram;
  readonly lifetime: Histogram;
}

function count(event: WatchdogEvent, counters: Counters, histograms: Histograms): void {
  switch (event.kind) {
    case 'handshake_checked':
      counters.handshakes.inc({ result: event.result });
      break;
    case 'stream_opened':
      counters.opened.inc({ kind: event.stream.kind });
      break;
    case 'stream_closed':
      counters.closed.inc({ kind: event.stream.kind, reason: event.reason });
      histograms.lifetime.observe(event.lifetimeMs / 1000);
      break;
    case 'contest_ended':
      counters.contests.inc({ verdict: event.verdict });
      histograms.contest.observe(event.lastedMs / 1000);
      break;
    case 'stream_severed':
      counters.takeovers.inc({ evidence: event.reason === 'dead' ? 'kernel' : 'silence' });
      break;
    case 'would_sever':
      counters.wouldSever.inc({ reason: event.reason });
      break;
    case 'stream_released':
      histograms.hold.observe(event.heldMs / 1000);
      break;
    case 'limit_reached':
      counters.limited.inc({ limit: event.limit });
      break;
    case 'upstream_refused':
      if (event.streamKind === 'control') counters.upstreamRefused.inc({ status: refusedStatus(event.status) });
      break;
    case 'upgrade_header_lost':
      counters.lostHeaders.inc({ header: event.header });
      break;
    case 'connection_refused':
      counters.refused.inc({ reason: event.reason });
      break;
    case 'notification_sent':
    case 'notification_delayed':
      counters.notifications.inc({ result: event.kind === 'notification_sent' ? 'sent' : 'delayed' });
      break;
    case 'notification_dropped':
      counters.notifications.inc({ result: event.reason }, event.count);
      break;
    case 'handover_received':
      counters.handovers.inc({ result: 'done' });
      break;
    case 'handover_failed':
      counters.handovers.inc({ result: 'failed' });
      break;
    case 'internal_error':
      counters.internalErrors.inc();
      break;
    default:
  }
}

function createCounters(registers: PromRegistry[]): Counters {
  const make = <L extends string>(name: string, labelNames: L[], help: string): Counter<L> =>
    new Counter({ name: PREFIX + name, help, labelNames, registers });
  const counters: Counters = {
    opened: make('streams_opened_total', ['kind'], 'Streams opened.'),
    closed: make('streams_closed_total', ['kind', 'reason'], 'Streams closed, by what ended them first.'),
    handshakes: make('handshakes_total', ['result'], 'Handshakes of control streams, by what could be read from them.'),
    contests: make('contests_total', ['verdict'], 'Contests ended, by verdict.'),
    takeovers: make(
      'takeovers_total',
      ['evidence'],
      'Old streams severed for a newcomer, by the evidence against them.',
    ),
    wouldSever: make(
      'would_sever_total',
      ['reason'],
      'Streams that would have been severed, if they were not observe-only.',
    ),
    refused: make(
      'connections_refused_total',
      ['reason'],
      'Connections closed before their first request, or because of a request that can be read in two ways.',
    ),
    upstreamRefused: make(
      'upstream_refused_total',
      ['status'],
      'Control streams that Headscale refused, by the status it answered with.',
    ),
    lostHeaders: make(
      'upgrade_headers_lost_total',
      ['header'],
      'Requests for /ts2021 without a header that Headscale needs, because a proxy in front has removed it.',
    ),
    limited: make('limits_reached_total', ['limit'], 'What was refused because it exceeded a limit, by limit.'),
    notifications: make(
      'notifications_total',
      ['result'],
      'Notifications that were sent, attempts that will be repeated (delayed), and notifications that were dropped, by why.',
    ),
    handovers: make(
      'handovers_total',
      ['result'],
      'Hand-overs to a new process: done, or failed, so that the old process went on.',
    ),
    internalErrors: make('internal_errors_total', [], 'Errors of the watchdog itself; traffic flowed on.'),
  };
  beginAtZero(counters);
  return counters;
}

function beginAtZero(all: Counters): void {
  for (const kind of STREAM_KINDS) {
    all.opened.inc({ kind }, 0);
    for (const reason of CLOSE_REASONS) all.closed.inc({ kind, reason }, 0);
  }
  for (const result of HANDSHAKE_RESULTS) all.handshakes.inc({ result }, 0);
  for (const verdict of CONTEST_VERDICTS) all.contests.inc({ verdict }, 0);
  for (const evidence of ['kernel', 'silence']) all.takeovers.inc({ evidence }, 0);
  for (const reason of SEVER_REASONS) all.wouldSever.inc({ reason }, 0);
  for (const header of LOST_HEADERS) all.lostHeaders.inc({ header }, 0);
  for (const limit of LIMITS) all.limited.inc({ limit }, 0);
  for (const status of REFUSED_STATUSES) all.upstreamRefused.inc({ status }, 0);
  for (const result of ['sent', 'delayed', ...NOTIFICATION_LOSSES]) all.notifications.inc({ result }, 0);
  for (const result of ['done', 'failed']) all.handovers.inc({ result }, 0);
  for (const reason of REFUSAL_REASONS) all.refused.inc({ reason }, 0);
}

function createHistograms(registers: PromRegistry[]): Histograms {
  const histogram = (name: string, help: string, buckets: number[]) =>
    new Histogram({ name: PREFIX + name, help, buckets, registers });
  return {
    hold: histogram('hold_seconds', 'How long newcomers were held back from Headscale.', HOLD_BUCKETS),
    contest: histogram('contest_seconds', 'How long contests lasted.', CONTEST_BUCKETS),
    lifetime: histogram('stream_lifetime_seconds', 'How long streams lasted.', LIFETIME_BUCKETS),
  };
}

function createGauges(registers: PromRegistry[], source: MetricsSource): void {
  new Gauge({
    name: `${PREFIX}streams`,
    help: 'Streams that are not closed.',
    labelNames: ['kind'],
    registers,
    collect() {
      const counts = new Map(STREAM_KINDS.map((kind) => [kind, 0]));
      for (const { kind } of source.streams()) counts.set(kind, (counts.get(kind) ?? 0) + 1);
      for (const [kind, number] of counts) this.set({ kind }, number);
    },
  });
  new Gauge({
    name: `${PREFIX}kernel_evidence_available`,
    help: "Whether Linux can be asked about clients' connections, to the watchdog (direct) or to a proxy on this machine (proxy): 1 or 0.",
    labelNames: ['source'],
    registers,
    collect() {
      for (const each of ['direct', 'proxy'] as const)
        this.set({ source: each }, Number(source.evidenceAvailable[each]()));
    },
  });
  new Gauge({
    name: `${PREFIX}streams_by_evidence`,
    help: "Streams by where the evidence about their client comes from: the client's connection to the watchdog (direct) or to a proxy on this machine (proxy), or nowhere (none).",
    labelNames: ['source'],
    registers,
    collect() {
      const counts = { direct: 0, proxy: 0, none: 0 };
      for (const stream of source.streams()) counts[source.evidenceSourceOf(stream)] += 1;
      for (const [each, number] of Object.entries(counts)) this.set({ source: each }, number);
    },
  });
  createPlainGauges(registers, source);
  new Gauge({
    name: `${PREFIX}build_info`,
    help: 'The version that runs; always 1.',
    labelNames: ['version'],
    registers,
  }).set({ version: source.version }, 1);
}

function createPlainGauges(registers: PromRegistry[], source: MetricsSource): void {
  const gauge = (name: string, help: string, read: () => number | boolean | undefined) =>
    new Gauge({
      name: PREFIX + name,
      help,
      registers,
      collect() {
        // Unknown is NaN, which makes every comparison in an alert rule false.
        this.set(Number(read()));
      },
    });
  gauge('upstream_up', 'Whether Headscale could be reached when last tried, and answered: 1 or 0.', () =>
    source.upstreamUp(),
  );
  gauge(
    'noise_key_matches',
    "Whether the Noise key is the running Headscale's: 1 or 0; NaN without a key, or while Headscale has not said.",
    () => source.keyMatches(),
  );
  gauge('connections', 'Connections of clients that are open.', () => source.connections());
  gauge('notifications_waiting', 'Notifications that wait to be delivered.', () => source.notificationsWaiting());
  gauge(
    'history_file_up',
    'Whether the history file can be written: 1 or 0; NaN without --history-file.',
    () => source.historyFile()?.isWorking,
  );
  gauge(
    'history_file_bytes',
    'The size of the history file; NaN without --history-file.',
    () => source.historyFile()?.bytes,
  );
  gauge('held_streams', 'New streams that are held back.', () => source.held());
  gauge('paced_streams', 'New streams that wait for their turn at Headscale.', () => source.paced());
  gauge('redis_up', 'Whether Redis could be used when last tried: 1 or 0; NaN without --redis.', () =>
    source.redisUp(),
  );
  gauge(
    'reads_pooled',
    'Whether sockets read into memory that is used again: 1, or 0 where Node does not allow it.',
    () => source.readsArePooled(),
  );
  const ofKind = (kind: FrontProxyEvent['kind']): number =>
    source.frontProxies().filter((each) => each.kind === kind).length;
  gauge('untrusted_proxies', 'Private addresses that send forwarding headers and are not trusted.', () =>
    ofKind('proxy_not_trusted'),
  );
  gauge('shared_addresses', 'Addresses from which several nodes come, since a proxy there hides their own.', () =>
    ofKind('client_addresses_hidden'),
  );
  gauge('duplicate_keys', 'Machine keys that two machines have: rule 2 rests for them, or did a minute ago.', () =>
    source.duplicateKeys(),
  );
  gauge(
    'upstream_silent',
    'Whether Headscale accepts connections but answers no request, or says nothing on its control streams: 1 or 0.',
    () => source.upstreamSilent(),
  );
  gauge('upstream_silent_streams', 'Control streams on which Headscale has said nothing for too long.', () =>
    source.upstreamSilentStreams(),
  );
  gauge(
    'certificate_expires_timestamp_seconds',
    'When the first of the certificates expires; NaN where no listener speaks TLS.',
    () => {
      const expires = source.certificateExpires();
      return expires && expires.getTime() / 1000;
    },
  );
}
