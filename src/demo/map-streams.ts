import type { Clock } from '../lib/clock.ts';
import { type ControlClient, type ControlStream, type OnControlEvent, REFUSAL_MESSAGE } from './control-events.ts';
import { type ControlNode, hostnameOf } from './control-nodes.ts';

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
