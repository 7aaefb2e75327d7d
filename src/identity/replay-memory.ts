import { Recent } from '../lib/recent.ts';

/** Of at least so many handshakes, and of at most twice as many, the ephemeral key is remembered. */
const REMEMBERED = 32_768;

/**
 * Remembers handshakes by their ephemeral keys, which an honest client never uses twice. Memory is bounded: at least the
 * last 32 768 handshakes are remembered, and at most twice as many. A forgotten handshake can be replayed once more, but its
 * stream never settles (see `judge`).
 */
export class ReplayMemory {
  readonly #seen: Recent<true>;

  constructor(remembered = REMEMBERED) {
    this.#seen = new Recent(remembered);
  }

  /** Notes an ephemeral key (32 bytes). @returns whether it was seen before. */
  hasSeen(ephemeral: Buffer): boolean {
    const key = ephemeral.toString('latin1');
    const seen = this.#seen.get(key) !== undefined;
    // A repeated key counts as new, so that repeated attempts keep it from being forgotten.
    this.#seen.set(key, true);
    return seen;
  }

  /** All keys, oldest first. */
  all(): readonly Buffer[] {
    return this.#seen.keys().map((key) => Buffer.from(key, 'latin1'));
  }

  /** Removes a key, as if it had never been seen. */
  forget(ephemeral: Buffer): void {
    this.#seen.delete(ephemeral.toString('latin1'));
  }
}
