import { Argument, type Command, Option } from 'commander';
import { NODE_SORT_COLUMNS } from '../admin/node-list.ts';
import { LISTED_STATES, SORT_COLUMNS } from '../admin/stream-list.ts';
import type { ReloadOutcome } from '../app/live-config.ts';
import { readConfigFile } from '../config/file.ts';
import { loadConfig } from '../config/load.ts';
import { kebabCase } from '../config/problems.ts';
import { isList, SETTING_NAMES, SETTINGS, type SettingHelp, type SettingName } from '../config/settings.ts';
import { type Config, LOG_LEVELS, RECONCILE_MODES } from '../config/types.ts';
import { errorLine } from '../lib/errors.ts';
import { NODE_STATES } from '../nodes/presence.ts';
import { STREAM_KINDS } from '../streams/stream.ts';
import { adminApi } from './admin-client.ts';
import { type CommandWords, completionScript, SHELLS, type Shell } from './completion.ts';
import { type EventsOptions, showEvents } from './events.ts';
import { type NodesOptions, showNodes } from './nodes.ts';
import { type StreamsOptions, sever, showStreams } from './streams.ts';
import { type Console, EXIT, type ExitCode, terminal } from './terminal.ts';

/** Adds the flags of every setting. */
export function takesSettings(command: Command): Command {
  command.addOption(
    new Option(
      '--config <file>',
      'a YAML file with any of these settings, and rules for single nodes; flags win over it',
    ),
  );
  for (const name of SETTING_NAMES) command.addOption(optionOf(name));
  return command;
}

function optionOf(name: SettingName): Option {
  const { group, takes, byDefault, help }: SettingHelp = SETTINGS[name];
  const flag = `--${kebabCase(name)}`;
  if (takes === undefined) return new Option(flag, help).helpGroup(`${group}:`);
  const option = new Option(`${flag} ${takes}`, help).helpGroup(`${group}:`);
  if (!isList(name)) return option.default(byDefault, byDefault === undefined ? undefined : String(byDefault));
  const initial: readonly unknown[] = [byDefault];
  return option
    .default(initial, String(byDefault))
    .argParser((value: string, before: readonly unknown[] = initial) =>
      before === initial ? [value] : [...before, value],
    );
}

/** Reads the settings that a command was given, and the file that `--config` names. */
export function settingsOf(command: Command): Config {
  const given = SETTING_NAMES.filter((name) => command.getOptionValueSource(name) === 'cli');
  const flags = Object.fromEntries(given.map((name) => [name, command.getOptionValue(name)]));
  const { config } = command.opts<{ config?: string }>();
  return loadConfig(flags, config === undefined ? undefined : readConfigFile(config));
}

/** Adds the flags of a command that asks a running watchdog. */
function asksAdmin(command: Command): Command {
  return command
    .addOption(new Option('--config <file>', 'the configuration file of the running watchdog, for its admin address'))
    .addOption(
      new Option('--admin <host:port>', 'the admin address of the running watchdog').default(SETTINGS.admin.byDefault),
    )
    .addOption(new Option('--admin-token-file <file>', 'a file with its admin token'));
}

/** The configuration in which a command finds the running watchdog's admin server. */
function adminOf(command: Command): Config {
  const { config, admin, adminTokenFile } = command.opts<{
    config?: string;
    admin?: string;
    adminTokenFile?: string;
  }>();
  const given = command.getOptionValueSource('admin') === 'cli' ? { admin } : {};
  return loadConfig({ ...given, adminTokenFile }, config === undefined ? undefined : readConfigFile(config));
}

/**
 * Adds the commands that ask a running watchdog.
 *
 * @param stopped resolves when the operator stops the command.
 */
export function addOperatorCommands(program: Command, stopped: () => Promise<unknown>): void {
  const console = () => {
    const stop = new AbortController();
    void stopped().then(() => stop.abort());
    return terminal(stop.signal);
  };
  addStreams(program, console);
  addNodes(program, console);
  addEvents(program, console);
  addSever(program, console);
  addReload(program);
}

type OpenConsole = () => Console;

/** `held, connecting or open` */
function anyOf(words: readonly string[]): string {
  return `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`;
}

function addStreams(program: Command, console: OpenConsole): void {
  asksAdmin(program.command('streams'))
    .description('list the open streams of the running watchdog')
    .addOption(new Option('--node <name|id|key>', 'only streams of this node'))
    .addOption(new Option('--state <state>', `only streams in this state: ${anyOf(LISTED_STATES)}`))
    .addOption(new Option('--kind <kind>', `only streams of this kind: ${anyOf(STREAM_KINDS)}`))
    .addOption(new Option('--search <text>', 'only streams with this text in a column'))
    .addOption(new Option('--sort <column>', `sort by ${anyOf(SORT_COLUMNS)}; put - before it for the largest first`))
    .addOption(new Option('--watch', 'refresh every two seconds, until Ctrl-C'))
    .addOption(new Option('--json', 'print the JSON of the admin API'))
    .action(async (options: StreamsOptions, command: Command) => {
      process.exitCode = await showStreams(adminApi(adminOf(command)), options, console());
    });
}

function addNodes(program: Command, console: OpenConsole): void {
  asksAdmin(program.command('nodes'))
    .description(
      'list the nodes that Headscale knows, connected or not; without an API key or an OAuth client, those that the watchdog has seen',
    )
    .argument('[name|id|key]', 'only this node')
    .addOption(new Option('--state <state>', `only nodes in this state: ${anyOf(NODE_STATES)}`))
    .addOption(new Option('--search <text>', 'only nodes with this text in their name, user, keys, addresses or tags'))
    .addOption(
      new Option('--sort <column>', `sort by ${anyOf(NODE_SORT_COLUMNS)}; put - before it for the opposite order`),
    )
    .addOption(new Option('--watch', 'refresh every two seconds, until Ctrl-C'))
    .addOption(new Option('--json', 'print the JSON of the admin API'))
    .action(async (node: string | undefined, options: NodesOptions, command: Command) => {
      process.exitCode = await showNodes(adminApi(adminOf(command)), node, options, console());
    });
}

function addEvents(program: Command, console: OpenConsole): void {
  asksAdmin(program.command('events'))
    .description('list what happened recently, and why')
    .addOption(new Option('--node <name|id|key>', 'only events of this node'))
    .addOption(new Option('--stream <id>', 'only events of this stream'))
    .addOption(new Option('--kind <kind>', 'only events of this kind: stream_severed, stream_closed, …'))
    .addOption(new Option('--limit <number>', 'how many of the newest events (default: 100)'))
    .addOption(new Option('--follow', 'also show new events as they happen, until Ctrl-C'))
    .addOption(new Option('--json', 'print each event as one line of JSON'))
    .action(async (options: EventsOptions, command: Command) => {
      process.exitCode = await showEvents(adminApi(adminOf(command)), options, console());
    });
}

function addSever(program: Command, console: OpenConsole): void {
  asksAdmin(program.command('sever'))
    .description('end a stream, or all streams of a node; a client that is still there reconnects by itself')
    .argument(
      '<node|id>',
      "the id of a stream (REPLICA/ID if several watchdogs have it), or a node's name, key or id:NUMBER",
    )
    .addOption(new Option('--yes', 'do not ask for confirmation'))
    .action(async (target: string, { yes }: { yes?: boolean }, command: Command) => {
      process.exitCode = await sever(adminApi(adminOf(command)), target, yes === true, console());
    });
}

function addReload(program: Command): void {
  asksAdmin(program.command('reload'))
    .description('make the running watchdog read its configuration and its keys again')
    .action(async (_flags, command: Command) => {
      process.exitCode = report(await adminApi(adminOf(command)).reload());
    });
}

function report(outcome: ReloadOutcome): ExitCode {
  const { stdout, stderr } = process;
  if (!outcome.ok) {
    const problems = outcome.problems.join('\n');
    stderr.write(errorLine(outcome.code, `not reloaded, nothing has changed:\n${problems}`));
    return EXIT.failed;
  }
  for (const change of outcome.changes) stdout.write(`${change}\n`);
  for (const setting of outcome.needRestart) stdout.write(`needs a restart: ${setting}\n`);
  stdout.write(outcome.changes.length > 0 ? 'reloaded\n' : 'reloaded: no setting has changed\n');
  return EXIT.done;
}

/** Adds `completion`. It completes every command that the program has when it runs. */
export function addCompletion(program: Command): void {
  program
    .command('completion')
    .description('print a script that makes your shell complete commands and flags')
    .addArgument(new Argument('<shell>', 'your shell').choices(SHELLS))
    .action((shell: Shell) => void process.stdout.write(completionScript(shell, program.commands.map(wordsOf))));
}

const CHOICES: Readonly<Record<string, readonly string[]>> = {
  '--log-level': LOG_LEVELS,
  '--reconcile': RECONCILE_MODES,
  '--state': LISTED_STATES,
  '--kind': STREAM_KINDS,
};

function choicesOf(command: string, flag: string): readonly string[] {
  if (command === 'events') return [];
  return command === 'nodes' && flag === '--state' ? NODE_STATES : (CHOICES[flag] ?? []);
}

function wordsOf(command: Command): CommandWords {
  const options = command.options.map(({ long, flags, description }) => ({
    flag: long ?? flags,
    description,
    value: /<file>/.test(flags) ? ('file' as const) : /</.test(flags) ? ('other' as const) : ('none' as const),
    choices: choicesOf(command.name(), long ?? ''),
  }));
  const argumentChoices = command.registeredArguments.flatMap(({ argChoices }) => argChoices ?? []);
  return { name: command.name(), description: command.description(), options, argumentChoices };
}
