import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  createPublicKey,
  diffieHellman,
  type KeyObject,
} from 'node:crypto';
import { decodeHandshakeHeader, type Initiation, type Parsed, parseInitiation } from './initiation.ts';
import {
  formatMachineKey,
  type MachineKey,
  machineKeyOf,
  parsePrivateKeyFile,
  publicKeyOf,
  rawPublicKeyOf,
} from './keys.ts';

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

/** The server's static key pair, as far as reading initiations needs it. */
export interface NoiseKey {
  readonly privateKey: KeyObject;
  readonly publicRaw: Buffer;
}

/** The key pair of a `noise_private.key`'s bytes; undefined when they hold none. */
export function parseNoiseKey(file: Uint8Array): NoiseKey | undefined {
  const privateKey = parsePrivateKeyFile(file);
  return privateKey && { privateKey, publicRaw: rawPublicKeyOf(createPublicKey(privateKey)) };
}

/** The public half as Headscale's `/key` gives it: `mkey:<64 hex>`. */
export function formatNoiseKey(key: NoiseKey): string {
  return formatMachineKey(machineKeyOf(key.publicRaw));
}

/** Who sent this handshake; `missing` when there was no header, `unreadable` when it says nothing. */
export type Identity =
  | {
      readonly kind: 'identified';
      readonly machineKey: MachineKey;
      /** The handshake's own key, 32 bytes: a second handshake with it is a replay. */
      readonly ephemeral: Buffer;
    }
  | { readonly kind: 'unreadable'; readonly why: string }
  | { readonly kind: 'missing' };

/**
 * Reads the machine key from the value of `X-Tailscale-Handshake`. The tag proves that
 * the sender of the *original* message holds the key; a replay proves nothing more.
 */
export function identify(key: NoiseKey, header: string | undefined): Identity {
  if (header === undefined) return { kind: 'missing' };
  const bytes = decodeHandshakeHeader(header);
  if (!bytes.ok) return { kind: 'unreadable', why: bytes.why };
  const initiation = parseInitiation(bytes.value);
  if (!initiation.ok) return { kind: 'unreadable', why: initiation.why };
  const read = readInitiation(key, initiation.value);
  if (!read.ok) return { kind: 'unreadable', why: read.why };
  return { kind: 'identified', machineKey: read.value.machineKey, ephemeral: initiation.value.ephemeralPublic };
}

export interface ReadInitiation {
  readonly machineKey: MachineKey;
  /** The handshake's state after the message: what a responder goes on from. */
  readonly state: SymmetricState;
}

/**
 * The responder's half of Noise IK, first message (Noise revision 34, section 7.5; tailscale
 * `control/controlbase/handshake.go`, Server). Constant work: two X25519, two AEAD.
 */
export function readInitiation(key: NoiseKey, initiation: Initiation): Parsed<ReadInitiation> {
  const state = new SymmetricState();
  state.mixHash(prologueOf(initiation.version));
  // <- s
  state.mixHash(key.publicRaw);
  // -> e
  state.mixHash(initiation.ephemeralPublic);
  // -> es
  const es = exchange(key.privateKey, initiation.ephemeralPublic);
  if (es === undefined) return { ok: false, why: 'key exchange' };
  state.mixKey(es);
  // -> s
  const machineRaw = state.decryptAndHash(initiation.sealedMachineKey);
  if (machineRaw === undefined) return { ok: false, why: 'machine key' };
  // -> ss
  const ss = exchange(key.privateKey, machineRaw);
  if (ss === undefined) return { ok: false, why: 'key exchange' };
  state.mixKey(ss);
  // the empty payload: its tag proves that the client holds the machine key
  if (state.decryptAndHash(initiation.sealedPayload) === undefined) return { ok: false, why: 'tag' };
  return { ok: true, value: { machineKey: machineKeyOf(machineRaw), state } };
}

/** X25519, or undefined for a point of low order, whose shared secret would be all zero. */
function exchange(privateKey: KeyObject, peerRaw: Uint8Array): Buffer | undefined {
  try {
    return diffieHellman({ privateKey, publicKey: publicKeyOf(peerRaw) });
  } catch {
    return undefined;
  }
}
