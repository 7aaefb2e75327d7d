import { Counter, Gauge, type Registry } from 'prom-client';
import type { Labels, NodeRow } from './node-record.ts';

/** Of one family, what a row tells. */
type SamplesOf = (row: NodeRow) => readonly Sample[];

interface Sample {
  readonly value: number;
  readonly labels: Labels;
  /** prom-client keeps the text of this object from scrape to scrape; so it does for a histogram's buckets. */
  readonly sharedLabels: Labels;
}

const PER_NODE = ['machine_key'];
const INFO = ['machine_key', 'node_key', 'node_id', 'name', 'user'];

/**
 * The series of single nodes. Their samples are handed to prom-client as they are: with its `set`, which hashes each
 * sample's labels anew, a scrape of 1 000 nodes takes several times as long.
 *
 * @returns what takes the rows of the next scrape.
 */
export function createNodeMetrics(registers: Registry[], prefix: string): (rows: readonly NodeRow[]) => void {
  let rows: readonly NodeRow[] = [];
  const { gauge, counter } = families(registers, prefix, () => rows);
  gauge('info', 'Who a machine key is, as Headscale lists it; always 1.', INFO)(({ info }) => [sample(info, 1)]);
  gauge(
    'stream_opened_timestamp_seconds',
    "When the node's newest control stream was opened.",
  )((row) => [sample(row.labels, row.openedSeconds)]);
  gauge(
    'last_heard_timestamp_seconds',
    'When the node last sent a byte.',
  )((row) => [sample(row.labels, row.heardSeconds)]);
  gauge(
    'rtt_seconds',
    "The kernel's round-trip time of the node's newest open control stream.",
  )((row) => (row.rttSeconds === undefined ? [] : [sample(row.labels, row.rttSeconds)]));
  counter(
    'received_bytes_total',
    "Bytes received on the node's control streams.",
  )((row) => [sample(row.labels, row.receivedBytes)]);
  counter(
    'sent_bytes_total',
    "Bytes sent on the node's control streams.",
  )((row) => [sample(row.labels, row.sentBytes)]);
  counter('streams_closed_total', "The node's control streams closed, by what ended them first.", [
    ...PER_NODE,
    'reason',
  ])(({ closed }) => closed.map(({ labels, count }) => sample(labels, count)));
  counter(
    'takeovers_total',
    "The node's old control streams severed for a newcomer.",
  )((row) => [sample(row.labels, row.takeovers)]);
  return (latest) => {
    rows = latest;
  };
}

function families(registers: Registry[], prefix: string, rows: () => readonly NodeRow[]) {
  const family = (kind: typeof Counter | typeof Gauge, short: string, labelNames: string[], help: string) => {
    const metric = new kind({ name: `${prefix}node_${short}`, help, labelNames, registers });
    const own = metric.get.bind(metric);
    return (samplesOf: SamplesOf): void => {
      metric.get = async () => ({ ...(await own()), values: rows().flatMap(samplesOf) });
    };
  };
  return {
    gauge: (short: string, help: string, labelNames = PER_NODE) => family(Gauge, short, labelNames, help),
    counter: (short: string, help: string, labelNames = PER_NODE) => family(Counter, short, labelNames, help),
  };
}

const NONE: Labels = {};

function sample(sharedLabels: Labels, value: number): Sample {
  return { value, labels: NONE, sharedLabels };
}
