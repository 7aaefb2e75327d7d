import { readFileSync } from 'node:fs';
import { codeOf, reasonOf, StartError } from '../errors.ts';
import type { NoiseKey } from '../identity/machine-key.ts';
import { parseNoiseKey } from '../identity/machine-key.ts';

/**
 * Reads Headscale's `noise_private.key`; the file's bytes are wiped from memory once they are read.
 *
 * @throws StartError when the file cannot be read or holds no key.
 */
export function readNoiseKey(path: string): NoiseKey {
  const file = readBytes(path);
  const key = parseNoiseKey(file);
  file.fill(0);
  if (key !== undefined) return key;
  throw new StartError(
    `--noise-key ${path}: holds no Noise key; it should read 'privkey:' and 64 hex digits, as the file that Headscale's noise.private_key_path names`,
  );
}

function readBytes(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new StartError(`--noise-key ${path}: ${cureOf(error)}`, { cause: error });
  }
}

function cureOf(error: unknown): string {
  switch (codeOf(error)) {
    case 'ENOENT':
      return "there is no such file; see noise.private_key_path in Headscale's configuration";
    case 'EACCES':
      return 'this user may not read it; give it read access, for example through a group';
    case 'EISDIR':
      return 'is a folder; name the file in it, noise_private.key';
    default:
      return reasonOf(error);
  }
}
