/** @import { EvidenceView, PresenceView, StreamView } from '../views.ts' */
import { count, roundTrip, span } from './format.js';

/** @type {Readonly<Record<NonNullable<EvidenceView['reason']>, string>>} */
const REASONS = {
  kernel_unavailable: 'Linux cannot be asked here',
  netlink_unavailable: "Linux cannot be asked about the proxy's connections here",
  proxy_elsewhere: 'the proxy runs on another machine or in another network namespace',
  several_proxies: 'the client is connected to another proxy, further out',
  address_hidden: 'the proxy does not say who its client is',
  socket_not_found: "the proxy has no connection with the client's address and port",
};

/**
 * Where the evidence comes from, in two words.
 *
 * @param {EvidenceView} evidence
 */
export function evidenceMark({ source }) {
  return { direct: 'kernel', proxy: 'via proxy', none: 'no evidence' }[source];
}

/**
 * Where the evidence of a node's newest stream comes from.
 *
 * @param {PresenceView} node
 */
export function presenceEvidence({ evidence }) {
  return evidence === null ? 'no stream, so no evidence' : `Evidence: ${sourceText(evidence)}`;
}

/** @param {EvidenceView} evidence */
function sourceText({ source, by, user, reason }) {
  if (source === 'none') return `none: ${reason === null ? 'unknown' : REASONS[reason]}`;
  if (source === 'direct') return "the client's own connection";
  return by === 'port'
    ? `the client's connection to the proxy (user ${user}, found by port)`
    : `all connections from the client's address to the proxy (user ${user}, found by address)`;
}

/**
 * Where the evidence of a stream comes from and what it says.
 *
 * @param {StreamView} stream
 */
export function evidenceText({ evidence, kernel }) {
  if (evidence.source === 'none') return sourceText(evidence);
  return `${sourceText(evidence)}, ${kernel === null ? 'nothing seen yet' : whatItSays(kernel)}`;
}

/** @param {NonNullable<StreamView['kernel']>} kernel */
function whatItSays({ ended, rttMs, receivedAgoMs, unackedSegments, retransmits, unansweredProbes }) {
  if (ended) return 'the client has left it';
  const said = [`round trip ${roundTrip(rttMs)}`, `last sign ${span(receivedAgoMs)} ago`];
  if (unackedSegments > 0 && retransmits > 0) said.push(`${count(retransmits, 'retransmission')} not acknowledged`);
  if (unansweredProbes > 0) said.push(`${count(unansweredProbes, 'probe')} not answered`);
  return said.join(', ');
}
