import { type Instant, plus } from '../lib/clock.ts';
import type { KernelEvidence } from '../streams/stream.ts';

/**
 * What rule 1 says about a client. `left`: it has closed its connection to the proxy in front, which still holds ours.
 * `unknown`: there is no evidence, or not enough.
 */
export type Liveness = 'dead' | 'left' | 'answers' | 'unknown';

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

/**
 * What it takes to call the client of a proxy dead. We cannot probe it, but the proxy may: Go's servers do every 15 s. In
 * doubt, it takes as many retransmissions as with our own socket.
 */
const PROXY_SURE = { probes: 2, retransmits: SURE.retransmits };
const PROXY_IN_DOUBT = { probes: 3, retransmits: IN_DOUBT.retransmits };
/** A client that has left is gone after this long: the proxy may only be slow to close our connection. */
const LEFT_FOR_MS = 4000;

/** Rule 1 for a socket of a proxy. */
export function isDeadBehindProxy(evidence: KernelEvidence, inDoubt: boolean): boolean {
  if (evidence.ended) return true;
  const { probes, retransmits } = inDoubt ? PROXY_IN_DOUBT : PROXY_SURE;
  if (evidence.unackedSegments > 0 && evidence.retransmits >= retransmits) return true;
  return evidence.unansweredProbes >= probes && sinceLastProbeMs(evidence) >= answerWaitMs(evidence, false);
}

/**
 * How long ago the proxy's kernel sent its last probe. We see only how many went unanswered and when the next is due, so this
 * takes the probes as evenly spaced, as they are with the defaults of Go's servers.
 */
function sinceLastProbeMs({ receivedAgoMs, unansweredProbes, nextProbeInMs = 0 }: KernelEvidence): number {
  const everyMs = (receivedAgoMs + nextProbeInMs) / (unansweredProbes + 1);
  return everyMs - nextProbeInMs;
}

/**
 * How long from now it takes to call a proxy's client dead that does not answer, in milliseconds.
 *
 * @returns undefined if nothing could show it soon: no retransmission is under way, and no deciding probe is due.
 */
export function verdictBehindProxyWithinMs(evidence: KernelEvidence, inDoubt: boolean): number | undefined {
  if (isDeadBehindProxy(evidence, inDoubt)) return 0;
  if (evidence.unackedSegments > 0) return evidence.retransmits > 0 ? verdictWithinMs(evidence, inDoubt) : undefined;
  const { probes } = inDoubt ? PROXY_IN_DOUBT : PROXY_SURE;
  const wait = answerWaitMs(evidence, false);
  if (evidence.unansweredProbes >= probes) return wait;
  const isNextEnough = evidence.unansweredProbes > 0 && evidence.unansweredProbes === probes - 1;
  const { nextProbeInMs = Number.POSITIVE_INFINITY } = evidence;
  return isNextEnough && nextProbeInMs <= PROBE_WORTH_MS ? nextProbeInMs + wait : undefined;
}

/**
 * How soon the proxy's next probe must be due to be worth a wait, in milliseconds. Without the wait, Headscale refuses the
 * newcomer and tells the old stream about it. That data goes unacknowledged, which takes about two seconds to notice (measured).
 */
const PROBE_WORTH_MS = 2500;

/** A proxy's socket, and for how long the survey has seen the same. Durations are in milliseconds. */
export interface SurveyedSocket {
  readonly evidence: KernelEvidence;
  /** How long the same data has stayed unacknowledged; 0 if nothing has. */
  readonly unackedForMs: number;
  /** How long ago the client left; undefined if it has not. */
  readonly endedForMs: number | undefined;
}

/** Whether a proxy's client is gone without any newcomer, after `gone-after`. */
export function isGoneBehindProxy(
  { evidence, unackedForMs, endedForMs }: SurveyedSocket,
  goneAfterMs: number,
): boolean {
  if (endedForMs !== undefined) return endedForMs >= LEFT_FOR_MS;
  if (evidence.receivedAgoMs < goneAfterMs) return false;
  const { unansweredProbes, unackedSegments, retransmits } = evidence;
  if (unackedForMs >= goneAfterMs || unansweredProbes >= PROXY_SURE.probes) return true;
  // Data ends the proxy's probing. What could not be delivered then says the same as the next probe would have said.
  return unansweredProbes > 0 && unackedSegments > 0 && retransmits >= PROXY_SURE.retransmits;
}

/** The socket that looks most alive, to show in place of several. */
export function liveliest(sockets: readonly KernelEvidence[]): KernelEvidence | undefined {
  return sockets.reduce<KernelEvidence | undefined>(
    (found, each) => (found === undefined || isLivelier(each, found) ? each : found),
    undefined,
  );
}

function isLivelier(one: KernelEvidence, other: KernelEvidence): boolean {
  if ((one.ended ?? false) !== (other.ended ?? false)) return other.ended ?? false;
  return one.receivedAgoMs < other.receivedAgoMs;
}
