/** What a client has sent before it knew that Headscale would take the upgrade. */
export class EarlyBytes {
  readonly #most: number;
  #chunks: Buffer[] = [];
  #length = 0;

  /** @param most bytes; then the client is not read on. */
  constructor(most: number) {
    this.#most = most;
  }

  /** Keeps a copy. @returns whether there is no room for more. */
  keep(chunk: Buffer): boolean {
    this.#chunks.push(Buffer.from(chunk));
    this.#length += chunk.length;
    return this.#length >= this.#most;
  }

  /** Gives all of it away. */
  take(): readonly Buffer[] {
    const chunks = this.#chunks;
    this.#chunks = [];
    return chunks;
  }
}
