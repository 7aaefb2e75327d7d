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
  /** The machine's other nodes, when it has logged in as several users and it is not clear which one is active. */
  readonly others?: readonly NodeInfo[];
}
