import { httpsPortOf } from '../config/listen.ts';
import type { Config } from '../config/schema.ts';
import { isStreamSilent } from '../headscale/silence.ts';
import { keepAlive } from '../liveness/client-connection.ts';
import type { Kernel } from '../liveness/kernel.ts';
import { Patrol } from '../liveness/patrol.ts';
import { Admission } from '../pipeline/admission.ts';
import { roomForConnections } from '../pipeline/descriptors.ts';
import { Pacer } from '../pipeline/pacer.ts';
import { Intake } from '../pipeline/stream-acceptor.ts';
import type { Origin } from '../proxy/forwarded.ts';
import { FrontProxies } from '../proxy/front-proxies.ts';
import { Gateways } from '../proxy/gateways.ts';
import { createListener, type ListenerPorts } from '../proxy/listener.ts';
import { plainProxy } from '../proxy/plain.ts';
import { Refusals } from '../proxy/refusals.ts';
import { trustAsSet } from '../proxy/trust.ts';
import type { PendingAnswer, UpgradeRequest } from '../proxy/tunnel-ports.ts';
import { upstreamOf } from '../proxy/upstream.ts';
import type { openReplicas as openReplicasOf } from '../replicas/open.ts';
import { ALONE } from '../streams/directory.ts';
import { Takeover } from '../takeover/takeover.ts';
import type { Ground, Knowledge } from './watchdog.ts';

/** An address that so many nodes have is a NAT's or a proxy's, and says nothing of who is behind it. */
const SHARED_BY = 5;

interface WayGround extends Ground {
  readonly kernel: Kernel | undefined;
  /** Loaded where it is needed alone. */
  readonly openReplicas: typeof openReplicasOf | undefined;
}

/** The way of a connection: listener → admission → identity → registry → takeover → pacer → tunnel. Nothing listens yet. */
export function buildWay(config: Config, ground: WayGround, knowledge: Knowledge) {
  const { clock, events, registry, kernel, openReplicas } = ground;
  const { checkup, pending, settings, noiseKey } = knowledge;
  const { emit } = events;
  const { admission, pacer } = buildDoor(ground, knowledge);
  const gateways = new Gateways(clock);
  const takeover = new Takeover(
    clock,
    registry,
    (stream) => settings.termsOf(stream),
    emit,
    {
      most: () => settings.config.limits.held,
      reached: ({ address }) => admission.reached('held', address, `${takeover.held} are held already`),
    },
    {
      random: Math.random,
      isTelling: (address) => !gateways.has(address) && !registry.isShared(address, SHARED_BY),
    },
  );
  const health = {
    upstream: upstreamOf(config.upstream, (socket) => keepAlive(kernel, socket, 'upstream')),
    upstreamReached: (): void => checkup.reached(),
    upstreamFailed: (): void => checkup.suspect(),
    awaitAnswer: (giveUp: () => void): PendingAnswer => pending.begin(giveUp),
  };
  const replicas = config.redis && openReplicas?.({ clock, registry, takeover, emit, noiseKey }, config.redis);
  if (replicas !== undefined) events.listen(replicas.listen);
  const intake = new Intake({
    ...{ clock, registry, takeover, admission, pacer, kernel, noiseKey, emit, ...health },
    ordersOf: (stream) => settings.ordersOf(stream),
    answeredLate: (stream) => knowledge.loginMayHaveEnded(stream),
    limits: () => settings.config.limits,
    directory: replicas ?? ALONE,
  });
  const trust = trustAsSet(() => settings.config.trustedProxies);
  const frontProxies = new FrontProxies({
    ...{ clock, emit, trust },
    isGateway: (address) => gateways.has(address),
    trusted: () => settings.config.trustedProxies,
  });
  events.listen(frontProxies.listen);
  listenWith(config, knowledge, {
    plain: plainProxy({
      ...health,
      misled: (switchedTo, remoteAddress) =>
        emit({ kind: 'upstream misled', asked: undefined, switchedTo, remoteAddress }),
    }),
    upgrade: (upgrade: UpgradeRequest, origin: Origin): void => intake.upgrade(upgrade, origin),
    trust,
    requested: (request, sender) => frontProxies.requested(request, sender),
    pages: { httpsPort: httpsPortOf(config.listen), webroot: () => settings.config.acmeWebroot },
    refused: new Refusals(emit).note,
    connected: (address) => admission.connect(address),
    keepAlive: (socket) => keepAlive(kernel, socket, 'waiting client'),
    tooLarge: (address) => admission.reached('body', address, `larger than ${settings.config.limits.bodyBytes} bytes`),
    limits: () => settings.config.limits,
  });
  const patrol = new Patrol({
    clock,
    emit,
    streams: () => registry.all(),
    tend: (stream) => intake.tend(stream),
    evidenceOf: (stream) => intake.evidenceOf(stream),
    policyOf: (stream) => settings.policyOf(stream),
    isSilent: (stream) => isStreamSilent(stream, clock.now()),
    silent: (silent, of) => checkup.streamsSilent(silent, of),
    seversUpstreamSilent: () => settings.config.upstreamSilentSever,
    sever: (stream) => intake.sever(stream, 'upstream_silent'),
  });
  return { admission, pacer, takeover, intake, patrol, replicas, frontProxies, upstream: health.upstream };
}

function buildDoor({ clock, events }: Ground, { settings }: Knowledge) {
  const room = roomForConnections() ?? Number.POSITIVE_INFINITY;
  const admission = new Admission(
    clock,
    () => {
      const { limits } = settings.config;
      return { ...limits, connections: Math.min(limits.connections, room) };
    },
    events.emit,
  );
  return { admission, pacer: new Pacer(clock, () => settings.config.pace) };
}

/** In place: whoever renews a certificate has this list. */
function listenWith(config: Config, { keys, listeners }: Knowledge, ports: ListenerPorts): void {
  for (const [i, each] of config.listen.entries()) {
    listeners.push(createListener(each, keys.certificateOf(i), config.limits, ports));
  }
}
