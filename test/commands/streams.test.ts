import { describe, expect, test } from 'vitest';
import type { StreamView } from '../../src/admin/views.ts';
import type { Api } from '../../src/commands/admin-client.ts';
import { showStreams } from '../../src/commands/streams.ts';

const KERNEL = {
  ...{ unackedSegments: 0, unsentBytes: 0, ackedBytes: 100, retransmits: 0, unansweredProbes: 0 },
  ...{ receivedAgoMs: 3000, rttMs: 12, rttvarMs: 3 },
};
const DIRECT = { source: 'direct', by: null, user: null, reason: null } as const;
const PROXY = { ...DIRECT, source: 'proxy', by: 'port', user: 'caddy' } as const;
const NONE = { ...DIRECT, source: 'none', reason: 'proxy_elsewhere' } as const;

function stream(id: number, more: Partial<StreamView>): StreamView {
  const now = new Date().toISOString();
  return {
    ...({ id: id as StreamView['id'], replica: null, kind: 'control', machineKey: null, node: null } as const),
    ...{ remoteAddress: '203.0.113.7:4711', openedAt: now, lastHeardAt: now, upstreamLastHeardAt: now },
    ...({ bytesReceived: 0, bytesSent: 0, state: 'open', heldUntil: null, closeReason: null } as const),
    ...{ wouldSever: null, capabilityVersion: null, evidence: DIRECT, kernel: KERNEL, contests: [], ...more },
  };
}

/** The table that the command prints, without the spaces between its columns. */
async function tableOf(...streams: StreamView[]): Promise<string[][]> {
  return await sortedTableOf(undefined, ...streams);
}

async function sortedTableOf(sort: string | undefined, ...streams: StreamView[]): Promise<string[][]> {
  let text = '';
  const out = { write: (line: string) => (text += line) };
  const api = { get: () => Promise.resolve({ total: streams.length, streams }) } as unknown as Api;
  const console = {
    ...{ stdout: out, stderr: out, colours: false, width: undefined, isInteractive: false },
    ...{ ask: () => Promise.resolve(''), signal: new AbortController().signal, pause: () => Promise.resolve() },
  };
  expect(await showStreams(api, sort === undefined ? {} : { sort }, console)).toBe(0);
  return text
    .trimEnd()
    .split('\n')
    .map((line) => line.trim().split(/ {2,}/));
}

const column = (table: readonly string[][], title: string): (string | undefined)[] => {
  const index = table[0]?.indexOf(title) ?? -1;
  return index < 0 ? [] : table.slice(1).map((row) => row[index]);
};

describe('the column EVIDENCE', () => {
  test('says for each stream where its evidence comes from', async () => {
    const table = await tableOf(
      stream(1, {}),
      stream(2, { evidence: PROXY }),
      stream(3, { evidence: NONE, kernel: null }),
    );
    expect(column(table, 'EVIDENCE')).toEqual(['direct', 'proxy', 'none']);
    expect(column(table, 'RTT')).toEqual(['12 ms', '12 ms', '-']);
  });

  test('is shown if all evidence comes from a proxy, and if there is none at all', async () => {
    expect(column(await tableOf(stream(1, { evidence: PROXY })), 'EVIDENCE')).toEqual(['proxy']);
    expect(column(await tableOf(stream(1, { evidence: NONE, kernel: null })), 'EVIDENCE')).toEqual(['none']);
  });

  test('is left out if every client connects to the watchdog', async () => {
    const table = await tableOf(stream(1, {}), stream(2, {}));
    expect(table[0]).toEqual(['STREAM', 'NODE', 'ADDRESS', 'OPEN FOR', 'LAST SIGN', 'RTT', 'IN', 'OUT', 'STATE']);
  });

  test('stands before the replica', async () => {
    const [head] = await tableOf(stream(1, { evidence: PROXY, replica: 'a' }));
    expect(head?.slice(-3)).toEqual(['STATE', 'EVIDENCE', 'REPLICA']);
  });
});

test('a client that has left its proxy has no round trip', async () => {
  const left = { ...KERNEL, rttMs: 0, ended: true };
  expect(column(await tableOf(stream(1, { evidence: PROXY, kernel: left })), 'RTT')).toEqual(['-']);
});

test('the last sign of a client is that of its kernel, so a healthy idle one is not shown as silent; its last byte is shown if asked for', async () => {
  const idle = stream(1, {
    lastHeardAt: new Date(Date.now() - 840_000).toISOString(),
    kernel: { ...KERNEL, receivedAgoMs: 12_000 },
  });
  expect(column(await tableOf(idle), 'LAST SIGN')).toEqual(['12 s ago']);
  expect(column(await tableOf(idle), 'LAST BYTE')).toEqual([]);
  const sorted = await sortedTableOf('-heard', idle);
  expect([column(sorted, 'LAST SIGN'), column(sorted, 'LAST BYTE')]).toEqual([['12 s ago'], ['14 min ago']]);
});
