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
  /** Tells of an error of ours that was caught outside. */
  failed(during: string, error: unknown): void;
  /** Stops listening and ends every stream; resolves when nothing is left open. */
  close(): Promise<void>;
}

/**
 * Builds everything, wires it, and starts it.
 *
 * @throws StartError when an address cannot be listened on; nothing is left open then.
 */
export async function startWatchdog(config: Config, options: WatchdogOptions): Promise<Watchdog> {
  const parts = await build(config, options);
  const { events, checkup, intake, listener } = parts;
  const admin = adminServerOf(config, parts);
  const failed = (during: string, error: unknown): void => events.emit({ kind: 'internal error', during, error });
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
    return { listenAddress, adminAddress, onEvent: (heard) => events.listen(heard), failed, close };
  } catch (error) {
    await close();
    throw error;
  }
}

interface Parts {
  readonly clock: Clock;
  readonly events: Events;
  readonly registry: Registry;
  readonly checkup: Checkup;
  readonly takeover: Takeover;
  readonly intake: Intake;
  readonly listener: Server;
}

/** Everything on the way of a connection, and what tells of it; nothing listens yet. */
async function build(config: Config, options: WatchdogOptions): Promise<Parts> {
  const { noiseKey, log, clock = systemClock } = options;
  const events = new Events();
  const { emit } = events;
  events.listen(logEvents(log));
  const loaded = options.kernel ?? (await loadKernel());
  const kernel = loaded.ok ? loaded.kernel : undefined;
  warnOfWhatIsOff(log, noiseKey, loaded);

  const registry = new Registry();
  const ourKey = noiseKey && formatNoiseKey(noiseKey);
  const checkup = new Checkup(clock, headscaleApi(config.upstream), config.upstream, () => ourKey, emit);
  const takeover = new Takeover(clock, registry, settingsOf(config, checkup), emit);
  const upstream = upstreamOf(config.upstream);
  const health = {
    upstreamReached: (): void => checkup.reached(),
    upstreamFailed: (): void => checkup.suspect(),
  };
  const intake = new Intake({ clock, registry, takeover, kernel, noiseKey, upstream, emit, ...health });
  const listener = createListener({
    plain: plainProxy({ upstream, ...health }),
    upgrade: (upgrade, origin) => intake.upgrade(upgrade, origin),
  });
  return { clock, events, registry, checkup, takeover, intake, listener };
}

function adminServerOf(config: Config, parts: Parts): Server {
  const { events, registry, checkup, listener } = parts;
  const metrics = createMetrics({
    streams: () => registry.all(),
    upstreamUp: () => checkup.health.up,
    keyMatches: () => checkup.health.keyMatches,
    version,
  });
  events.listen(metrics.listen);
  return createAdminServer({
    metrics: async () => ({ contentType: metrics.contentType, text: await metrics.render() }),
    readiness: () => readinessOf(listener, checkup, config),
    streams: () => ({ streams: viewsOf(parts) }),
    failed: (during, error) => events.emit({ kind: 'internal error', during, error }),
  });
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
  const { up, reason, version: upstreamVersion, keyMatches, isHeadscale } = checkup.health;
  const ready = listener.listening;
  return {
    ready,
    detail: {
      ready,
      upstream: {
        url: config.upstream.origin,
        up: up ?? null,
        isHeadscale: isHeadscale ?? null,
        reason: reason ?? null,
        version: upstreamVersion ?? null,
      },
      noiseKeyMatches: keyMatches ?? null,
    },
  };
}

function viewsOf({ clock, registry, takeover, intake }: Parts): object[] {
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
