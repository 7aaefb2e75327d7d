/** @import { PresenceView } from '../views.ts' */
import { evidenceMark, presenceEvidence } from './evidence.js';
import { ago, fullDate, now, roundTrip, shortKey, span } from './format.js';
import { ListView } from './list-view.js';

const LAST = '\uffff';
/** The worst first. */
const STATES = ['disagrees', 'deleted', 'expired', 'offline', 'unknown', 'connecting', 'connected'];

/** @param {PresenceView} node */
export function nodeName({ name, machineKey }) {
  return name ?? shortKey(machineKey);
}

/** @param {PresenceView} node */
export function isConnected({ connectedSince, state }) {
  return connectedSince !== null && (state === 'connected' || state === 'disagrees');
}

/** @param {PresenceView} node */
export function levelOfNode({ state, isContested, isDuplicate, suspectedSince }) {
  if (state === 'disagrees' || state === 'deleted' || state === 'expired' || isDuplicate) return 'bad';
  if (isContested || suspectedSince !== null || state === 'connecting') return 'warn';
  return state === 'connected' ? 'good' : 'off';
}

/** What the state alone does not say. @param {PresenceView} node */
export function stateNote({ isDuplicate, suspectedSince, isContested, disagreement, shownOnline, state }) {
  if (isDuplicate) return 'duplicate key';
  if (suspectedSince !== null) return 'two machines?';
  if (isContested) return 'contested';
  if (disagreement !== null && disagreement !== 'deleted')
    return disagreement === 'shown_offline' ? 'shown offline' : 'shown online';
  return state === 'expired' ? (shownOnline ? 'shown online' : 'shown offline') : '';
}

/** @param {PresenceView} node */
function stateText(node) {
  const shown = node.shownOnline === null ? '' : `. Headscale shows it as ${node.shownOnline ? 'online' : 'offline'}`;
  const watching = node.suspectedSince !== null ? ' The watchdog is finding out.' : '';
  return `${node.state}${stateNote(node) === '' ? '' : `, ${stateNote(node)}`}${watching}${shown}`;
}

/** @param {string | null} date */
export function expiry(date) {
  if (date === null) return 'never';
  const leftMs = Date.parse(date) - now();
  if (leftMs < 0) return 'expired';
  const [unitMs, unit] =
    leftMs < 3_600_000 ? [60_000, 'min'] : leftMs < 86_400_000 ? [3_600_000, 'h'] : [86_400_000, 'd'];
  return `in ${Math.floor(leftMs / unitMs)} ${unit}`;
}

/**
 * The newest proof that a node is there. What Headscale has seen counts if this watchdog has not seen the node yet.
 *
 * @param {PresenceView} node
 * @returns {{ at: string, by: string } | undefined}
 */
export function signOf({ lastSignAt, shownLastSeenAt, evidence }) {
  if (lastSignAt !== null) return { at: lastSignAt, by: evidence === null ? '' : evidenceMark(evidence) };
  return shownLastSeenAt === null ? undefined : { at: shownLastSeenAt, by: 'by Headscale' };
}

/** @type {import('./table.js').Column<PresenceView>[]} */
const COLUMNS = [
  {
    ...{ key: 'name', name: 'Node' },
    of: ({ name, machineKey }) => name?.toLowerCase() ?? `${LAST}${machineKey}`,
    text: nodeName,
    small: ({ addresses }) => addresses[0] ?? '',
    title: (node) => [nodeName(node), ...node.addresses, ...node.tags, node.machineKey].join('\n'),
    href: ({ machineKey }) => `#node=${machineKey}`,
  },
  {
    ...{ key: 'user', name: 'User' },
    of: ({ user }) => user?.toLowerCase() || LAST,
    text: ({ user, tags }) => user || tags[0] || '–',
  },
  {
    ...{ key: 'state', name: 'State' },
    of: (node) =>
      STATES.indexOf(node.state) - (node.isDuplicate || node.suspectedSince !== null || node.isContested ? 10 : 0),
    text: ({ state }) => state,
    small: stateNote,
    title: stateText,
    level: levelOfNode,
  },
  {
    ...{ key: 'since', name: 'Connected', isNumber: true },
    of: ({ connectedSince }) => (connectedSince === null ? 0 : -Date.parse(connectedSince)),
    text: ({ connectedSince }) => (connectedSince === null ? '–' : span(now() - Date.parse(connectedSince))),
    title: ({ connectedSince }) =>
      connectedSince === null ? 'not connected' : `connected since ${fullDate(connectedSince)}`,
  },
  {
    ...{ key: 'sign', name: 'Last sign', isNumber: true },
    of: (node) => -Date.parse(signOf(node)?.at ?? '1970-01-01'),
    text: (node) => {
      const sign = signOf(node);
      return sign === undefined ? '–' : ago(sign.at);
    },
    small: (node) => signOf(node)?.by ?? '',
    title: (node) => {
      const sign = signOf(node);
      return `${sign === undefined ? 'no sign of it yet' : `last sign ${fullDate(sign.at)}`}\n${presenceEvidence(node)}`;
    },
  },
  {
    ...{ key: 'rtt', name: 'Round trip', isNumber: true },
    of: ({ rttMs }) => rttMs ?? Number.POSITIVE_INFINITY,
    text: ({ rttMs }) => roundTrip(rttMs),
  },
  {
    ...{ key: 'address', name: 'Address' },
    of: ({ remoteAddress }) => remoteAddress ?? LAST,
    text: ({ remoteAddress }) => remoteAddress ?? '–',
  },
  {
    ...{ key: 'expiry', name: 'Key expires', isNumber: true },
    of: ({ keyExpiresAt }) => keyExpiresAt ?? LAST,
    text: ({ keyExpiresAt }) => expiry(keyExpiresAt),
    title: ({ keyExpiresAt }) => (keyExpiresAt === null ? 'the key does not expire' : fullDate(keyExpiresAt)),
  },
];

/** A node that only Headscale shows as online is away, too. @param {PresenceView} node */
function isAway({ state, connectedSince }) {
  return state === 'offline' || (state === 'disagrees' && connectedSince === null);
}

/** Those of `/nodes`. @type {import('./list-view.js').Filter<PresenceView>[]} */
export const FILTERS = [
  ['all', 'All', () => true],
  ['connected', 'Connected', isConnected],
  ['offline', 'Offline', isAway],
  ['connecting', 'Connecting', ({ state }) => state === 'connecting'],
  ['disagrees', 'Disagreeing', ({ disagreement }) => disagreement !== null],
  ['expired', 'Expired', ({ state }) => state === 'expired'],
  ['duplicate', 'Duplicate', ({ isDuplicate, suspectedSince }) => isDuplicate || suspectedSince !== null],
  ['contested', 'Contested', ({ isContested }) => isContested],
  ['unknown', 'Unknown', ({ state }) => state === 'unknown'],
  ['deleted', 'Deleted', ({ state }) => state === 'deleted'],
];

/** The text in which a search looks. @param {PresenceView} node */
function textOf({ id, name, user, machineKey, nodeKey, addresses, tags, remoteAddress, os, others }) {
  const names = others.flatMap((other) => [other.name, other.user, other.nodeKey]);
  return [id, name, user, machineKey, nodeKey, remoteAddress, os, ...addresses, ...tags, ...names]
    .join(' ')
    .toLowerCase();
}

/** Those that Headscale has, or those that were seen if it is not asked. @param {readonly PresenceView[]} nodes */
export function connectedOf(nodes) {
  const own = nodes.filter(({ state }) => state !== 'unknown' && state !== 'deleted');
  return { connected: own.filter(isConnected).length, total: own.length, others: nodes.length - own.length };
}

/**
 * The first view: every node, connected or not.
 *
 * @param {(filter: string) => void} onFilter
 */
export function nodeList(onFilter) {
  return new ListView({
    view: 'nodes',
    table: {
      name: 'Nodes',
      columns: COLUMNS,
      keyOf: ({ machineKey }) => machineKey,
      sort: 'name',
      empty: 'No nodes yet. A node appears here as soon as it connects.',
    },
    filters: FILTERS,
    textOf,
    summary(nodes, shown) {
      const { connected, total, others } = connectedOf(nodes);
      const more = others === 0 ? '' : ` and ${others} more that Headscale does not list`;
      return `${connected} of ${total} connected${more}${shown === nodes.length ? '' : `, ${shown} shown`}`;
    },
    onFilter,
  });
}
