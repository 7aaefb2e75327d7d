import type { MachineKey } from '../identity/keys.ts';
import type { StreamId } from '../streams/stream.ts';
import type { Message } from './messages.ts';
import type { Order } from './order.ts';

/** A lease runs for three of these. */
export const RENEW_EVERY_MS = 5000;

export interface Announced {
  readonly order: Order;
  /** Other replicas that have streams of the same node, by name, as far as Redis knows. They may be gone. */
  readonly others: readonly string[];
}

/** What replicas need of Redis. Each question rejects when there is no answer in time, or the link is closed. */
export interface Link {
  /** Whether it answers, as far as is known. */
  readonly isUp: boolean;
  /**
   * Writes a stream of this replica down, and reads the others of its node, in one step that no other replica's comes between.
   *
   * @param before the place it was given earlier. It keeps that place if Redis still counts in the same epoch.
   */
  announce(machineKey: MachineKey, id: StreamId, when: 'arriving' | 'later', before?: Order): Promise<Announced>;
  withdraw(machineKey: MachineKey, id: StreamId): Promise<void>;
  /** Whether a handshake was shown to any replica before, by its ephemeral key (32 bytes); from here on it has. */
  hasSeen(ephemeral: Buffer): Promise<boolean>;
  /** As if that handshake had never been shown to any. */
  forgetHandshake(ephemeral: Buffer): Promise<void>;
  /** Takes all of a replica's streams of this node out. */
  forget(machineKey: MachineKey, replica: string): Promise<void>;
  /** Whether a replica's lease runs. */
  isAlive(replica: string): Promise<boolean>;
  /** @returns whether it still ran; where not, Redis may have lost the rest as well. */
  renewLease(): Promise<boolean>;
  /** To one replica, or to all others. It may get lost. */
  send(message: Message, to?: string): void;
  /** Ends the lease and the connections. */
  close(): Promise<void>;
}

export interface LinkEvents {
  heard(message: Message): void;
  /** A message was not signed with our key. */
  forged(): void;
  /** `isUp` has changed. @param reason of the outage. */
  changed(isUp: boolean, reason: string | undefined): void;
}
