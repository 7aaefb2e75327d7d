/** @import { EvidenceView, StreamView } from '../views.ts' */
import { roundTrip, span } from './format.js';

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
 * Under the round trip in the table, if that is not about the client's connection to the watchdog.
 *
 * @param {StreamView} stream
 */
export function evidenceMark({ evidence }) {
  return { direct: '', proxy: 'via proxy', none: 'no evidence' }[evidence.source];
}

/**
 * Where the evidence of a stream comes from and what it says.
 *
 * @param {StreamView} stream
 */
export function evidenceText({ evidence, kernel }) {
  const { source, by, user, reason } = evidence;
  if (source === 'none') return `none: ${reason === null ? 'unknown' : REASONS[reason]}`;
  const shown = kernel === null ? 'nothing seen yet' : whatItSays(kernel);
  if (source === 'direct') return `the client's own connection, ${shown}`;
  return by === 'port'
    ? `the client's connection to the proxy (user ${user}, found by port), ${shown}`
    : `all connections from the client's address to the proxy (user ${user}, found by address), ${shown}`;
}

/** @param {NonNullable<StreamView['kernel']>} kernel */
function whatItSays({ ended, rttMs, receivedAgoMs, unackedSegments, retransmits, unansweredProbes }) {
  if (ended) return 'the client has left it';
  const said = [`round trip ${roundTrip(rttMs)}`, `last sign of life ${span(receivedAgoMs)} ago`];
  if (unackedSegments > 0 && retransmits > 0) said.push(`${count(retransmits, 'retransmission')} not acknowledged`);
  if (unansweredProbes > 0) said.push(`${count(unansweredProbes, 'probe')} not answered`);
  return said.join(', ');
}

/**
 * @param {number} number
 * @param {string} noun
 */
function count(number, noun) {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}
