import type { AddressInfo } from 'node:net';
import { httpsPortOf } from '../config/listen.ts';
import { readAdminTokens } from '../config/secrets.ts';
import type { Config } from '../config/types.ts';
import { headscaleApi } from '../headscale/api.ts';
import { nodesAccess } from '../headscale/capabilities.ts';
import { Checkup } from '../headscale/checkup.ts';
import { NodeDirectory } from '../headscale/nodes.ts';
import { isStreamSilent } from '../headscale/silence.ts';
import { formatNoiseKey, type NoiseKey } from '../identity/noise.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import { enableKeepAlive } from '../liveness/client-connection.ts';
import { type Kernel, type KernelOrNot, loadKernel } from '../liveness/kernel.ts';
import { Patrol } from '../liveness/patrol.ts';
import { ProxySockets } from '../liveness/proxy-sockets.ts';
import { loadSockDiag } from '../liveness/sock-diag.ts';
import { poster } from '../notify/delivery.ts';
import { Notifier } from '../notify/notifier.ts';
import { Admission, connectionCapacity } from '../pipeline/admission.ts';
import { Pacer } from '../pipeline/pacer.ts';
import { StreamAcceptor } from '../pipeline/stream-acceptor.ts';
import { FrontProxies, Gateways } from '../proxy/front-proxies.ts';
import { type ClientListener, createListener } from '../proxy/listener.ts';
import { plainProxy } from '../proxy/plain.ts';
import { releaseIdle } from '../proxy/pooled-reads.ts';
import { Refusals } from '../proxy/refusals.ts';
import { currentTrust } from '../proxy/trusted-proxies.ts';
import { type AwaitAnswer, type Upstream, upstreamOf } from '../proxy/upstream.ts';
import type { Replicas } from '../replicas/replicas.ts';
import { type InheritedSockets, NO_SOCKETS, refuseSurplusSockets } from '../service/inherited.ts';
import type { OldProcess } from '../service/successor-process.ts';
import { ALONE } from '../streams/directory.ts';
import { Events, type Listener } from '../streams/events.ts';
import { Registry } from '../streams/registry.ts';
import type { Stream } from '../streams/stream.ts';
import { Takeover } from '../takeover/takeover.ts';
import { type Logger, logEvents } from '../telemetry/log.ts';
import { startAdmin } from './admin.ts';
import { type HandedOver, HandingOver } from './handing-over.ts';
import type { HandoverOptions, HandoverOutcome } from './handover.ts';
import { openHistory } from './history.ts';
import { KeyFiles } from './key-files.ts';
import { LiveConfig, type ReloadOutcome } from './live-config.ts';
import { followNodes } from './nodes.ts';
import { type DrainTerms, drainTermsOf, Shutdown } from './shutdown.ts';
import { warnOfCertificates, warnOfMissing } from './start-warnings.ts';

export interface WatchdogOptions {
  readonly log: Logger;
  /** Replaces the key from the configured file. Without any key, no node is identified. */
  readonly noiseKey?: NoiseKey | undefined;
  readonly clock?: Clock;
  /** The kernel to ask for evidence; by default this machine's. */
  readonly kernel?: KernelOrNot;
  /**
   * Reads flags and file again, for a reload. By default nothing has changed.
   *
   * @throws UsageError or StartError
   */
  readonly reread?: () => Config;
  /** Sockets that listen already; by default there are none. */
  readonly inherited?: InheritedSockets;
  /** The process to take over from. */
  readonly old?: OldProcess | undefined;
  readonly successor?: Pick<HandoverOptions, 'program' | 'env'>;
}

/** A running watchdog. */
export interface Watchdog {
  /** The addresses in the order of `listen`. */
  readonly listenAddresses: readonly AddressInfo[];
  readonly adminAddress: AddressInfo;
  /** @returns a function that removes the listener. */
  onEvent(listener: Listener): () => void;
  /** Reports a bug of the watchdog that surfaced outside of it. */
  failed(during: string, error: unknown): void;
  /** Reads the configuration again, and applies it to new and open streams. If it cannot be used, nothing changes. */
  reload(): ReloadOutcome;
  /** Hands everything over to a new process, or changes nothing. */
  handOver(): Promise<HandoverOutcome>;
  /** Resolves when a new process has everything that can go. */
  readonly handedOver: Promise<HandedOver>;
  /** How `drain` would end the streams now. */
  drainTerms(): DrainTerms;
  /** Stops listening and ends the streams evenly over the drain. Resolves when nothing is left open. */
  drain(): Promise<void>;
  /** Stops listening and ends every stream now, also during a drain. Resolves when nothing is left open. */
  close(): Promise<void>;
}

/**
 * Starts a watchdog: loads the keys, builds all parts in order, then listens. Each part knows only the parts that were built
 * before it. Calls in the other direction are connected when both parts exist.
 *
 * @throws StartError when a key file or an address cannot be used. Nothing is left open then.
 */
export async function startWatchdog(config: Config, options: WatchdogOptions): Promise<Watchdog> {
  const { log, clock = systemClock, inherited = NO_SOCKETS } = options;
  const startedAt = clock.now();

  // Load everything first: if something cannot be used, the start fails before anything is open.
  const tokens = readAdminTokens(config);
  refuseSurplusSockets(inherited, config.listen.length);
  const loadedKernel = options.kernel ?? (await loadKernel());
  const kernel = loadedKernel.ok ? loadedKernel.kernel : undefined;
  const events = new Events();
  const { emit } = events;
  const keys = new KeyFiles(config, { clock, emit });
  const noiseKey = (): NoiseKey | undefined => options.noiseKey ?? keys.noiseKey;
  warnOfMissing(log, noiseKey(), config.noiseKeyFile, loadedKernel);
  warnOfCertificates(log, config, keys, clock.dateOf(clock.now()));

  // Build the facts: streams, Headscale's health, its nodes, and the settings of each stream.
  const registry = new Registry();
  const api = headscaleApi(config.upstream, { clock });
  const ourKey = (): string | undefined => {
    const key = noiseKey();
    return key && formatNoiseKey(key);
  };
  const lastSpokenAt = () => registry.lastSpokenAt;
  const checkup = new Checkup({ clock, emit, api, upstream: config.upstream, ourKey, lastSpokenAt });
  const access = () => nodesAccess(keys.credentials, checkup.capabilities);
  const list = async () => {
    const now = access();
    return now && api.nodes(now);
  };
  const directory = new NodeDirectory({ clock, emit, list });
  const live = new LiveConfig(config, {
    nodesOf: (stream) => directory.nodesOf(stream),
    mayRefuseSecondStream: () => checkup.capabilities.mayRefuseSecondStream,
  });
  events.listen(logEvents(log, (key) => directory.nodeOf(key)));
  const kept = await openHistory(config, { clock, events, registry, directory, old: options.old });

  // Build the way of a connection.
  const proxySockets = new ProxySockets({ clock, emit, diag: await loadSockDiag(clock) });
  const services: Services = {
    ...{ clock, events, registry, kernel, proxySockets },
    ...{ noiseKey, keys, checkup, directory, live },
  };
  const pipeline = await buildPipeline(config, services, options.old?.hello.replica);
  const { takeover, acceptor, upstream, replicas } = pipeline;
  const frontProxies = buildFrontProxies(services, pipeline.gateways);
  const listeners = buildListeners(config, services, pipeline, frontProxies);
  const patrol = buildPatrol(services, acceptor);
  const { sightings, reconciler } = followNodes({ ...services, acceptor, replicas, kept });

  const { notes } = kept;
  const notifier = new Notifier({
    ...{ ...services, emit, replicas, notes, poster: poster(), random: Math.random },
    isPaused: options.old !== undefined,
  });
  events.listen(notifier.listen);

  // Connect what changes while the watchdog runs: key files, the configuration, the list of nodes.
  const reconsider = (): void => {
    live.forgetPolicies();
    acceptor.reapplyTimeouts();
    takeover.rejudgeAll();
  };
  keys.onChange({
    noiseKey: () => checkup.keyChanged(),
    credentials: () => directory.keyChanged(),
    certificate: (i, certificate) => listeners[i]?.useCertificate(certificate),
    notifySecrets: () => notifier.apply(),
  });
  directory.onChange(reconsider);
  directory.onRefresh(() => notifier.nodesListed());
  directory.onConfirmed(() => {
    if (live.config.rules.length > 0) reconsider();
  });
  events.listen((event) => {
    // Nodes may have come or gone during an outage, and Headscale may start after us.
    if (event.kind === 'upstream_up' || event.kind === 'replica_gone') directory.refresh();
    if (event.kind === 'stream_opened' && event.stream.machineKey !== undefined)
      directory.refreshFor(event.stream.machineKey);
  });
  const reload = (): ReloadOutcome =>
    live.reload({
      reread: options.reread ?? (() => live.config),
      keys,
      emit,
      applied(before, after) {
        if (after.logLevel !== before.logLevel) log.level = after.logLevel;
        reconsider();
        checkup.keyChanged();
        notifier.apply();
        if (access() === undefined) directory.stop();
        else directory.start();
      },
    });

  // Prepare the shutdown before anything is open, because a failed start uses it too.
  const drainTerms = (): DrainTerms => drainTermsOf(live.config.drainMs, inherited.listeners > 0);
  const shutdown = new Shutdown({
    ...{ clock, emit, acceptor, listeners, drainTerms },
    async closeRest() {
      upstream.connections.endAll();
      patrol.close();
      reconciler.close();
      proxySockets.close();
      keys.close();
      await notifier.close();
      await kept.close();
      await Promise.all([checkup.close(), directory.close(), replicas?.close()]);
    },
  });

  const handing = new HandingOver({
    ...{ clock, emit, registry, acceptor, checkup, listeners, config, shutdown, fromManager: inherited.listeners },
    ...{ admission: pipeline.admission, upstream, replicas, trust: currentTrust(() => live.config.trustedProxies) },
    ...{ drainMs: () => live.config.drainMs, successor: options.successor, kept, notifier },
    isKeyMissing: () => config.noiseKeyFile !== undefined && noiseKey() === undefined,
  });
  const handOver = () => handing.handOver();

  // Listen.
  const { admin, states } = startAdmin({
    ...{ ...services, ...pipeline, kept, sightings, reconciler, frontProxies, listeners, reload, handOver, notifier },
    ...{ tokens, startedAt, hasNoiseKey: () => noiseKey() !== undefined },
    isDraining: () => shutdown.isDraining,
  });
  shutdown.closeLast(admin);
  try {
    const { adminAddress, listenAddresses } = await handing.listen(admin, states, inherited, options.old);
    keys.watch();
    // Do not wait for Headscale: newcomers are held until its version is known.
    void checkup.check();
    if (access() !== undefined) directory.start();
    return {
      ...{ listenAddresses, adminAddress, reload, drainTerms, handOver, handedOver: handing.handedOver },
      onEvent: (listener) => events.listen(listener),
      failed: (during, error) => emit({ kind: 'internal_error', during, error }),
      drain: () => shutdown.drain(),
      close: () => shutdown.close(),
    };
  } catch (error) {
    await shutdown.close();
    throw error;
  }
}

/** What the parts on the way of a connection use. */
interface Services {
  readonly clock: Clock;
  readonly events: Events;
  readonly registry: Registry;
  /** Undefined if the kernel gives no evidence. */
  readonly kernel: Kernel | undefined;
  readonly proxySockets: ProxySockets;
  /** Undefined without a key. Then no node is identified. */
  noiseKey(): NoiseKey | undefined;
  readonly keys: KeyFiles;
  readonly checkup: Checkup;
  readonly directory: NodeDirectory;
  readonly live: LiveConfig;
}

/** The way of a stream: admission → identity → registry → takeover → pacer → tunnel. */
interface Pipeline {
  readonly admission: Admission;
  readonly pacer: Pacer;
  readonly gateways: Gateways;
  readonly takeover: Takeover;
  /** Undefined without Redis. Then this is the only watchdog. */
  readonly replicas: Replicas | undefined;
  readonly upstream: Upstream;
  readonly acceptor: StreamAcceptor;
}

/** If this many nodes share an address, it is a NAT's or a proxy's, and does not tell two machines apart. */
const SHARED_BY = 5;

/** @throws StartError when a file for Redis cannot be used. */
async function buildPipeline(config: Config, services: Services, predecessor?: string): Promise<Pipeline> {
  const { clock, events, registry, kernel, proxySockets, noiseKey, checkup, directory, live } = services;
  const { emit } = events;
  const capacity = connectionCapacity() ?? Number.POSITIVE_INFINITY;
  const admission = new Admission(
    clock,
    () => ({ ...live.config.limits, connections: Math.min(live.config.limits.connections, capacity) }),
    emit,
  );
  const pacer = new Pacer(clock, () => live.config.pace);
  const gateways = new Gateways(clock);
  const takeover = new Takeover(
    clock,
    registry,
    (stream) => live.termsOf(stream),
    emit,
    {
      most: () => live.config.limits.held,
      reached: ({ address }) => admission.limitReached('held', address, `${live.config.limits.held} are held already`),
    },
    {
      random: Math.random,
      isTelling: (address) => !gateways.has(address) && !registry.isShared(address, SHARED_BY),
    },
  );
  // Load this module only if it is used, because it loads ioredis.
  const replicas =
    config.redis &&
    (await import('../replicas/replicas.ts')).openReplicas({ ...services, emit, takeover, predecessor }, config.redis);
  if (replicas !== undefined) events.listen(replicas.onEvent);
  const upstream = upstreamOf(config.upstream, (socket) => enableKeepAlive(kernel, socket, 'upstream'));
  const acceptor = new StreamAcceptor({
    ...{ clock, registry, takeover, admission, pacer, kernel, proxySockets, noiseKey, emit, upstream },
    ...upstreamReports(checkup),
    tcpTimeoutsOf: (stream) => live.tcpTimeoutsOf(stream),
    isObserved: (stream) => live.policyOf(stream).observeOnly,
    answeredLate(stream: Stream) {
      // Headscale answers a login late, and a login may give the node another owner.
      if (stream.machineKey === undefined) return;
      stream.loginEndedAt = clock.now();
      live.forgetPolicyOf(stream);
      directory.refreshFor(stream.machineKey);
    },
    limits: () => live.config.limits,
    directory: replicas ?? ALONE,
  });
  return { admission, pacer, gateways, takeover, replicas, upstream, acceptor };
}

/** What connections to Headscale report about its health. */
interface UpstreamReports {
  upstreamReached(): void;
  upstreamFailed(): void;
  readonly awaitAnswer: AwaitAnswer;
}

function upstreamReports(checkup: Checkup): UpstreamReports {
  return {
    upstreamReached: () => checkup.reached(),
    upstreamFailed: () => checkup.suspect(),
    awaitAnswer: (giveUp) => checkup.pending.begin(giveUp),
  };
}

function buildFrontProxies({ clock, events, live }: Services, gateways: Gateways): FrontProxies {
  const trusted = (): Config['trustedProxies'] => live.config.trustedProxies;
  const frontProxies = new FrontProxies({
    ...{ clock, emit: events.emit, trusted, trust: currentTrust(trusted) },
    isGateway: (address) => gateways.has(address),
  });
  events.listen(frontProxies.listen);
  return frontProxies;
}

/** Creates a listener for each `--listen`. They do not listen yet. */
function buildListeners(
  config: Config,
  { events: { emit }, kernel, keys, checkup, live }: Services,
  { admission, acceptor, upstream }: Pipeline,
  frontProxies: FrontProxies,
): readonly ClientListener[] {
  const plain = plainProxy({
    ...{ upstream, ...upstreamReports(checkup) },
    mismatched: (switchedTo, remoteAddress) =>
      emit({ kind: 'upstream_protocol_mismatched', asked: undefined, switchedTo, remoteAddress }),
  });
  const refusals = new Refusals(emit);
  const trust = currentTrust(() => live.config.trustedProxies);
  return config.listen.map((each, i) =>
    createListener(each, keys.certificateOf(i), config.limits, {
      ...{ plain, trust, refused: refusals.note },
      upgrade: (upgrade, origin) => acceptor.upgrade(upgrade, origin),
      requested: (request, sender) => frontProxies.requested(request, sender),
      pages: { httpsPort: httpsPortOf(config.listen), webroot: () => live.config.acmeWebroot },
      connected: (address) => admission.admitConnection(address),
      keepAlive: (socket) => enableKeepAlive(kernel, socket, 'waiting client'),
      tooLarge: (address) =>
        admission.limitReached('body', address, `larger than ${live.config.limits.bodyBytes} bytes`),
      limits: () => live.config.limits,
    }),
  );
}

function buildPatrol(services: Services, acceptor: StreamAcceptor): Patrol {
  const { clock, events, registry, kernel, proxySockets, checkup, live } = services;
  return new Patrol({
    ...{ clock, emit: events.emit },
    streams: () => registry.all(),
    refresh: (stream, now) => acceptor.refresh(stream, now),
    evidenceOf: (stream) => acceptor.evidenceOf(stream),
    surveyProxies: () => proxySockets.survey(),
    behindProxy: (stream) => acceptor.behindProxy(stream),
    severGone: (stream) => acceptor.severGone(stream),
    policyOf: (stream) => live.policyOf(stream),
    isSilent: isStreamSilent,
    silent: (silent, of) => checkup.streamsSilent(silent, of),
    seversUpstreamSilent: () => live.config.upstreamSilentSever,
    sever: (stream) => acceptor.sever(stream, 'upstream_silent'),
    releaseBuffers: releaseIdle,
    lastId: () => registry.lastId,
    trimMemory: () => kernel?.trimMemory(),
  });
}
