import { StartError } from '../errors.ts';
import { LARGEST_KEY_KIB, readSmallFile } from './read-file.ts';

const SHORTEST = 16;
const CURE = 'it should hold one line, for example what `openssl rand -hex 32` prints';

/**
 * Reads the file with the token that the admin server asks for, white space around it allowed.
 *
 * @returns the token, fit for an HTTP header.
 * @throws StartError when the file cannot be read or holds none that is long enough; what it holds is not in the message.
 */
export function readAdminToken(path: string): string {
  const file = readSmallFile({
    flag: '--admin-token-file',
    path,
    largestKiB: LARGEST_KEY_KIB,
    cures: {
      missing: 'make one with `openssl rand -hex 32` and put it there',
      folder: 'name the file in it that holds the token',
      larger: CURE,
    },
  });
  const token = file.toString('utf8').trim();
  const problem = problemOf(token);
  if (problem === undefined) return token;
  throw new StartError(`--admin-token-file ${path}: ${problem}; ${CURE}`);
}

function problemOf(token: string): string | undefined {
  if (token === '') return 'is empty';
  if (/[\r\n]/.test(token)) return 'holds more than one line';
  if (!/^[\x21-\x7e]+$/.test(token)) return 'holds characters that cannot be sent in a header';
  if (token.length < SHORTEST) return `holds ${token.length} characters, too few to be safe (${SHORTEST} at least)`;
  return undefined;
}
