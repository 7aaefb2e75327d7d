#!/usr/bin/env node
import { Command, CommanderError, Option } from 'commander';
import type { ReloadOutcome } from './app/live-config.ts';
import { nextSignal, serve } from './app/serve.ts';
import { startWatchdog } from './app/watchdog.ts';
import { apiErrorIn, askAdmin } from './commands/admin-client.ts';
import { LIMITS } from './commands/limits.ts';
import { addCompletion, addOperatorCommands, adminOf, asksAdmin } from './commands/register.ts';
import { EXIT } from './commands/terminal.ts';
import { DEFAULTS } from './config/defaults.ts';
import { readConfigFile } from './config/file.ts';
import { loadConfig } from './config/load.ts';
import { readAdminToken } from './config/secrets.ts';
import { type Config, LOG_LEVELS } from './config/types.ts';
import { ERRORS, errorLine, StartError, UsageError } from './lib/errors.ts';
import { version } from './lib/version.ts';
import { createLogger } from './telemetry/logger.ts';

const program = new Command('headscale-watchdog')
  .description('Stands in front of Headscale and ends the dead map stream of a node the moment the node comes back.')
  .version(version)
  .configureOutput({
    outputError: (text, write) =>
      write(
        `${text
          .trimEnd()
          .replace(/^error: /, 'error [HSW_USAGE_INVALID]: ')
          .replace(/\n/g, ' ')}\n`,
      ),
  })
  .exitOverride();

const DEFAULT_LISTEN: readonly string[] = [DEFAULTS.listen];
const DEFAULT_TRUSTED: readonly string[] = [DEFAULTS.trustedProxies];

/** What `serve` and `check` take; only what was given counts before the file. */
const SETTINGS: readonly Option[] = [
  new Option(
    '--config <file>',
    'a YAML file with any of these settings, and rules for single nodes; flags win over it',
  ),
  new Option('--upstream <url>', 'where Headscale listens').default(DEFAULTS.upstream),
  new Option(
    '--noise-key <file>',
    "Headscale's noise_private.key; without it nodes cannot be told apart, and no stream is contested",
  ),
  new Option(
    '--headscale-api-key-file <file>',
    "a file with one of Headscale's API keys (headscale apikeys create); with it nodes are known by name",
  ),
  new Option(
    '--listen <address>',
    'where clients connect, as often as needed: HOST:PORT, http://HOST:PORT?redirect=true or https://HOST:PORT?cert=FILE&key=FILE, each with proxy-protocol=true behind proxies that speak it',
  )
    .argParser(gathered)
    .default(DEFAULT_LISTEN, DEFAULTS.listen),
  new Option(
    '--trusted-proxies <addresses>',
    "proxies in front of this one, as addresses or ranges, or none: the client's address that they send is believed, and the kernel is not asked about their connections",
  )
    .argParser(gathered)
    .default(DEFAULT_TRUSTED, `${DEFAULTS.trustedProxies}, which is this machine`),
  new Option(
    '--acme-webroot <folder>',
    'the folder in which certbot or lego leaves its answers to HTTP-01 challenges; plain listeners show them',
  ),
  new Option(
    '--admin <host:port>',
    'status page, metrics and health; on another address than the loopback it needs --admin-token-file',
  ).default(DEFAULTS.admin),
  new Option('--admin-token-file <file>', 'a file with the token that the admin server then asks for'),
  new Option(
    '--silent-after <duration>',
    'how long an old stream may be silent before its node, back on a new one, takes over; less may end the stream of a phone that is only slow',
  ).default(DEFAULTS.silentAfter),
  new Option(
    '--gone-after <duration|off>',
    'how long a client may acknowledge nothing before its stream is ended; a client itself gives up after 120s, so less may end one that would have come back',
  ).default(DEFAULTS.goneAfter),
  new Option(
    '--probe-idle <duration|off>',
    'after how much quiet to ask whether a client is there, so that it is seen gone without traffic; off, since it wakes phones',
  ).default(DEFAULTS.probeIdle),
  new Option(
    '--hold <duration|auto|off>',
    'how long a new stream may wait for the verdict on an old one; where the verdict takes longer (3s in doubt) it does not wait at all; auto: as long as the verdict takes, before Headscale 0.27, which may refuse a second stream, else off',
  ).default(DEFAULTS.hold),
  new Option('--observe-only', 'judge, log and count, but hold and sever nothing'),
  new Option(
    '--upstream-silent-sever',
    'end control streams on which Headscale has said nothing for 125s; not by default, since one that waits for a login is silent too',
  ),
  new Option(
    '--drain <duration|off>',
    'over how long the streams are ended one by one when it stops, so that not all nodes come back at once; off ends all at once',
  ).default(DEFAULTS.drain),
  ...LIMITS,
  new Option(
    '--redis <url>',
    'where several watchdogs before one Headscale meet: redis://, rediss://, redis+sentinel:// or redis+cluster://; without it this one is alone',
  ),
  new Option('--redis-password-file <file>', 'a file with the password of the ACL user that the URL names'),
  new Option(
    '--redis-ca-file <file>',
    "the certificate authority of Redis' certificate, where it is none of the system's",
  ),
  new Option('--redis-prefix <name>', 'what names of keys and channels in Redis begin with').default(
    DEFAULTS.redisPrefix,
  ),
  new Option('--replica-name <name>', "this watchdog's name among the others; by default the machine's"),
  new Option('--metrics-max-nodes <number>', 'with more nodes than this the metrics of single nodes go off').default(
    DEFAULTS.metricsMaxNodes,
  ),
  new Option('--log-level <level>', `how much to log: ${LOG_LEVELS.join(', ')}`).default(DEFAULTS.logLevel),
];

/** Of a flag that may be given several times. */
function gathered(value: string, before: readonly string[] | undefined): readonly string[] {
  // What is there at first is the default.
  const isFirst = before === undefined || before === DEFAULT_LISTEN || before === DEFAULT_TRUSTED;
  return isFirst ? [value] : [...before, value];
}

function withSettings(command: Command): Command {
  for (const option of SETTINGS) command.addOption(option);
  return command;
}

withSettings(program.command('serve'))
  .description('proxy clients to Headscale and watch over their streams')
  .action((_flags, command: Command) => serve(() => configOf(command)));

withSettings(program.command('check'))
  .description('say whether serve would work with these settings here, and what to do where not')
  .addOption(new Option('--node <name|id|key>', 'say what would be done for this node, too'))
  .action(async ({ node }: { node?: string }, command: Command) => {
    process.exitCode = await check(() => configOf(command), node);
  });

addOperatorCommands(program, nextSignal);

asksAdmin(program.command('reload'))
  .description('have the running watchdog read its file and its keys again')
  .action(async (_flags, command: Command) => {
    process.exitCode = await reload(adminOf(command));
  });

addCompletion(program);

program
  .command('demo')
  .description('show what it does: a Headscale stand-in and 20 simulated nodes, without and with the watchdog')
  .action(async () => {
    process.exitCode = await demo();
  });

/** The configuration from the flags that were given and the file they name, as both are now. */
function configOf(command: Command): Config {
  const given = Object.entries(command.opts()).filter(([name]) => command.getOptionValueSource(name) === 'cli');
  const { config, node: _, ...flags } = Object.fromEntries(given) as Record<string, unknown> & { config?: string };
  return loadConfig(flags, config === undefined ? undefined : readConfigFile(config));
}

/** @returns the exit code. */
async function check(readConfig: () => Config, node: string | undefined): Promise<number> {
  const { runCheck } = await import('./commands/check.ts');
  return (await runCheck(readConfig, node, process.stdout)) ? 0 : EXIT.failed;
}

/** @returns the exit code. */
async function reload({ admin, adminTokenFile }: Config): Promise<number> {
  const token = adminTokenFile === undefined ? undefined : readAdminToken(adminTokenFile);
  const { status, text } = await askAdmin(admin, 'POST', '/reload', token);
  if (status !== 200 && status !== 422)
    throw new StartError(apiErrorIn(text).code, `reload: the answer was ${status}: ${apiErrorIn(text).message}`);
  const outcome = JSON.parse(text) as ReloadOutcome;
  if (!outcome.ok) {
    const problems = outcome.problems.join('\n');
    process.stderr.write(errorLine(outcome.code, `not reloaded, nothing has changed:\n${problems}`));
    return EXIT.failed;
  }
  for (const change of outcome.changes) process.stdout.write(`${change}\n`);
  for (const setting of outcome.needRestart) process.stdout.write(`needs a restart: ${setting}\n`);
  process.stdout.write(outcome.changes.length > 0 ? 'reloaded\n' : 'reloaded: no setting has changed\n');
  return 0;
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
      const anywhere = '127.0.0.1:0';
      const defaults = loadConfig({ listen: anywhere, admin: anywhere, trustedProxies: 'none' });
      const policy = { ...defaults.policy, silentAfterMs };
      const config = { ...defaults, upstream, policy };
      const watchdog = await startWatchdog(config, { noiseKey, log: createLogger('silent', process.stdout) });
      const urlOf = (address: { port: number } | undefined): URL => new URL(`http://127.0.0.1:${address?.port}`);
      return {
        listenUrl: urlOf(watchdog.listenAddresses[0]),
        adminUrl: urlOf(watchdog.adminAddress),
        close: watchdog.close,
      };
    },
  });
}

function failed(error: unknown): number {
  // Commander has printed its own.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : ERRORS.HSW_USAGE_INVALID.exit;
  if (error instanceof UsageError) {
    for (const problem of error.problems) process.stderr.write(errorLine(error.code, problem));
    return ERRORS[error.code].exit;
  }
  if (error instanceof StartError) {
    process.stderr.write(errorLine(error.code, error.message));
    return ERRORS[error.code].exit;
  }
  process.stderr.write(errorLine('HSW_INTERNAL', String(error instanceof Error ? error.stack : error)));
  return ERRORS.HSW_INTERNAL.exit;
}

// Nobody reads any more, or the disk under the log is full: there is nobody left to tell, and no reason to stop.
process.stdout.on('error', () => {});

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = failed(error);
}
