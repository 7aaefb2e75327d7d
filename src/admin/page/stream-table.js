/** @import { StreamView } from '../views.ts' */
import { evidenceMark, evidenceText } from './evidence.js';
import { ago, bytes, fullDate, nameOf, now, roundTrip, span } from './format.js';
import { ListView } from './list-view.js';

/** @param {StreamView} stream */
export function stateOf({ state, contests, wouldSever }) {
  if (wouldSever !== null) return 'would sever';
  if (state === 'open' && contests.length > 0) return 'contested';
  return state;
}

/** @param {StreamView} stream */
export function levelOfStream(stream) {
  return stateOf(stream) === 'open' ? 'good' : 'warn';
}

/**
 * Undefined without evidence, and for a client that has left its proxy.
 *
 * @param {StreamView} stream
 */
function roundTripMs({ kernel }) {
  return kernel === null || kernel.ended ? undefined : kernel.rttMs;
}

/** The kernel says how long ago, so its time counts from the answer. @type {WeakMap<StreamView, number>} */
const signs = new WeakMap();

/** The client's last sign: of its kernel, or its last byte. @param {StreamView} stream */
function signAt(stream) {
  const { lastHeardAt, kernel } = stream;
  const known = signs.get(stream);
  if (known !== undefined) return known;
  const heardAt = Date.parse(lastHeardAt);
  const at = kernel === null || kernel.ended ? heardAt : Math.max(heardAt, now() - kernel.receivedAgoMs);
  signs.set(stream, at);
  return at;
}

/** Each replica numbers its own streams. @param {StreamView} stream */
export function keyOf({ id, replica }) {
  return replica === null ? String(id) : `${replica}/${id}`;
}

/** Why a stream cannot be severed; undefined if it can. @param {StreamView} stream */
export function refusalOf({ state }) {
  return state === 'closing' || state === 'closed' ? 'This stream is closing already.' : undefined;
}

/** @param {StreamView} stream */
export function severLabel(stream) {
  return `Sever stream ${stream.id} of ${nameOf(stream)}`;
}

/** @type {import('./table.js').Column<StreamView>[]} */
const COLUMNS = [
  {
    ...{ key: 'node', name: 'Node' },
    of: (stream) => (stream.node === null ? `\uffff${nameOf(stream)}` : stream.node.name.toLowerCase()),
    text: nameOf,
    small: ({ node, kind }) => node?.user || (kind === 'control' ? '' : kind),
    title: (stream) => [nameOf(stream), stream.node?.user, stream.machineKey].filter(Boolean).join('\n'),
    href: ({ machineKey }) => (machineKey === null ? undefined : `#node=${machineKey}`),
  },
  {
    ...{ key: 'id', name: 'Id', isNumber: true },
    of: ({ id }) => id,
    text: ({ id }) => String(id),
    small: ({ replica }) => (replica === null ? '' : `at ${replica}`),
    title: ({ id, replica }) => `stream ${id}${replica === null ? '' : ` at ${replica}`}`,
  },
  {
    ...{ key: 'state', name: 'State' },
    of: (stream) => stateOf(stream),
    text: stateOf,
    small: ({ wouldSever, closeReason }) => (wouldSever ?? closeReason ?? '').replaceAll('_', ' '),
    title: (stream) => [stateOf(stream), stream.wouldSever ?? stream.closeReason].filter(Boolean).join(': '),
    level: levelOfStream,
  },
  {
    ...{ key: 'opened', name: 'Open for', isNumber: true },
    of: ({ openedAt }) => -Date.parse(openedAt),
    text: ({ openedAt }) => span(now() - Date.parse(openedAt)),
    title: ({ openedAt }) => `since ${fullDate(openedAt)}`,
  },
  {
    ...{ key: 'sign', name: 'Last sign', isNumber: true },
    of: (stream) => -signAt(stream),
    text: (stream) => ago(signAt(stream)),
    small: ({ evidence }) => evidenceMark(evidence),
    title: (stream) =>
      `last sign ${fullDate(signAt(stream))}\nlast byte ${fullDate(stream.lastHeardAt)}\nEvidence: ${evidenceText(stream)}`,
  },
  {
    ...{ key: 'rtt', name: 'Round trip', isNumber: true },
    of: (stream) => roundTripMs(stream) ?? Number.POSITIVE_INFINITY,
    text: (stream) => roundTrip(roundTripMs(stream)),
    title: (stream) => `Evidence: ${evidenceText(stream)}`,
  },
  {
    ...{ key: 'bytes', name: 'In, out', isNumber: true },
    of: ({ bytesReceived, bytesSent }) => bytesReceived + bytesSent,
    text: ({ bytesReceived }) => bytes(bytesReceived),
    small: ({ bytesSent }) => bytes(bytesSent),
    title: ({ bytesReceived, bytesSent }) => `${bytes(bytesReceived)} from the client, ${bytes(bytesSent)} to it`,
  },
  {
    ...{ key: 'address', name: 'Address' },
    of: ({ remoteAddress }) => remoteAddress,
    text: ({ remoteAddress }) => remoteAddress,
  },
];

/** Those of `/streams`. @type {import('./list-view.js').Filter<StreamView>[]} */
export const FILTERS = [
  ['all', 'All', () => true],
  ['open', 'Open', ({ state }) => state === 'open'],
  ['contested', 'Contested', ({ contests }) => contests.length > 0],
  ['held', 'Held', ({ state }) => state === 'held'],
  ['connecting', 'Connecting', ({ state }) => state === 'connecting'],
  ['closing', 'Closing', ({ state }) => state === 'closing'],
  ['no-evidence', 'No evidence', ({ evidence }) => evidence.source === 'none'],
];

/** @param {StreamView} stream */
function textOf({ id, node, machineKey, remoteAddress, replica }) {
  return `${id} ${node?.name ?? ''} ${node?.user ?? ''} ${node?.nodeKey ?? ''} ${machineKey ?? ''} ${remoteAddress} ${replica ?? ''}`.toLowerCase();
}

/**
 * The second view: every stream that is not closed.
 *
 * @param {(stream: StreamView) => void} onSever
 * @param {(filter: string) => void} onFilter
 */
export function streamList(onSever, onFilter) {
  return new ListView({
    view: 'streams',
    table: {
      name: 'Streams',
      columns: COLUMNS,
      keyOf,
      sort: 'id',
      isDescending: true,
      empty: 'No streams yet. A stream appears here as soon as a client connects.',
      action: { text: 'Sever…', label: severLabel, refusal: refusalOf, run: onSever },
    },
    filters: FILTERS,
    textOf,
    summary: (streams, shown) => (shown === streams.length ? String(shown) : `${shown} of ${streams.length}`),
    onFilter,
  });
}
