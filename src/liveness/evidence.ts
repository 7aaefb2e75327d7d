import { type Instant, plus } from '../clock.ts';

/** What Linux knows of a client's TCP connection at one moment (TCP_INFO; durations in milliseconds). */
export interface KernelEvidence {
  /** Segments sent and not yet acknowledged. */
  readonly unackedSegments: number;
  /** Retransmission timeouts in a row, without an acknowledgement between them. */
  readonly retransmits: number;
  /** Probes sent in a row that nothing answered. */
  readonly unansweredProbes: number;
  /** Since the client's kernel last sent us any segment. */
  readonly receivedAgoMs: number;
  readonly rttMs: number;
  readonly rttvarMs: number;
}

/** Rule 1's view of a connection. `unknown`: no evidence either way, or none to be had. */
export type KernelSays = 'dead' | 'answers' | 'unknown';

const PROBES_TO_DIE = 3;
const RETRANSMITS_TO_DIE = 2;
const SHORTEST_WAIT_MS = 450;

/** How long a probe's answer may take on this connection before its lack means something. */
export function answerWaitMs(evidence: KernelEvidence): number {
  return Math.max(SHORTEST_WAIT_MS, 3 * (evidence.rttMs + 4 * evidence.rttvarMs));
}

/** Rule 1: data unacknowledged through two retransmissions, or three probes unanswered for long enough. */
export function isDead(evidence: KernelEvidence, firstProbeAt: Instant | undefined, now: Instant): boolean {
  if (evidence.unackedSegments > 0 && evidence.retransmits >= RETRANSMITS_TO_DIE) return true;
  if (firstProbeAt === undefined || evidence.unansweredProbes < PROBES_TO_DIE) return false;
  return now - firstProbeAt >= answerWaitMs(evidence);
}

/** When the client's kernel was last heard, on our clock. */
export function receivedAt(evidence: KernelEvidence, now: Instant): Instant {
  return plus(now, -evidence.receivedAgoMs);
}
