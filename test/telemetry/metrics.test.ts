import { describe, expect, test } from 'vitest';
import { formatMachineKey } from '../../src/identity/keys.ts';
import { NODE_STATES, type NodePresence, type NodeState } from '../../src/nodes/presence.ts';
import { SEVER_REASONS } from '../../src/streams/stream.ts';
import { createMetrics } from '../../src/telemetry/metrics.ts';
import { keyOf, mkey as mkeyOf, nodeOf, stage } from './stage.ts';

function bench() {
  const on = stage();
  const metrics = createMetrics(on.source);
  /** The samples whose names begin so, without the prefix. */
  const samples = async (name: string): Promise<string[]> => {
    const lines = (await metrics.render()).split('\n');
    return lines.flatMap((line) => (line.startsWith(`headscale_watchdog_${name}`) ? [line.slice(19)] : []));
  };
  return { ...on, metrics, samples };
}

const mkey = formatMachineKey(keyOf(1));

describe('createMetrics', () => {
  test('would_sever_total has a series for each reason from the start', async () => {
    const { metrics, samples, open } = bench();
    expect(await samples('would_sever_total')).toEqual(
      SEVER_REASONS.map((reason) => `would_sever_total{reason="${reason}"} 0`),
    );
    metrics.listen({ kind: 'would_sever', stream: open(metrics, keyOf(1)), reason: 'gone' });
    expect(await samples('would_sever_total{reason="gone"')).toEqual(['would_sever_total{reason="gone"} 1']);
  });

  test('hand-overs are counted from zero: one that this process came from, and one that has changed nothing', async () => {
    const { metrics, samples } = bench();
    expect(await samples('handovers_total')).toEqual([
      'handovers_total{result="done"} 0',
      'handovers_total{result="failed"} 0',
    ]);
    metrics.listen({ kind: 'handover_received', streams: 7 });
    metrics.listen({ kind: 'handover_failed', problems: ['it crashed'], lost: 0 });
    expect(await samples('handovers_total')).toEqual([
      'handovers_total{result="done"} 1',
      'handovers_total{result="failed"} 1',
    ]);
  });

  test('gauges read their source at each scrape, and are NaN if the value is unknown', async () => {
    const { samples } = bench();
    expect(await samples('duplicate_keys')).toEqual(['duplicate_keys 2']);
    expect(await samples('upstream_silent_streams')).toEqual(['upstream_silent_streams 3']);
    expect(await samples('upstream_up')).toEqual(['upstream_up 1']);
    expect(await samples('history_file')).toEqual(['history_file_up 1', 'history_file_bytes 5']);
    expect(await samples('noise_key_matches')).toEqual(['noise_key_matches Nan']);
  });

  test('kernel_evidence_available: whether Linux shows our connections, and those of a proxy on this machine', async () => {
    const { samples, world } = bench();
    const [direct, proxy] = ['direct', 'proxy'].map((source) => `kernel_evidence_available{source="${source}"}`);
    expect(await samples('kernel_evidence_available')).toEqual([`${direct} 1`, `${proxy} 1`]);
    world.kernel = false;
    expect(await samples('kernel_evidence_available')).toEqual([`${direct} 0`, `${proxy} 1`]);
    world.netlink = false;
    expect(await samples('kernel_evidence_available')).toEqual([`${direct} 0`, `${proxy} 0`]);
  });

  test('streams_by_evidence: how many streams each source of evidence has', async () => {
    const { samples, open, metrics } = bench();
    expect(await samples('streams_by_evidence')).toContain('streams_by_evidence{source="proxy"} 0');
    open(metrics, undefined);
    open(metrics, undefined);
    open(metrics, undefined, 'derp');
    expect(await samples('streams_by_evidence')).toEqual([
      'streams_by_evidence{source="direct"} 0',
      'streams_by_evidence{source="proxy"} 2',
      'streams_by_evidence{source="none"} 1',
    ]);
  });

  test('the metrics of the process exist once, with any number of watchdogs in it', async () => {
    const text = [await bench().metrics.render(), await bench().metrics.render()][1] ?? '';
    const linux = process.platform === 'linux' ? ['process_open_fds', 'process_max_fds'] : [];
    for (const name of [...linux, 'process_resident_memory_bytes', 'nodejs_eventloop_lag_p99_seconds']) {
      expect(text.match(new RegExp(`^${name} `, 'gm')), name).toHaveLength(1);
    }
    expect(text).not.toContain('nodejs_active_');
  });

  test('handshakes_total has the result replayed', async () => {
    const { samples } = bench();
    expect(await samples('handshakes_total{result="replayed"')).toEqual(['handshakes_total{result="replayed"} 0']);
  });

  test('node series: all series of one node', async () => {
    const { metrics, samples, open, close, list, world, later } = bench();
    list(nodeOf(1));
    world.rttMs = 31.5;
    const first = open(metrics, keyOf(1));
    Object.assign(first, { bytesReceived: 100, bytesSent: 2000 });
    later(1234);
    const newcomer = open(metrics, keyOf(1));
    metrics.listen({
      kind: 'stream_severed',
      stream: first,
      newcomer,
      reason: 'dead',
      silentMs: 1,
      silentAfterMs: 1,
      answers: false,
      contestedMs: 1,
      kernel: undefined,
    });
    close(metrics, first, 'severed_dead');
    const { nodeKey } = nodeOf(1);
    expect(await samples('node_')).toEqual([
      `node_info{machine_key="${mkey}",node_key="nodekey:${nodeKey}",node_id="1",name="node-1",user="someone"} 1`,
      `node_stream_opened_timestamp_seconds{machine_key="${mkey}"} 1001.234`,
      `node_last_heard_timestamp_seconds{machine_key="${mkey}"} 1001.234`,
      `node_rtt_seconds{machine_key="${mkey}"} 0.0315`,
      `node_received_bytes_total{machine_key="${mkey}"} 100`,
      `node_sent_bytes_total{machine_key="${mkey}"} 2000`,
      `node_streams_closed_total{machine_key="${mkey}",reason="severed_dead"} 1`,
      `node_takeovers_total{machine_key="${mkey}"} 1`,
    ]);
  });

  test('node series: no sample for an unknown value, and none for a node that is gone', async () => {
    const { metrics, samples, open, close, later } = bench();
    const stream = open(metrics, keyOf(1));
    expect(await samples('node_rtt_seconds')).toEqual([]);
    expect(await samples('node_info')).toEqual([
      `node_info{machine_key="${mkey}",node_key="",node_id="",name="",user=""} 1`,
    ]);
    close(metrics, stream);
    later(60 * 60_000);
    expect(await samples('node_')).toEqual([]);
  });

  test('node series: quotes, backslashes and newlines in names are escaped', async () => {
    const { metrics, samples, open, list } = bench();
    list(nodeOf(1, { name: 'a"b\\c\nd', user: '\\"' }), nodeOf(2, { name: 'a"b\\c\\nd', user: '{},=' }));
    for (const number of [1, 2]) open(metrics, keyOf(number));
    const [first, second] = await samples('node_info');
    expect(first).toMatch(/,name="a\\"b\\\\c\\nd",user="\\\\\\""} 1$/);
    expect(second).toMatch(/,name="a\\"b\\\\c\\\\nd",user="\{\},="} 1$/);
  });

  test('node series: two scrapes at the same time are both complete', async () => {
    const { metrics, open } = bench();
    for (const number of [1, 2, 3]) open(metrics, keyOf(number));
    const [one, other] = await Promise.all([metrics.render(), metrics.render()]);
    const own = (text: string): unknown => text.match(/^headscale_watchdog_.*$/gm);
    expect(own(one)).toEqual(own(other));
    expect(one.match(/node_info\{/g)).toHaveLength(3);
  });

  describe('presence', () => {
    const presence = (number: number, state: NodeState, more: Partial<NodePresence> = {}): NodePresence => ({
      ...{ machineKey: keyOf(number), node: nodeOf(number), state, disagreement: undefined, streams: [] },
      ...{ current: undefined, connectedSince: state === 'connected' ? 1 : undefined, lastSignAt: undefined },
      ...{ shownOnline: undefined, shownLastSeenAt: undefined, keyExpiresAt: undefined, ...more },
    });
    const labels = (number: number): string => `{machine_key="${mkeyOf(number)}",name="node-${number}",user="someone"}`;

    test('nodes by state, each from the start, and whether each node is online, connected or not', async () => {
      const { samples, world } = bench();
      expect(await samples('nodes{')).toEqual(NODE_STATES.map((state) => `nodes{state="${state}"} 0`));
      world.presences = [
        presence(1, 'connected', { keyExpiresAt: 1_800_000_000_500 }),
        presence(2, 'offline'),
        presence(3, 'unknown', { node: undefined, connectedSince: 1 }),
      ];
      const [connected, , offline] = await samples('nodes{');
      expect([connected, offline]).toEqual(['nodes{state="connected"} 1', 'nodes{state="offline"} 1']);
      expect(await samples('node_online')).toEqual([`node_online${labels(1)} 1`, `node_online${labels(2)} 0`]);
      expect(await samples('node_key_expiry')).toEqual([`node_key_expiry_timestamp_seconds${labels(1)} 1800000000.5`]);
    });

    test('a node that gets another name has it at the next scrape', async () => {
      const { samples, world } = bench();
      world.presences = [presence(1, 'offline')];
      await samples('node_online');
      world.presences = [presence(1, 'offline', { node: nodeOf(1, { name: 'another' }) })];
      expect(await samples('node_online')).toEqual([`node_online${labels(1).replace('node-1', 'another')} 0`]);
    });

    test('with more nodes than --metrics-max-nodes there are no series of single nodes; invented keys do not count', async () => {
      const { samples, world } = bench();
      world.maxNodes = 2;
      const stranger = presence(9, 'unknown', { node: undefined });
      world.presences = [presence(1, 'offline'), presence(2, 'offline'), stranger];
      expect(await samples('node_online')).toHaveLength(2);
      world.presences = [...world.presences, presence(3, 'offline')];
      expect(await samples('node_online')).toEqual([]);
      expect((await samples('nodes{'))[2]).toBe('nodes{state="offline"} 3');
    });
  });
});
