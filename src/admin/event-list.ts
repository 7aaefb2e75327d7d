import type { HistoryEntry, HistoryQuery } from '../history/history.ts';
import { formatMachineKey, type MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { StreamId } from '../streams/stream.ts';
import { EVENT_KINDS, withName } from '../telemetry/event-table.ts';
import { Parameters } from './parameters.ts';
import { nodeView } from './stream-list.ts';
import type { EventView } from './views.ts';

const BY_DEFAULT = 100;
const MOST = 20_000;

/** The parameters of `/events` and of its live feed. @throws ParameterError */
export function eventQuery(query: URLSearchParams, keysOf: (node: string) => ReadonlySet<MachineKey>): HistoryQuery {
  const given = new Parameters(query, ['after', 'limit', 'node', 'stream', 'kind']);
  const node = given.text('node');
  return {
    after: given.number('after', 0, Number.MAX_SAFE_INTEGER),
    limit: given.number('limit', 1, MOST) ?? BY_DEFAULT,
    machineKeys: node === undefined ? undefined : keysOf(node),
    stream: given.number('stream', 1, Number.MAX_SAFE_INTEGER) as StreamId | undefined,
    kinds: given.words('kind', EVENT_KINDS),
  };
}

/** An entry as `/events` shows it. */
export function eventView(
  { seq, at, kind, level, code, subject, sentence }: HistoryEntry,
  node: NodeInfo | undefined,
): EventView {
  const { machineKey, stream, streamKind, otherStream, remoteAddress, reason, silentMs, kernel } = subject;
  return {
    seq,
    time: new Date(at).toISOString(),
    level,
    code: code ?? null,
    kind,
    machineKey: machineKey === undefined ? null : formatMachineKey(machineKey),
    node: node === undefined ? null : nodeView(node),
    stream: stream ?? null,
    streamKind: streamKind ?? null,
    otherStream: otherStream ?? null,
    remoteAddress: remoteAddress ?? null,
    reason: reason ?? null,
    silentMs: silentMs ?? null,
    kernel: kernel ?? null,
    // The name of a node that was just registering is known by now.
    sentence: machineKey && node ? withName(sentence, machineKey, node.name) : sentence,
  };
}
