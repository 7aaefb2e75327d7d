import type { MachineKey } from '../identity/keys.ts';
import { formatMachineKey } from '../identity/keys.ts';
import { STREAM_KINDS } from '../streams/stream.ts';
import { ParameterError, Parameters } from './parameters.ts';
import type { StreamView } from './stream-view.ts';

const STATES = ['held', 'connecting', 'open', 'closing'] as const;
const MOST = 100_000;

type Column = (stream: StreamView) => string | number;

const COLUMNS: Readonly<Record<string, Column>> = {
  id: ({ id }) => id,
  node: ({ node, machineKey }) => node?.name.toLowerCase() ?? machineKey ?? '\uffff',
  address: ({ remoteAddress }) => remoteAddress,
  opened: ({ openedAt }) => openedAt,
  heard: ({ lastHeardAt }) => lastHeardAt,
  rtt: ({ kernel }) => kernel?.rttMs ?? Number.POSITIVE_INFINITY,
  bytes: ({ bytesReceived, bytesSent }) => bytesReceived + bytesSent,
  state: ({ state }) => state,
};

/** The parameters of `/streams`. */
export const STREAM_PARAMETERS = ['state', 'kind', 'node', 'q', 'sort', 'limit', 'offset'];

/**
 * Filters, sorts and pages.
 *
 * @param keysOf the machine keys of a node, by its name, id or one of its keys.
 * @throws ParameterError
 */
export function listStreams(
  all: readonly StreamView[],
  query: URLSearchParams,
  keysOf: (node: string) => ReadonlySet<MachineKey>,
): { readonly total: number; readonly streams: readonly StreamView[] } {
  const given = new Parameters(query, STREAM_PARAMETERS);
  const states = given.words<string>('state', STATES);
  const kinds = given.words<string>('kind', STREAM_KINDS);
  const node = given.text('node');
  const keys = node === undefined ? undefined : new Set([...keysOf(node)].map(formatMachineKey));
  const words = given.text('q')?.toLowerCase();
  const offset = given.number('offset', 0, MOST) ?? 0;
  const limit = given.number('limit', 0, MOST) ?? MOST;
  const order = orderOf(given.text('sort'));
  const found = all.filter(
    (stream) =>
      (states?.has(stream.state) ?? true) &&
      (kinds?.has(stream.kind) ?? true) &&
      (keys === undefined || (stream.machineKey !== null && keys.has(stream.machineKey))) &&
      (words === undefined || textOf(stream).includes(words)),
  );
  if (order !== undefined) found.sort(order);
  return { total: found.length, streams: found.slice(offset, offset + limit) };
}

/** `rtt`, or `-rtt` for the largest first; equals stay in the order they were opened. */
function orderOf(text: string | undefined): ((a: StreamView, b: StreamView) => number) | undefined {
  if (text === undefined) return undefined;
  const name = text.replace(/^-/, '');
  const column = Object.hasOwn(COLUMNS, name) ? COLUMNS[name] : undefined;
  if (column === undefined) {
    const known = Object.keys(COLUMNS).join(', ');
    throw new ParameterError(
      `sort='${text.slice(0, 40)}' is unknown: write one of ${known}, with - before it for the largest first.`,
    );
  }
  const sign = text.startsWith('-') ? -1 : 1;
  return (a, b) => {
    const [x, y] = [column(a), column(b)];
    return x === y ? 0 : x < y ? -sign : sign;
  };
}

/** What a search looks in. */
function textOf({ id, node, machineKey, remoteAddress, state, kind }: StreamView): string {
  const who = node === null ? '' : `${node.name} ${node.user} ${node.id} ${node.nodeKey}`;
  return `${id} ${who} ${machineKey ?? ''} ${remoteAddress} ${state} ${kind}`.toLowerCase();
}
