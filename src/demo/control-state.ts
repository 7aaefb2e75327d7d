import type { MachineKey } from '../identity/keys.ts';
import type { Clock } from '../lib/clock.ts';

/** The fields of a client's register and map requests that the stand-in uses. Source: tailscale `tailcfg/tailcfg.go`. */
export interface NodeReport {
  readonly NodeKey?: string;
  readonly DiscoKey?: string;
  readonly Endpoints?: readonly string[] | null;
  readonly Hostinfo?: { readonly Hostname?: string; readonly NetInfo?: { readonly PreferredDERP?: number } } | null;
}

/** A node that has logged in. */
export interface ControlNode {
  readonly id: number;
  readonly machineKey: MachineKey;
  readonly report: NodeReport;
  readonly createdAt: Date;
}

/** The nodes that have logged in. They are kept in memory only. */
export class ControlNodes {
  readonly #nodes = new Map<MachineKey, ControlNode>();
  #lastId = 0;

  /** Adds a node, or updates a known one. */
  save(machineKey: MachineKey, report: NodeReport, now: Date): ControlNode {
    const known = this.#nodes.get(machineKey);
    const node: ControlNode =
      known === undefined
        ? { id: ++this.#lastId, machineKey, report, createdAt: now }
        : { ...known, report: { ...known.report, ...report } };
    this.#nodes.set(machineKey, node);
    return node;
  }

  get(machineKey: MachineKey): ControlNode | undefined {
    return this.#nodes.get(machineKey);
  }

  all(): readonly ControlNode[] {
    return [...this.#nodes.values()];
  }

  forget(machineKey: MachineKey): void {
    this.#nodes.delete(machineKey);
  }
}

/** The node's own host name, or a made-up one. */
export function hostnameOf(node: ControlNode): string {
  return node.report.Hostinfo?.Hostname ?? `node-${node.id}`;
}

/** The client of one Noise session. */
export interface ControlClient {
  /** Counts the Noise sessions of this server, from 1. */
  readonly sessionId: number;
  readonly machineKey: MachineKey;
  readonly remoteAddress: string;
  /** The IPv4 address at which the client reached this server or the proxy in front of it; undefined if it used a name. */
  readonly reachedAt: string | undefined;
}

/** One open map stream. */
export interface ControlStream {
  /** Counts the accepted map streams of this server, from 1. */
  readonly streamId: number;
  readonly client: ControlClient;
  readonly hostname: string;
  readonly openedAt: Date;
}

/** Headscale's log message when it refuses a stream. */
const REFUSAL_MESSAGE = 'node has an open stream, rejecting new stream';

/** The stand-in's events. `openStreams` is how many streams of this node are open after the event. */
export type ControlEvent = { readonly at: Date } & (
  | { readonly kind: 'handshake failed'; readonly remoteAddress: string; readonly why: string }
  | { readonly kind: 'session opened' | 'session closed'; readonly client: ControlClient }
  | { readonly kind: 'registered'; readonly client: ControlClient; readonly hostname: string }
  | { readonly kind: 'stream accepted'; readonly stream: ControlStream; readonly openStreams: number }
  | {
      readonly kind: 'stream refused';
      readonly client: ControlClient;
      readonly hostname: string;
      readonly message: typeof REFUSAL_MESSAGE;
    }
  | {
      readonly kind: 'stream ended';
      readonly stream: ControlStream;
      readonly openStreams: number;
      readonly lastedMs: number;
    }
);

export type OnControlEvent = (event: ControlEvent) => void;

/** What happens to a node's second map stream. Headscale 0.23.0-alpha6 to alpha11 refuse it, 0.23.0 and later accept it. */
export type SecondStream = 'refuse' | 'accept';

/** Headscale gathers what has changed, and tells it so often. Source: headscale `hscontrol/types/config.go`, tuning.batch_change_delay. */
const TELL_EVERY_MS = 800;

interface OpenStream {
  readonly stream: ControlStream;
  readonly tellChange: () => void;
}

/**
 * The open map streams of each node. As in Headscale 0.23.0-alpha10 (`hscontrol/noise.go`, NoisePollNetMapHandler;
 * `mapSessions`), a stream is open from its request until the request's context ends, because the client reset it or the
 * connection ended. Nothing checks whether the client is alive.
 */
export class MapStreams {
  readonly #open = new Map<number, Set<OpenStream>>();
  readonly #changed = new Set<number>();
  readonly #secondStream: SecondStream;
  readonly #clock: Clock;
  readonly #emit: OnControlEvent;
  #lastId = 0;
  #refusals = 0;

  constructor(secondStream: SecondStream, clock: Clock, emit: OnControlEvent) {
    this.#secondStream = secondStream;
    this.#clock = clock;
    this.#emit = emit;
  }

  /** How many streams have been refused. */
  get refusals(): number {
    return this.#refusals;
  }

  /** All open streams, node by node, the oldest first. */
  list(): readonly ControlStream[] {
    return [...this.#open.values()].flatMap((streams) => [...streams].map(({ stream }) => stream));
  }

  /**
   * Has a node's open stream told that the node has changed, with the next batch. The versions that refuse a second stream tell
   * every stream of every node, and do not leave out the node itself, although they mean to (`hscontrol/notifier/notifier.go`,
   * NotifyWithIgnore). So a node that is refused makes Headscale speak to its dead stream. Here only the node itself is told.
   */
  nodeChanged({ id }: ControlNode): void {
    if (this.#secondStream !== 'refuse') return;
    if (this.#changed.size === 0) {
      this.#clock.after(TELL_EVERY_MS - (this.#clock.now() % TELL_EVERY_MS), () => this.#tellChanges());
    }
    this.#changed.add(id);
  }

  #tellChanges(): void {
    const changed = [...this.#changed];
    this.#changed.clear();
    for (const id of changed) {
      for (const { tellChange } of this.#open.get(id) ?? []) tellChange();
    }
  }

  /**
   * Opens a stream.
   *
   * @param tellChange says on the stream that the node has changed.
   * @returns a function to call when the stream ends; undefined if the stream is refused.
   */
  open(client: ControlClient, node: ControlNode, tellChange: () => void): (() => void) | undefined {
    const started = this.#clock.now();
    const at = this.#clock.dateOf(started);
    const hostname = hostnameOf(node);
    const streams = this.#open.get(node.id) ?? new Set();
    if (streams.size > 0 && this.#secondStream === 'refuse') {
      this.#refusals++;
      this.#emit({ kind: 'stream refused', at, client, hostname, message: REFUSAL_MESSAGE });
      return undefined;
    }
    const stream: ControlStream = { streamId: ++this.#lastId, client, hostname, openedAt: at };
    const open: OpenStream = { stream, tellChange };
    streams.add(open);
    this.#open.set(node.id, streams);
    this.#emit({ kind: 'stream accepted', at, stream, openStreams: streams.size });
    return () => {
      if (!streams.delete(open)) return;
      if (streams.size === 0 && this.#open.get(node.id) === streams) this.#open.delete(node.id);
      const ended = this.#clock.now();
      const lastedMs = ended - started;
      this.#emit({ kind: 'stream ended', at: this.#clock.dateOf(ended), stream, openStreams: streams.size, lastedMs });
    };
  }
}
