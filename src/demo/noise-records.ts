import { createCipheriv, createDecipheriv } from 'node:crypto';

/**
 * A record of the transport, at most 4096 bytes:
 *
 *     0   1  type, 4
 *     1   2  length of what follows, big-endian
 *     3   n  ciphertext
 *   3+n  16  tag
 *
 * ChaCha20-Poly1305, no associated data; the nonce is four zero bytes and the number of the record in its
 * direction, 64 bits, big-endian (Noise would have it little-endian). Source: tailscale `control/controlbase/conn.go`.
 */
const RECORD_TYPE = 4;
const HEADER_LENGTH = 3;
const TAG_LENGTH = 16;
export const MAX_RECORD_LENGTH = 4096;
export const MAX_PLAINTEXT_LENGTH = MAX_RECORD_LENGTH - HEADER_LENGTH - TAG_LENGTH;
const EMPTY = Buffer.alloc(0);
const AEAD = 'chacha20-poly1305';

/** Seals a direction's bytes, in order, into as many records as they need. */
export function createSealer(key: Buffer): (plaintext: Uint8Array) => Buffer {
  const nonce = countingNonce();
  const sealOne = (plaintext: Uint8Array): Buffer[] => {
    const cipher = createCipheriv(AEAD, key, nonce.current, { authTagLength: TAG_LENGTH });
    const ciphertext = cipher.update(plaintext);
    cipher.final();
    nonce.next();
    const header = Buffer.of(RECORD_TYPE, 0, 0);
    header.writeUInt16BE(ciphertext.length + TAG_LENGTH, 1);
    return [header, ciphertext, cipher.getAuthTag()];
  };
  return (plaintext) => {
    const parts: Buffer[] = [];
    for (let from = 0; from < plaintext.length; from += MAX_PLAINTEXT_LENGTH) {
      parts.push(...sealOne(plaintext.subarray(from, from + MAX_PLAINTEXT_LENGTH)));
    }
    return Buffer.concat(parts);
  };
}

export type Opened = { readonly plaintext: Buffer; readonly broken: undefined | string };

export interface Opener {
  /**
   * Takes the next bytes as they come, in chunks of any size. `broken` says why the session is
   * over (the plaintext before it is good); an opener that broke once must not be fed again.
   */
  push(chunk: Buffer): Opened;
  /** Whether a record has begun that has not ended. */
  readonly midRecord: boolean;
}

/** Opens a direction's records, in order. */
export function createOpener(key: Buffer): Opener {
  const nonce = countingNonce();
  let pending: Buffer = EMPTY;

  return {
    push(chunk) {
      pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
      const plaintexts: Buffer[] = [];
      const done = (broken?: string): Opened => ({ plaintext: Buffer.concat(plaintexts), broken });
      while (pending.length >= HEADER_LENGTH) {
        const type = pending.readUInt8(0);
        if (type !== RECORD_TYPE) return done(`record of type ${type}, expected ${RECORD_TYPE}`);
        const end = HEADER_LENGTH + pending.readUInt16BE(1);
        if (end > MAX_RECORD_LENGTH) return done(`record of ${end} bytes, at most ${MAX_RECORD_LENGTH} are allowed`);
        if (end < HEADER_LENGTH + TAG_LENGTH) return done(`record of ${end} bytes, too short for a tag`);
        if (pending.length < end) break;
        const plaintext = open(key, nonce.current, pending.subarray(HEADER_LENGTH, end));
        if (plaintext === undefined) return done('record whose tag does not fit');
        nonce.next();
        plaintexts.push(plaintext);
        pending = pending.subarray(end);
      }
      return done();
    },
    get midRecord() {
      return pending.length > 0;
    },
  };
}

/** The plaintext, or undefined when the tag does not fit. */
function open(key: Buffer, nonce: Buffer, sealed: Buffer): Buffer | undefined {
  const split = sealed.length - TAG_LENGTH;
  const decipher = createDecipheriv(AEAD, key, nonce, { authTagLength: TAG_LENGTH });
  decipher.setAuthTag(sealed.subarray(split));
  const plaintext = decipher.update(sealed.subarray(0, split));
  try {
    decipher.final();
  } catch {
    return undefined;
  }
  return plaintext;
}

function countingNonce(): { readonly current: Buffer; next(): void } {
  const current = Buffer.alloc(12);
  let count = 0n;
  return {
    current,
    next() {
      current.writeBigUInt64BE(++count, 4);
    },
  };
}
