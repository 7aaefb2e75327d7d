import { type Cipher, createCipheriv } from 'node:crypto';

/** Endless bytes that never repeat: a byte that is changed, lost, doubled or from elsewhere cannot pass for the right one. */
export class Keystream {
  readonly #cipher: Cipher;

  /** @param seed the same seed gives the same bytes. */
  constructor(seed: number) {
    const key = Buffer.alloc(16);
    key.writeUInt32BE(seed);
    this.#cipher = createCipheriv('aes-128-ctr', key, Buffer.alloc(16));
  }

  next(length: number): Buffer {
    return this.#cipher.update(Buffer.alloc(length));
  }
}

/** Compares what comes with a keystream, piece by piece. */
export class KeystreamCheck {
  readonly #expected: Keystream;
  received = 0;
  wrong = 0;

  constructor(seed: number) {
    this.#expected = new Keystream(seed);
  }

  feed(chunk: Buffer): void {
    const expected = this.#expected.next(chunk.length);
    this.received += chunk.length;
    if (chunk.equals(expected)) return;
    for (let i = 0; i < chunk.length; i++) if (chunk[i] !== expected[i]) this.wrong += 1;
  }
}
