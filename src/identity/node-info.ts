import type { MachineKey, NodeKey } from './keys.ts';

/** A node as Headscale lists it. */
export interface NodeInfo {
  readonly machineKey: MachineKey;
  readonly nodeKey: NodeKey;
  /** Headscale's number of it, decimal. */
  readonly id: string;
  /** The name `headscale nodes list` shows, unique in a tailnet. */
  readonly name: string;
  /** The user's name; empty where Headscale names none. */
  readonly user: string;
  /** Other nodes of the same machine, which has logged in as several users, where it is not clear which it is now. */
  readonly others?: readonly NodeInfo[];
}
