/**
 * The first message of a ts2021 handshake, from the client. It is 101 bytes long and is sent as standard base64 in the
 * header `X-Tailscale-Handshake`.
 *
 * Source: tailscale `control/controlbase/messages.go`, `initiationMessage`.
 */
export interface Initiation {
  /** The protocol version in clear text, which is also part of the Noise prologue. */
  readonly version: number;
  readonly ephemeralPublic: Buffer;
  readonly sealedMachineKey: Buffer;
  readonly sealedPayload: Buffer;
}

export const INITIATION_LENGTH = 101;
export const INITIATION_TYPE = 1;
const PAYLOAD_LENGTH = 96;
const BASE64_LENGTH = Math.ceil(INITIATION_LENGTH / 3) * 4;

/** Why an initiation cannot be read: its encoding, its header, or the cryptography. */
type UnreadableReason = 'base64' | 'length' | 'type' | 'payload length' | 'key exchange' | 'machine key' | 'tag';

export type Parsed<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly why: UnreadableReason };

/** Decodes the value of `X-Tailscale-Handshake`, as strictly as Go's `base64.StdEncoding`. */
export function decodeHandshakeHeader(value: string): Parsed<Buffer> {
  if (value.length !== BASE64_LENGTH) return { ok: false, why: 'length' };
  const bytes = Buffer.from(value, 'base64');
  // Buffer.from skips characters that are not base64. Encoding the bytes again shows whether there were any.
  if (bytes.toString('base64') !== value) return { ok: false, why: 'base64' };
  return { ok: true, value: bytes };
}

/*
 * offset  length
 *      0       2  protocol version, big-endian
 *      2       1  message type, 1
 *      3       2  length of the rest, 96, big-endian
 *      5      32  e: the client's ephemeral public key
 *     37      48  s: the machine public key, encrypted (32), and its tag (16)
 *     85      16  tag of the empty payload
 */
const versionOf = (bytes: Buffer): number => bytes.readUInt16BE(0);
const typeOf = (bytes: Buffer): number => bytes.readUInt8(2);
const payloadLengthOf = (bytes: Buffer): number => bytes.readUInt16BE(3);
const ephemeralPublicOf = (bytes: Buffer): Buffer => bytes.subarray(5, 37);
const sealedMachineKeyOf = (bytes: Buffer): Buffer => bytes.subarray(37, 85);
const sealedPayloadOf = (bytes: Buffer): Buffer => bytes.subarray(85, 101);

/** Splits an initiation into its fields. The fields are views of `bytes`, not copies. */
export function parseInitiation(bytes: Buffer): Parsed<Initiation> {
  if (bytes.length !== INITIATION_LENGTH) return { ok: false, why: 'length' };
  if (typeOf(bytes) !== INITIATION_TYPE) return { ok: false, why: 'type' };
  if (payloadLengthOf(bytes) !== PAYLOAD_LENGTH) return { ok: false, why: 'payload length' };
  return {
    ok: true,
    value: {
      version: versionOf(bytes),
      ephemeralPublic: ephemeralPublicOf(bytes),
      sealedMachineKey: sealedMachineKeyOf(bytes),
      sealedPayload: sealedPayloadOf(bytes),
    },
  };
}
