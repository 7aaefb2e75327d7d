import type { MachineKey } from '../identity/keys.ts';
import type { Clock, Instant, Timer } from '../lib/clock.ts';
import { hasBegun, type WatchdogEvent } from '../streams/events.ts';
import type { Stream } from '../streams/stream.ts';
import type { NodeRecord, PresenceLog, RunRecord } from './presence-log.ts';

/** A stream may still be waiting for Headscale. This is how often it is looked at. */
const LOOK_EVERY_MS = 2000;
/** How often it is noted that the watchdog runs. After a crash, the last minute at most is unknown. */
const ALIVE_EVERY_MS = 30_000;
/** Without a list of nodes, a key counts as a node's once one of its sessions has lasted for this long: strangers can invent keys. */
const PROVEN_AFTER_MS = 60_000;

export interface AttendanceOptions {
  readonly clock: Clock;
  /** The name of this run. */
  readonly run: string;
  readonly log: PresenceLog;
  readonly nodes: {
    /** Whether Headscale has listed its nodes. */
    isListed(): boolean;
    isNode(key: MachineKey): boolean;
    /** Every node that Headscale lists. */
    keys(): Iterable<MachineKey>;
  };
  /** Called with each record that was added to the log. */
  noted(record: RunRecord | NodeRecord): void;
}

interface Attending {
  /** Its control streams that are not closed. */
  streams: readonly Stream[];
  /** Since when it has had a session, if the log has it. */
  since: number | undefined;
  /** When its last session ended, while another stream may still become one. */
  endedAt: number | undefined;
}

/**
 * Notes in the log when nodes come and go. A node is online while it has a session: a control stream that Headscale has accepted. A
 * session counts from the opening of its stream, as `connectedSince` does.
 */
export class Attendance {
  readonly #options: AttendanceOptions;
  readonly #startedAt: number;
  readonly #nodes = new Map<MachineKey, Attending>();
  /** Streams that were sessions. */
  readonly #sessions = new WeakSet<Stream>();
  /** Nodes with a stream that the log does not have yet, and when to look at each again. */
  readonly #unsettled = new Map<MachineKey, number>();
  #timer: Timer | undefined;
  #aliveTimer: Timer | undefined;
  #endedAt: number | undefined;

  constructor(options: AttendanceOptions) {
    this.#options = options;
    this.#startedAt = this.#now();
    this.#noteAlive();
  }

  readonly listen = (event: WatchdogEvent): void => {
    // During the drain, streams end because we end them.
    if (event.kind === 'drain_started' || event.kind === 'handover_ended') this.end();
    if (this.#endedAt !== undefined || (!hasBegun(event) && event.kind !== 'stream_closed')) return;
    const { stream } = event;
    const { machineKey: key, kind } = stream;
    if (key === undefined || kind !== 'control') return;
    const node = this.#nodes.get(key) ?? { streams: [], since: undefined, endedAt: undefined };
    this.#nodes.set(key, node);
    if (hasBegun(event)) node.streams = node.streams.concat(stream);
    else {
      this.#settle(key, node);
      node.streams = node.streams.filter((each) => each !== stream);
      if (this.wasSession(stream)) node.endedAt = this.#now();
    }
    this.#settle(key, node);
    this.#schedule();
  };

  /** Headscale has listed its nodes: from now on it is known that they exist. */
  listed(): void {
    if (this.#endedAt !== undefined) return;
    const { log, nodes } = this.#options;
    const at = this.#now();
    for (const node of nodes.keys()) if (!log.has(node)) this.#note({ at, run: this.#options.run, node, since: at });
    for (const key of [...this.#unsettled.keys()]) this.#settle(key, this.#nodes.get(key));
  }

  /** Until when the log is complete: now, or when it ended. */
  watchedUntil(): number {
    return this.#endedAt ?? this.#now();
  }

  /** From now on nobody watches. */
  end(): void {
    if (this.#endedAt !== undefined) return;
    const at = this.#now();
    for (const [key, node] of this.#nodes) {
      this.#settle(key, node);
      this.#leave(key, node, node.endedAt ?? at);
    }
    this.#timer?.cancel();
    this.#aliveTimer?.cancel();
    this.#noteAlive(at);
    this.#aliveTimer?.cancel();
    this.#endedAt = at;
  }

  #settle(key: MachineKey, node: Attending | undefined): void {
    if (node === undefined) return;
    let since: number | undefined;
    let isWaiting = false;
    for (const stream of node.streams) {
      if (!this.wasSession(stream)) isWaiting = true;
      else since = Math.min(since ?? Number.POSITIVE_INFINITY, this.#dateOf(stream.openedAt));
    }
    // A new session that began before the old one ended leaves no gap.
    if (node.endedAt !== undefined && (since !== undefined ? since > node.endedAt : !isWaiting)) {
      this.#leave(key, node, node.endedAt);
    }
    if (since !== undefined) {
      node.endedAt = undefined;
      if (node.since === undefined && this.#isNode(key, since)) this.#come(key, node, since);
    }
    if (isWaiting) this.#unsettled.set(key, 0);
    else if (since !== undefined && node.since === undefined) this.#unsettled.set(key, this.#provenAt(since));
    else this.#unsettled.delete(key);
    if (node.streams.length === 0) this.#nodes.delete(key);
  }

  #come(node: MachineKey, attending: Attending, since: number): void {
    attending.since = since;
    this.#note({ at: since, run: this.#options.run, node, since: undefined });
  }

  #leave(node: MachineKey, attending: Attending, at: number): void {
    attending.endedAt = undefined;
    const { since } = attending;
    if (since === undefined) return;
    attending.since = undefined;
    this.#note({ at: Math.max(at, since), run: this.#options.run, node, since });
  }

  /** Whether Headscale has accepted this stream. */
  wasSession(stream: Stream): boolean {
    if (this.#sessions.has(stream)) return true;
    if (stream.spokenAt === undefined && stream.bytesSent === 0) return false;
    this.#sessions.add(stream);
    return true;
  }

  #isNode(key: MachineKey, since: number): boolean {
    const { log, nodes } = this.#options;
    if (log.has(key)) return true;
    return nodes.isListed() ? nodes.isNode(key) : this.#now() - since >= PROVEN_AFTER_MS;
  }

  /** When a key with a session since then may count as a node's. With a list, that changes only with the next one. */
  #provenAt(since: number): number {
    return this.#options.nodes.isListed() ? Number.POSITIVE_INFINITY : since + PROVEN_AFTER_MS;
  }

  #note(record: NodeRecord): void {
    this.#options.log.applyNode(record);
    this.#options.noted(record);
  }

  /** @param at so that, at the end, it is the time until which the nodes were online. */
  #noteAlive(at = this.#now()): void {
    const record = { at, run: this.#options.run, since: this.#startedAt };
    this.#options.log.applyRun(record);
    this.#options.noted(record);
    this.#aliveTimer = this.#options.clock.after(ALIVE_EVERY_MS, () => this.#noteAlive());
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#unsettled.size === 0) return;
    this.#timer = this.#options.clock.after(LOOK_EVERY_MS, () => {
      this.#timer = undefined;
      const now = this.#now();
      // There may be thousands, and nearly none is due.
      this.#unsettled.forEach((at, key) => {
        if (at <= now) this.#settle(key, this.#nodes.get(key));
      });
      this.#schedule();
    });
  }

  #dateOf(instant: Instant): number {
    return this.#options.clock.dateOf(instant).getTime();
  }

  #now(): number {
    return this.#dateOf(this.#options.clock.now());
  }
}
