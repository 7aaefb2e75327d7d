import { formatMachineKey, type MachineKey, machineKeyOf, type NodeKey } from '../../src/identity/keys.ts';
import type { NodeInfo } from '../../src/identity/node-info.ts';
import type { Instant } from '../../src/lib/clock.ts';
import type { NodePresence } from '../../src/nodes/presence.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import type { CloseReason, Stream, StreamId } from '../../src/streams/stream.ts';
import type { MetricsSource } from '../../src/telemetry/metrics.ts';
import { NodeSeries } from '../../src/telemetry/node-series.ts';
import { NOTHING_MORE } from '../headscale/node-answers.ts';
import { FakeClock } from '../support/fake-clock.ts';

export function keyOf(number: number): MachineKey {
  const raw = Buffer.alloc(32);
  raw.writeUInt32BE(number);
  return machineKeyOf(raw);
}

export function nodeOf(number: number, more: Partial<NodeInfo> = {}): NodeInfo {
  const nodeKey = keyOf(number + 1_000_000) as string as NodeKey;
  const keys = { machineKey: keyOf(number), nodeKey };
  return { ...NOTHING_MORE, ...keys, id: String(number), name: `node-${number}`, user: 'someone', ...more };
}

/** A watchdog as metrics see it: streams that open and close, and what Headscale lists. */
export function stage() {
  const clock = new FakeClock();
  const events: WatchdogEvent[] = [];
  const streams = new Set<Stream>();
  const listed = new Map<MachineKey, NodeInfo>();
  const world = {
    presences: [] as readonly NodePresence[],
    ...{ maxNodes: 1000, loaded: false, rttMs: undefined as number | undefined, kernel: true, netlink: true },
  };
  const source: MetricsSource = {
    clock,
    emit: (event) => events.push(event),
    streams: () => streams,
    nodeOf: (key) => listed.get(key),
    isNode: (key) => !world.loaded || listed.has(key),
    rttMsOf: () => world.rttMs,
    maxNodes: () => world.maxNodes,
    duplicateKeys: () => 2,
    frontProxies: () => [],
    historyFile: () => ({ isWorking: true, bytes: 5 }),
    notificationsWaiting: () => 4,
    certificateExpires: () => undefined,
    upstreamSilent: () => false,
    upstreamSilentStreams: () => 3,
    upstreamUp: () => true,
    connections: () => 0,
    held: () => 0,
    paced: () => 0,
    redisUp: () => undefined,
    keyMatches: () => undefined,
    evidenceAvailable: { direct: () => world.kernel, proxy: () => world.netlink },
    evidenceSourceOf: ({ kind }) => (kind === 'control' ? 'proxy' : 'none'),
    presences: () => world.presences,
    readsArePooled: () => true,
    version: '1.2.3',
  };
  let lastId = 0;
  const streamOf = (key: MachineKey | undefined, kind: Stream['kind']): Stream => ({
    ...{ id: ++lastId as StreamId, kind, machineKey: key, address: '192.0.2.1', remoteAddress: '192.0.2.1:1000' },
    ...{ openedAt: clock.now(), heardAt: clock.now(), spokenAt: undefined, firstRecordAt: undefined },
    ...{ bytesReceived: 0, bytesSent: 0, state: { kind: 'open' }, wouldSever: undefined },
  });
  return {
    ...{ clock, source, world, events },
    list(...nodes: NodeInfo[]): void {
      world.loaded = true;
      listed.clear();
      for (const node of nodes) listed.set(node.machineKey, node);
    },
    open(to: { listen(event: WatchdogEvent): void }, key: MachineKey | undefined, kind: Stream['kind'] = 'control') {
      const stream = streamOf(key, kind);
      streams.add(stream);
      to.listen({ kind: 'stream_opened', stream });
      return stream;
    },
    close(to: { listen(event: WatchdogEvent): void }, stream: Stream, reason: CloseReason = 'client_closed'): void {
      streams.delete(stream);
      to.listen({ kind: 'stream_closed', stream, reason, lifetimeMs: clock.now() - stream.openedAt });
    },
    later: (ms: number): Instant => {
      clock.advance(ms);
      return clock.now();
    },
  };
}

/** A stage with the series of its nodes, and the machine keys of those that have some. */
export function seriesStage() {
  const on = stage();
  const series = new NodeSeries(on.source);
  const keys = (): unknown[] => series.rows().map(({ labels }) => labels.machine_key);
  return { ...on, series, keys };
}

export const mkey = (number: number): string => formatMachineKey(keyOf(number));
