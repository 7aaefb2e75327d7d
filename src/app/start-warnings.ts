import type { Config } from '../config/types.ts';
import type { NoiseKey } from '../identity/noise.ts';
import type { ErrorCode } from '../lib/errors.ts';
import type { KernelOrNot } from '../liveness/kernel.ts';
import { readsArePooled } from '../proxy/pooled-reads.ts';
import type { Logger } from '../telemetry/log.ts';
import type { KeyFiles } from './key-files.ts';

/** Warns of features that are off, because the operator may not know it. */
export function warnOfMissing(log: Logger, noiseKey: NoiseKey | undefined, kernel: KernelOrNot): void {
  if (noiseKey === undefined) {
    log.warn(
      { code: 'HSW_NOISE_KEY_MISSING' satisfies ErrorCode },
      'no --noise-key: nodes cannot be told apart, so no stream is contested; everything else works',
    );
  }
  if (!kernel.ok) {
    log.warn(
      { code: 'HSW_KERNEL_EVIDENCE_UNAVAILABLE' satisfies ErrorCode, detail: kernel.why },
      'no kernel evidence: a dead stream is only severed once it is silent past --silent-after, nothing is held, and --gone-after does nothing',
    );
  }
  if (!readsArePooled()) {
    log.warn(
      { code: 'HSW_READS_NOT_POOLED' satisfies ErrorCode, node: process.version },
      'reads are not pooled: this version of Node does not let the watchdog choose the memory it reads into; everything works, but busy streams take more CPU; use a version of Node that the README names',
    );
  }
}

const WARN_OF_CERTIFICATE_MS = 14 * 86_400_000;

/** Warns of certificates that have expired or expire soon. */
export function warnOfCertificates(log: Logger, { listen }: Config, keys: KeyFiles, now: Date): void {
  for (const [i, { tls }] of listen.entries()) {
    const expires = keys.certificateOf(i)?.expires;
    if (expires === undefined || expires.getTime() > now.getTime() + WARN_OF_CERTIFICATE_MS) continue;
    const text = expires < now ? 'has expired' : 'expires within two weeks';
    log.warn(
      { code: 'HSW_CERTIFICATE_EXPIRING' satisfies ErrorCode, file: tls?.certFile, expires },
      `a certificate ${text}: renew it; the watchdog reads the file again when it changes`,
    );
  }
}
