import { type Instant, plus } from '../lib/clock.ts';
import type { KernelEvidence } from '../streams/stream.ts';

/** What rule 1 says about a client. `unknown`: there is no evidence, or not enough. */
export type Liveness = 'dead' | 'answers' | 'unknown';

const SHORTEST_WAIT_MS = 450;
/**
 * A Linux client answers a probe at most once in 500 ms (sysctl `tcp_invalid_ratelimit`). So several probes within that time
 * are only one chance for an answer.
 */
const CHANCE_EVERY_MS = 600;

/**
 * What it takes to call a client dead. In doubt, when something suggests that the client is there, it takes more than packet
 * loss explains: if a tenth of all packets is lost both ways, one chance in five fails, and five in a row fail once in about
 * four thousand contests.
 */
const SURE = { probes: 3, retransmits: 2, furtherChances: 0 };
const IN_DOUBT = { probes: 7, retransmits: 5, furtherChances: 4 };

/** How long an answer may take on this connection before a missing answer means something, in milliseconds. */
export function answerWaitMs(evidence: KernelEvidence, inDoubt: boolean): number {
  const { furtherChances } = inDoubt ? IN_DOUBT : SURE;
  const once = Math.max(SHORTEST_WAIT_MS, 3 * (evidence.rttMs + 4 * evidence.rttvarMs));
  return once + furtherChances * CHANCE_EVERY_MS;
}

/** Whether data for the client is not acknowledged, or not sent yet. */
export function isOutstanding({ unackedSegments, unsentBytes }: KernelEvidence): boolean {
  return unackedSegments > 0 || unsentBytes > 0;
}

/** The shortest first retransmission timeout of Linux (TCP_RTO_MIN). Each further one takes twice as long. */
const SHORTEST_RETRANSMISSION_MS = 200;
/** Linux sends a keepalive probe only after TCP_KEEPIDLE of quiet, which is one second at least (man 7 tcp). */
export const QUIET_BEFORE_PROBE_MS = 1000;

/** How long from now it takes to call a client dead that does not answer, in milliseconds. */
export function verdictWithinMs(evidence: KernelEvidence, inDoubt: boolean): number {
  const { unackedSegments, retransmits, rttMs, rttvarMs, receivedAgoMs } = evidence;
  if (unackedSegments === 0) {
    return Math.max(0, QUIET_BEFORE_PROBE_MS - receivedAgoMs) + answerWaitMs(evidence, inDoubt);
  }
  const firstMs = Math.max(SHORTEST_RETRANSMISSION_MS, rttMs + 4 * rttvarMs);
  const enough = (inDoubt ? IN_DOUBT : SURE).retransmits;
  return firstMs * Math.max(0, 2 ** enough - 2 ** retransmits);
}

/** Rule 1: enough retransmissions without an acknowledgement, or enough probes without an answer for long enough. */
export function isDead(
  evidence: KernelEvidence,
  firstProbeAt: Instant | undefined,
  now: Instant,
  inDoubt: boolean,
): boolean {
  const { probes, retransmits } = inDoubt ? IN_DOUBT : SURE;
  if (evidence.unackedSegments > 0 && evidence.retransmits >= retransmits) return true;
  if (firstProbeAt === undefined || evidence.unansweredProbes < probes) return false;
  return now - firstProbeAt >= answerWaitMs(evidence, inDoubt);
}

/** When the client's kernel last sent a segment, on our clock. */
export function receivedAt(evidence: KernelEvidence, now: Instant): Instant {
  return plus(now, -evidence.receivedAgoMs);
}
