import type { MachineKey } from '../identity/keys.ts';
import type { StreamId } from '../streams/stream.ts';
import type { Message } from './messages.ts';
import type { Order } from './order.ts';

/** How often a replica renews its lease. A lease lasts three times as long. */
export const RENEW_EVERY_MS = 5000;

export interface Announced {
  readonly order: Order;
  /** The names of other replicas that have streams of the same node, according to Redis. They may be gone. */
  readonly others: readonly string[];
}

/** What replicas need from Redis. Each request rejects when Redis does not answer in time, or when the link is closed. */
export interface Link {
  /** Whether Redis answered last time. */
  readonly isUp: boolean;
  /**
   * Records a stream of this replica and reads which replicas have streams of the same node. Both happen in one atomic step.
   *
   * @param before the stream's earlier place. The stream keeps it if Redis is still in the same epoch.
   */
  announce(machineKey: MachineKey, id: StreamId, when: 'arriving' | 'later', before?: Order): Promise<Announced>;
  withdraw(machineKey: MachineKey, id: StreamId): Promise<void>;
  /** Tells whether any replica has seen this handshake, and remembers it. @param ephemeral its ephemeral key, 32 bytes. */
  hasSeen(ephemeral: Buffer): Promise<boolean>;
  /** Forgets a handshake, so that the same one may come again. */
  forgetHandshake(ephemeral: Buffer): Promise<void>;
  /** Removes all of a replica's streams of this node. */
  forget(machineKey: MachineKey, replica: string): Promise<void>;
  /** Whether a replica's lease is still valid. */
  isAlive(replica: string): Promise<boolean>;
  /** @returns whether the lease was still valid. If not, Redis may have lost everything else as well. */
  renewLease(): Promise<boolean>;
  /** Sends to one replica, or to all others. The message may get lost. */
  send(message: Message, to?: string): void;
  /** Ends the lease and closes the connections. @param keepsLease another process of this replica goes on with it. */
  close(keepsLease?: boolean): Promise<void>;
}

export interface LinkEvents {
  heard(message: Message): void;
  /** A message came that was not signed with our key. */
  forged(): void;
  /** `isUp` has changed. @param reason why Redis is down. */
  changed(isUp: boolean, reason: string | undefined): void;
}
