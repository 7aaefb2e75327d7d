import type { MachineKey } from '../identity/keys.ts';
import type { JsonFields } from '../lib/json.ts';
import type { Stream, StreamId } from './stream.ts';

/** A newcomer that has been identified, but is not a stream yet. */
export interface Arriving {
  readonly id: StreamId;
  readonly machineKey: MachineKey;
  /** The ephemeral public key of its handshake, 32 bytes. */
  readonly ephemeral: Buffer;
}

/** What other replicas know about a newcomer. */
export interface Arrival {
  /** Another replica has seen this handshake before, so it proves no identity. */
  readonly replayed: boolean;
  /** The names of the replicas that have older streams of the same node. */
  readonly elsewhere: readonly string[];
}

export const NOWHERE_ELSE: Arrival = { replayed: false, elsewhere: [] };

/** Finds the other streams of a node: those of this process alone, or those of other replicas too. */
export interface StreamDirectory {
  /**
   * Announces a newcomer to the other replicas.
   *
   * @returns what they know about it. The promise never rejects. Undefined when there is no other replica to ask.
   */
  announce(newcomer: Arriving): Promise<Arrival> | undefined;
  /** The newcomer is now a stream: the replicas in `elsewhere` start contests against their older streams of its node. */
  contest(newcomer: Stream, elsewhere: readonly string[]): void;
  /** The client's first complete record has reached an open session. */
  firstRecord(stream: Stream): void;
  /** The stream no longer counts as one of its node. */
  withdraw(stream: Arriving | Stream): void;
  /** Another process of this watchdog gets the stream. @returns what that process passes to `takeOver`. */
  handOver(stream: Stream): JsonFields | undefined;
  /** That process has the stream now. */
  handedOver(stream: Stream): void;
  /** Goes on with a stream that another process of this watchdog had. */
  takeOver(stream: Stream, known: JsonFields | undefined): void;
  /** Headscale never saw this handshake, so the client may send it again, here or to another replica. */
  forgetHandshake(ephemeral: Buffer): void;
}

/** The directory of a single watchdog: all streams are in its own registry. */
export const ALONE: StreamDirectory = {
  announce: () => undefined,
  contest() {},
  firstRecord() {},
  withdraw() {},
  handOver: () => undefined,
  handedOver() {},
  takeOver() {},
  forgetHandshake() {},
};
