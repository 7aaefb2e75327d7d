import { type MachineKey, parseMachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import { type Clock, type Instant, plus } from '../lib/clock.ts';
import { type Emit, hasBegun, type WatchdogEvent } from '../streams/events.ts';
import type { CloseReason, Stream } from '../streams/stream.ts';
import { NodeRecord, type NodeRow, type NodeTotals } from './node-metrics.ts';

/** How long a node's series stay after its last stream. */
const KEPT_MS = 60 * 60_000;

export interface NodeSeriesSource {
  readonly clock: Clock;
  /** All streams that are not closed. */
  streams(): Iterable<Stream>;
  /** Undefined until Headscale has listed it. */
  nodeOf(key: MachineKey): NodeInfo | undefined;
  /** Whether Headscale knows the key; true until it has listed its nodes. */
  isNode(key: MachineKey): boolean;
  /** The kernel's round-trip time; undefined if the kernel cannot be asked. */
  rttMsOf(stream: Stream): number | undefined;
  /** With more nodes than this, there are no series of single nodes. 0 switches them off. */
  maxNodes(): number;
  readonly emit: Emit;
}

/**
 * Counts each node's control streams, by machine key, from its first stream until an hour after its last one. Keys that
 * Headscale does not know have no series and do not count, because anybody can invent one.
 *
 * Expired records are dropped at the next stream or scrape. Without either, no new ones appear.
 */
export class NodeSeries {
  readonly #source: NodeSeriesSource;
  readonly #records = new Map<MachineKey, NodeRecord>();
  /** Nodes without an open stream, and since when, in that order. */
  readonly #idleSince = new Map<NodeRecord, Instant>();
  /** How many records belong to nodes that Headscale knows. */
  #nodes = 0;
  #on = false;
  /** The last value of `maxNodes()`. */
  #limit = 0;
  /** The limit that was last reported as exceeded. */
  #toldLimit: number | undefined;

  constructor(source: NodeSeriesSource) {
    this.#source = source;
  }

  listen(event: WatchdogEvent): void {
    if (hasBegun(event)) this.#opened(event.stream);
    else if (event.kind === 'stream_closed') this.#closed(event.stream, event.reason);
    else if (event.kind === 'stream_severed') this.#recordOf(event.stream)?.severed();
  }

  /** Call it when the limit or the list of nodes may have changed. Once there is a list, made-up keys no longer count. */
  reconsider(): void {
    this.#followLimit();
    if (!this.#on && this.#limit > 0) this.#begin();
    this.#tidy();
    if (this.#on) this.#toldLimit = undefined;
  }

  /** The series of each node now. */
  rows(): readonly NodeRow[] {
    this.#followLimit();
    this.#tidy();
    const source = this.#source;
    const nodes = [...this.#records.values()].filter(({ isNode }) => isNode);
    return nodes.map((record) => record.row(source.nodeOf(record.key), (stream) => source.rttMsOf(stream)));
  }

  /** What was counted of each node. @param isElsewhere whether another process has the stream, and counts it. */
  counted(isElsewhere: (stream: Stream) => boolean): readonly NodeTotals[] {
    return [...this.#records.values()].map((record) => record.totals(isElsewhere));
  }

  /** Goes on from what another process has counted. */
  continueFrom(nodes: readonly NodeTotals[]): void {
    this.#followLimit();
    if (!this.#on) return;
    for (const totals of nodes) {
      const key = parseMachineKey(totals.machineKey);
      if (key === undefined) continue;
      const known = this.#records.get(key);
      const record = known ?? new NodeRecord(this.#source.clock, key);
      record.continueFrom(totals);
      if (known !== undefined) continue;
      this.#records.set(key, record);
      this.#idleSince.set(record, this.#source.clock.now());
      this.#recognise(record);
    }
    this.#keepLimit();
  }

  #tidy(): void {
    this.#dropIdle();
    for (const record of this.#records.values()) {
      this.#recognise(record);
      if (!record.isNode && !record.isOpen) this.#drop(record);
    }
    this.#keepLimit();
  }

  #opened(stream: Stream): void {
    if (!isIdentified(stream)) return;
    this.#followLimit();
    if (!this.#on) return;
    this.#dropIdle();
    this.#add(stream);
    this.#keepLimit();
  }

  #add(stream: IdentifiedStream): void {
    const key = stream.machineKey;
    const record = this.#records.get(key) ?? new NodeRecord(this.#source.clock, key);
    this.#records.set(key, record);
    this.#idleSince.delete(record);
    this.#recognise(record);
    record.opened(stream);
  }

  #closed(stream: Stream, reason: CloseReason): void {
    const record = this.#recordOf(stream);
    if (!record?.closed(stream, reason) || record.isOpen) return;
    this.#recognise(record);
    if (record.isNode) this.#idleSince.set(record, this.#source.clock.now());
    else this.#drop(record);
    this.#keepLimit();
  }

  #recordOf(stream: Stream): NodeRecord | undefined {
    return isIdentified(stream) ? this.#records.get(stream.machineKey) : undefined;
  }

  #recognise(record: NodeRecord): void {
    const isNode = this.#source.isNode(record.key);
    if (isNode === record.isNode) return;
    record.isNode = isNode;
    this.#nodes += isNode ? 1 : -1;
  }

  #drop(record: NodeRecord): void {
    this.#records.delete(record.key);
    this.#idleSince.delete(record);
    if (record.isNode) this.#nodes -= 1;
  }

  #dropIdle(): void {
    const now = this.#source.clock.now();
    for (const [record, since] of this.#idleSince) {
      if (now < plus(since, KEPT_MS)) return;
      this.#drop(record);
    }
  }

  /** Notices a new limit. A higher one brings the series back, starting with the open streams. */
  #followLimit(): void {
    const limit = this.#source.maxNodes();
    const isRaised = limit > this.#limit;
    this.#limit = limit;
    if (!this.#on && isRaised) this.#begin();
  }

  #begin(): void {
    this.#on = true;
    for (const stream of this.#source.streams()) if (isIdentified(stream)) this.#add(stream);
  }

  #keepLimit(): void {
    if (this.#nodes <= this.#limit) return;
    this.#on = false;
    this.#records.clear();
    this.#idleSince.clear();
    this.#nodes = 0;
    if (this.#limit > 0 && this.#toldLimit !== this.#limit) {
      this.#source.emit({ kind: 'node_metrics_disabled', maxNodes: this.#limit });
    }
    this.#toldLimit = this.#limit;
  }
}

type IdentifiedStream = Stream & { readonly machineKey: MachineKey };

function isIdentified(stream: Stream): stream is IdentifiedStream {
  return stream.kind === 'control' && stream.machineKey !== undefined;
}
