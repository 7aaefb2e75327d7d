#!/usr/bin/env node
import { Command, CommanderError, Option } from 'commander';
import { loadConfig } from './config/load.ts';
import { readNoiseKey } from './config/noise-key.ts';
import { DEFAULTS, LOG_LEVELS } from './config/schema.ts';
import { StartError, UsageError } from './errors.ts';
import { addressAndPort } from './proxy/forwarded.ts';
import { createLogger, type Logger } from './telemetry/log.ts';
import { version } from './version.ts';
import { startWatchdog, type Watchdog } from './watchdog.ts';

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

const program = new Command('headscale-watchdog')
  .description('Stands in front of Headscale and ends the dead map stream of a node the moment the node comes back.')
  .version(version)
  .configureOutput({
    outputError: (text, write) =>
      write(
        `${text
          .trimEnd()
          .replace(/^error: /, 'headscale-watchdog: ')
          .replace(/\n/g, ' ')}\n`,
      ),
  })
  .exitOverride();

program
  .command('serve')
  .description('proxy clients to Headscale and watch over their streams')
  .addOption(new Option('--upstream <url>', 'where Headscale listens').default(DEFAULTS.upstream))
  .addOption(
    new Option(
      '--noise-key <file>',
      "Headscale's noise_private.key; without it nodes cannot be told apart, and none is helped",
    ),
  )
  .addOption(new Option('--listen <host:port>', 'where clients connect').default(DEFAULTS.listen))
  .addOption(
    new Option('--admin <host:port>', 'metrics, health and streams; no password, so keep it local').default(
      DEFAULTS.admin,
    ),
  )
  .addOption(
    new Option(
      '--silent-after <duration>',
      'how long an old stream may be silent before its node, back on a new one, takes over; less may end the stream of a phone that is only slow',
    ).default(DEFAULTS.silentAfter),
  )
  .addOption(
    new Option(
      '--hold <duration|auto|off>',
      'how long a new stream may wait for the verdict on an old one; auto: 1500ms before Headscale 0.27, which may refuse a second stream, else off',
    ).default(DEFAULTS.hold),
  )
  .addOption(new Option('--log-level <level>', `how much to log: ${LOG_LEVELS.join(', ')}`).default(DEFAULTS.logLevel))
  .action(serve);

program
  .command('demo')
  .description('show what it does: a Headscale stand-in and 20 simulated nodes, without and with the watchdog')
  .action(async () => {
    process.exitCode = await demo();
  });

async function serve(flags: Record<string, unknown>): Promise<void> {
  const config = loadConfig(flags);
  const noiseKey = config.noiseKeyFile === undefined ? undefined : readNoiseKey(config.noiseKeyFile);
  const log = createLogger(config.logLevel, process.stdout);
  const stopped = nextSignal();
  const watchdog = await startWatchdog(config, { noiseKey, log });
  failOpen(watchdog);
  announce(watchdog, log, config.upstream);
  log.info({ signal: await stopped }, 'stopping');
  await watchdog.close();
}

function announce({ listenAddress, adminAddress }: Watchdog, log: Logger, upstream: URL): void {
  const listen = addressAndPort(listenAddress.address, listenAddress.port);
  const admin = addressAndPort(adminAddress.address, adminAddress.port);
  log.info({ listen, admin, upstream: upstream.origin, version }, 'listening');
}

/** An error nobody caught is ours, and no node's: it is told, and the streams flow on. */
function failOpen(watchdog: Watchdog): void {
  for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
    process.on(event, (error: unknown) => watchdog.failed('an event nobody caught', error));
  }
}

function nextSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, resolve);
  });
}

async function demo(): Promise<number> {
  const { runDemo } = await import('./demo/demo.ts');
  const stop = new AbortController();
  void nextSignal().then(() => stop.abort());
  return runDemo({
    stdout: process.stdout,
    isTty: process.stdout.isTTY === true,
    signal: stop.signal,
    startWatchdog: async ({ upstream, noiseKey, silentAfterMs }) => {
      const anywhere = { host: '127.0.0.1', port: 0 };
      const config = { ...loadConfig({}), upstream, silentAfterMs, listen: anywhere, admin: anywhere };
      const watchdog = await startWatchdog(config, { noiseKey, log: createLogger('silent', process.stdout) });
      const urlOf = ({ port }: { port: number }): URL => new URL(`http://127.0.0.1:${port}`);
      return {
        listenUrl: urlOf(watchdog.listenAddress),
        adminUrl: urlOf(watchdog.adminAddress),
        close: watchdog.close,
      };
    },
  });
}

function failed(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE;
  if (error instanceof UsageError) {
    for (const problem of error.problems) process.stderr.write(`headscale-watchdog: ${problem}\n`);
    return EXIT_USAGE;
  }
  process.stderr.write(
    `headscale-watchdog: ${error instanceof StartError ? error.message : `internal error: ${(error as Error).stack}`}\n`,
  );
  return EXIT_FAILED;
}

// Nobody reads any more, or the disk under the log is full: there is nobody left to tell, and no reason to stop.
process.stdout.on('error', () => {});

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = failed(error);
}
