import { setFlagsFromString } from 'node:v8';
import { durationOrOff } from '../config/changes.ts';
import type { Config } from '../config/types.ts';
import { addressAndPort } from '../lib/addresses.ts';
import { systemClock } from '../lib/clock.ts';
import type { ErrorCode } from '../lib/errors.ts';
import { version } from '../lib/version.ts';
import { takeInheritedSockets } from '../service/inherited.ts';
import { connectServiceManager, type ServiceManager } from '../service/service-manager.ts';
import { createLogger, type Logger } from '../telemetry/log.ts';
import { startWatchdog, type Watchdog } from './watchdog.ts';

export interface ServeOptions {
  /** Reads flags, variables and file, at the start and for each reload. */
  readConfig(): Config;
  /** Whether there is a file that SIGHUP reads again. Without one, SIGHUP stops the watchdog, as a closed terminal should. */
  readonly hasFile: boolean;
  /** One sentence for each environment variable that looks like one for a flag, but is none. */
  readonly unknownVariables: readonly string[];
}

/** The command `serve`: starts the watchdog, and resolves when a signal has ended it. */
export async function serve({ readConfig, hasFile, unknownVariables }: ServeOptions): Promise<void> {
  // This comes first, so that no child process inherits these variables.
  const inherited = takeInheritedSockets(process.env, process.pid);
  keepHeapSmall();
  const manager = await connectServiceManager(process.env, process.pid, systemClock);
  const config = readConfig();
  const log = await createLogger(config.logLevel, process.stdout);
  for (const detail of unknownVariables) log.warn({ code: 'HSW_VARIABLE_UNKNOWN' satisfies ErrorCode }, detail);
  warnOfManager(log, inherited.unusedReason, manager.unreachableReason);
  const stopped = Promise.race([nextSignal(), ...(hasFile ? [] : [nextHangup()])]);
  let watchdog: Watchdog | undefined;
  // Without a listener, SIGHUP would end the process: during the start, and when a closed terminal sends it twice.
  process.on('SIGHUP', () => {
    if (watchdog === undefined || !hasFile) return;
    manager.reloading();
    try {
      watchdog.reload();
    } finally {
      // systemd waits for this, even if the reload failed.
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
 * Under load V8 doubles the space for new objects up to 48 MiB and never gives it back. That would be half the memory of a
 * watchdog, which is idle most of the time and makes few objects.
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

function warnOfManager(log: Logger, unused: string | undefined, unreachable: string | undefined): void {
  if (unused !== undefined) {
    const code: ErrorCode = 'HSW_INHERITED_SOCKETS_UNUSED';
    log.warn({ code, detail: unused }, 'inherited sockets are not used');
  }
  if (unreachable !== undefined) {
    const code: ErrorCode = 'HSW_SERVICE_MANAGER_UNREACHABLE';
    log.warn(
      { code, detail: unreachable },
      'the service manager does not hear that the watchdog has started: use Type=exec instead of Type=notify',
    );
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

/** An uncaught error is a bug in the watchdog. It is logged, and the streams go on. */
function failOpen(watchdog: Watchdog): void {
  for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
    process.on(event, (error: unknown) => watchdog.failed('an event nobody caught', error));
  }
}

function nextHangup(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => process.once('SIGHUP', resolve));
}

export function nextSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, resolve);
  });
}
