import { readSecretLine } from './secret-line.ts';

/**
 * Reads a file with one of Headscale's API keys, white space around it allowed.
 *
 * @returns the key, fit for an HTTP header.
 * @throws StartError when the file cannot be read or holds no key; what it holds is not in the message.
 */
export function readApiKey(path: string): string {
  return readSecretLine({
    flag: '--headscale-api-key-file',
    path,
    cures: {
      missing: 'make a key with `headscale apikeys create` and put it there',
      folder: 'name the file in it that holds the key of `headscale apikeys create`',
    },
    cure: 'it should hold one line, the key that `headscale apikeys create` prints',
    badCharacters: 'holds characters that no API key has',
  });
}
