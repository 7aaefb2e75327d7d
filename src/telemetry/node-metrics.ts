import { Counter, Gauge, type Registry } from 'prom-client';
import { formatMachineKey, formatNodeKey, type MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { Clock, Instant } from '../lib/clock.ts';
import { isConnected, NODE_STATES, type NodePresence } from '../nodes/presence.ts';
import { DISAGREEMENTS } from '../streams/events.ts';
import type { CloseReason, Stream } from '../streams/stream.ts';

/** The samples of one family for one node. */
type SamplesOf = (row: NodeRow) => readonly Sample[];

interface Sample {
  readonly value: number;
  readonly labels: Labels;
  /** prom-client caches the text of this object from scrape to scrape, as for a histogram's buckets. */
  readonly sharedLabels: Labels;
}

const PER_NODE = ['machine_key'];
const INFO = ['machine_key', 'node_key', 'node_id', 'name', 'user'];

/**
 * The series of single nodes. They bypass prom-client's `set`, which hashes the labels of each sample again: with it, a
 * scrape of 1 000 nodes takes several times as long.
 *
 * @returns a function that takes the rows of the next scrape.
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

/** The labels of the series about a node's presence, so that an alert about one node needs no join. */
const PRESENCE = ['machine_key', 'name', 'user'];

/**
 * How many nodes are in each state, and the series of each node's presence. Unlike the others, these exist for every node that
 * Headscale lists, and not only for those that were connected.
 *
 * @returns a function that takes the nodes of the next scrape. With more than `most`, there are no series of single nodes.
 */
export function createPresenceMetrics(
  registers: Registry[],
  prefix: string,
): (nodes: readonly NodePresence[], most: number) => void {
  let nodes: readonly NodePresence[] = [];
  let shown: readonly NodePresence[] = [];
  const gauge = (short: string, help: string, read: (node: NodePresence) => number | undefined): void => {
    const metric = new Gauge({ name: `${prefix}node_${short}`, help, labelNames: PRESENCE, registers });
    const own = metric.get.bind(metric);
    metric.get = async () => {
      const values = shown.flatMap((node) => {
        const value = read(node);
        return value === undefined ? [] : [sample(presenceLabels(node), value)];
      });
      return { ...(await own()), values };
    };
  };
  gauge('online', 'Whether the node is connected through the watchdog: 1 or 0.', (node) => Number(isConnected(node)));
  gauge(
    'key_expiry_timestamp_seconds',
    "When the node's key expires or has expired. Absent if it does not expire.",
    ({ keyExpiresAt }) => keyExpiresAt && keyExpiresAt / 1000,
  );
  new Gauge({
    name: `${prefix}nodes`,
    help: 'Nodes that Headscale lists, and machine keys with a stream, by state. Without an API key or an OAuth client: machine keys that were seen.',
    labelNames: ['state'],
    registers,
    collect() {
      const counts = new Map(NODE_STATES.map((state) => [state, 0]));
      for (const { state } of nodes) counts.set(state, (counts.get(state) ?? 0) + 1);
      for (const [state, number] of counts) this.set({ state }, number);
    },
  });
  new Gauge({
    name: `${prefix}nodes_disagreeing`,
    help: 'Nodes about which Headscale and the watchdog disagree, by how they do.',
    labelNames: ['reason'],
    registers,
    collect() {
      for (const reason of DISAGREEMENTS)
        this.set({ reason }, nodes.filter(({ disagreement }) => disagreement === reason).length);
    },
  });
  return (latest, most) => {
    nodes = latest;
    // Anybody can invent a key that Headscale does not know.
    const known = latest.filter(({ state }) => state !== 'unknown');
    shown = known.length <= most ? known : [];
  };
}

const LABELS_OF = new WeakMap<NodeInfo, Labels>();

/** The same object for the same `NodeInfo`, so that it can be cached. */
function presenceLabels({ machineKey, node }: NodePresence): Labels {
  const known = node && LABELS_OF.get(node);
  if (known !== undefined) return known;
  const labels = { machine_key: formatMachineKey(machineKey), name: node?.name ?? '', user: node?.user ?? '' };
  if (node !== undefined) LABELS_OF.set(node, labels);
  return labels;
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

export type Labels = Readonly<Record<string, string>>;

/** The values of one node's series now. The label objects are the same at every scrape, so that they can be cached. */
export interface NodeRow {
  /** The labels of `node_info`. */
  readonly info: Labels;
  /** The label `machine_key` alone. */
  readonly labels: Labels;
  /** Dates in seconds of the Unix epoch. */
  readonly openedSeconds: number;
  readonly heardSeconds: number;
  readonly rttSeconds: number | undefined;
  readonly receivedBytes: number;
  readonly sentBytes: number;
  readonly closed: readonly ClosedRow[];
  readonly takeovers: number;
}

interface ClosedRow {
  readonly labels: Labels;
  readonly count: number;
}

/** What a process has counted of a node, besides the streams that it has handed over. */
export interface NodeTotals {
  readonly machineKey: string;
  readonly receivedBytes: number;
  readonly sentBytes: number;
  readonly takeovers: number;
  readonly closed: Readonly<Record<string, number>>;
}

/** The totals of a machine key's control streams. */
export class NodeRecord {
  readonly key: MachineKey;
  /** Whether Headscale knew the key when `NodeSeries` last asked. */
  isNode = false;
  readonly #clock: Clock;
  /** Made at the first scrape and kept: prom-client caches the text of this object. */
  #labels: Labels | undefined;
  #node: NodeInfo | undefined;
  #info: Labels | undefined;
  /** Oldest first. */
  #open: readonly Stream[] = [];
  #openedSeconds = 0;
  #heardAt: Instant | undefined;
  #heardSeconds = 0;
  /** The bytes of its closed streams. */
  #receivedBytes = 0;
  #sentBytes = 0;
  #closed: Map<CloseReason, { labels: Labels | undefined; count: number }> | undefined;
  #takeovers = 0;
  /** What another process has counted before. */
  #before: NodeTotals | undefined;

  constructor(clock: Clock, key: MachineKey) {
    this.#clock = clock;
    this.key = key;
  }

  get isOpen(): boolean {
    return this.#open.length > 0;
  }

  opened(stream: Stream): void {
    if (this.#open.includes(stream)) return;
    this.#open = this.#open.concat(stream);
    this.#openedSeconds = this.#secondsOf(stream.openedAt);
  }

  /** @returns false if this is not an open stream of the node. */
  closed(stream: Stream, reason: CloseReason): boolean {
    if (!this.#open.includes(stream)) return false;
    this.#open = this.#open.filter((other) => other !== stream);
    this.#receivedBytes += stream.bytesReceived;
    this.#sentBytes += stream.bytesSent;
    this.#heard(stream);
    this.#closedFor(reason).count += 1;
    return true;
  }

  #closedFor(reason: CloseReason): { labels: Labels | undefined; count: number } {
    this.#closed ??= new Map();
    const closed = this.#closed.get(reason) ?? { labels: undefined, count: 0 };
    this.#closed.set(reason, closed);
    return closed;
  }

  severed(): void {
    this.#takeovers += 1;
  }

  totals(isElsewhere: (stream: Stream) => boolean): NodeTotals {
    const sums = this.#sums(this.#open.filter((each) => !isElsewhere(each)));
    const byReason = this.#closedCounts().map(({ reason, count }) => [reason, count] as const);
    return { machineKey: formatMachineKey(this.key), ...sums, closed: Object.fromEntries(byReason) };
  }

  /** Goes on from what another process has counted. It replaces what was given before. */
  continueFrom(before: NodeTotals): void {
    this.#before = before;
    for (const reason of Object.keys(before.closed) as CloseReason[]) this.#closedFor(reason);
  }

  #closedCounts(): readonly { readonly reason: CloseReason; readonly count: number }[] {
    const before = this.#before?.closed;
    return [...(this.#closed ?? [])].map(([reason, { count }]) => ({ reason, count: count + (before?.[reason] ?? 0) }));
  }

  #sums(open: readonly Stream[]): Pick<NodeRow, 'receivedBytes' | 'sentBytes' | 'takeovers'> {
    const { receivedBytes = 0, sentBytes = 0, takeovers = 0 } = this.#before ?? {};
    return {
      receivedBytes: open.reduce((sum, each) => sum + each.bytesReceived, this.#receivedBytes + receivedBytes),
      sentBytes: open.reduce((sum, each) => sum + each.bytesSent, this.#sentBytes + sentBytes),
      takeovers: this.#takeovers + takeovers,
    };
  }

  row(node: NodeInfo | undefined, rttMsOf: (stream: Stream) => number | undefined): NodeRow {
    this.#labels ??= { machine_key: formatMachineKey(this.key) };
    const labels = this.#labels;
    if (node !== this.#node) this.#info = undefined;
    this.#node = node;
    this.#info ??= infoOf(labels, node);
    for (const stream of this.#open) this.#heard(stream);
    const newest = this.#open.at(-1);
    const rttMs = newest && rttMsOf(newest);
    return {
      info: this.#info,
      labels,
      openedSeconds: this.#openedSeconds,
      heardSeconds: this.#heardSeconds,
      rttSeconds: rttMs === undefined ? undefined : Math.round(rttMs * 1000) / 1_000_000,
      ...this.#sums(this.#open),
      closed: this.#closedCounts().map(({ reason, count }) => {
        const closed = this.#closedFor(reason);
        closed.labels ??= { ...labels, reason };
        return { labels: closed.labels, count };
      }),
    };
  }

  #heard({ heardAt }: Stream): void {
    if (this.#heardAt !== undefined && heardAt <= this.#heardAt) return;
    this.#heardAt = heardAt;
    this.#heardSeconds = this.#secondsOf(heardAt);
  }

  /** Call it once per instant: a second conversion can differ by a millisecond, and the series would jitter. */
  #secondsOf(instant: Instant): number {
    return this.#clock.dateOf(instant).getTime() / 1000;
  }
}

function infoOf(labels: Labels, node: NodeInfo | undefined): Labels {
  const { id = '', name = '', user = '' } = node ?? {};
  return { ...labels, node_key: node ? formatNodeKey(node.nodeKey) : '', node_id: id, name, user };
}
