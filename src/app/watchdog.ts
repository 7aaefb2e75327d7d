import type { AddressInfo } from 'node:net';
import { httpsPortOf } from '../config/listen.ts';
import { readAdminToken } from '../config/secrets.ts';
import type { Config } from '../config/types.ts';
import { headscaleApi } from '../headscale/api.ts';
import { Checkup, needsHold } from '../headscale/checkup.ts';
import { NodeDirectory } from '../headscale/nodes.ts';
import { isStreamSilent, PendingAnswers } from '../headscale/silence.ts';
import type { MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import { formatNoiseKey, type NoiseKey } from '../identity/noise.ts';
import { type Clock, type Instant, systemClock } from '../lib/clock.ts';
import { StartError } from '../lib/errors.ts';
import { enableKeepAlive } from '../liveness/client-connection.ts';
import { type Kernel, type KernelOrNot, loadKernel } from '../liveness/kernel.ts';
import { Patrol } from '../liveness/patrol.ts';
import { Admission, connectionCapacity } from '../pipeline/admission.ts';
import { Pacer } from '../pipeline/pacer.ts';
import { StreamAcceptor } from '../pipeline/stream-acceptor.ts';
import type { Origin } from '../proxy/forwarded.ts';
import { FrontProxies, Gateways } from '../proxy/front-proxies.ts';
import { type ClientListener, createListener, type ListenerHandlers } from '../proxy/listener.ts';
import { listen } from '../proxy/listening.ts';
import { plainProxy } from '../proxy/plain.ts';
import { Refusals } from '../proxy/refusals.ts';
import { currentTrust } from '../proxy/trusted-proxies.ts';
import type { UpgradeRequest } from '../proxy/tunnel.ts';
import { type PendingAnswer, upstreamOf } from '../proxy/upstream.ts';
import type { openReplicas as openReplicasOf } from '../replicas/replicas.ts';
import { type InheritedSockets, NO_SOCKETS } from '../service/inherited.ts';
import { ALONE } from '../streams/directory.ts';
import { Events, type Listener } from '../streams/events.ts';
import { Registry } from '../streams/registry.ts';
import type { Stream } from '../streams/stream.ts';
import { Takeover } from '../takeover/takeover.ts';
import { logEvents } from '../telemetry/log.ts';
import type { Logger } from '../telemetry/logger.ts';
import { adminServerOf } from './admin-server.ts';
import { KeyFiles } from './key-files.ts';
import { type ReloadOutcome, reload } from './reload.ts';
import { Settings } from './settings.ts';
import { type DrainTerms, drainTermsOf, Shutdown } from './shutdown.ts';
import { warnOfCertificates, warnOfWhatIsOff } from './warnings.ts';

export interface WatchdogOptions {
  readonly log: Logger;
  /** In place of the one in the file that the configuration names. Without either nobody is identified. */
  readonly noiseKey?: NoiseKey | undefined;
  readonly clock?: Clock;
  /** What can be asked of the kernel; by default what this machine offers. */
  readonly kernel?: KernelOrNot;
  /**
   * Reads flags and file anew, for a reload; by default nothing has changed.
   *
   * @throws UsageError or StartError
   */
  readonly reread?: () => Config;
  /** Sockets that listen already; by default there are none. */
  readonly inherited?: InheritedSockets;
}

/** A watchdog that listens. */
export interface Watchdog {
  /** In the order of `listen`. */
  readonly listenAddresses: readonly AddressInfo[];
  readonly adminAddress: AddressInfo;
  /** @returns what ends the listening. */
  onEvent(listener: Listener): () => void;
  /** Tells of an error of ours that was caught outside. */
  failed(during: string, error: unknown): void;
  /** Applies the configuration as it is now to new and open streams; one that cannot be used changes nothing. */
  reload(): ReloadOutcome;
  /** What `drain` would do now. */
  drainTerms(): DrainTerms;
  /** Stops listening and ends the streams evenly over the drain; resolves when nothing is left open. */
  drain(): Promise<void>;
  /** Stops listening and ends every stream now, also in the middle of a drain; resolves when nothing is left open. */
  close(): Promise<void>;
}

/**
 * Builds everything, wires it, and starts it.
 *
 * @throws StartError when a key file cannot be used or an address cannot be listened on; nothing is left open then.
 */
export async function startWatchdog(config: Config, options: WatchdogOptions): Promise<Watchdog> {
  const token = config.adminTokenFile === undefined ? undefined : readAdminToken(config.adminTokenFile);
  const { inherited = NO_SOCKETS } = options;
  refuseSurplus(inherited, config.listen.length);
  const parts = await build(config, options);
  const { clock, events, checkup, directory, keys, listeners, settings, acceptor } = parts;
  const drainTerms = (): DrainTerms => drainTermsOf(settings.config.drainMs, inherited.listeners > 0);
  const admin = adminServerOf(parts, token, () => shutdown.isDraining);
  const shutdown: Shutdown = new Shutdown({
    ...{ clock, acceptor, admin, drainTerms, emit: events.emit, listeners },
    closeRest: () => closeRest(parts),
  });
  const failed = (during: string, error: unknown): void => events.emit({ kind: 'internal_error', during, error });
  try {
    const adminAddress = await listen(admin, config.admin, '--admin', inherited.forAdmin);
    const listenAddresses: AddressInfo[] = [];
    for (const [i, { server, listen: where }] of listeners.entries()) {
      listenAddresses.push(await listen(server, where, '--listen', inherited.forListener(i)));
    }
    // Not waited for: until Headscale has said its version, newcomers are held.
    void checkup.check();
    if (keys.apiKey !== undefined) directory.start();
    const onEvent = (heard: Listener): (() => void) => events.listen(heard);
    const [drain, close] = [() => shutdown.drain(), () => shutdown.close()];
    return { listenAddresses, adminAddress, onEvent, failed, reload: parts.reload, drainTerms, drain, close };
  } catch (error) {
    await shutdown.close();
    throw error;
  }
}

/** @throws StartError where more sockets were passed in than there is use for: one would never be answered. */
function refuseSurplus({ listeners }: InheritedSockets, wanted: number): void {
  if (listeners <= wanted) return;
  throw new StartError(
    'HSW_INHERITED_SOCKET_INVALID',
    `${listeners} sockets were passed in for ${wanted} --listen: add a --listen for each ListenStream= of the .socket unit, or remove the line; the admin server's needs a .socket unit of its own with FileDescriptorName=admin`,
  );
}

type Parts = Awaited<ReturnType<typeof build>>;

/** Everything on the way of a connection, and what tells of it; nothing listens yet. */
async function build(config: Config, options: WatchdogOptions) {
  const { log, clock = systemClock } = options;
  const events = new Events();
  const loaded = options.kernel ?? (await loadKernel());
  const ground = { clock, events, registry: new Registry() };
  const knowledge = buildKnowledge(config, options, ground);
  warnOfWhatIsOff(log, knowledge.noiseKey(), loaded);
  warnOfCertificates(log, config, knowledge.keys, clock.dateOf(clock.now()));
  const kernel = loaded.ok ? loaded.kernel : undefined;
  const openReplicas = config.redis && (await import('../replicas/replicas.ts')).openReplicas;
  const way = buildWay(config, { ...ground, kernel, openReplicas }, knowledge);
  const { settings, keys, directory, checkup } = knowledge;
  const reconsider = (): void => {
    settings.forget();
    way.acceptor.reapplyTimeouts();
    way.takeover.rejudgeAll();
  };
  directory.onChange(reconsider);
  directory.onConfirmed(() => {
    if (settings.config.rules.length > 0) reconsider();
  });
  events.listen(({ kind }) => {
    // After an outage nodes may have come or gone; and at the start Headscale may come up later than we.
    if (kind === 'upstream_up') directory.refresh();
  });
  const applied = (before: Config, after: Config): void => {
    if (after.logLevel !== before.logLevel) log.level = after.logLevel;
    reconsider();
    checkup.keyChanged();
    if (keys.apiKey === undefined) directory.stop();
    else directory.start();
  };
  const reread = options.reread ?? (() => settings.config);
  const reloads = { reread, settings, keys, emit: events.emit, applied };
  return { ...ground, kernel, ...knowledge, ...way, reload: () => reload(reloads) };
}

export interface Ground {
  readonly clock: Clock;
  readonly events: Events;
  readonly registry: Registry;
}

/** What is known beside the streams: settings, keys, Headscale's health, its nodes. */
function buildKnowledge(config: Config, options: WatchdogOptions, { clock, events, registry }: Ground) {
  const { emit } = events;
  const api = headscaleApi(config.upstream);
  const changed = (key: 'noise key' | 'API key'): void => {
    if (key === 'noise key') checkup.keyChanged();
    else directory.keyChanged();
  };
  const listeners: ClientListener[] = [];
  const keys = new KeyFiles(config, {
    ...{ clock, emit, changed },
    renewed: (i, certificate) => listeners[i]?.useCertificate(certificate),
  });
  const noiseKey = (): NoiseKey | undefined => options.noiseKey ?? keys.noiseKey;
  const publicHalf = (): string | undefined => {
    const key = noiseKey();
    return key && formatNoiseKey(key);
  };
  const pending = new PendingAnswers(clock, () => checkup.suspect());
  const checkup = new Checkup({
    ...{ clock, api, upstream: config.upstream, ourKey: publicHalf, emit },
    lastSignOfLife: () => newest(pending.answeredAt, registry.lastSpokenAt),
    answered: () => pending.answered(),
  });
  const directory = new NodeDirectory({ clock, list: () => api.nodes(keys.apiKey ?? ''), emit });
  const nodeOf = (key: MachineKey | undefined): NodeInfo | undefined => directory.nodeOf(key);
  const settings = new Settings(config, {
    nodesOf: (stream) => directory.nodesOf(stream),
    needsHold: () => needsHold(checkup.health),
  });
  events.listen(logEvents(options.log, nodeOf));
  events.listen((event) => {
    if (event.kind === 'stream_opened' && event.stream.machineKey !== undefined)
      directory.refreshFor(event.stream.machineKey);
  });
  const loginMayHaveEnded = (stream: Stream): void => {
    if (stream.machineKey === undefined) return;
    stream.loginEndedAt = clock.now();
    settings.forgetOf(stream);
    directory.refreshFor(stream.machineKey);
  };
  return { loginMayHaveEnded, keys, noiseKey, checkup, pending, directory, nodeOf, settings, listeners };
}

function newest(one: Instant | undefined, other: Instant | undefined): Instant | undefined {
  return one === undefined || (other !== undefined && other > one) ? other : one;
}

export type Knowledge = ReturnType<typeof buildKnowledge>;

async function closeRest({ patrol, keys, checkup, directory, replicas, upstream }: Parts): Promise<void> {
  upstream.connections.endAll();
  patrol.close();
  keys.close();
  await Promise.all([checkup.close(), directory.close(), replicas?.close()]);
}

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
      reached: ({ address }) => admission.limitReached('held', address, `${takeover.held} are held already`),
    },
    {
      random: Math.random,
      isTelling: (address) => !gateways.has(address) && !registry.isShared(address, SHARED_BY),
    },
  );
  const health = {
    upstream: upstreamOf(config.upstream, (socket) => enableKeepAlive(kernel, socket, 'upstream')),
    upstreamReached: (): void => checkup.reached(),
    upstreamFailed: (): void => checkup.suspect(),
    awaitAnswer: (giveUp: () => void): PendingAnswer => pending.begin(giveUp),
  };
  const replicas = config.redis && openReplicas?.({ clock, registry, takeover, emit, noiseKey }, config.redis);
  if (replicas !== undefined) events.listen(replicas.onEvent);
  const acceptor = new StreamAcceptor({
    ...{ clock, registry, takeover, admission, pacer, kernel, noiseKey, emit, ...health },
    tcpTimeoutsOf: (stream) => settings.tcpTimeoutsOf(stream),
    answeredLate: (stream) => knowledge.loginMayHaveEnded(stream),
    limits: () => settings.config.limits,
    directory: replicas ?? ALONE,
  });
  const trust = currentTrust(() => settings.config.trustedProxies);
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
        emit({ kind: 'upstream_protocol_mismatched', asked: undefined, switchedTo, remoteAddress }),
    }),
    upgrade: (upgrade: UpgradeRequest, origin: Origin): void => acceptor.upgrade(upgrade, origin),
    trust,
    requested: (request, sender) => frontProxies.requested(request, sender),
    pages: { httpsPort: httpsPortOf(config.listen), webroot: () => settings.config.acmeWebroot },
    refused: new Refusals(emit).note,
    connected: (address) => admission.admitConnection(address),
    keepAlive: (socket) => enableKeepAlive(kernel, socket, 'waiting client'),
    tooLarge: (address) =>
      admission.limitReached('body', address, `larger than ${settings.config.limits.bodyBytes} bytes`),
    limits: () => settings.config.limits,
  });
  const patrol = new Patrol({
    clock,
    emit,
    streams: () => registry.all(),
    refresh: (stream) => acceptor.refresh(stream),
    evidenceOf: (stream) => acceptor.evidenceOf(stream),
    policyOf: (stream) => settings.policyOf(stream),
    isSilent: (stream) => isStreamSilent(stream, clock.now()),
    silent: (silent, of) => checkup.streamsSilent(silent, of),
    seversUpstreamSilent: () => settings.config.upstreamSilentSever,
    sever: (stream) => acceptor.sever(stream, 'upstream_silent'),
  });
  return { admission, pacer, takeover, acceptor, patrol, replicas, frontProxies, upstream: health.upstream };
}

function buildDoor({ clock, events }: Ground, { settings }: Knowledge) {
  const room = connectionCapacity() ?? Number.POSITIVE_INFINITY;
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
function listenWith(config: Config, { keys, listeners }: Knowledge, ports: ListenerHandlers): void {
  for (const [i, each] of config.listen.entries()) {
    listeners.push(createListener(each, keys.certificateOf(i), config.limits, ports));
  }
}
