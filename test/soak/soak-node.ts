import { type NodeIdentity, newNodeIdentity } from '../../src/demo/node-connection.ts';
import { NodeClient } from '../../src/demo/simulated-node.ts';
import { systemClock } from '../../src/lib/clock.ts';
import { cutOff } from './island.ts';

/** `churn`: it left cleanly. `frozen`: its client got stuck, its kernel still answers. `vanished`: nobody answers. */
export type Departure = 'first' | 'churn' | 'frozen' | 'vanished';

export interface NodePorts {
  readonly serverUrl: URL;
  /** From where the node comes this time. */
  nextAddress(): string;
  accepted(after: Departure, tookMs: number): void;
  refused(): void;
  /** A connection, or the try to make one, broke, and nobody had meant it to. */
  lost(why: string): void;
}

/** A node of the demo's, with a client that leaves in all the ways there are, and comes back from another address. */
export class SoakNode {
  readonly #identity: NodeIdentity;
  readonly #ports: NodePorts;
  #presence: NodeClient | undefined;
  #address = '';
  readonly #frozen: NodeClient[] = [];
  #isAccepted = false;

  constructor(name: string, ports: NodePorts) {
    this.#identity = newNodeIdentity(name);
    this.#ports = ports;
  }

  /** It has its map stream. */
  get isAccepted(): boolean {
    return this.#isAccepted;
  }

  arrive(after: Departure): void {
    const startedAt = performance.now();
    this.#address = this.#ports.nextAddress();
    this.#isAccepted = false;
    const listener = {
      refused: () => this.#ports.refused(),
      accepted: () => {
        this.#isAccepted = true;
        this.#ports.accepted(after, performance.now() - startedAt);
        // What is left of it has been severed at the other end, and has nothing to show here.
        for (const frozen of this.#frozen.splice(0)) void frozen.end();
      },
      lost: (why: string) => this.#ports.lost(why),
    };
    this.#presence = new NodeClient(this.#identity, this.#ports.serverUrl, systemClock, listener, this.#address);
  }

  async leave(): Promise<void> {
    this.#isAccepted = false;
    await this.#presence?.end();
  }

  freeze(): void {
    const presence = this.#presence;
    if (presence === undefined) return;
    presence.freeze();
    this.#frozen.push(presence);
    this.#isAccepted = false;
  }

  async vanish(): Promise<void> {
    const port = this.#presence?.localPort;
    if (port !== undefined) cutOff(this.#address, port);
    await this.leave();
  }

  async stop(): Promise<void> {
    await Promise.all([this.leave(), ...this.#frozen.splice(0).map((frozen) => frozen.end())]);
  }
}
