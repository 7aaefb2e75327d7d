import {
  type CipherKey,
  createCipheriv,
  createDecipheriv,
  createPublicKey,
  createSecretKey,
  diffieHellman,
  hash,
  type KeyObject,
} from 'node:crypto';
import { Recent } from '../lib/recent.ts';
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

// The name has 33 bytes, one more than the hash, so it is hashed (Noise section 5.2, InitializeSymmetric).
const INITIAL_HASH = hashOf(Buffer.from(PROTOCOL_NAME));

/** The prologue that both sides mix in. It binds the session to the version in the clear-text header. */
export function prologueOf(version: number): Buffer {
  return Buffer.from(`Tailscale Control Protocol v${version}`, 'ascii');
}

/**
 * The SymmetricState object of Noise (revision 34, section 5.2) for Noise_IK_25519_ChaChaPoly_BLAKE2s. Each key of the
 * handshake encrypts only one message, so the nonce is always zero.
 */
export class SymmetricState {
  #h: Buffer = INITIAL_HASH;
  #ck: Buffer = INITIAL_HASH;
  #k: CipherKey = EMPTY;

  mixHash(data: Uint8Array): void {
    this.#h = hashOf(Buffer.concat([this.#h, data]));
  }

  mixKey(sharedSecret: Uint8Array): void {
    const [ck, k] = hkdf(this.#ck, sharedSecret);
    this.#ck = ck;
    // As bytes it would take Node 24 50 µs longer to find out what it is, each time it is used.
    this.#k = createSecretKey(k);
  }

  encryptAndHash(plaintext: Uint8Array): Buffer {
    const cipher = createCipheriv('chacha20-poly1305', this.#k, ZERO_NONCE, { authTagLength: TAG_LENGTH });
    cipher.setAAD(this.#h, { plaintextLength: plaintext.length });
    const sealed = Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
    this.mixHash(sealed);
    return sealed;
  }

  /** @returns the plaintext, or undefined when the tag is wrong. After that this state must not be used any more. */
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

/** One call, and a string as its result: to create an OpenSSL object, or memory for the result, takes longer than the hash. */
function hashOf(data: Buffer): Buffer {
  return Buffer.from(hash(HASH, data, 'binary'), 'latin1');
}

const ONE = Buffer.of(1);
const TWO = Buffer.of(2);

/** HKDF with two outputs (Noise section 4.3). */
function hkdf(chainingKey: Uint8Array, input: Uint8Array): [Buffer, Buffer] {
  const temp = hmac(chainingKey, input, EMPTY);
  const first = hmac(temp, ONE, EMPTY);
  const second = hmac(temp, first, TWO);
  return [first, second];
}

/** The length of a block of BLAKE2s. */
const BLOCK_LENGTH = 64;

/** HMAC (RFC 2104), for keys up to one block. Written with hashes, because on Node 24 createHmac takes four times as long. */
function hmac(key: Uint8Array, start: Uint8Array, end: Uint8Array): Buffer {
  return hashOf(padded(key, 0x5c, hashOf(padded(key, 0x36, start, end)), EMPTY));
}

/** A block of the key, padded, and then the data. */
function padded(key: Uint8Array, pad: number, start: Uint8Array, end: Uint8Array): Buffer {
  const block = Buffer.allocUnsafe(BLOCK_LENGTH + start.length + end.length).fill(pad, 0, BLOCK_LENGTH);
  for (let i = 0; i < key.length; i++) block[i] = (key[i] as number) ^ pad;
  block.set(start, BLOCK_LENGTH);
  block.set(end, BLOCK_LENGTH + start.length);
  return block;
}

/** The static key pair of the server, as far as it is needed to read initiations. */
export interface NoiseKey {
  readonly privateKey: KeyObject;
  readonly publicRaw: Buffer;
  /**
   * X25519 of this key and a machine's (`ss`), by the machine key, for machines that have proved that they hold theirs. It is the same
   * in every handshake of a machine, and takes a third of the time to read one. WireGuard keeps it, too.
   */
  readonly secrets: Recent<Buffer>;
}

/** Of at least so many machines the shared secret is kept, and of at most twice as many: 1.5 MB. */
const KEPT_SECRETS = 2048;

/** @param file the bytes of Headscale's `noise_private.key`. @returns undefined when they contain no key. */
export function parseNoiseKey(file: Uint8Array): NoiseKey | undefined {
  const privateKey = parsePrivateKeyFile(file);
  return privateKey && noiseKeyOf(privateKey);
}

/** @param privateKey an X25519 key. */
export function noiseKeyOf(privateKey: KeyObject): NoiseKey {
  return { privateKey, publicRaw: rawPublicKeyOf(createPublicKey(privateKey)), secrets: new Recent(KEPT_SECRETS) };
}

/** The public half, in the form that Headscale's `/key` answers: `mkey:<64 hex>`. */
export function formatNoiseKey(key: NoiseKey): string {
  return formatMachineKey(machineKeyOf(key.publicRaw));
}

/** Who sent a handshake. `missing`: there was no header. `unreadable`: the header could not be decrypted. */
export type Identity =
  | {
      readonly kind: 'identified';
      readonly machineKey: MachineKey;
      /** The client's capability version: Tailscale's number for what a client can. */
      readonly version: number;
      /** The ephemeral key of the handshake, 32 bytes. A second handshake with the same key is a replay. */
      readonly ephemeral: Buffer;
    }
  | { readonly kind: 'unreadable'; readonly why: string }
  | { readonly kind: 'missing' };

/**
 * Reads the machine key from the value of `X-Tailscale-Handshake`. The tag proves that whoever first sent this message
 * holds the key. A replay proves nothing about its sender.
 */
export function identify(key: NoiseKey, header: string | undefined): Identity {
  if (header === undefined) return { kind: 'missing' };
  const bytes = decodeHandshakeHeader(header);
  if (!bytes.ok) return { kind: 'unreadable', why: bytes.why };
  const initiation = parseInitiation(bytes.value);
  if (!initiation.ok) return { kind: 'unreadable', why: initiation.why };
  const read = readInitiation(key, initiation.value);
  if (!read.ok) return { kind: 'unreadable', why: read.why };
  const { version, ephemeralPublic: ephemeral } = initiation.value;
  return { kind: 'identified', machineKey: read.value.machineKey, version, ephemeral };
}

export interface ReadInitiation {
  readonly machineKey: MachineKey;
  /** The handshake state after this message, from which a responder continues. */
  readonly state: SymmetricState;
}

/**
 * The responder's part of Noise IK, first message (Noise revision 34, section 7.5; tailscale
 * `control/controlbase/handshake.go`, `Server`). It costs at most two X25519 and two AEAD operations, whatever the client sends.
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
  const machineKey = machineKeyOf(machineRaw);
  const ss = key.secrets.get(machineKey) ?? exchange(key.privateKey, machineRaw);
  if (ss === undefined) return { ok: false, why: 'key exchange' };
  state.mixKey(ss);
  // The tag of the empty payload proves that the client holds the machine key.
  if (state.decryptAndHash(initiation.sealedPayload) === undefined) return { ok: false, why: 'tag' };
  // Only now, so that nobody else fills the memory.
  key.secrets.set(machineKey, ss);
  return { ok: true, value: { machineKey, state } };
}

/** X25519. @returns undefined for a point of low order, which would give an all-zero shared secret. */
function exchange(privateKey: KeyObject, peerRaw: Uint8Array): Buffer | undefined {
  try {
    return diffieHellman({ privateKey, publicKey: publicKeyOf(peerRaw) });
  } catch {
    return undefined;
  }
}
