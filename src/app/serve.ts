import { setFlagsFromString } from 'node:v8';
import { durationOrOff } from '../config/changes.ts';
import type { Config } from '../config/types.ts';
import { addressAndPort } from '../lib/addresses.ts';
import { systemClock } from '../lib/clock.ts';
import { version } from '../lib/version.ts';
import { takeInheritedSockets } from '../service/inherited.ts';
import { type ServiceManager, serviceManagerOf } from '../service/service-manager.ts';
import { createLogger, type Logger } from '../telemetry/logger.ts';
import { startWatchdog, type Watchdog } from './watchdog.ts';

/** Starts the watchdog, and ends when a signal has ended it. */
export async function serve(readConfig: () => Config): Promise<void> {
  // First of all, and whatever comes: what is in them is for this process alone.
  const inherited = takeInheritedSockets(process.env, process.pid);
  keepHeapSmall();
  const manager = await serviceManagerOf(process.env, process.pid, systemClock);
  const config = readConfig();
  const log = createLogger(config.logLevel, process.stdout);
  warnOfManager(log, inherited.unused, manager.mute);
  const stopped = nextSignal();
  // Before it has started a SIGHUP has nothing to reload, and must not end it.
  let watchdog: Watchdog | undefined;
  process.on('SIGHUP', () => {
    if (watchdog === undefined) return;
    manager.reloading();
    try {
      watchdog.reload();
    } finally {
      // systemd waits for it, whatever became of the reload.
      manager.ready(statusOf(watchdog));
    }
  });
  watchdog = await startWatchdog(config, { log, reread: readConfig, inherited });
  failOpen(watchdog);
  announce(watchdog, log, config.upstream);
  manager.ready(statusOf(watchdog));
  log.info({ signal: await stopped }, 'stopping');
  await stop(watchdog, manager, log);
}

/**
 * V8 doubles the room for new objects under load, to 48 MiB for good, so that they are collected less often: for a watchdog
 * that is idle most of the time that would be half its memory, and the tunnels make few objects.
 */
function keepHeapSmall(): void {
  setFlagsFromString('--semi-space-growth-factor=1');
}

async function stop(watchdog: Watchdog, manager: ServiceManager, log: Logger): Promise<void> {
  const { overMs } = watchdog.drainTerms();
  manager.stopping(`ending the streams over ${durationOrOff(overMs)}`, overMs);
  void nextSignal().then((signal) => {
    log.info({ signal }, 'ending now');
    void watchdog.close();
  });
  await watchdog.drain();
  manager.close();
}

function statusOf({ listenAddresses }: Watchdog): string {
  return `listening on ${addressesOf(listenAddresses)}`;
}

function warnOfManager(log: Logger, unused: string | undefined, mute: string | undefined): void {
  if (unused !== undefined) log.warn({ why: unused }, 'inherited sockets are not used');
  if (mute !== undefined) {
    log.warn({ why: mute }, 'the service manager cannot be told that it has started: use Type=exec in place of notify');
  }
}

function addressesOf(addresses: Watchdog['listenAddresses']): string {
  return addresses.map(({ address, port }) => addressAndPort(address, port)).join(', ');
}

function announce({ listenAddresses, adminAddress }: Watchdog, log: Logger, upstream: URL): void {
  const listen = addressesOf(listenAddresses);
  const admin = addressAndPort(adminAddress.address, adminAddress.port);
  log.info({ listen, admin, upstream: upstream.origin, version }, 'listening');
}

/** An error nobody caught is ours, and no node's: it is told, and the streams flow on. */
function failOpen(watchdog: Watchdog): void {
  for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
    process.on(event, (error: unknown) => watchdog.failed('an event nobody caught', error));
  }
}

export function nextSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, resolve);
  });
}
