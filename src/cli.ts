#!/usr/bin/env node
import { Command, Option } from 'commander';
import { nextSignal, serve } from './app/serve.ts';
import type { CheckOptions } from './commands/check.ts';
import { addCompletion, addOperatorCommands, settingsOf, takesSettings } from './commands/register.ts';
import { reportError } from './commands/terminal.ts';
import { version } from './lib/version.ts';

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
  .action((_flags, command: Command) => serve(() => settingsOf(command)));

takesSettings(program.command('check'))
  .description('check whether serve would work here with these settings, and say what to do if not')
  .addOption(new Option('--node <name|id|key>', 'also show the settings that apply to this node'))
  .addOption(new Option('--json', 'print each finding as one line of JSON'))
  .action(async (options: CheckOptions, command: Command) => {
    const { runCheck } = await import('./commands/check.ts');
    process.exitCode = await runCheck(() => settingsOf(command), options, process.stdout);
  });

takesSettings(program.command('notify'))
  .description("send a test to each target of the file's notify:, and say how it went")
  .addOption(new Option('--test', 'send the test').makeOptionMandatory())
  .action(async (_flags, command: Command) => {
    const { sendTests } = await import('./commands/check.ts');
    process.exitCode = await sendTests(settingsOf(command), process.stdout);
  });

addOperatorCommands(program, nextSignal);
addCompletion(program);

program
  .command('demo')
  .description('show the effect: a simulated Headscale and 20 simulated nodes, without and with the watchdog')
  .action(async () => {
    const { demo } = await import('./commands/demo.ts');
    process.exitCode = await demo(nextSignal());
  });

// Nobody reads the log any more, or its disk is full. This must not stop the watchdog, and it can be reported nowhere.
process.stdout.on('error', () => {});

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = reportError(error);
}
