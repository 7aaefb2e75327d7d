/** How many handshakes each of the two generations holds. */
const GENERATION = 32_768;

/**
 * Remembers handshakes by their ephemeral keys, which an honest client never uses twice. Memory is bounded: at least the
 * last 32 768 handshakes are remembered, and at most twice as many. A forgotten handshake can be replayed once more, but its
 * stream never settles (see `judge`).
 */
export class ReplayMemory {
  readonly #generation: number;
  #young = new Set<string>();
  #old = new Set<string>();

  constructor(generation = GENERATION) {
    this.#generation = generation;
  }

  /** Notes an ephemeral key (32 bytes). @returns whether it was seen before. */
  hasSeen(ephemeral: Buffer): boolean {
    const key = ephemeral.toString('latin1');
    if (this.#young.has(key)) return true;
    const seen = this.#old.has(key);
    // A repeated key moves to the young generation, so that repeated attempts keep it from being forgotten.
    this.#young.add(key);
    if (this.#young.size >= this.#generation) {
      this.#old = this.#young;
      this.#young = new Set();
    }
    return seen;
  }

  /** All keys, oldest first. */
  all(): readonly Buffer[] {
    return [...this.#old, ...this.#young].map((key) => Buffer.from(key, 'latin1'));
  }

  /** Removes a key, as if it had never been seen. */
  forget(ephemeral: Buffer): void {
    const key = ephemeral.toString('latin1');
    this.#young.delete(key);
    this.#old.delete(key);
  }
}
