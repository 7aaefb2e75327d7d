import type { MachineKey } from '../identity/keys.ts';
import type { Clock } from '../lib/clock.ts';

/** What the fields of a client's register and map requests are here: only those that are used. */
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

/** The nodes that have logged in, in memory only. */
export class ControlNodes {
  readonly #nodes = new Map<MachineKey, ControlNode>();
  #lastId = 0;

  /** Adds the node, or takes over what a known one says anew. */
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

  forget(machineKey: MachineKey): void {
    this.#nodes.delete(machineKey);
  }
}

/** What a node calls itself, for people. */
export function hostnameOf(node: ControlNode): string {
  return node.report.Hostinfo?.Hostname ?? `node-${node.id}`;
}

/** The other end of one Noise session. */
export interface ControlClient {
  /** Counts the Noise sessions of this server, from 1. */
  readonly sessionId: number;
  readonly machineKey: MachineKey;
  readonly remoteAddress: string;
  /** The address by which the client reached this server, or the proxy before it; undefined when that was a name. */
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

/** What Headscale logs when it refuses. */
export const REFUSAL_MESSAGE = 'node has an open stream, rejecting new stream';

/** All that the stand-in tells of itself. `openStreams`: how many of this node are open after the event. */
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

/** `refuse` as Headscale 0.23.0-alpha6 to alpha11, `accept` as 0.23.0 and later: beside the old one. */
export type SecondStream = 'refuse' | 'accept';

/**
 * Which nodes have an open map stream. As in Headscale 0.23.0-alpha10 (`hscontrol/noise.go`, NoisePollNetMapHandler;
 * `mapSessions`) a stream counts from its request until the request's context ends: the client reset it, or its
 * connection ended. Nothing asks whether the client is alive.
 */
export class MapStreams {
  readonly #open = new Map<number, Set<ControlStream>>();
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

  /** Every open stream, by node, the oldest first. */
  list(): readonly ControlStream[] {
    return [...this.#open.values()].flatMap((streams) => [...streams]);
  }

  /** @returns what the stream's end is to be told to, or undefined: refused. */
  open(client: ControlClient, node: ControlNode): (() => void) | undefined {
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
    streams.add(stream);
    this.#open.set(node.id, streams);
    this.#emit({ kind: 'stream accepted', at, stream, openStreams: streams.size });
    return () => {
      if (!streams.delete(stream)) return;
      if (streams.size === 0 && this.#open.get(node.id) === streams) this.#open.delete(node.id);
      const ended = this.#clock.now();
      const lastedMs = ended - started;
      this.#emit({ kind: 'stream ended', at: this.#clock.dateOf(ended), stream, openStreams: streams.size, lastedMs });
    };
  }
}
