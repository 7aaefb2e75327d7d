import type { MachineKey } from '../identity/keys.ts';
import type { Stream, StreamId } from './stream.ts';

/** A newcomer before it is taken in. */
export interface Arriving {
  readonly id: StreamId;
  readonly machineKey: MachineKey;
  /** Of its handshake, 32 bytes. */
  readonly ephemeral: Buffer;
}

/** What is known elsewhere of a newcomer. */
export interface Arrival {
  /** Its handshake was shown to another replica before: it gives no identity. */
  readonly replayed: boolean;
  /** The replicas, by name, that have older streams of its node. */
  readonly elsewhere: readonly string[];
}

export const NOWHERE_ELSE: Arrival = { replayed: false, elsewhere: [] };

/** Where a node's streams are: in this process alone, or in several replicas of it. */
export interface StreamDirectory {
  /** Announces a newcomer. @returns what is known of it elsewhere, and never rejects; undefined where there is nobody to ask. */
  announce(newcomer: Arriving): Promise<Arrival> | undefined;
  /** It has been taken in: those that have its node's older streams are to judge them. */
  contest(newcomer: Stream, elsewhere: readonly string[]): void;
  /** The stream's first whole record from its client has reached an open session. */
  firstRecord(stream: Stream): void;
  /** It is no stream of its node's any more. */
  withdraw(stream: Arriving | Stream): void;
  /** Headscale has never seen its handshake: the same one may come again, here or elsewhere. */
  forgetHandshake(ephemeral: Buffer): void;
}

/** One watchdog alone: all streams are in its registry. */
export const ALONE: StreamDirectory = {
  announce: () => undefined,
  contest() {},
  firstRecord() {},
  withdraw() {},
  forgetHandshake() {},
};
