import type { AddressInfo } from 'node:net';
import { type StreamView, streamView } from '../admin/stream-list.ts';
import type { Checkup } from '../headscale/checkup.ts';
import type { MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { Clock } from '../lib/clock.ts';
import type { StreamAcceptor } from '../pipeline/stream-acceptor.ts';
import type { ClientListener } from '../proxy/listener.ts';
import type { Replicas } from '../replicas/replicas.ts';
import type { Registry } from '../streams/registry.ts';
import type { Takeover } from '../takeover/takeover.ts';

export interface StatusSource {
  readonly clock: Clock;
  readonly registry: Registry;
  readonly takeover: Takeover;
  readonly acceptor: StreamAcceptor;
  nodeOf(key: MachineKey | undefined): NodeInfo | undefined;
  /** Undefined where this watchdog is alone. */
  readonly replicas: Pick<Replicas, 'name' | 'remoteStreams' | 'sever'> | undefined;
}

/** What `/readyz` shows. */
export function readinessOf(listeners: readonly ClientListener[], checkup: Checkup, upstream: URL, draining: boolean) {
  const { up, silentOn, reason, version, keyMatches, isHeadscale } = checkup.health;
  const ready = listeners.every(({ server }) => server.listening);
  return {
    ready,
    detail: {
      ready,
      draining,
      listen: listeners.map(({ server }) => server.address() as AddressInfo | null),
      upstream: {
        url: upstream.origin,
        up: up ?? null,
        silentOn: silentOn ?? null,
        isHeadscale: isHeadscale ?? null,
        reason: reason ?? null,
        version: version ?? null,
      },
      noiseKeyMatches: keyMatches ?? null,
    },
  };
}

/** What `/streams` shows of all replicas: ours, and what the others answer. */
export async function allStreamViews(source: StatusSource): Promise<readonly StreamView[]> {
  const others = (await source.replicas?.remoteStreams()) ?? [];
  // What is no such view has been left out: see `parseMessage`.
  return [...streamViews(source), ...(others as StreamView[])];
}

/** Our own. */
export function streamViews({ clock, registry, takeover, acceptor, nodeOf, replicas }: StatusSource): StreamView[] {
  return [...registry.all()].map((stream) => {
    const contests = takeover.contestsOf(stream).map(({ old, newcomer, openedAt, verdict }) => {
      const wait = verdict?.kind === 'wait' ? verdict : undefined;
      return { old, newcomer, openedAt, waitingFor: wait?.waitingFor, until: wait?.until };
    });
    return streamView(clock, stream, nodeOf(stream.machineKey), acceptor.evidenceOf(stream), contests, replicas?.name);
  });
}
