import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createAdminServer } from './admin/server.ts';
import { adminPortsOf } from './admin-ports.ts';
import { type Clock, systemClock } from './clock.ts';
import { readAdminToken } from './config/admin-token.ts';
import type { Config } from './config/schema.ts';
import { Events, type Listener } from './events.ts';
import { headscaleApi } from './headscale/api.ts';
import { Checkup, needsHold } from './headscale/checkup.ts';
import { NodeDirectory } from './headscale/nodes.ts';
import { History } from './history/history.ts';
import type { MachineKey } from './identity/keys.ts';
import { formatNoiseKey, type NoiseKey } from './identity/machine-key.ts';
import type { NodeInfo } from './identity/node-info.ts';
import { Intake } from './intake.ts';
import { KeyFiles } from './key-files.ts';
import { type Kernel, type KernelOrNot, loadKernel, type StandingOrders } from './liveness/kernel.ts';
import { isUpstreamSilent, Patrol } from './liveness/patrol.ts';
import { createListener, listen } from './proxy/listener.ts';
import { plainProxy } from './proxy/plain.ts';
import { upstreamOf } from './proxy/upstream.ts';
import { type ReloadOutcome, reload } from './reload.ts';
import { Settings } from './settings.ts';
import { Registry } from './streams/registry.ts';
import type { Stream } from './streams/stream.ts';
import { Takeover } from './takeover/takeover.ts';
import { type Logger, logEvents } from './telemetry/log.ts';
import { createMetrics } from './telemetry/metrics.ts';
import { version } from './version.ts';

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
}

/** A watchdog that listens. */
export interface Watchdog {
  readonly listenAddress: AddressInfo;
  readonly adminAddress: AddressInfo;
  /** @returns what ends the listening. */
  onEvent(listener: Listener): () => void;
  /** Tells of an error of ours that was caught outside. */
  failed(during: string, error: unknown): void;
  /** Applies the configuration as it is now to new and open streams; one that cannot be used changes nothing. */
  reload(): ReloadOutcome;
  /** Stops listening and ends every stream; resolves when nothing is left open. */
  close(): Promise<void>;
}

/**
 * Builds everything, wires it, and starts it.
 *
 * @throws StartError when a key file cannot be used or an address cannot be listened on; nothing is left open then.
 */
export async function startWatchdog(config: Config, options: WatchdogOptions): Promise<Watchdog> {
  const token = config.adminTokenFile === undefined ? undefined : readAdminToken(config.adminTokenFile);
  const parts = await build(config, options);
  const { events, checkup, directory, patrol, keys, intake, listener } = parts;
  const admin = adminServerOf(parts, token);
  const failed = (during: string, error: unknown): void => events.emit({ kind: 'internal error', during, error });
  const close = async (): Promise<void> => {
    const closed = Promise.all([closeServer(listener), closeServer(admin), intake.end()]);
    listener.closeAllConnections();
    admin.closeAllConnections();
    patrol.close();
    keys.close();
    await Promise.all([closed, checkup.close(), directory.close()]);
  };
  try {
    const adminAddress = await listen(admin, config.admin, '--admin');
    const listenAddress = await listen(listener, config.listen, '--listen');
    // Not waited for: until Headscale has said its version, newcomers are held.
    void checkup.check();
    if (keys.apiKey !== undefined) directory.start();
    const onEvent = (heard: Listener): (() => void) => events.listen(heard);
    return { listenAddress, adminAddress, onEvent, failed, reload: parts.reload, close };
  } catch (error) {
    await close();
    throw error;
  }
}

type Parts = Awaited<ReturnType<typeof build>>;

/** Everything on the way of a connection, and what tells of it; nothing listens yet. */
async function build(config: Config, options: WatchdogOptions) {
  const { log, clock = systemClock } = options;
  const events = new Events();
  const loaded = options.kernel ?? (await loadKernel());
  const knowledge = buildKnowledge(config, options, { clock, events });
  warnOfWhatIsOff(log, knowledge.noiseKey(), loaded);
  const way = buildWay(config, { clock, events, kernel: loaded.ok ? loaded.kernel : undefined }, knowledge);
  const { settings, keys, directory, checkup } = knowledge;
  const reconsider = (): void => {
    settings.forget();
    way.intake.renewOrders();
    way.takeover.rejudge();
  };
  directory.onChange(reconsider);
  events.listen(({ kind }) => {
    // After an outage nodes may have come or gone; and at the start Headscale may come up later than we.
    if (kind === 'upstream up') directory.refresh();
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
  return { clock, events, ...knowledge, ...way, reload: () => reload(reloads) };
}

interface Ground {
  readonly clock: Clock;
  readonly events: Events;
}

/** What is known beside the streams: settings, keys, Headscale's health, its nodes. */
function buildKnowledge(config: Config, options: WatchdogOptions, { clock, events }: Ground) {
  const { emit } = events;
  const api = headscaleApi(config.upstream);
  const changed = (key: 'noise key' | 'API key'): void => {
    if (key === 'noise key') checkup.keyChanged();
    else directory.keyChanged();
  };
  const keys = new KeyFiles(config, { clock, emit, changed });
  const noiseKey = (): NoiseKey | undefined => options.noiseKey ?? keys.noiseKey;
  const publicHalf = (): string | undefined => {
    const key = noiseKey();
    return key && formatNoiseKey(key);
  };
  const checkup = new Checkup(clock, api, config.upstream, publicHalf, emit);
  const directory = new NodeDirectory({ clock, list: () => api.nodes(keys.apiKey ?? ''), emit });
  const nodeOf = (key: MachineKey | undefined): NodeInfo | undefined => directory.nodeOf(key);
  const settings = new Settings(config, { nodeOf, needsHold: () => needsHold(checkup.health) });
  events.listen(logEvents(options.log, nodeOf));
  events.listen((event) => {
    if (event.kind === 'stream opened' && event.stream.machineKey !== undefined)
      directory.want(event.stream.machineKey);
  });
  return { keys, noiseKey, checkup, directory, nodeOf, settings };
}

type Knowledge = ReturnType<typeof buildKnowledge>;

/** The way of a connection. */
function buildWay(config: Config, ground: Ground & { readonly kernel: Kernel | undefined }, knowledge: Knowledge) {
  const { clock, events, kernel } = ground;
  const { checkup, settings, noiseKey } = knowledge;
  const { emit } = events;
  const registry = new Registry();
  const takeover = new Takeover(clock, registry, (stream) => settings.termsOf(stream), emit);
  const upstream = upstreamOf(config.upstream);
  const health = {
    upstreamReached: (): void => checkup.reached(),
    upstreamFailed: (): void => checkup.suspect(),
  };
  const ordersOf = (stream: Stream): StandingOrders => settings.ordersOf(stream);
  const intake = new Intake({ clock, registry, takeover, kernel, noiseKey, ordersOf, upstream, emit, ...health });
  const listener = createListener({
    plain: plainProxy({ upstream, ...health }),
    upgrade: (upgrade, origin) => intake.upgrade(upgrade, origin),
  });
  const patrol = new Patrol({
    clock,
    emit,
    streams: () => registry.all(),
    tend: (stream) => intake.tend(stream),
    evidenceOf: (stream) => intake.evidenceOf(stream),
    policyOf: (stream) => settings.policyOf(stream),
    seversUpstreamSilent: () => settings.config.upstreamSilentSever,
    sever: (stream) => intake.sever(stream, 'upstream_silent'),
  });
  return { registry, takeover, intake, listener, patrol };
}

function adminServerOf(parts: Parts, token: string | undefined): Server {
  const { clock, events, registry, takeover, checkup, settings, intake, directory, nodeOf } = parts;
  const isNode = (key: MachineKey): boolean => !directory.loaded || nodeOf(key) !== undefined;
  const metrics = createMetrics({
    clock,
    emit: events.emit,
    streams: () => registry.all(),
    upstreamUp: () => checkup.health.up,
    keyMatches: () => checkup.health.keyMatches,
    duplicateKeys: () => takeover.duplicateKeys,
    upstreamSilentStreams: () => [...registry.all()].filter((each) => isUpstreamSilent(each, clock.now())).length,
    nodeOf,
    isNode,
    rttMsOf: (stream) => intake.evidenceOf(stream)?.rttMs,
    maxNodes: () => settings.config.metricsMaxNodes,
    version,
  });
  events.listen(metrics.listen);
  directory.onChange(metrics.reconsider);
  events.listen(({ kind }) => {
    if (kind === 'reloaded') metrics.reconsider();
  });
  const history = new History(clock, { nameOf: (key) => nodeOf(key)?.name, isNode });
  events.listen(history.listen);
  const ports = adminPortsOf(
    { ...parts, history },
    {
      metrics: async () => ({ contentType: metrics.contentType, text: await metrics.render() }),
      failed: (during, error) => events.emit({ kind: 'internal error', during, error }),
    },
  );
  return createAdminServer(ports, { clock, token, adminHost: settings.config.admin.host });
}

function warnOfWhatIsOff(log: Logger, noiseKey: NoiseKey | undefined, kernel: KernelOrNot): void {
  if (noiseKey === undefined) {
    log.warn('no --noise-key: nodes cannot be told apart, so no stream is contested; all else works');
  }
  if (!kernel.ok) {
    log.warn(
      { why: kernel.why },
      'no kernel evidence: a dead stream is severed only once it is silent past --silent-after, nothing is held, and --gone-after does nothing',
    );
  }
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    if (server.listening) server.close(() => resolve());
    else resolve();
  });
}
