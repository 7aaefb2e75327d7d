/** How many handshakes each of the two generations remembers. */
const GENERATION = 32_768;

/**
 * Remembers handshakes by their ephemeral keys, which no honest client uses twice, in bounded memory: the last 32 768 at
 * least, twice as many at most. What has been forgotten can be replayed once more; it still never settles (see `judge`).
 */
export class ReplayMemory {
  readonly #generation: number;
  #young = new Set<string>();
  #old = new Set<string>();

  constructor(generation = GENERATION) {
    this.#generation = generation;
  }

  /** Whether this ephemeral key (32 bytes) has been seen before; from here on it has. */
  hasSeen(ephemeral: Buffer): boolean {
    const key = ephemeral.toString('latin1');
    if (this.#young.has(key)) return true;
    const seen = this.#old.has(key);
    // One that comes again is remembered afresh: a replayer cannot wait until it is forgotten while trying.
    this.#young.add(key);
    if (this.#young.size >= this.#generation) {
      this.#old = this.#young;
      this.#young = new Set();
    }
    return seen;
  }

  /** As if it had never been seen. */
  forget(ephemeral: Buffer): void {
    const key = ephemeral.toString('latin1');
    this.#young.delete(key);
    this.#old.delete(key);
  }
}
