import { noSecret, readSecretLine, type SecretLine } from './secret-line.ts';

const SHORTEST = 16;

/**
 * Reads the file with the token that the admin server asks for, white space around it allowed.
 *
 * @returns the token, fit for an HTTP header.
 * @throws StartError when the file cannot be read or holds none that is long enough; what it holds is not in the message.
 */
export function readAdminToken(path: string): string {
  const line: SecretLine = {
    flag: '--admin-token-file',
    path,
    cures: {
      missing: 'make one with `openssl rand -hex 32` and put it there',
      folder: 'name the file in it that holds the token',
    },
    cure: 'it should hold one line, for example what `openssl rand -hex 32` prints',
    badCharacters: 'holds characters that cannot be sent in a header',
  };
  const token = readSecretLine(line);
  if (token.length >= SHORTEST) return token;
  throw noSecret(line, `holds ${token.length} characters, too few to be safe (${SHORTEST} at least)`);
}
