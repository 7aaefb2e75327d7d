import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createAdminServer } from './admin/server.ts';
import { streamView } from './admin/stream-view.ts';
import { type Clock, systemClock } from './clock.ts';
import type { Config } from './config/schema.ts';
import { Events, type Listener } from './events.ts';
import { headscaleApi } from './headscale/api.ts';
import { Checkup, needsHold } from './headscale/checkup.ts';
import { formatNoiseKey, type NoiseKey } from './identity/machine-key.ts';
import { Intake } from './intake.ts';
import { type KernelOrNot, loadKernel } from './liveness/kernel.ts';
import { createListener, listen } from './proxy/listener.ts';
import { plainProxy } from './proxy/plain.ts';
import { upstreamOf } from './proxy/upstream.ts';
import { Registry } from './streams/registry.ts';
import { DEFAULT_HOLD_MS, Takeover } from './takeover/takeover.ts';
import { type Logger, logEvents } from './telemetry/log.ts';
import { createMetrics } from './telemetry/metrics.ts';
import { version } from './version.ts';

export interface WatchdogOptions {
  /** Undefined: no node is identified, and no stream contested. */
  readonly noiseKey: NoiseKey | undefined;
  readonly log: Logger;
  readonly clock?: Clock;
  /** What can be asked of the kernel; by default what this machine offers. */
  readonly kernel?: KernelOrNot;
}

/** A watchdog that listens. */
export interface Watchdog {
  readonly listenAddress: AddressInfo;
  readonly adminAddress: AddressInfo;
  /** @returns what ends the listening. */
  onEvent(listener: Listener): () => void;
  /** Stops listening and ends every stream; resolves when nothing is left open. */
  close(): Promise<void>;
}

/**
 * Builds everything, wires it, and starts it.
 *
 * @throws StartError when an address cannot be listened on; nothing is left open then.
 */
export async function startWatchdog(config: Config, options: WatchdogOptions): Promise<Watchdog> {
  const { noiseKey, log, clock = systemClock } = options;
  const events = new Events();
  events.listen(logEvents(log));
  const loaded = options.kernel ?? (await loadKernel());
  const kernel = loaded.ok ? loaded.kernel : undefined;
  warnOfWhatIsOff(log, noiseKey, loaded);

  const registry = new Registry();
  const ourKey = noiseKey && formatNoiseKey(noiseKey);
  const checkup = new Checkup(clock, headscaleApi(config.upstream), config.upstream, () => ourKey, events.emit);
  const takeover = new Takeover(clock, registry, settingsOf(config, checkup), events.emit);
  const upstream = upstreamOf(config.upstream);
  const upstreamReached = (): void => checkup.reached();
  const upstreamFailed = (): void => checkup.suspect();
  const emit = events.emit;
  const intake = new Intake({
    clock,
    registry,
    takeover,
    kernel,
    noiseKey,
    upstream,
    emit,
    upstreamReached,
    upstreamFailed,
  });
  const metrics = createMetrics({
    streams: () => registry.all(),
    upstreamUp: () => checkup.health.up,
    keyMatches: () => checkup.health.keyMatches,
    version,
  });
  events.listen(metrics.listen);

  const listener = createListener({
    plain: plainProxy({ upstream, upstreamReached, upstreamFailed }),
    upgrade: (upgrade, origin) => intake.upgrade(upgrade, origin),
  });
  const admin = createAdminServer({
    metrics: async () => ({ contentType: metrics.contentType, text: await metrics.render() }),
    readiness: () => readinessOf(listener, checkup, config),
    streams: () => ({ streams: viewsOf(clock, registry, takeover, intake) }),
    failed: (during, error) => emit({ kind: 'internal error', during, error }),
  });

  const close = async (): Promise<void> => {
    const closed = Promise.all([closeServer(listener), closeServer(admin), intake.end()]);
    listener.closeAllConnections();
    admin.closeAllConnections();
    await Promise.all([closed, checkup.close()]);
  };
  try {
    const adminAddress = await listen(admin, config.admin, '--admin');
    const listenAddress = await listen(listener, config.listen, '--listen');
    // Not waited for: until Headscale has said its version, newcomers are held.
    void checkup.check();
    return { listenAddress, adminAddress, onEvent: (heard) => events.listen(heard), close };
  } catch (error) {
    await close();
    throw error;
  }
}

function settingsOf(config: Config, checkup: Checkup) {
  return {
    silentAfterMs: () => config.silentAfterMs,
    holdMs: () => {
      switch (config.hold.kind) {
        case 'off':
          return 0;
        case 'at most':
          return config.hold.ms;
        case 'auto':
          return needsHold(checkup.health) ? DEFAULT_HOLD_MS : 0;
        default:
          return config.hold satisfies never;
      }
    },
  };
}

function warnOfWhatIsOff(log: Logger, noiseKey: NoiseKey | undefined, kernel: KernelOrNot): void {
  if (noiseKey === undefined) {
    log.warn('no --noise-key: nodes cannot be told apart, so no stream is contested or severed; all else works');
  }
  if (!kernel.ok) {
    log.warn(
      { why: kernel.why },
      'no kernel evidence: a dead stream is severed only once it is silent past --silent-after, and nothing is held',
    );
  }
}

function readinessOf(listener: Server, checkup: Checkup, config: Config) {
  const { up, reason, version: upstreamVersion, keyMatches } = checkup.health;
  const ready = listener.listening;
  return {
    ready,
    detail: {
      ready,
      upstream: {
        url: config.upstream.origin,
        up: up ?? null,
        reason: reason ?? null,
        version: upstreamVersion ?? null,
      },
      noiseKeyMatches: keyMatches ?? null,
    },
  };
}

function viewsOf(clock: Clock, registry: Registry, takeover: Takeover, intake: Intake): object[] {
  return [...registry.all()].map((stream) => {
    const contests = takeover.contestsOf(stream).map(({ old, newcomer, openedAt, verdict }) => {
      const wait = verdict?.kind === 'wait' ? verdict : undefined;
      return { old, newcomer, openedAt, waitingFor: wait?.waitingFor, until: wait?.until };
    });
    return streamView(clock, stream, intake.evidenceOf(stream), contests);
  });
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    if (server.listening) server.close(() => resolve());
    else resolve();
  });
}
