import { formatMachineKey, formatNodeKey, type MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { Clock, Instant } from '../lib/clock.ts';
import type { CloseReason, Stream } from '../streams/stream.ts';

export type Labels = Readonly<Record<string, string>>;

/** One node's series as of now. The objects of labels stay the same ones from scrape to scrape. */
export interface NodeRow {
  /** Of `node_info`. */
  readonly info: Labels;
  /** `machine_key` alone. */
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

export interface ClosedRow {
  readonly labels: Labels;
  readonly count: number;
}

/** What the control streams of one machine key have come to. */
export class NodeRecord {
  readonly key: MachineKey;
  /** Whether Headscale knows the key, as far as `NodeSeries` has asked. */
  isNode = false;
  readonly #clock: Clock;
  readonly #labels: Labels;
  #node: NodeInfo | undefined;
  #info: Labels;
  /** Oldest first. */
  #open: readonly Stream[] = [];
  #openedSeconds = 0;
  #heardAt: Instant | undefined;
  #heardSeconds = 0;
  /** Of its closed streams. */
  #receivedBytes = 0;
  #sentBytes = 0;
  readonly #closed = new Map<CloseReason, { readonly labels: Labels; count: number }>();
  #takeovers = 0;

  constructor(clock: Clock, key: MachineKey) {
    this.#clock = clock;
    this.key = key;
    this.#labels = { machine_key: formatMachineKey(key) };
    this.#info = infoOf(this.#labels, undefined);
  }

  get isOpen(): boolean {
    return this.#open.length > 0;
  }

  opened(stream: Stream): void {
    if (this.#open.includes(stream)) return;
    this.#open = [...this.#open, stream];
    this.#openedSeconds = this.#secondsOf(stream.openedAt);
  }

  /** @returns false for a stream that is none of its open ones. */
  closed(stream: Stream, reason: CloseReason): boolean {
    if (!this.#open.includes(stream)) return false;
    this.#open = this.#open.filter((other) => other !== stream);
    this.#receivedBytes += stream.bytesReceived;
    this.#sentBytes += stream.bytesSent;
    this.#heard(stream);
    const closed = this.#closed.get(reason);
    if (closed) closed.count += 1;
    else this.#closed.set(reason, { labels: { ...this.#labels, reason }, count: 1 });
    return true;
  }

  severed(): void {
    this.#takeovers += 1;
  }

  row(node: NodeInfo | undefined, rttMsOf: (stream: Stream) => number | undefined): NodeRow {
    if (node !== this.#node) {
      this.#node = node;
      this.#info = infoOf(this.#labels, node);
    }
    let receivedBytes = this.#receivedBytes;
    let sentBytes = this.#sentBytes;
    for (const stream of this.#open) {
      receivedBytes += stream.bytesReceived;
      sentBytes += stream.bytesSent;
      this.#heard(stream);
    }
    const newest = this.#open.at(-1);
    const rttMs = newest && rttMsOf(newest);
    return {
      info: this.#info,
      labels: this.#labels,
      openedSeconds: this.#openedSeconds,
      heardSeconds: this.#heardSeconds,
      rttSeconds: rttMs === undefined ? undefined : Math.round(rttMs * 1000) / 1_000_000,
      receivedBytes,
      sentBytes,
      closed: [...this.#closed.values()],
      takeovers: this.#takeovers,
    };
  }

  #heard({ heardAt }: Stream): void {
    if (this.#heardAt !== undefined && heardAt <= this.#heardAt) return;
    this.#heardAt = heardAt;
    this.#heardSeconds = this.#secondsOf(heardAt);
  }

  /** Called once for an instant: its date taken again may be another by a millisecond, and a series would jitter. */
  #secondsOf(instant: Instant): number {
    return this.#clock.dateOf(instant).getTime() / 1000;
  }
}

function infoOf(labels: Labels, node: NodeInfo | undefined): Labels {
  const { id = '', name = '', user = '' } = node ?? {};
  return { ...labels, node_key: node ? formatNodeKey(node.nodeKey) : '', node_id: id, name, user };
}
