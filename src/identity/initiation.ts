/**
 * The client's first message of a ts2021 handshake, 101 bytes:
 *
 *     0   2  protocol version, big-endian
 *     2   1  message type, 1
 *     3   2  length of what follows, 96, big-endian
 *     5  32  e: the client's ephemeral public key
 *    37  48  s: the machine public key, sealed (32 + 16 tag)
 *    85  16  tag of the empty payload
 *
 * It travels as standard base64 in the header `X-Tailscale-Handshake`.
 * Source: tailscale `control/controlbase/messages.go`.
 */
export interface Initiation {
  readonly version: number;
  readonly ephemeralPublic: Buffer;
  readonly sealedMachineKey: Buffer;
  readonly sealedPayload: Buffer;
}

export const INITIATION_LENGTH = 101;
export const INITIATION_TYPE = 1;
const PAYLOAD_LENGTH = 96;
const BASE64_LENGTH = Math.ceil(INITIATION_LENGTH / 3) * 4;

export type UnreadableReason = 'base64' | 'length' | 'type' | 'payload length' | 'key exchange' | 'machine key' | 'tag';

export type Parsed<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly why: UnreadableReason };

/** The bytes of the header's value; lenient about nothing: what Go's decoder refuses is refused here. */
export function decodeHandshakeHeader(value: string): Parsed<Buffer> {
  if (value.length !== BASE64_LENGTH) return { ok: false, why: 'length' };
  const bytes = Buffer.from(value, 'base64');
  // Buffer.from skips what is not base64; encoding again shows whether it had to.
  if (bytes.toString('base64') !== value) return { ok: false, why: 'base64' };
  return { ok: true, value: bytes };
}

/** Splits an initiation into its fields. The fields are views of `bytes`, not copies. */
export function parseInitiation(bytes: Buffer): Parsed<Initiation> {
  if (bytes.length !== INITIATION_LENGTH) return { ok: false, why: 'length' };
  if (bytes[2] !== INITIATION_TYPE) return { ok: false, why: 'type' };
  if (bytes.readUInt16BE(3) !== PAYLOAD_LENGTH) return { ok: false, why: 'payload length' };
  return {
    ok: true,
    value: {
      version: bytes.readUInt16BE(0),
      ephemeralPublic: bytes.subarray(5, 37),
      sealedMachineKey: bytes.subarray(37, 85),
      sealedPayload: bytes.subarray(85, 101),
    },
  };
}
