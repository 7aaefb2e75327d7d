import { closeSync } from 'node:fs';
import { isatty } from 'node:tty';
import { setFlagsFromString } from 'node:v8';
import { durationOrOff } from '../config/changes.ts';
import type { Config } from '../config/types.ts';
import { addressAndPort } from '../lib/addresses.ts';
import { systemClock } from '../lib/clock.ts';
import { type ErrorCode, reasonOf, StartError, UsageError } from '../lib/errors.ts';
import { version } from '../lib/version.ts';
import { handedSockets, type InheritedSockets, takeInheritedSockets } from '../service/inherited.ts';
import { connectServiceManager, type ServiceManager } from '../service/service-manager.ts';
import { type OldProcess, takeOldProcess, thisProgram } from '../service/successor-process.ts';
import { createLogger, type Logger } from '../telemetry/log.ts';
import type { HandedOver } from './handing-over.ts';
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
export async function serve(options: ServeOptions): Promise<void> {
  // This comes first, so that no child process inherits these variables.
  const fromManager = takeInheritedSockets(process.env, process.pid);
  const old = await takeOldProcess(process.env);
  try {
    await serveAfter(old, fromManager, options);
  } catch (error) {
    await old?.say({ kind: 'failed', ...failureOf(error) });
    throw error;
  } finally {
    // A process that is to end must not wait for the one before it.
    if (process.connected) process.disconnect();
  }
}

/** @param old the process to take over from. */
async function serveAfter(
  old: OldProcess | undefined,
  fromManager: InheritedSockets,
  { readConfig, hasFile, unknownVariables }: ServeOptions,
): Promise<void> {
  keepHeapSmall();
  const manager = await connectServiceManager(process.env, process.pid, systemClock);
  const config = readConfig();
  const handed = old && handedSockets(old.hello.listening, old.hello.fromManager, config);
  const inherited = handed ?? fromManager;
  const log = await createLogger(config.logLevel, process.stdout);
  for (const detail of unknownVariables) log.warn({ code: 'HSW_VARIABLE_UNKNOWN' satisfies ErrorCode }, detail);
  warnOfManager(log, inherited.unusedReason, manager.unreachableReason);
  const stopped = Promise.race([nextSignal(), ...(hasFile ? [] : [nextHangup()])]);
  let watchdog: Watchdog | undefined;
  const signals: Signals = { SIGUSR2: () => void watchdog?.handOver(), SIGHUP: reload };
  // Each has one listener from the beginning: a signal that comes while it is replaced would be lost. Without a listener, SIGHUP
  // would end the process: during the start, and when a closed terminal sends it twice.
  process.on('SIGUSR2', () => signals.SIGUSR2());
  process.on('SIGHUP', () => {
    if (hasFile) signals.SIGHUP();
  });
  function reload(): void {
    if (watchdog === undefined) return;
    manager.reloading();
    try {
      watchdog.reload();
    } finally {
      // systemd waits for this, even if the reload failed.
      manager.ready(statusOf(watchdog));
    }
  }
  const successor = { program: thisProgram(), env: { ...process.env, ...manager.environment } };
  watchdog = await startWatchdog(config, { log, reread: readConfig, inherited, old, successor });
  // Nobody would answer who connects there.
  for (const descriptor of handed?.unused ?? []) closeSync(descriptor);
  failOpen(watchdog);
  announce(watchdog, log, config.upstream);
  const { handedOver } = watchdog;
  const ready = (): void => manager.ready(statusOf(watchdog));
  if (old === undefined) ready();
  else old.onMain(ready);
  const next = await Promise.race([stopped, handedOver]);
  if (typeof next === 'string') {
    log.info({ signal: next }, 'stopping');
    await stop(watchdog, manager, log);
  } else await leave(watchdog, next, { stopped, signals }, manager);
}

/** What the signals do that do not stop the watchdog. */
type Signals = Record<'SIGHUP' | 'SIGUSR2', () => void>;

/**
 * The signals that are meant for whoever serves. On a terminal, Ctrl-C goes to every process by itself. A look at
 * `process.stdin` would make standard input non-blocking, also for the process that we have it from.
 */
const PASSED_ON: readonly NodeJS.Signals[] = [
  'SIGHUP',
  'SIGUSR2',
  'SIGTERM',
  ...(isatty(0) ? [] : ['SIGINT' as const]),
];

/**
 * Ends this process after a hand-over. A service manager knows which process is the main one. Everybody else, such as a shell
 * or a container, takes this process for the service: then it stays, passes signals on, and ends when the new one does.
 */
async function leave(
  watchdog: Watchdog,
  { successor, left }: HandedOver,
  { stopped, signals }: { readonly stopped: Promise<NodeJS.Signals>; readonly signals: Signals },
  manager: ServiceManager,
): Promise<void> {
  const isManaged = manager.environment !== undefined;
  const { pid } = successor;
  if (isManaged && pid !== undefined) manager.handedOver(pid);
  successor.say({ kind: 'main' });
  const passOn = (signal: NodeJS.Signals): void => {
    if (!isManaged && pid !== undefined && PASSED_ON.includes(signal)) process.kill(pid, signal);
  };
  for (const signal of ['SIGHUP', 'SIGUSR2'] as const) signals[signal] = () => passOn(signal);
  void stopped.then((signal) => {
    for (const later of ['SIGTERM', 'SIGINT'] as const) process.on(later, passOn);
    passOn(signal);
    void watchdog.close();
  });
  // Nobody listens any more. Whoever started the watchdog starts it again once this process has ended.
  void successor.exited.then(() => watchdog.close());
  await left;
  if (isManaged) {
    successor.forget();
    await managerHasHeard();
  } else process.exitCode = await successor.exited;
}

/** systemd looks up who has sent a message, so the sender has to be there still when it reads `MAINPID`. */
function managerHasHeard(): Promise<void> {
  return new Promise((resolve) => void setTimeout(resolve, 1000));
}

/** What an error says, as the process before us reports it. */
function failureOf(error: unknown): { readonly code: string; readonly problems: readonly string[] } {
  if (error instanceof UsageError) return { code: error.code, problems: error.problems };
  return { code: error instanceof StartError ? error.code : 'HSW_INTERNAL', problems: [reasonOf(error)] };
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
