#!/usr/bin/env node
import { Command, Option } from 'commander';
import { nextSignal, serve } from './app/serve.ts';
import type { CheckOptions } from './commands/check.ts';
import { endHelp, styleHelp } from './commands/help.ts';
import { addCompletion, addOperatorCommands, settingsOf, takesSettings } from './commands/register.ts';
import { failUnwritten, reportError, terminal } from './commands/terminal.ts';
import { readVariables } from './commands/variables.ts';
import { version } from './lib/version.ts';

const program = new Command('headscale-watchdog')
  .description(
    'A reverse proxy in front of Headscale. It ends the dead map stream of a node the moment the node comes back.',
  )
  .commandsGroup('More:')
  .version(version, '-V, --version', 'print the version')
  .helpCommand('help [command]', 'show the help of a command, with examples')
  .addHelpText(
    'after',
    `
Exit codes:
  0  done
  1  failed
  2  a flag, a variable or the settings cannot be used
  3  nothing matched

docs/errors.md explains every error code (HSW_…).`,
  )
  .exitOverride();
styleHelp(program);

const serving = takesSettings(program.command('serve'))
  .helpGroup('Run it:')
  .description('run the proxy')
  .action(({ config }: { config?: string }, command: Command) =>
    serve({
      readConfig: () => settingsOf(command),
      hasFile: config !== undefined,
      unknownVariables: variables.unknown,
    }),
  );
endHelp(serving, {
  examples: [
    ['In front of a Headscale on this machine', '--upstream http://127.0.0.1:8080 --listen :8081'],
    ['With the settings of a file', '--config /etc/headscale-watchdog/watchdog.yaml'],
    ['Try it first: judge and log, and end nothing', '--observe-only --config watchdog.yaml'],
  ],
  exits: {
    0: 'SIGTERM or Ctrl-C has stopped it; without --config, SIGHUP as well',
    1: 'it could not start: a key cannot be read, a port is in use',
    2: 'a flag, a variable or the file has a mistake; it lists all mistakes',
  },
});

const checking = takesSettings(program.command('check'))
  .helpGroup('Run it:')
  .description('check whether serve would work here with these settings, and say what to do if not')
  .addOption(new Option('--node <name|id|key>', 'also show the settings that apply to this node').helpGroup('Check:'))
  .addOption(new Option('--json', 'print the findings as JSON').helpGroup('Check:'))
  .action(async (options: CheckOptions, command: Command) => {
    const { runCheck } = await import('./commands/check.ts');
    process.exitCode = await runCheck(() => settingsOf(command), options, terminal(new AbortController().signal));
  });
endHelp(checking, {
  examples: [
    ['Would it start with this file?', '--config /etc/headscale-watchdog/watchdog.yaml'],
    ['Which rule does this node have?', '--config watchdog.yaml --node phone-1'],
  ],
  exits: {
    0: 'nothing has failed; there may be warnings',
    1: 'something has failed',
    2: 'a flag, a variable or the file cannot be used',
  },
});

const notifying = takesSettings(program.command('notify'))
  .helpGroup('Run it:')
  .description("send a test to each target of the file's notify:, and say how it went")
  .addOption(new Option('--test', 'send the test').makeOptionMandatory().helpGroup('Notify:'))
  .action(async (_flags, command: Command) => {
    const { sendTests } = await import('./commands/check.ts');
    process.exitCode = await sendTests(settingsOf(command), process.stdout);
  });
endHelp(notifying, {
  examples: [['Does everybody get it?', '--test --config watchdog.yaml']],
  exits: {
    0: 'every target has taken the test',
    1: 'one has not, or its secret cannot be read',
    2: 'a flag, a variable or the file has a mistake',
    3: 'the file names nobody to notify',
  },
});

addOperatorCommands(program, nextSignal);

const showing = program
  .command('demo')
  .helpGroup('Run it:')
  .description('show the effect: a simulated Headscale and 20 simulated nodes, without and with the watchdog')
  .addOption(new Option('--keep', 'go on after the comparison, until Ctrl-C; the default is to do so on a terminal'))
  .action(async ({ keep }: { keep?: boolean }) => {
    const { demo } = await import('./commands/demo.ts');
    process.exitCode = await demo(keep, nextSignal());
  });
endHelp(showing, {
  examples: [
    ['It takes half a minute', ''],
    ['Time to look at the status page, also from a script', '--keep'],
  ],
  exits: { 0: 'it has ended', 1: 'it has failed', 130: 'it was stopped before the comparison' },
});
addCompletion(program);

const variables = readVariables(program, process.env);
program.hook('preAction', (_program, command) => {
  variables.check(command);
  if (command !== serving) failUnwritten();
  if (command.options.length === 0 || command === serving) return;
  for (const text of variables.unknown) process.stderr.write(`warning [HSW_VARIABLE_UNKNOWN]: ${text}\n`);
});

// Nobody reads the log any more, or its disk is full. This must not stop the watchdog.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});

try {
  const args = process.argv.slice(2);
  const isNamed = (name: string): boolean => program.commands.some((each) => each.name() === name);
  // Of a command that there is not, `help` would print the help of the whole program.
  if (args[0] === 'help' && args[1] !== undefined && !isNamed(args[1])) args.splice(0, 2, args[1]);
  await program.parseAsync(args, { from: 'user' });
} catch (error) {
  process.exitCode = reportError(error);
}
