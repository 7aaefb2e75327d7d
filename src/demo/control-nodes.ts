import type { MachineKey } from '../identity/keys.ts';

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
