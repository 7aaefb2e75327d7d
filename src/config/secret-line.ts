import { StartError } from '../lib/errors.ts';
import { LARGEST_KEY_KIB, readSmallFile } from './read-file.ts';

/** A file that holds one secret in one line. */
export interface SecretLine {
  /** The flag that names it: `--admin-token-file`. */
  readonly flag: string;
  readonly path: string;
  readonly cures: { readonly missing: string; readonly folder: string };
  /** What it should hold. */
  readonly cure: string;
  /** What is wrong with characters that no header can carry. */
  readonly badCharacters: string;
}

/**
 * Reads it, white space around it allowed.
 *
 * @returns the secret, fit for an HTTP header.
 * @throws StartError when the file cannot be read or holds none; what it holds is not in the message.
 */
export function readSecretLine(line: SecretLine): string {
  const { flag, path, cures, cure } = line;
  const file = readSmallFile({ flag, path, largestKiB: LARGEST_KEY_KIB, cures: { ...cures, larger: cure } });
  const secret = file.toString('utf8').trim();
  const problem = problemOf(secret, line);
  if (problem !== undefined) throw noSecret(line, problem);
  return secret;
}

/** What holds something else than it should. */
export function noSecret({ flag, path, cure }: SecretLine, problem: string): StartError {
  return new StartError(`${flag} ${path}: ${problem}; ${cure}`);
}

function problemOf(secret: string, { badCharacters }: SecretLine): string | undefined {
  if (secret === '') return 'is empty';
  if (/[\r\n]/.test(secret)) return 'holds more than one line';
  return /^[\x21-\x7e]+$/.test(secret) ? undefined : badCharacters;
}
