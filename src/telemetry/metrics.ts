import { Counter, Gauge, Histogram, Registry as PromRegistry } from 'prom-client';
import { CONTEST_VERDICTS, HANDSHAKE_RESULTS, type WatchdogEvent } from '../events.ts';
import { CLOSE_REASONS, STREAM_KINDS, type Stream } from '../streams/stream.ts';

/** What gauges read when they are scraped. */
export interface MetricsSource {
  streams(): Iterable<Stream>;
  upstreamUp(): boolean | undefined;
  keyMatches(): boolean | undefined;
  readonly version: string;
}

export interface Metrics {
  readonly contentType: string;
  /** The text of `/metrics`. */
  render(): Promise<string>;
  listen(event: WatchdogEvent): void;
}

const PREFIX = 'headscale_watchdog_';
const HOLD_BUCKETS = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5];
const CONTEST_BUCKETS = [0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 600];
const LIFETIME_BUCKETS = [1, 10, 60, 600, 3600, 21_600, 86_400, 604_800];

/** All series, present from the start: a rate over a counter that appears with its first event misses that event. */
export function createMetrics(source: MetricsSource): Metrics {
  const registers = [new PromRegistry()];
  const [registry] = registers as [PromRegistry];
  const counters = createCounters(registers);
  const histograms = createHistograms(registers);
  createGauges(registers, source);
  return {
    contentType: registry.contentType,
    render: () => registry.metrics(),
    listen: (event) => count(event, counters, histograms),
  };
}

type Counters = ReturnType<typeof createCounters>;
type Histograms = ReturnType<typeof createHistograms>;

function count(event: WatchdogEvent, counters: Counters, histograms: Histograms): void {
  switch (event.kind) {
    case 'handshake':
      counters.handshakes.inc({ result: event.result });
      break;
    case 'stream opened':
      counters.opened.inc({ kind: event.stream.kind });
      break;
    case 'stream closed':
      counters.closed.inc({ kind: event.stream.kind, reason: event.reason });
      histograms.lifetime.observe(event.lifetimeMs / 1000);
      break;
    case 'contest ended':
      counters.contests.inc({ verdict: event.verdict });
      histograms.contest.observe(event.lastedMs / 1000);
      break;
    case 'severed':
      counters.takeovers.inc({ evidence: event.because === 'dead' ? 'kernel' : 'silence' });
      break;
    case 'released':
      histograms.hold.observe(event.heldMs / 1000);
      break;
    case 'internal error':
      counters.internalErrors.inc();
      break;
    default:
  }
}

function createCounters(registers: PromRegistry[]) {
  const opened = counter(registers, 'streams_opened_total', 'Streams opened.', ['kind']);
  const closed = counter(registers, 'streams_closed_total', 'Streams closed, by what ended them first.', [
    'kind',
    'reason',
  ]);
  const handshakes = counter(
    registers,
    'handshakes_total',
    'Handshakes of control streams, by what could be read from them.',
    ['result'],
  );
  const contests = counter(registers, 'contests_total', 'Contests ended, by verdict.', ['verdict']);
  const takeovers = counter(
    registers,
    'takeovers_total',
    'Old streams severed for a newcomer, by the evidence against them.',
    ['evidence'],
  );
  const internalErrors = counter(
    registers,
    'internal_errors_total',
    'Errors of the watchdog itself; traffic flowed on.',
    [],
  );
  for (const kind of STREAM_KINDS) {
    opened.inc({ kind }, 0);
    for (const reason of CLOSE_REASONS) closed.inc({ kind, reason }, 0);
  }
  for (const result of HANDSHAKE_RESULTS) handshakes.inc({ result }, 0);
  for (const verdict of CONTEST_VERDICTS) contests.inc({ verdict }, 0);
  for (const evidence of ['kernel', 'silence']) takeovers.inc({ evidence }, 0);
  return { opened, closed, handshakes, contests, takeovers, internalErrors };
}

function counter<L extends string>(registers: PromRegistry[], name: string, help: string, labelNames: L[]): Counter<L> {
  return new Counter({ name: PREFIX + name, help, labelNames, registers });
}

function createHistograms(registers: PromRegistry[]) {
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
  // Not known is neither: NaN, which no comparison in an alert rule holds for.
  const yesOrNo = (name: string, help: string, read: () => boolean | undefined) =>
    new Gauge({
      name: PREFIX + name,
      help,
      registers,
      collect() {
        const known = read();
        this.set(known === undefined ? Number.NaN : Number(known));
      },
    });
  yesOrNo('upstream_up', 'Whether Headscale could be reached when last tried: 1 or 0.', () => source.upstreamUp());
  yesOrNo(
    'noise_key_matches',
    "Whether the noise key is the running Headscale's: 1 or 0; NaN without a key, or while Headscale has not said.",
    () => source.keyMatches(),
  );
  new Gauge({
    name: `${PREFIX}build_info`,
    help: 'The version that runs; always 1.',
    labelNames: ['version'],
    registers,
  }).set({ version: source.version }, 1);
}
