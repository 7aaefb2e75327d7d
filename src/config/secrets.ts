import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { type NoiseKey, parseNoiseKey } from '../identity/noise.ts';
import { codeOf, type ExitErrorCode, reasonOf, StartError } from '../lib/errors.ts';

/** A key takes a line; what is larger is some other file. */
export const LARGEST_KEY_KIB = 4;

export interface SmallFile {
  /** What an error is called when it cannot be used. */
  readonly code: ExitErrorCode;
  /** The flag that names it: `--config`. */
  readonly flag: string;
  readonly path: string;
  readonly largestKiB: number;
  /** What to do where there is no such file, where it is a folder, and where it is larger. */
  readonly cures: { readonly missing: string; readonly folder: string; readonly larger: string };
}

/**
 * Reads a regular file, or what a symbolic link to one leads to, whole. A pipe
 * or a device is not read: it may never answer, and this one thread carries every stream.
 *
 * @returns a buffer of its own, so that wiping it leaves no copy.
 * @throws StartError when it cannot be read, is no regular file or is larger.
 */
export function readSmallFile(file: SmallFile): Buffer {
  const { code, flag, path, largestKiB } = file;
  let bytes: Buffer | undefined;
  try {
    bytes = regularBytes(path, largestKiB * 1024 + 1);
  } catch (error) {
    throw new StartError(code, `${flag} ${path}: ${cureOf(error, file)}`, { cause: error });
  }
  if (bytes === undefined) throw new StartError(code, `${flag} ${path}: ${NO_REGULAR_FILE}`);
  if (bytes.length <= largestKiB * 1024) return bytes;
  bytes.fill(0);
  throw new StartError(code, `${flag} ${path}: is larger than ${largestKiB} KiB; ${file.cures.larger}`);
}

const NO_REGULAR_FILE = 'is a pipe, a socket or a device; name a regular file';

/** O_NONBLOCK: to open a pipe would else wait for its writer. O_NOCTTY: to open a terminal would else make it ours. */
const FLAGS = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

/** The first bytes of a file, `most` of them at most; undefined when it is no regular file. */
function regularBytes(path: string, most: number): Buffer | undefined {
  const file = openSync(path, FLAGS);
  try {
    const found = fstatSync(file);
    // A folder fails at the reading, with a code that says so.
    if (!found.isFile() && !found.isDirectory()) return undefined;
    return bytesOf(file, most);
  } finally {
    closeSync(file);
  }
}

function bytesOf(file: number, most: number): Buffer {
  const bytes = Buffer.alloc(most);
  let length = 0;
  try {
    for (let read = -1; read !== 0 && length < most; length += read) {
      read = readSync(file, bytes, length, most - length, null);
    }
    return bytes.subarray(0, length);
  } catch (error) {
    // It may be part of a key.
    bytes.fill(0);
    throw error;
  }
}

function cureOf(error: unknown, { cures }: SmallFile): string {
  switch (codeOf(error)) {
    case 'ENOENT':
      return `there is no such file; ${cures.missing}`;
    case 'EACCES':
      return 'this user may not read it; give it read access, for example through a group';
    case 'EISDIR':
      return `is a folder; ${cures.folder}`;
    // A socket cannot be opened at all, nor a device that is not plugged in.
    case 'ENXIO':
      return NO_REGULAR_FILE;
    default:
      return reasonOf(error);
  }
}

/** A file that holds one secret in one line. */
export interface SecretLine {
  readonly code: ExitErrorCode;
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
  const { code, flag, path, cures, cure } = line;
  const file = readSmallFile({ code, flag, path, largestKiB: LARGEST_KEY_KIB, cures: { ...cures, larger: cure } });
  const secret = file.toString('utf8').trim();
  const problem = problemOf(secret, line);
  if (problem !== undefined) throw noSecret(line, problem);
  return secret;
}

/** What holds something else than it should. */
export function noSecret({ code, flag, path, cure }: SecretLine, problem: string): StartError {
  return new StartError(code, `${flag} ${path}: ${problem}; ${cure}`);
}

function problemOf(secret: string, { badCharacters }: SecretLine): string | undefined {
  if (secret === '') return 'is empty';
  if (/[\r\n]/.test(secret)) return 'holds more than one line';
  return /^[\x21-\x7e]+$/.test(secret) ? undefined : badCharacters;
}

const SHORTEST = 16;

/**
 * Reads the file with the token that the admin server asks for, white space around it allowed.
 *
 * @returns the token, fit for an HTTP header.
 * @throws StartError when the file cannot be read or holds none that is long enough; what it holds is not in the message.
 */
export function readAdminToken(path: string): string {
  const line: SecretLine = {
    code: 'HSW_ADMIN_TOKEN_UNREADABLE',
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

/**
 * Reads a file with one of Headscale's API keys, white space around it allowed.
 *
 * @returns the key, fit for an HTTP header.
 * @throws StartError when the file cannot be read or holds no key; what it holds is not in the message.
 */
export function readApiKey(path: string): string {
  return readSecretLine({
    code: 'HSW_API_KEY_UNREADABLE',
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

const CURE = "it should read 'privkey:' and 64 hex digits, as the file that Headscale's noise.private_key_path names";

/**
 * Reads Headscale's `noise_private.key`; the file's bytes are wiped from memory once they are read.
 *
 * @throws StartError when the file cannot be read or holds no key.
 */
export function readNoiseKey(path: string): NoiseKey {
  const file = readSmallFile({
    code: 'HSW_NOISE_KEY_UNREADABLE',
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
  throw new StartError('HSW_NOISE_KEY_UNREADABLE', `--noise-key ${path}: holds no Noise key; ${CURE}`);
}

/** A chain of certificates takes some ten; what is larger is some other file. */
const LARGEST_KIB = 256;

export interface CertificateFiles {
  readonly certFile: string;
  readonly keyFile: string;
}

/** A server's certificate, with its chain, and its private key, as PEM. */
export interface Certificate {
  readonly cert: Buffer;
  /** To be wiped once it is in use. */
  readonly key: Buffer;
  readonly expires: Date;
  /** For whom it is, as in `DNS:hs.example.com, IP Address:192.0.2.1`. */
  readonly names: string;
}

/**
 * Reads a certificate and its key, and whether they belong together.
 *
 * @throws StartError when one cannot be used.
 */
export function readCertificate({ certFile, keyFile }: CertificateFiles): Certificate {
  const cert = readPem('certificate', certFile);
  const key = readPem('key', keyFile);
  try {
    const found = attempt(`--listen: the certificate ${certFile}`, 'it should be PEM', () => new X509Certificate(cert));
    const privateKey = attempt(`--listen: the key ${keyFile}`, 'it should be PEM, without a passphrase', () =>
      createPrivateKey(key),
    );
    if (belong(found, privateKey)) {
      return { cert, key, expires: new Date(found.validTo), names: found.subjectAltName ?? 'nobody' };
    }
  } catch (error) {
    key.fill(0);
    throw error;
  }
  key.fill(0);
  throw new StartError(
    'HSW_CERTIFICATE_UNREADABLE',
    `--listen: the key ${keyFile} does not belong to the certificate ${certFile}: name the pair`,
  );
}

function belong(cert: X509Certificate, key: KeyObject): boolean {
  try {
    return cert.checkPrivateKey(key);
  } catch {
    return false;
  }
}

function readPem(what: 'certificate' | 'key', path: string): Buffer {
  const cures = {
    missing: `give the path of the ${what}`,
    folder: 'name the file in it',
    larger: `so it is no ${what}`,
  };
  return readSmallFile({
    code: 'HSW_CERTIFICATE_UNREADABLE',
    flag: `--listen: the ${what}`,
    path,
    largestKiB: LARGEST_KIB,
    cures,
  });
}

function attempt<T>(what: string, cure: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new StartError('HSW_CERTIFICATE_UNREADABLE', `${what} cannot be read: ${reasonOf(error)}; ${cure}`, {
      cause: error,
    });
  }
}
