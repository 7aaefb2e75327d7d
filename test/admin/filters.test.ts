import { expect, test } from 'vitest';
import { listNodes, NODE_FILTERS } from '../../src/admin/node-list.ts';
import { FILTERS as NODES_OF_THE_PAGE } from '../../src/admin/page/node-table.js';
import { FILTERS as STREAMS_OF_THE_PAGE } from '../../src/admin/page/stream-table.js';
import { listStreams, STREAM_FILTERS } from '../../src/admin/stream-list.ts';
import type { PresenceView, StreamView } from '../../src/admin/views.ts';
import { NODE_STATES } from '../../src/nodes/presence.ts';

/** Every combination of what the filters look at, as far as it can occur. */
const NODES = NODE_STATES.flatMap((state) =>
  [null, 'shown_offline', 'shown_online', 'deleted'].flatMap((disagreement) =>
    [null, '2026-11-27T12:00:00Z'].flatMap((connectedSince) =>
      [false, true].flatMap((isContested) =>
        [
          { isDuplicate: false, suspectedSince: null },
          { isDuplicate: true, suspectedSince: null },
          { isDuplicate: false, suspectedSince: '2026-11-27T12:00:00Z' },
        ].map((sharing) => ({ state, disagreement, connectedSince, isContested, ...sharing })),
      ),
    ),
  ),
)
  .filter(({ state, connectedSince }) => state !== 'connected' || connectedSince !== null)
  .filter(({ state, disagreement }) =>
    state === 'disagrees' ? disagreement !== null : state !== 'connected' || disagreement === null,
  )
  .map(
    (node, i) => ({ others: [], addresses: [], tags: [], machineKey: `mkey:${i}`, ...node }) as unknown as PresenceView,
  );

const STREAMS = ['held', 'connecting', 'open', 'closing']
  .flatMap((state) =>
    [[], [{ role: 'old' }]].flatMap((contests) =>
      ['direct', 'none'].map((source) => ({ state, contests, evidence: { source } })),
    ),
  )
  .map((stream, id) => ({ id, replica: null, ...stream }) as unknown as StreamView);

const noKeys = () => new Set<never>();

test('the page and the API have the same filters of nodes, and find the same with each', () => {
  expect(NODES_OF_THE_PAGE.map(([key]) => key).sort()).toEqual(['all', ...NODE_FILTERS].sort());
  for (const [key, , is] of NODES_OF_THE_PAGE) {
    const query = new URLSearchParams(key === 'all' ? '' : `state=${key}`);
    const byApi = new Set(listNodes(NODES, query).nodes);
    expect([key, NODES.filter((node) => is(node) !== byApi.has(node))]).toEqual([key, []]);
    expect(byApi.size).toBeGreaterThan(0);
  }
});

test('the page and the API have the same filters of streams, and find the same with each', () => {
  expect(STREAMS_OF_THE_PAGE.map(([key]) => key).sort()).toEqual(['all', ...STREAM_FILTERS].sort());
  for (const [key, , is] of STREAMS_OF_THE_PAGE) {
    const query = new URLSearchParams(key === 'all' ? '' : `state=${key}`);
    const byApi = new Set(listStreams(STREAMS, query, noKeys).streams);
    expect([key, STREAMS.filter((stream) => is(stream) !== byApi.has(stream))]).toEqual([key, []]);
    expect(byApi.size).toBeGreaterThan(0);
  }
});
