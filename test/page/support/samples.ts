import type { Page } from 'playwright-core';
import type { PresenceView, StreamView } from '../../../src/admin/views.ts';
import type { StreamId } from '../../../src/streams/stream.ts';

/*
 * Answers of the admin API with what is hard to bring about: many nodes, long names and addresses, every state. The types hold
 * them to what the API sends.
 */

const NOTHING = { by: null, user: null, reason: null };
export const DIRECT = { ...NOTHING, source: 'direct' } as const;
export const VIA_PROXY = { ...NOTHING, source: 'proxy', by: 'port', user: 'caddy' } as const;
export const NO_EVIDENCE = { ...NOTHING, source: 'none', reason: 'proxy_elsewhere' } as const;

export const hexOf = (index: number): string => (index + 1).toString(16).padStart(64, '0');

const ago = (ms: number): string => new Date(Date.now() - ms).toISOString();

const LONG_IPV6 = '[2001:db8:1234:5678:9abc:def0:1234:5678]:65535';

/** A healthy node. */
export function nodeSample(index: number, more: Partial<PresenceView> = {}): PresenceView {
  return {
    ...{ machineKey: `mkey:${hexOf(index)}`, id: String(index + 1), name: `node-${index + 1}`, user: 'someone' },
    ...{ nodeKey: `nodekey:${hexOf(index)}`, others: [], addresses: [`100.64.${index >> 8}.${index & 255}`], tags: [] },
    ...{ os: null, clientVersion: null, capabilityVersion: 142, isEphemeral: false, state: 'connected' },
    ...{
      disagreement: null,
      connectedSince: ago(1000 * (index + 1) ** 2),
      remoteAddress: `192.0.2.${index & 255}:41641`,
    },
    ...{
      rttMs: 12 + index,
      evidence: DIRECT,
      lastSignAt: ago(3000),
      isContested: false,
      isDuplicate: false,
      suspectedSince: null,
    },
    ...{ shownOnline: true, shownLastSeenAt: null, keyExpiresAt: new Date(Date.now() + 9e9).toISOString() },
    streams: [{ id: (index + 1) as StreamId, replica: null, state: 'open', evidence: DIRECT }],
    ...more,
  };
}

export const OFFLINE = {
  ...{ state: 'offline', connectedSince: null, remoteAddress: null, rttMs: null, evidence: null, streams: [] },
  ...{ lastSignAt: ago(86_000_000), shownOnline: false },
} as const satisfies Partial<PresenceView>;

/** One of each kind, with the longest of everything. */
export const KINDS_OF_NODES: readonly PresenceView[] = [
  nodeSample(0, { name: 'anna-laptop', user: 'anna' }),
  nodeSample(1, {
    ...{
      name: 'a-node-with-a-very-long-name-that-nobody-would-want-to-type',
      user: 'someone-with-a-long-name@example.com',
    },
    ...{ remoteAddress: LONG_IPV6, connectedSince: ago(86_000_000), lastSignAt: ago(86_399_000), rttMs: 1234.5 },
    evidence: VIA_PROXY,
  }),
  nodeSample(2, { ...OFFLINE, name: 'ben-phone', user: 'ben' }),
  nodeSample(3, { ...OFFLINE, name: 'backup-1', state: 'disagrees', disagreement: 'shown_online', shownOnline: true }),
  nodeSample(4, { name: 'backup-2', state: 'disagrees', disagreement: 'shown_offline', shownOnline: false }),
  nodeSample(5, {
    ...{ ...OFFLINE, name: 'printer', state: 'expired', keyExpiresAt: ago(1e8), user: 'office' },
    ...{ lastSignAt: null, shownLastSeenAt: ago(1e8) },
  }),
  nodeSample(6, { name: 'clone', isDuplicate: true }),
  nodeSample(12, { name: 'perhaps-a-clone', suspectedSince: ago(300_000) }),
  nodeSample(7, { name: 'router-1', isContested: true, user: '', tags: ['tag:router'] }),
  nodeSample(8, { name: 'new-one', state: 'connecting', connectedSince: null, rttMs: null, evidence: NO_EVIDENCE }),
  nodeSample(9, { name: 'removed', state: 'deleted', disagreement: 'deleted', shownOnline: null }),
  nodeSample(10, {
    name: null,
    id: null,
    user: null,
    nodeKey: null,
    addresses: [],
    state: 'unknown',
    shownOnline: null,
  }),
  nodeSample(11, {
    name: 'exit-node',
    connectedSince: ago(86_400_000 * 365.9),
    keyExpiresAt: null,
    evidence: NO_EVIDENCE,
  }),
];

export const KERNEL = {
  ...{ unackedSegments: 0, unsentBytes: 0, ackedBytes: 100, retransmits: 0, unansweredProbes: 0 },
  ...{ receivedAgoMs: 3000, rttMs: 12, rttvarMs: 3 },
} as const;

export function streamSample(index: number, more: Partial<StreamView> = {}): StreamView {
  const node = {
    id: String(index + 1),
    name: `node-${index + 1}`,
    user: 'someone',
    nodeKey: `nodekey:${hexOf(index)}`,
  };
  return {
    ...{ id: (index + 1) as StreamId, replica: null, kind: 'control', machineKey: `mkey:${hexOf(index)}`, node },
    ...{ capabilityVersion: 142, remoteAddress: `192.0.2.${index & 255}:41641`, openedAt: ago(1000 * (index + 1)) },
    ...{ lastHeardAt: ago(1000 * index), upstreamLastHeardAt: ago(500), bytesReceived: index * 1000 },
    ...{ bytesSent: index * 100, state: 'open', heldUntil: null, closeReason: null, wouldSever: null },
    ...{ evidence: DIRECT, kernel: { ...KERNEL, rttMs: (index * 7) % 300 }, contests: [] },
    ...more,
  };
}

export const KINDS_OF_STREAMS: readonly StreamView[] = [
  streamSample(0),
  streamSample(1, {
    ...{ remoteAddress: LONG_IPV6, bytesReceived: 987_654_321, bytesSent: 123_456_789, openedAt: ago(86_000_000) },
    ...{ lastHeardAt: ago(86_000_000), replica: 'watchdog-eu-1#4f2a', kernel: null, evidence: NO_EVIDENCE },
  }),
  streamSample(2, { state: 'connecting', evidence: VIA_PROXY, kernel: null }),
  streamSample(3, { state: 'held' }),
  streamSample(4, { state: 'closing', closeReason: 'client_closed' }),
  streamSample(5, { wouldSever: 'upstream_silent' }),
  streamSample(6, { kind: 'derp', machineKey: null, node: null }),
  streamSample(7, {
    contests: [
      {
        ...{ role: 'old', otherStream: 9 as StreamId, otherReplica: null, openedAt: ago(900) },
        ...{ waitingFor: 'the old stream', until: null },
      },
    ],
  }),
];

/** Has the page get these nodes and streams. Everything else comes from the watchdog. */
export async function answerWith(
  page: Page,
  { nodes, streams }: { readonly nodes?: readonly PresenceView[]; readonly streams?: readonly StreamView[] },
): Promise<void> {
  if (nodes) await page.route('**/nodes', (route) => route.fulfill({ json: { total: nodes.length, nodes } }));
  if (streams) await page.route('**/streams', (route) => route.fulfill({ json: { total: streams.length, streams } }));
}
