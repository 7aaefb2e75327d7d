import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { type NoiseKey, parseNoiseKey } from '../identity/noise.ts';
import { codeOf, type ExitErrorCode, reasonOf, StartError } from '../lib/errors.ts';
import { DAY_MS, dayAndDistance } from '../lib/units.ts';

/** A key is a single line. A larger file cannot be one. */
const LARGEST_KEY_KIB = 4;

export interface SmallFile {
  /** The error's code if the file cannot be used. */
  readonly code: ExitErrorCode;
  /** The flag that names it: `--config`. */
  readonly flag: string;
  readonly path: string;
  readonly largestKiB: number;
  /** What to do if the file is missing, is a folder, or is too large. */
  readonly advice: { readonly missing: string; readonly folder: string; readonly larger: string };
}

/**
 * Reads a whole regular file, also through a symbolic link. It refuses a pipe or a device: reading it might block for ever,
 * and with it every stream, because there is only one thread.
 *
 * @returns a buffer of its own memory, so that the caller can wipe it.
 * @throws StartError when the file cannot be read, is not a regular file or is larger than `largestKiB`.
 */
export function readSmallFile(file: SmallFile): Buffer {
  const { code, flag, path, largestKiB } = file;
  let bytes: Buffer | undefined;
  try {
    bytes = regularBytes(path, largestKiB * 1024 + 1);
  } catch (error) {
    throw new StartError(code, `${flag} ${path}: ${reasonAndAdvice(error, file)}`, { cause: error });
  }
  if (bytes === undefined) throw new StartError(code, `${flag} ${path}: ${NOT_REGULAR}`);
  if (bytes.length <= largestKiB * 1024) return bytes;
  bytes.fill(0);
  throw new StartError(code, `${flag} ${path}: is larger than ${largestKiB} KiB; ${file.advice.larger}`);
}

const NOT_REGULAR = 'is a pipe, a socket or a device; name a regular file';

/** Without O_NONBLOCK, opening a pipe waits for a writer. Without O_NOCTTY, a terminal becomes our controlling terminal. */
const FLAGS = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

/** @returns the first `most` bytes of a file; undefined if it is not a regular file. */
function regularBytes(path: string, most: number): Buffer | undefined {
  const file = openSync(path, FLAGS);
  try {
    const found = fstatSync(file);
    // Reading a folder fails with EISDIR, for which there is advice.
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
    // The bytes may be part of a key.
    bytes.fill(0);
    throw error;
  }
}

function reasonAndAdvice(error: unknown, { advice }: SmallFile): string {
  switch (codeOf(error)) {
    case 'ENOENT':
      return `there is no such file; ${advice.missing}`;
    case 'EACCES':
      return 'this user may not read it; give it read access, for example through a group';
    case 'EISDIR':
      return `is a folder; ${advice.folder}`;
    // The path is a socket, or a device that is not there.
    case 'ENXIO':
      return NOT_REGULAR;
    default:
      return reasonOf(error);
  }
}

/** A file with one secret in a single line. */
export interface SecretLine {
  readonly code: ExitErrorCode;
  /** The flag that names it: `--admin-token-file`. */
  readonly flag: string;
  readonly path: string;
  readonly advice: { readonly missing: string; readonly folder: string };
  /** The end of a message: what the file should hold. */
  readonly expected: string;
  /** The message for a secret with characters other than visible ASCII. */
  readonly badCharacters: string;
}

/**
 * Reads a secret, with or without white space around it.
 *
 * @returns the secret, which an HTTP header can carry.
 * @throws StartError when the file cannot be read or holds no secret. The message never shows the content of the file.
 */
export function readSecretLine(line: SecretLine): string {
  const { code, flag, path, advice, expected } = line;
  const file = readSmallFile({
    code,
    flag,
    path,
    largestKiB: LARGEST_KEY_KIB,
    advice: { ...advice, larger: expected },
  });
  const secret = file.toString('utf8').trim();
  const problem = problemOf(secret, line);
  if (problem !== undefined) throw unusable(line, problem);
  return secret;
}

function unusable({ code, flag, path, expected }: SecretLine, problem: string): StartError {
  return new StartError(code, `${flag} ${path}: ${problem}; ${expected}`);
}

function problemOf(secret: string, { badCharacters }: SecretLine): string | undefined {
  if (secret === '') return 'is empty';
  if (/[\r\n]/.test(secret)) return 'holds more than one line';
  return /^[\x21-\x7e]+$/.test(secret) ? undefined : badCharacters;
}

/** The tokens of the admin server. */
export interface AdminTokens {
  /** Undefined if the admin server asks for none. */
  readonly all: string | undefined;
  /** The one that may only read. */
  readonly read: string | undefined;
}

/**
 * Reads the tokens that the admin server asks for.
 *
 * @throws StartError as `readAdminToken` does, and when both are the same.
 */
export function readAdminTokens(files: {
  readonly adminTokenFile: string | undefined;
  readonly adminReadTokenFile: string | undefined;
}): AdminTokens {
  const { adminTokenFile, adminReadTokenFile: readFile } = files;
  const all = adminTokenFile === undefined ? undefined : readAdminToken(adminTokenFile);
  const read = readFile === undefined ? undefined : readAdminToken(readFile, '--admin-read-token-file');
  if (read === undefined || read !== all) return { all, read };
  throw unusable(tokenLine(readFile ?? '', '--admin-read-token-file'), 'holds the token of --admin-token-file');
}

const SHORTEST_TOKEN = 16;

/**
 * Reads a token of the admin server, at least 16 characters.
 *
 * @throws StartError as `readSecretLine` does, and when the token is too short.
 */
export function readAdminToken(path: string, flag = '--admin-token-file'): string {
  const line = tokenLine(path, flag);
  const token = readSecretLine(line);
  if (token.length >= SHORTEST_TOKEN) return token;
  throw unusable(line, `holds ${token.length} characters, too few to be safe (at least ${SHORTEST_TOKEN})`);
}

function tokenLine(path: string, flag: string): SecretLine {
  return {
    code: 'HSW_ADMIN_TOKEN_UNREADABLE',
    flag,
    path,
    advice: {
      missing: 'make one with `openssl rand -hex 32` and put it there',
      folder: 'name the file in it that holds the token',
    },
    expected: 'it should hold one line, for example what `openssl rand -hex 32` prints',
    badCharacters: 'holds characters that cannot be sent in a header',
  };
}

/**
 * Reads a Headscale API key.
 *
 * @throws StartError as `readSecretLine` does.
 */
export function readApiKey(path: string): string {
  return readSecretLine({
    code: 'HSW_API_KEY_UNREADABLE',
    flag: '--headscale-api-key-file',
    path,
    advice: {
      missing: 'make a key with `headscale apikeys create` and put it there',
      folder: 'name the file in it that holds the key of `headscale apikeys create`',
    },
    expected: 'it should hold one line, the key that `headscale apikeys create` prints',
    badCharacters: 'holds characters that are not in any API key',
  });
}

/**
 * Reads the secret of a Headscale OAuth client. It contains the client's id.
 *
 * @throws StartError as `readSecretLine` does.
 */
export function readOauthClientSecret(path: string): string {
  return readSecretLine({
    code: 'HSW_OAUTH_CLIENT_UNREADABLE',
    flag: '--headscale-oauth-client-file',
    path,
    advice: {
      missing: 'make a client with `headscale oauth-clients create --scope devices:core:read` and put its secret there',
      folder: 'name the file in it that holds the secret of `headscale oauth-clients create`',
    },
    expected: 'it should hold one line, the secret that `headscale oauth-clients create` prints',
    badCharacters: 'holds characters that are not in any secret of an OAuth client',
  });
}

/**
 * Reads the secret of a target of notifications.
 *
 * @param isSigned whether it is a key for signatures, `whsec_` and base64; otherwise it is a token.
 * @throws StartError as `readSecretLine` does, and when it is no such key.
 */
export function readNotifySecret(path: string, isSigned: boolean): string {
  const expected = isSigned
    ? 'it should hold one line, whsec_ and a key in base64, as `echo whsec_$(openssl rand -base64 32)` prints'
    : "it should hold one line, the receiver's token";
  const missing = isSigned
    ? 'make one with `echo whsec_$(openssl rand -base64 32)` and put it there'
    : "put the receiver's token there";
  const line: SecretLine = {
    ...{ code: 'HSW_NOTIFY_SECRET_UNREADABLE', flag: 'notify: secret-file', path, expected },
    advice: { missing, folder: 'name the file in it that holds the secret' },
    badCharacters: 'holds characters that cannot be sent in a header',
  };
  const secret = readSecretLine(line);
  if (!isSigned || WEBHOOK_SECRET.test(secret)) return secret;
  throw unusable(line, 'holds no key for signatures');
}

/** Standard Webhooks asks for 24 to 64 bytes. */
const WEBHOOK_SECRET = /^whsec_[A-Za-z0-9+/]{32,86}={0,2}$/;

const NOISE_KEY_FORM =
  "it should read 'privkey:' and 64 hex digits, as in the file that Headscale's noise.private_key_path names";

/**
 * Reads Headscale's `noise_private.key`, and wipes the file's bytes from memory.
 *
 * @throws StartError when the file cannot be read or does not hold a key.
 */
export function readNoiseKey(path: string): NoiseKey {
  const file = readSmallFile({
    code: 'HSW_NOISE_KEY_UNREADABLE',
    flag: '--noise-key',
    path,
    largestKiB: LARGEST_KEY_KIB,
    advice: {
      missing: "see noise.private_key_path in Headscale's configuration",
      folder: 'name the file in it, noise_private.key',
      larger: `so it is not a Noise key: ${NOISE_KEY_FORM}`,
    },
  });
  try {
    const key = parseNoiseKey(file);
    if (key !== undefined) return key;
  } finally {
    file.fill(0);
  }
  throw new StartError('HSW_NOISE_KEY_UNREADABLE', `--noise-key ${path}: does not hold a Noise key; ${NOISE_KEY_FORM}`);
}

/** A certificate with its chain is about 10 KiB. A much larger file is something else. */
const LARGEST_CERTIFICATE_KIB = 256;

export interface CertificateFiles {
  readonly certFile: string;
  readonly keyFile: string;
}

/** A server's certificate with its chain, and its private key, as PEM. */
export interface Certificate {
  readonly cert: Buffer;
  /** Wipe it after giving it to the TLS server. */
  readonly key: Buffer;
  readonly expires: Date;
  /** From when on a renewal is overdue. */
  readonly warnsAt: Date;
  /** The hosts for which it is valid, as in `DNS:hs.example.com, IP Address:192.0.2.1`. */
  readonly names: string;
  readonly isSelfSigned: boolean;
  readonly isRsa: boolean;
}

/**
 * When to warn: 14 days before the end, or when a quarter of the whole time is left. Renewals begin with a third of it left, or
 * with half of it if it is only days.
 */
export function expiryOf(begins: Date, expires: Date): Pick<Certificate, 'expires' | 'warnsAt'> {
  const aheadMs = Math.min(14 * DAY_MS, (expires.getTime() - begins.getTime()) / 4);
  return { expires, warnsAt: new Date(expires.getTime() - aheadMs) };
}

export interface CertificateProblem {
  readonly level: 'warn' | 'fail';
  readonly code: 'HSW_CERTIFICATE_EXPIRING' | 'HSW_CERTIFICATE_SELF_SIGNED';
  readonly text: string;
}

/** Why clients refuse a certificate, or soon will. `serve` and `check` both say it. */
export function certificateProblems(
  { expires, warnsAt, isSelfSigned }: Pick<Certificate, 'expires' | 'warnsAt' | 'isSelfSigned'>,
  now: Date,
): readonly CertificateProblem[] {
  const problems: CertificateProblem[] = [];
  const code = 'HSW_CERTIFICATE_EXPIRING';
  const when = dayAndDistance(expires, now);
  if (expires <= now) problems.push({ level: 'fail', code, text: `ended on ${when}, so clients refuse it: renew it` });
  else if (warnsAt <= now) problems.push({ level: 'warn', code, text: `ends on ${when}: renew it` });
  if (isSelfSigned) {
    const text =
      'is self-signed, so clients refuse it unless you have made them trust it: use one of a certificate authority that they know';
    problems.push({ level: 'warn', code: 'HSW_CERTIFICATE_SELF_SIGNED', text });
  }
  return problems;
}

/**
 * Reads a certificate and its private key.
 *
 * @throws StartError when one of them cannot be used, or when the key is not the certificate's.
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
      return {
        ...{ cert, key, names: found.subjectAltName ?? 'no host' },
        ...expiryOf(new Date(found.validFrom), new Date(found.validTo)),
        isSelfSigned: found.checkIssued(found),
        isRsa: privateKey.asymmetricKeyType === 'rsa',
      };
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
  const advice = {
    missing: `give the path of the ${what}`,
    folder: 'name the file in it',
    larger: `so it is not a ${what}`,
  };
  return readSmallFile({
    code: 'HSW_CERTIFICATE_UNREADABLE',
    flag: `--listen: the ${what}`,
    path,
    largestKiB: LARGEST_CERTIFICATE_KIB,
    advice,
  });
}

function attempt<T>(what: string, expected: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new StartError('HSW_CERTIFICATE_UNREADABLE', `${what} cannot be read: ${reasonOf(error)}; ${expected}`, {
      cause: error,
    });
  }
}
