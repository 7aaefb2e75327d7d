import { StartError } from '../errors.ts';
import { LARGEST_KEY_KIB, readSmallFile } from './read-file.ts';

const CURE = 'it should hold one line, the key that `headscale apikeys create` prints';

/**
 * Reads a file with one of Headscale's API keys, white space around it allowed.
 *
 * @returns the key, fit for an HTTP header.
 * @throws StartError when the file cannot be read or holds no key; what it holds is not in the message.
 */
export function readApiKey(path: string): string {
  const file = readSmallFile({
    flag: '--headscale-api-key-file',
    path,
    largestKiB: LARGEST_KEY_KIB,
    cures: {
      missing: 'make a key with `headscale apikeys create` and put it there',
      folder: 'name the file in it that holds the key of `headscale apikeys create`',
      larger: CURE,
    },
  });
  const key = file.toString('utf8').trim();
  const problem = problemOf(key);
  if (problem === undefined) return key;
  throw new StartError(`--headscale-api-key-file ${path}: ${problem}; ${CURE}`);
}

function problemOf(key: string): string | undefined {
  if (key === '') return 'is empty';
  if (/[\r\n]/.test(key)) return 'holds more than one line';
  if (!/^[\x21-\x7e]+$/.test(key)) return 'holds characters that no API key has';
  return undefined;
}
