#!/usr/bin/env node
import { Command, CommanderError, Option } from 'commander';
import type { ReloadOutcome } from './app/live-config.ts';
import { nextSignal, serve } from './app/serve.ts';
import { startWatchdog } from './app/watchdog.ts';
import { apiErrorIn, askAdmin } from './commands/admin-client.ts';
import { addCompletion, addOperatorCommands, adminOf, asksAdmin, takesSettings } from './commands/register.ts';
import { EXIT } from './commands/terminal.ts';
import { readConfigFile } from './config/file.ts';
import { loadConfig } from './config/load.ts';
import { readAdminToken } from './config/secrets.ts';
import type { Config } from './config/types.ts';
import { ERRORS, errorLine, StartError, UsageError } from './lib/errors.ts';
import { version } from './lib/version.ts';
import { createLogger } from './telemetry/log.ts';

const program = new Command('headscale-watchdog')
  .description(
    'A reverse proxy in front of Headscale. It ends the dead map stream of a node the moment the node comes back.',
  )
  .version(version)
  // The longest flag leaves 38 of 80 columns for the text. By default, commander does not wrap texts that narrow.
  .configureHelp({ minWidthToWrap: 30 })
  .configureOutput({
    outputError: (text, write) =>
      write(
        `${text
          .trimEnd()
          .replace(/^error: /, 'error [HSW_USAGE_INVALID]: ')
          .replace(/\n/g, ' ')}\n`,
      ),
  })
  .addHelpText(
    'after',
    `
Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 nothing matched.
docs/errors.md explains every error code (HSW_…).`,
  )
  .exitOverride();

takesSettings(program.command('serve'))
  .description('run the proxy')
  .action((_flags, command: Command) => serve(() => configOf(command)));

takesSettings(program.command('check'))
  .description('check whether serve would work here with these settings, and say what to do if not')
  .addOption(new Option('--node <name|id|key>', 'also show the settings that apply to this node'))
  .action(async ({ node }: { node?: string }, command: Command) => {
    process.exitCode = await check(() => configOf(command), node);
  });

addOperatorCommands(program, nextSignal);

asksAdmin(program.command('reload'))
  .description('make the running watchdog read its configuration and its keys again')
  .action(async (_flags, command: Command) => {
    process.exitCode = await reload(adminOf(command));
  });

addCompletion(program);

program
  .command('demo')
  .description('show the effect: a simulated Headscale and 20 simulated nodes, without and with the watchdog')
  .action(async () => {
    process.exitCode = await demo();
  });

/** Reads the given flags and the file that `--config` names. */
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
  if (status !== 200 && status !== 422) {
    const { code, message } = apiErrorIn(text);
    throw new StartError(code, `reload: the answer was ${status}: ${message}`);
  }
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
  // Commander has printed its error already.
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

// Nobody reads the log any more, or its disk is full. This must not stop the watchdog, and it can be reported nowhere.
process.stdout.on('error', () => {});

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = failed(error);
}
