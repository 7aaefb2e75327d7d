import type { Server } from 'node:http';
import { createAdminServer } from '../admin/server.ts';
import { isStreamSilent } from '../headscale/silence.ts';
import { History, historyBounds } from '../history/history.ts';
import type { MachineKey } from '../identity/keys.ts';
import { version } from '../lib/version.ts';
import type { Kernel } from '../liveness/kernel.ts';
import type { Admission } from '../pipeline/admission.ts';
import type { Pacer } from '../pipeline/pacer.ts';
import { readsArePooled } from '../proxy/pooled-reads.ts';
import type { Events } from '../streams/events.ts';
import { createMetrics } from '../telemetry/metrics.ts';
import { type AdminSource, adminBackendOf } from './admin-ports.ts';
import type { KeyFiles } from './key-files.ts';

export interface AdminServerParts extends Omit<AdminSource, 'history' | 'isDraining'> {
  readonly events: Events;
  readonly keys: KeyFiles;
  readonly admission: Admission;
  readonly pacer: Pacer;
  /** Undefined where it cannot be asked. */
  readonly kernel: Kernel | undefined;
}

/** What listens for operators: metrics, history, and the server that shows both. */
export function adminServerOf(parts: AdminServerParts, token: string | undefined, isDraining: () => boolean): Server {
  const { clock, events, registry, takeover, checkup, settings, acceptor, directory, nodeOf, keys } = parts;
  const isNode = (key: MachineKey): boolean => !directory.loaded || nodeOf(key) !== undefined;
  const metrics = createMetrics({
    clock,
    emit: events.emit,
    streams: () => registry.all(),
    upstreamUp: () => checkup.health.up,
    connections: () => parts.admission.connections,
    held: () => takeover.held,
    paced: () => parts.pacer.waiting,
    redisUp: () => parts.replicas?.isUp,
    keyMatches: () => checkup.health.keyMatches,
    kernelEvidenceAvailable: () => parts.kernel !== undefined,
    readsArePooled,
    duplicateKeys: () => takeover.duplicates.count,
    upstreamSilent: () => (checkup.health.up === undefined ? undefined : checkup.health.silentOn !== undefined),
    upstreamSilentStreams: () => [...registry.all()].filter((each) => isStreamSilent(each, clock.now())).length,
    frontProxies: () => parts.frontProxies.standing(),
    certificateExpires: () => keys.firstCertificateToExpire,
    nodeOf,
    isNode,
    rttMsOf: (stream) => acceptor.evidenceOf(stream)?.rttMs,
    maxNodes: () => settings.config.metricsMaxNodes,
    version,
  });
  events.listen(metrics.listen);
  directory.onChange(metrics.reconsider);
  events.listen(({ kind }) => {
    if (kind === 'settings_reloaded') metrics.reconsider();
  });
  const history = new History(
    clock,
    { nameOf: (key) => nodeOf(key)?.name, isNode },
    historyBounds(settings.config.limits.history),
  );
  events.listen(history.listen);
  const ports = adminBackendOf(
    { ...parts, history, isDraining },
    {
      metrics: async () => ({ contentType: metrics.contentType, text: await metrics.render() }),
      failed: (during, error) => events.emit({ kind: 'internal_error', during, error }),
    },
  );
  return createAdminServer(ports, { clock, token, adminHost: settings.config.admin.host });
}
