import type { Config } from '../config/types.ts';
import type { NoiseKey } from '../identity/noise.ts';
import type { KernelOrNot } from '../liveness/kernel.ts';
import { readsArePooled } from '../proxy/pooled-reads.ts';
import type { Logger } from '../telemetry/logger.ts';
import type { KeyFiles } from './key-files.ts';

/** What an operator may not know that it is missing. */
export function warnOfWhatIsOff(log: Logger, noiseKey: NoiseKey | undefined, kernel: KernelOrNot): void {
  if (noiseKey === undefined) {
    log.warn('no --noise-key: nodes cannot be told apart, so no stream is contested; all else works');
  }
  if (!kernel.ok) {
    log.warn(
      { why: kernel.why },
      'no kernel evidence: a dead stream is severed only once it is silent past --silent-after, nothing is held, and --gone-after does nothing',
    );
  }
  if (!readsArePooled()) {
    log.warn(
      { node: process.version },
      'reads are not pooled: this version of Node does not let the watchdog choose the memory it reads into; everything works, but busy streams take more of the processor; use a version of Node that the README names',
    );
  }
}

const WARN_BEFORE_MS = 14 * 86_400_000;

/** Which certificates have expired, or soon will. */
export function warnOfCertificates(log: Logger, { listen }: Config, keys: KeyFiles, now: Date): void {
  for (const [i, { tls }] of listen.entries()) {
    const expires = keys.certificateOf(i)?.expires;
    if (expires === undefined || expires.getTime() > now.getTime() + WARN_BEFORE_MS) continue;
    const text = expires < now ? 'has expired' : 'expires within two weeks';
    log.warn(
      { file: tls?.certFile, expires },
      `a certificate ${text}: renew it; it is read again when its file changes`,
    );
  }
}
