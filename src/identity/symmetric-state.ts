import { createCipheriv, createDecipheriv, createHash, createHmac } from 'node:crypto';

const PROTOCOL_NAME = 'Noise_IK_25519_ChaChaPoly_BLAKE2s';
const HASH = 'blake2s256';
const TAG_LENGTH = 16;
const ZERO_NONCE = Buffer.alloc(12);
const EMPTY = Buffer.alloc(0);

// The name is 33 bytes, one more than the hash is long, so it is hashed (Noise section 5.2, InitializeSymmetric).
const INITIAL_HASH = createHash(HASH).update(PROTOCOL_NAME).digest();

/** The prologue both sides mix in: it binds the session to the version in the clear header. */
export function prologueOf(version: number): Buffer {
  return Buffer.from(`Tailscale Control Protocol v${version}`, 'ascii');
}

/**
 * The SymmetricState object of Noise (revision 34, section 5.2) for
 * Noise_IK_25519_ChaChaPoly_BLAKE2s. Every key it derives during the handshake
 * is used for one message only, so the nonce is always zero.
 */
export class SymmetricState {
  #h: Buffer = INITIAL_HASH;
  #ck: Buffer = INITIAL_HASH;
  #k: Buffer = EMPTY;

  mixHash(...data: readonly Uint8Array[]): void {
    const hash = createHash(HASH).update(this.#h);
    for (const part of data) hash.update(part);
    this.#h = hash.digest();
  }

  mixKey(sharedSecret: Uint8Array): void {
    [this.#ck, this.#k] = hkdf(this.#ck, sharedSecret);
  }

  encryptAndHash(plaintext: Uint8Array): Buffer {
    const cipher = createCipheriv('chacha20-poly1305', this.#k, ZERO_NONCE, { authTagLength: TAG_LENGTH });
    cipher.setAAD(this.#h, { plaintextLength: plaintext.length });
    const sealed = Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
    this.mixHash(sealed);
    return sealed;
  }

  /** The plaintext, or undefined when the tag does not fit; the state must not be used after that. */
  decryptAndHash(sealed: Uint8Array): Buffer | undefined {
    const split = sealed.length - TAG_LENGTH;
    const decipher = createDecipheriv('chacha20-poly1305', this.#k, ZERO_NONCE, { authTagLength: TAG_LENGTH });
    decipher.setAAD(this.#h, { plaintextLength: split });
    decipher.setAuthTag(sealed.subarray(split));
    const plaintext = decipher.update(sealed.subarray(0, split));
    try {
      decipher.final();
    } catch {
      return undefined;
    }
    this.mixHash(sealed);
    return plaintext;
  }

  /** The two transport keys: initiator to responder, responder to initiator (Noise section 5.2, Split). */
  split(): readonly [Buffer, Buffer] {
    return hkdf(this.#ck, EMPTY);
  }
}

/** HKDF with two outputs (Noise section 4.3); by hand, since it takes half the time of hkdfSync. */
function hkdf(chainingKey: Uint8Array, input: Uint8Array): [Buffer, Buffer] {
  const temp = createHmac(HASH, chainingKey).update(input).digest();
  const first = createHmac(HASH, temp).update(Buffer.of(1)).digest();
  const second = createHmac(HASH, temp).update(first).update(Buffer.of(2)).digest();
  return [first, second];
}
