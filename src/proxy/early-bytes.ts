/** What a client may send before Headscale's 101 is kept up to here; then it is not read on. */
const MOST_BYTES = 64 * 1024;

/** What a client has sent before it knew that Headscale would take the upgrade. */
export class EarlyBytes {
  #chunks: Buffer[] = [];
  #length = 0;

  /** Keeps a copy. @returns whether there is no room for more. */
  keep(chunk: Buffer): boolean {
    this.#chunks.push(Buffer.from(chunk));
    this.#length += chunk.length;
    return this.#length >= MOST_BYTES;
  }

  /** Gives all of it away. */
  take(): readonly Buffer[] {
    const chunks = this.#chunks;
    this.#chunks = [];
    return chunks;
  }
}
