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
  stream_opened: true,
  stream_closed: true,
  contest_opened: true,
  contest_ended: true,
  stream_held: true,
  stream_released: true,
  stream_severed: true,
  would_sever: true,
  upstream_silent: true,
  machine_key_duplicated: true,
  handshake_checked: true,
  upstream_refused: true,
  upstream_protocol_mismatched: true,
  upstream_up: true,
  upstream_down: true,
  upstream_not_headscale: true,
  noise_key_checked: true,
  nodes_listed: true,
  nodes_list_failed: true,
  node_metrics_disabled: true,
  key_file_reloaded: true,
  key_file_reload_failed: true,
  settings_reloaded: true,
  settings_reload_failed: true,
  connection_refused: true,
  limit_reached: true,
  drain_started: true,
  drain_ended: true,
  redis_up: true,
  redis_down: true,
  replica_message_rejected: true,
  proxy_not_trusted: true,
  client_addresses_hidden: true,
  upgrade_header_lost: true,
  internal_error: true,
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
