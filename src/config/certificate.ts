import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { reasonOf, StartError } from '../lib/errors.ts';
import { readSmallFile } from './secrets.ts';

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
    `--listen: the key ${keyFile} is not that of the certificate ${certFile}: name the pair`,
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
