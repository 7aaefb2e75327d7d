import { generateKeyPairSync } from 'node:crypto';
import { rawPublicKeyOf } from '../identity/keys.ts';
import type { NoiseKey } from '../identity/machine-key.ts';

const PKCS8_HEADER_LENGTH = 16;

/** A fresh X25519 key pair: a server's Noise key, a machine key or, for one handshake, an ephemeral one. */
export function generateNoiseKey(): NoiseKey {
  const { privateKey, publicKey } = generateKeyPairSync('x25519');
  return { privateKey, publicRaw: rawPublicKeyOf(publicKey) };
}

/** What Headscale would have in `noise_private.key` for this key: `privkey:<64 hex>` and a newline. */
export function formatNoiseKeyFile(key: NoiseKey): Buffer {
  const raw = key.privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(PKCS8_HEADER_LENGTH);
  return Buffer.from(`privkey:${raw.toString('hex')}\n`);
}
