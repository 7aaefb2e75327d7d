import type { NoiseKey } from '../identity/machine-key.ts';
import { parseNoiseKey } from '../identity/machine-key.ts';
import { StartError } from '../lib/errors.ts';
import { LARGEST_KEY_KIB, readSmallFile } from './read-file.ts';

const CURE = "it should read 'privkey:' and 64 hex digits, as the file that Headscale's noise.private_key_path names";

/**
 * Reads Headscale's `noise_private.key`; the file's bytes are wiped from memory once they are read.
 *
 * @throws StartError when the file cannot be read or holds no key.
 */
export function readNoiseKey(path: string): NoiseKey {
  const file = readSmallFile({
    flag: '--noise-key',
    path,
    largestKiB: LARGEST_KEY_KIB,
    cures: {
      missing: "see noise.private_key_path in Headscale's configuration",
      folder: 'name the file in it, noise_private.key',
      larger: `so it holds no Noise key: ${CURE}`,
    },
  });
  try {
    const key = parseNoiseKey(file);
    if (key !== undefined) return key;
  } finally {
    file.fill(0);
  }
  throw new StartError(`--noise-key ${path}: holds no Noise key; ${CURE}`);
}
