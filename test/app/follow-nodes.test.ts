import { describe, expect, test } from 'vitest';
import { followNodes } from '../../src/app/nodes.ts';
import { NodeDirectory } from '../../src/headscale/nodes.ts';
import { plus } from '../../src/lib/clock.ts';
import { Events, type WatchdogEvent } from '../../src/streams/events.ts';
import { Registry } from '../../src/streams/registry.ts';
import type { EvidenceSource, Stream } from '../../src/streams/stream.ts';
import { settled } from '../headscale/directory-bench.ts';
import { nodeInfo } from '../headscale/node-answers.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { QUIET } from '../support/fake-sock-diag.ts';

const NODE = nodeInfo('a', { online: false });

/** A node that Headscale shows as offline, with a stream whose client has been silent for so long. @returns whether it is told. */
async function isTold(source: EvidenceSource, silentMs: number): Promise<boolean> {
  const clock = new FakeClock();
  const events = new Events();
  const registry = new Registry();
  const emitted: WatchdogEvent[] = [];
  events.listen((event) => emitted.push(event));
  const directory = new NodeDirectory({ clock, emit: events.emit, list: async () => [NODE] });
  const options = {
    ...{ clock, events, registry, directory, replicas: undefined },
    checkup: { capabilities: { issues: {} } },
    kept: { lastOnline: () => new Map() },
    live: { config: { reconcile: 'report', rules: [] } },
    // Somebody at this address has answered a moment ago.
    acceptor: { sourceOf: () => source, evidenceOf: () => ({ ...QUIET, receivedAgoMs: 100 }), sever() {} },
  };
  const { reconciler } = followNodes(options as unknown as Parameters<typeof followNodes>[0]);
  directory.start();
  await settled();
  const now = clock.now();
  const stream: Stream = {
    ...{ id: registry.nextId(), kind: 'control', machineKey: NODE.machineKey, address: '192.0.2.1' },
    ...{ remoteAddress: '192.0.2.1', openedAt: now, heardAt: plus(now, -silentMs), spokenAt: now, firstRecordAt: now },
    ...{ bytesReceived: 1, bytesSent: 1, state: { kind: 'open' }, wouldSever: undefined },
  };
  registry.add(stream);
  events.emit({ kind: 'stream_opened', stream });
  directory.refreshFor(NODE.machineKey);
  for (let second = 0; second < 50; second++) {
    clock.advance(1000);
    await settled();
  }
  reconciler.close();
  directory.stop();
  return emitted.some(({ kind }) => kind === 'node_disagrees');
}

describe('a stream proves that its node is connected', () => {
  test.each<[string, EvidenceSource]>([
    ['its own socket', { kind: 'direct' }],
    ["its own connection to a proxy, known by the client's port", { kind: 'proxy', by: 'port', user: 'caddy' }],
  ])('where %s shows a sign of life', async (_what, source) => {
    expect(await isTold(source, 90_000)).toBe(true);
  });

  test('but not where any connection to its address may have shown it', async () => {
    const source: EvidenceSource = { kind: 'proxy', by: 'address', user: 'caddy' };
    expect(await isTold(source, 90_000)).toBe(false);
    // Its own bytes prove it.
    expect(await isTold(source, 0)).toBe(true);
  });
});
