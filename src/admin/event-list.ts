import type { Happening, HistoryQuery } from '../history/history.ts';
import { formatMachineKey, type MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { StreamId } from '../streams/stream.ts';
import { withName } from '../telemetry/describe-event.ts';
import { Parameters } from './parameters.ts';
import { nodeView } from './stream-list.ts';

const BY_DEFAULT = 100;
const MOST = 20_000;

/** Every kind of event there is, as `kind=` takes them. */
const KINDS: Readonly<Record<Happening['kind'], true>> = {
  'stream opened': true,
  'stream closed': true,
  'contest opened': true,
  'contest ended': true,
  held: true,
  released: true,
  severed: true,
  'would sever': true,
  'upstream silent': true,
  'duplicate machine key': true,
  handshake: true,
  'upstream refused': true,
  'upstream misled': true,
  'upstream up': true,
  'upstream down': true,
  'upstream is not Headscale': true,
  'noise key checked': true,
  'nodes listed': true,
  'nodes not listed': true,
  'node metrics off': true,
  'key read again': true,
  'key not read again': true,
  reloaded: true,
  'not reloaded': true,
  'connection refused': true,
  'limit reached': true,
  draining: true,
  drained: true,
  'redis up': true,
  'redis down': true,
  'replica not believed': true,
  'proxy not trusted': true,
  'client addresses hidden': true,
  'upgrade header lost': true,
  'internal error': true,
};

/** The parameters of `/events` and of its live feed. @throws ParameterError */
export function eventQuery(query: URLSearchParams, keysOf: (node: string) => ReadonlySet<MachineKey>): HistoryQuery {
  const given = new Parameters(query, ['after', 'limit', 'node', 'stream', 'kind']);
  const node = given.text('node');
  return {
    after: given.number('after', 0, Number.MAX_SAFE_INTEGER),
    limit: given.number('limit', 1, MOST) ?? BY_DEFAULT,
    machineKeys: node === undefined ? undefined : keysOf(node),
    stream: given.number('stream', 1, Number.MAX_SAFE_INTEGER) as StreamId | undefined,
    kinds: given.words('kind', Object.keys(KINDS)),
  };
}

export type EventView = ReturnType<typeof eventView>;

/** A happening as `/events` shows it. */
export function eventView(happening: Happening, node: NodeInfo | undefined) {
  const { seq, at, kind, machineKey, stream, otherStream, address, reason, silentMs, kernel, sentence } = happening;
  return {
    seq,
    date: new Date(at).toISOString(),
    kind,
    machineKey: machineKey === undefined ? null : formatMachineKey(machineKey),
    node: node === undefined ? null : nodeView(node),
    stream: stream ?? null,
    otherStream: otherStream ?? null,
    address: address ?? null,
    reason: reason ?? null,
    silentMs: silentMs ?? null,
    kernel: kernel ?? null,
    // A node that was just registering has its name by now.
    sentence: machineKey && node ? withName(sentence, machineKey, node.name) : sentence,
  };
}
