import { type Instant, plus } from '../lib/clock.ts';
import type { KernelEvidence } from '../streams/stream.ts';

/** Rule 1's view of a connection. `unknown`: no evidence either way, or none to be had. */
export type Liveness = 'dead' | 'answers' | 'unknown';

const SHORTEST_WAIT_MS = 450;
/**
 * A Linux client answers a probe at most once in 500 ms (`tcp_invalid_ratelimit`), so probes sent closer to each other are
 * one chance for an answer: the next one comes with the first probe after that.
 */
const CHANCE_EVERY_MS = 600;

/**
 * What it takes to call a client dead. In doubt, where there is a reason to think that it is there, more than loss explains:
 * with a tenth of all packets lost both ways a chance fails once in five times, so five in a row once in four thousand contests.
 */
const SURE = { probes: 3, retransmits: 2, furtherChances: 0 };
const IN_DOUBT = { probes: 7, retransmits: 5, furtherChances: 4 };

/** How long a probe's answer may take on this connection before its lack means something, in milliseconds. */
export function answerWaitMs(evidence: KernelEvidence, inDoubt: boolean): number {
  const { furtherChances } = inDoubt ? IN_DOUBT : SURE;
  const once = Math.max(SHORTEST_WAIT_MS, 3 * (evidence.rttMs + 4 * evidence.rttvarMs));
  return once + furtherChances * CHANCE_EVERY_MS;
}

/** Whether anything sent to the client has not arrived, or does not leave. */
export function isOutstanding({ unackedSegments, unsentBytes }: KernelEvidence): boolean {
  return unackedSegments > 0 || unsentBytes > 0;
}

/** Linux retransmits after so long at first, at the least, and doubles it each time. */
const SHORTEST_RETRANSMISSION_MS = 200;
/** Linux sends a keepalive probe only on a line that has been quiet for TCP_KEEPIDLE, which is a second at least. */
export const QUIET_BEFORE_PROBE_MS = 1000;

/** In what time, from now on, a client that does not answer can be called dead, in milliseconds. */
export function verdictWithinMs(evidence: KernelEvidence, inDoubt: boolean): number {
  const { unackedSegments, retransmits, rttMs, rttvarMs, receivedAgoMs } = evidence;
  if (unackedSegments === 0) {
    return Math.max(0, QUIET_BEFORE_PROBE_MS - receivedAgoMs) + answerWaitMs(evidence, inDoubt);
  }
  const firstMs = Math.max(SHORTEST_RETRANSMISSION_MS, rttMs + 4 * rttvarMs);
  const enough = (inDoubt ? IN_DOUBT : SURE).retransmits;
  return firstMs * Math.max(0, 2 ** enough - 2 ** retransmits);
}

/** Rule 1: data unacknowledged through enough retransmissions, or enough probes unanswered for long enough. */
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

/** When the client's kernel was last heard, on our clock. */
export function receivedAt(evidence: KernelEvidence, now: Instant): Instant {
  return plus(now, -evidence.receivedAgoMs);
}
