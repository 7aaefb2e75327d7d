import type { MachineKey } from '../identity/keys.ts';

/** The names of keys and channels. What belongs to one node lies in one slot of a cluster. */
export class Names {
  readonly #prefix: string;

  constructor(prefix: string) {
    this.#prefix = prefix;
  }

  get all(): string {
    return `${this.#prefix}:all`;
  }

  replica(name: string): string {
    return `${this.#prefix}:to:${name}`;
  }

  lease(name: string): string {
    return `${this.#prefix}:lease:{${name}}`;
  }

  node(machineKey: MachineKey): string {
    return `${this.#prefix}:node:{${machineKey}}`;
  }

  /** @param slot one of a fixed number. */
  handshake(slot: number): string {
    return `${this.#prefix}:seen:{${slot}}`;
  }
}
