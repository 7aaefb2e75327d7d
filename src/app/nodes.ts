import { policyForAny } from '../config/policy.ts';
import type { Checkup } from '../headscale/checkup.ts';
import type { NodeDirectory } from '../headscale/nodes.ts';
import { type MachineKey, parseMachineKey } from '../identity/keys.ts';
import type { Clock } from '../lib/clock.ts';
import { fieldsOf, stringOf } from '../lib/json.ts';
import { lastSignAgoMs, nodesOf, Sightings } from '../nodes/presence.ts';
import { Reconciler } from '../nodes/reconcile.ts';
import type { StreamAcceptor } from '../pipeline/stream-acceptor.ts';
import type { Replicas } from '../replicas/replicas.ts';
import type { Events } from '../streams/events.ts';
import type { Registry } from '../streams/registry.ts';
import type { KernelEvidence, Stream } from '../streams/stream.ts';
import type { KeptHistory } from './history.ts';
import type { LiveConfig } from './live-config.ts';

interface NodesOptions {
  readonly clock: Clock;
  readonly events: Events;
  readonly registry: Registry;
  readonly directory: NodeDirectory;
  readonly checkup: Checkup;
  readonly live: LiveConfig;
  readonly acceptor: StreamAcceptor;
  readonly replicas: Replicas | undefined;
  readonly kept: Pick<KeptHistory, 'lastOnline'>;
}

/** Builds what remembers when nodes were connected, and what compares that with Headscale. */
export function followNodes(options: NodesOptions): {
  readonly sightings: Sightings;
  readonly reconciler: Reconciler;
} {
  const { clock, events, directory, checkup, live, acceptor, replicas } = options;
  const streamsOf = (key: MachineKey): readonly Stream[] => controlStreamsOf(options.registry, key);
  const sightings = new Sightings({
    clock,
    isNode: (key) => !directory.loaded || directory.nodeOf(key) !== undefined,
    streamsOf: (key) => streamsOf(key).length,
  });
  sightings.remember(options.kept.lastOnline());
  const reconciler = new Reconciler({
    ...{ clock, directory, streamsOf, emit: events.emit },
    mode: () => live.config.reconcile,
    issueOf: (kind) => checkup.capabilities.issues[kind],
    elsewhere: replicas && (() => keysElsewhere(replicas)),
    lastSignAgoMs: (stream) => lastSignAgoMs(clock.now() - stream.heardAt, ownEvidenceOf(acceptor, stream)),
    isObserved: ({ machineKey }, node) => policyForAny(live.config, machineKey, nodesOf(node)).observeOnly,
    end: (stream, reason) => acceptor.sever(stream, reason),
  });
  events.listen(sightings.listen);
  events.listen(reconciler.listen);
  directory.onRefresh(() => reconciler.listed());
  return { sightings, reconciler };
}

/** Evidence that proves a client live: that of its own connection, and not of any connection to its address. */
function ownEvidenceOf(acceptor: StreamAcceptor, stream: Stream): KernelEvidence | undefined {
  const source = acceptor.sourceOf(stream);
  return source.kind === 'proxy' && source.by === 'address' ? undefined : acceptor.evidenceOf(stream);
}

function controlStreamsOf(registry: Registry, key: MachineKey): readonly Stream[] {
  return registry.ofMachineKey(key).filter(({ kind }) => kind === 'control');
}

/** The keys with a stream at another replica; undefined while Redis is down. */
async function keysElsewhere(replicas: Replicas): Promise<ReadonlySet<MachineKey> | undefined> {
  if (!replicas.isUp) return undefined;
  const streams = await replicas.remoteStreams();
  return new Set(streams.flatMap((stream) => parseMachineKey(stringOf(fieldsOf(stream).machineKey)) ?? []));
}
