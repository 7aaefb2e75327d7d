import { type Certificate, certificateProblems } from '../config/secrets.ts';
import type { Config } from '../config/types.ts';
import type { NoiseKey } from '../identity/noise.ts';
import type { ErrorCode } from '../lib/errors.ts';
import type { KernelOrNot } from '../liveness/kernel.ts';
import { readsArePooled } from '../proxy/pooled-reads.ts';
import type { Logger } from '../telemetry/log.ts';

/** Warns of features that are off, because the operator may not know it. */
export function warnOfMissing(
  log: Logger,
  noiseKey: NoiseKey | undefined,
  file: string | undefined,
  kernel: KernelOrNot,
): void {
  if (noiseKey === undefined && file !== undefined) {
    log.warn(
      { code: 'HSW_NOISE_KEY_MISSING' satisfies ErrorCode, file },
      'the file of --noise-key is not there yet: until it is, nodes cannot be told apart; Headscale makes it when it starts for the first time; if Headscale has started already, correct the path',
    );
  } else if (noiseKey === undefined) {
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

/** Warns of certificates that clients refuse, or soon will. */
export function warnOfCertificates(
  log: Logger,
  { listen }: Config,
  keys: { certificateOf(listener: number): Certificate | undefined },
  now: Date,
): void {
  for (const [i, { tls }] of listen.entries()) {
    const certificate = keys.certificateOf(i);
    if (certificate === undefined) continue;
    const { expires } = certificate;
    for (const { code, text } of certificateProblems(certificate, now))
      log.warn({ code, file: tls?.certFile, expires }, `a certificate ${text}`);
  }
}
