import { createPrivateKey, createPublicKey, type KeyObject } from 'node:crypto';

/** The public key of a machine: 64 lower-case hex digits, without the prefix `mkey:`. */
export type MachineKey = string & { readonly __brand: 'MachineKey' };

/** The public key of a node: 64 lower-case hex digits, without the prefix `nodekey:`. It changes with each login. */
export type NodeKey = string & { readonly __brand: 'NodeKey' };

const KEY_LENGTH = 32;
// The DER headers of an X25519 key (RFC 8410), in front of its 32 raw bytes.
const SPKI_PREFIX = Buffer.from('302a300506032b656e032100', 'hex');
const PKCS8_PREFIX = Buffer.from('302e020100300506032b656e04220420', 'hex');

/** @param raw 32 bytes. */
export function machineKeyOf(raw: Uint8Array): MachineKey {
  return Buffer.from(raw).toString('hex') as MachineKey;
}

/** The form that Headscale and Tailscale print: `mkey:<64 hex>`. */
export function formatMachineKey(key: MachineKey): string {
  return `mkey:${key}`;
}

/** The form that Headscale and Tailscale print: `nodekey:<64 hex>`. */
export function formatNodeKey(key: NodeKey): string {
  return `nodekey:${key}`;
}

/** @returns the key in `mkey:<64 hex>`; undefined if the text has another form. */
export function parseMachineKey(text: string): MachineKey | undefined {
  return /^mkey:([0-9a-f]{64})$/.exec(text)?.[1] as MachineKey | undefined;
}

/** @returns the key in `nodekey:<64 hex>`; undefined if the text has another form. */
export function parseNodeKey(text: string): NodeKey | undefined {
  return /^nodekey:([0-9a-f]{64})$/.exec(text)?.[1] as NodeKey | undefined;
}

/**
 * An X25519 public key from its 32 raw bytes. It is read as a JWK, which takes OpenSSL 6 µs. DER takes 60 µs. Node 24 finds out
 * that a JWK is not a `KeyObject` by four errors that it throws and catches: their stack traces would take 50 µs.
 */
export function publicKeyOf(raw: Uint8Array): KeyObject {
  const x = Buffer.from(raw).toString('base64url');
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 0;
  try {
    return createPublicKey({ key: { kty: 'OKP', crv: 'X25519', x }, format: 'jwk' });
  } finally {
    Error.stackTraceLimit = limit;
  }
}

/** The 32 raw bytes of an X25519 public key. */
export function rawPublicKeyOf(key: KeyObject): Buffer {
  return key.export({ format: 'der', type: 'spki' }).subarray(SPKI_PREFIX.length);
}

/** An X25519 private key from its 32 raw bytes. The copy made here is wiped. */
function privateKeyOf(raw: Uint8Array): KeyObject {
  const der = Buffer.concat([PKCS8_PREFIX, raw]);
  try {
    return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' });
  } finally {
    der.fill(0);
  }
}

const PRIVATE_PREFIX = Buffer.from('privkey:');

/**
 * Reads Headscale's `noise_private.key`: `privkey:` and 64 hex digits, with optional white space around them. The key is
 * decoded from the bytes of `file` into one buffer, which is wiped. It never becomes a string, which could not be wiped.
 *
 * @returns undefined when `file` has another form.
 */
export function parsePrivateKeyFile(file: Uint8Array): KeyObject | undefined {
  const text = trimmed(file);
  const digits = text.subarray(PRIVATE_PREFIX.length);
  if (!PRIVATE_PREFIX.equals(text.subarray(0, PRIVATE_PREFIX.length)) || digits.length !== 2 * KEY_LENGTH) {
    return undefined;
  }
  const raw = Buffer.alloc(KEY_LENGTH);
  try {
    for (let i = 0; i < KEY_LENGTH; i++) {
      const high = hexValue(digits[2 * i]);
      const low = hexValue(digits[2 * i + 1]);
      if (high === undefined || low === undefined) return undefined;
      raw[i] = high * 16 + low;
    }
    return privateKeyOf(raw);
  } finally {
    raw.fill(0);
  }
}

function trimmed(bytes: Uint8Array): Uint8Array {
  const isSpace = (byte: number | undefined): boolean =>
    byte === 0x20 || (byte !== undefined && byte >= 9 && byte <= 13);
  let start = 0;
  let end = bytes.length;
  while (start < end && isSpace(bytes[start])) start++;
  while (end > start && isSpace(bytes[end - 1])) end--;
  return bytes.subarray(start, end);
}

function hexValue(byte: number | undefined): number | undefined {
  if (byte === undefined) return undefined;
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const lower = byte | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x61 + 10 : undefined;
}
