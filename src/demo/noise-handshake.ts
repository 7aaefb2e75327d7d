import { diffieHellman, generateKeyPairSync } from 'node:crypto';
import { decodeHandshakeHeader, INITIATION_LENGTH, INITIATION_TYPE, parseInitiation } from '../identity/initiation.ts';
import { type MachineKey, publicKeyOf } from '../identity/keys.ts';
import { type NoiseKey, noiseKeyOf, prologueOf, readInitiation, SymmetricState } from '../identity/noise.ts';

/**
 * The server's answer to an initiation, 51 bytes:
 *
 *     0   1  message type, 2
 *     1   2  length of what follows, 48, big-endian
 *     3  32  e: the server's ephemeral public key
 *    35  16  tag of the empty payload
 *
 * Source: tailscale `control/controlbase/messages.go`.
 */
export const RESPONSE_LENGTH = 51;
const RESPONSE_TYPE = 2;
const RESPONSE_HEADER = Buffer.of(RESPONSE_TYPE, 0, 48);
const EMPTY = Buffer.alloc(0);

/** The transport keys of one side. */
export interface TransportKeys {
  readonly send: Buffer;
  readonly receive: Buffer;
}

export type Answer =
  | {
      readonly ok: true;
      readonly version: number;
      readonly machineKey: MachineKey;
      readonly response: Buffer;
      readonly keys: TransportKeys;
    }
  | { readonly ok: false; readonly why: string };

/**
 * The responder. Reads the value of `X-Tailscale-Handshake` and completes the handshake. Noise IK, rev. 34, section 7.5; the
 * comments name its message tokens.
 */
export function answerHandshake(server: NoiseKey, header: string): Answer {
  const bytes = decodeHandshakeHeader(header);
  if (!bytes.ok) return bytes;
  const initiation = parseInitiation(bytes.value);
  if (!initiation.ok) return initiation;
  const read = readInitiation(server, initiation.value);
  if (!read.ok) return read;
  const { state, machineKey } = read.value;
  // <- e
  const ephemeral = generateNoiseKey();
  state.mixHash(ephemeral.publicRaw);
  // <- ee
  state.mixKey(exchange(ephemeral, initiation.value.ephemeralPublic));
  // <- se
  state.mixKey(exchange(ephemeral, Buffer.from(machineKey, 'hex')));
  const tag = state.encryptAndHash(EMPTY);
  const [receive, send] = state.split();
  const response = Buffer.concat([RESPONSE_HEADER, ephemeral.publicRaw, tag]);
  return { ok: true, version: initiation.value.version, machineKey, response, keys: { send, receive } };
}

export interface StartedHandshake {
  /** The 101 bytes that travel, as base64, in `X-Tailscale-Handshake`. */
  readonly initiation: Buffer;
  /** Reads the server's response (`RESPONSE_LENGTH` bytes). Call it once. @returns undefined if the server lacks the key. */
  finish(response: Buffer): TransportKeys | undefined;
}

/** The initiator. Begins the handshake of a node with the key `machine` with the server whose public key is `serverPublic`. */
export function startHandshake(machine: NoiseKey, serverPublic: Buffer, version: number): StartedHandshake {
  const state = new SymmetricState();
  const ephemeral = generateNoiseKey();
  state.mixHash(prologueOf(version));
  // <- s
  state.mixHash(serverPublic);
  // -> e
  state.mixHash(ephemeral.publicRaw);
  // -> es
  state.mixKey(exchange(ephemeral, serverPublic));
  // -> s
  const sealedMachineKey = state.encryptAndHash(machine.publicRaw);
  // -> ss
  state.mixKey(exchange(machine, serverPublic));
  const tag = state.encryptAndHash(EMPTY);
  const header = Buffer.alloc(5);
  header.writeUInt16BE(version, 0);
  header.writeUInt8(INITIATION_TYPE, 2);
  header.writeUInt16BE(INITIATION_LENGTH - header.length, 3);
  return {
    initiation: Buffer.concat([header, ephemeral.publicRaw, sealedMachineKey, tag]),
    finish: (response) => finishHandshake(state, machine, ephemeral, response),
  };
}

function finishHandshake(
  state: SymmetricState,
  machine: NoiseKey,
  ephemeral: NoiseKey,
  response: Buffer,
): TransportKeys | undefined {
  if (response.length !== RESPONSE_LENGTH || !RESPONSE_HEADER.equals(response.subarray(0, 3))) return undefined;
  const serverEphemeral = response.subarray(3, 35);
  try {
    // <- e, ee, se
    state.mixHash(serverEphemeral);
    state.mixKey(exchange(ephemeral, serverEphemeral));
    state.mixKey(exchange(machine, serverEphemeral));
  } catch {
    return undefined;
  }
  if (state.decryptAndHash(response.subarray(35)) === undefined) return undefined;
  const [send, receive] = state.split();
  return { send, receive };
}

/** X25519 (RFC 7748). @throws Error if the peer's key has low order, which would give an all-zero secret. */
function exchange(own: NoiseKey, peerRaw: Uint8Array): Buffer {
  return diffieHellman({ privateKey: own.privateKey, publicKey: publicKeyOf(peerRaw) });
}

const PKCS8_HEADER_LENGTH = 16;

/** Creates an X25519 key pair: a server's Noise key, a machine key, or the ephemeral key of a handshake. */
export function generateNoiseKey(): NoiseKey {
  return noiseKeyOf(generateKeyPairSync('x25519').privateKey);
}

/** The content of Headscale's `noise_private.key` for this key: `privkey:<64 hex>` and a newline. */
export function formatNoiseKeyFile(key: NoiseKey): Buffer {
  const raw = key.privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(PKCS8_HEADER_LENGTH);
  return Buffer.from(`privkey:${raw.toString('hex')}\n`);
}
