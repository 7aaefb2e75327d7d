import type { MachineKey, NodeKey } from './keys.ts';

/** A node, as Headscale's API lists it. */
export interface NodeInfo {
  readonly machineKey: MachineKey;
  readonly nodeKey: NodeKey;
  /** Headscale's node id, decimal. */
  readonly id: string;
  /** The name `headscale nodes list` shows, unique in a tailnet. */
  readonly name: string;
  /** The user's name. Empty when Headscale gives no user. */
  readonly user: string;
  /** The node's addresses in the tailnet. */
  readonly addresses: readonly string[];
  readonly tags: readonly string[];
  /** Whether Headscale shows it as online. It changes often, so it does not count as a change of the list. */
  readonly online: boolean | undefined;
  /** When Headscale last saw it; undefined if never or unknown. */
  readonly lastSeen: Date | undefined;
  /** When its key expires; undefined if it does not expire. */
  readonly expiry: Date | undefined;
  /** As in `linux`; undefined unless Headscale tells it, which is from 0.30 with an OAuth client. */
  readonly os: string | undefined;
  /** Tailscale's version; undefined unless Headscale tells it, which is from 0.30 with an OAuth client. */
  readonly clientVersion: string | undefined;
  /** Whether Headscale deletes the node some time after it has left; undefined if unknown. */
  readonly isEphemeral: boolean | undefined;
  /** The machine's other nodes, when it has logged in as several users and it is not clear which one is active. */
  readonly others?: readonly NodeInfo[];
}
