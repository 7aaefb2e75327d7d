import { formatMachineKey, formatNodeKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { Clock } from '../lib/clock.ts';
import type { KernelEvidence } from '../liveness/evidence.ts';
import type { Stream } from '../streams/stream.ts';

/** A contest as far as it is shown. */
export interface ContestView {
  readonly old: Stream;
  readonly newcomer: Stream;
  readonly openedAt: Stream['openedAt'];
  readonly waitingFor: string | undefined;
  readonly until: Stream['openedAt'] | undefined;
}

export type StreamView = ReturnType<typeof streamView>;

/** A stream as `/streams` shows it. Times are ISO 8601, durations in milliseconds. */
export function streamView(
  clock: Clock,
  stream: Stream,
  node: NodeInfo | undefined,
  kernel: KernelEvidence | undefined,
  contests: readonly ContestView[],
  replica: string | undefined,
) {
  const iso = (instant: Stream['openedAt']): string => clock.dateOf(instant).toISOString();
  return {
    id: stream.id,
    replica: replica ?? null,
    kind: stream.kind,
    machineKey: stream.machineKey === undefined ? null : formatMachineKey(stream.machineKey),
    node: node === undefined ? null : nodeView(node),
    remoteAddress: stream.remoteAddress,
    openedAt: iso(stream.openedAt),
    lastHeardAt: iso(stream.heardAt),
    upstreamSpokeAt: stream.spokenAt === undefined ? null : iso(stream.spokenAt),
    bytesReceived: stream.bytesReceived,
    bytesSent: stream.bytesSent,
    state: stream.state.kind,
    heldUntil: stream.state.kind === 'held' ? iso(stream.state.until) : null,
    closing: stream.state.kind === 'closing' ? stream.state.reason : null,
    wouldSever: stream.spared ?? null,
    kernel: kernel ?? null,
    contests: contests.map((contest) => ({
      role: contest.old === stream ? ('old' as const) : ('newcomer' as const),
      against: contest.old === stream ? contest.newcomer.id : contest.old.id,
      againstReplica: (contest.old === stream ? contest.newcomer.replica : contest.old.replica) ?? null,
      openedAt: iso(contest.openedAt),
      waitingFor: contest.waitingFor ?? null,
      until: contest.until === undefined ? null : iso(contest.until),
    })),
  };
}

/** A node as Headscale lists it. */
export function nodeView({ id, name, user, nodeKey }: NodeInfo) {
  return { id, name, user, nodeKey: formatNodeKey(nodeKey) };
}
