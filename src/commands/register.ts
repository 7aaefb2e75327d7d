import { resolve } from 'node:path';
import { Argument, type Command, Option } from 'commander';
import { NODE_FILTERS, NODE_SORT_COLUMNS } from '../admin/node-list.ts';
import { SORT_COLUMNS, STREAM_FILTERS } from '../admin/stream-list.ts';
import type { HandoverOutcome } from '../app/handover.ts';
import type { ReloadOutcome } from '../app/live-config.ts';
import { type ConfigFile, readConfigFile } from '../config/file.ts';
import { loadAdminPlace, loadConfig } from '../config/load.ts';
import { kebabCase } from '../config/problems.ts';
import { isList, SETTING_NAMES, SETTINGS, type SettingHelp, type SettingName } from '../config/settings.ts';
import type { Config } from '../config/types.ts';
import { errorLine } from '../lib/errors.ts';
import { span } from '../lib/units.ts';
import { STREAM_KINDS } from '../streams/stream.ts';
import { LEVELS } from '../telemetry/event-rows.ts';
import { EVENT_KINDS } from '../telemetry/event-table.ts';
import { type Api, adminApi } from './admin-client.ts';
import { type AvailabilityOptions, showAvailability } from './availability.ts';
import { completionScript, SHELLS, type Shell } from './completion.ts';
import { type EventsOptions, kindsOf, showEvents } from './events.ts';
import { countOf, endHelp, repeated, severalOf, sortOf, timeOf } from './help.ts';
import { type NodesOptions, showNodes } from './nodes.ts';
import { type StatusOptions, showStatus } from './status.ts';
import { type StreamsOptions, sever, showStreams } from './streams.ts';
import { type Console, EXIT, type ExitCode, terminal } from './terminal.ts';

/** Adds the flags of every setting. */
export function takesSettings(command: Command): Command {
  command.addOption(
    new Option(
      '--config <file>',
      'a YAML file with any of these settings, and rules for single nodes; flags and variables win over it',
    ).helpGroup('Basic:'),
  );
  for (const name of SETTING_NAMES) command.addOption(optionOf(name));
  return command;
}

function optionOf(name: SettingName): Option {
  const { group, takes, byDefault, choices, help }: SettingHelp = SETTINGS[name];
  const flag = `--${kebabCase(name)}`;
  const option = new Option(takes === undefined ? flag : `${flag} ${takes}`, help).helpGroup(`${group}:`);
  if (takes === undefined) return option;
  // The values themselves are checked with those of the file, so that all mistakes are told at once.
  if (choices !== undefined) option.argChoices = [...choices];
  if (!isList(name)) return option.default(byDefault);
  const initial = byDefault === undefined ? undefined : [String(byDefault)];
  return repeated(option.default(initial, String(byDefault)), (text) => [text]);
}

/** Reads the settings of a command: its flags, its variables, and the file that `--config` names. */
export function settingsOf(command: Command): Config {
  return loadConfig(...givenTo(command));
}

/** The flags that a command was given, its file, and its variables. */
function givenTo(command: Command): [flags: Values, file: ConfigFile | undefined, variables: Values] {
  const from = (source: string): Values =>
    Object.fromEntries(
      SETTING_NAMES.filter((name) => command.getOptionValueSource(name) === source).map((name) => [
        name,
        command.getOptionValue(name),
      ]),
    );
  const { config } = command.opts<{ config?: string }>();
  return [from('cli'), config === undefined ? undefined : readConfigFile(config), from('env')];
}

type Values = Readonly<Record<string, unknown>>;

const RUNNING = 'The running watchdog:';

/** Adds the flags of a command that asks a running watchdog. */
function asksAdmin(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--config <file>',
        'the settings file of the running watchdog; this command reads only admin and admin-token-file from it',
      ).helpGroup(RUNNING),
    )
    .addOption(
      new Option('--admin <host:port>', 'the admin address of the running watchdog')
        .default(SETTINGS.admin.byDefault)
        .helpGroup(RUNNING),
    )
    .addOption(new Option('--admin-token-file <file>', 'a file with its admin token').helpGroup(RUNNING));
}

/** The admin API that a command asks. */
function apiOf(command: Command): Api {
  return adminApi(loadAdminPlace(...givenTo(command)));
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
    // Nobody reads any more, or the disk is full.
    process.stdout.once('error', () => stop.abort());
    return terminal(stop.signal);
  };
  addStatus(program, console);
  addStreams(program, console);
  addNodes(program, console);
  addEvents(program, console);
  addAvailability(program, console);
  addSever(program, console);
  addReload(program);
  addHandover(program);
}

type OpenConsole = () => Console;

const LOOK = 'Look at a running watchdog:';
const ACT = 'Change something:';
const WHICH = 'Which:';
const HOW = 'How:';

const option = (group: string, flags: string, text: string): Option => new Option(flags, text).helpGroup(group);

/** How the commands that list something end. */
const LISTS = {
  0: 'something was listed',
  1: 'the watchdog did not answer, or refused',
  2: 'a flag, a variable or the file cannot be used',
  3: 'nothing matches; if a node was named, the message says whether it is known',
};

function addStatus(program: Command, console: OpenConsole): void {
  const command = program
    .command('status')
    .helpGroup(LOOK)
    .description('show how Headscale, the nodes and the running watchdog are, what is wrong, and what to do')
    .addOption(option(HOW, '--watch', 'refresh every two seconds, until Ctrl-C'))
    .addOption(option(HOW, '--json', 'print the JSON of the admin API'))
    .action(async (options: StatusOptions, command: Command) => {
      process.exitCode = await showStatus(apiOf(command), options, console());
    });
  endHelp(asksAdmin(command), {
    examples: [['Is it the watchdog, or Headscale?', '']],
    exits: {
      0: 'nothing is wrong, or there are only warnings',
      1: 'something is wrong, or the watchdog did not answer',
      2: 'a flag, a variable or the file cannot be used',
    },
  });
}

function addStreams(program: Command, console: OpenConsole): void {
  const command = program
    .command('streams')
    .helpGroup(LOOK)
    .description('list the open streams of the running watchdog')
    .addOption(option(WHICH, '--node <name|id|key>', 'only streams of this node'))
    .addOption(severalOf(option(WHICH, '--state <state>', 'only streams in one of these states'), STREAM_FILTERS))
    .addOption(severalOf(option(WHICH, '--kind <kind>', 'only streams of one of these kinds'), STREAM_KINDS))
    .addOption(option(WHICH, '--search <text>', 'only streams with this text in a column'))
    .addOption(countOf(option(WHICH, '--limit <number>', 'how many at most; the default is all')))
    .addOption(
      sortOf(option(HOW, '--sort <column>', 'sort by a column, with - before it for the largest first'), SORT_COLUMNS),
    )
    .addOption(option(HOW, '--watch', 'refresh every two seconds, until Ctrl-C'))
    .addOption(option(HOW, '--json', 'print the JSON of the admin API'))
    .action(async (options: StreamsOptions, command: Command) => {
      process.exitCode = await showStreams(apiOf(command), options, console());
    });
  endHelp(asksAdmin(command), {
    examples: [
      ['Which clients have been quiet for longest?', '--kind control --sort heard --limit 10'],
      ['Everything that is not simply open, kept up to date', '--state held,connecting,closing --watch'],
    ],
    exits: LISTS,
  });
}

function addNodes(program: Command, console: OpenConsole): void {
  const command = program
    .command('nodes')
    .helpGroup(LOOK)
    .description(
      'list the nodes that Headscale knows, connected or not; without an API key or an OAuth client, those that the watchdog has seen',
    )
    .argument('[name|id|key]', 'only this node')
    .addOption(severalOf(option(WHICH, '--state <state>', 'only nodes in one of these states'), NODE_FILTERS))
    .addOption(
      option(WHICH, '--search <text>', 'only nodes with this text in their name, user, keys, addresses or tags'),
    )
    .addOption(countOf(option(WHICH, '--limit <number>', 'how many at most; the default is all')))
    .addOption(
      sortOf(
        option(HOW, '--sort <column>', 'sort by a column, with - before it for the opposite order'),
        NODE_SORT_COLUMNS,
      ),
    )
    .addOption(option(HOW, '--watch', 'refresh every two seconds, until Ctrl-C'))
    .addOption(option(HOW, '--json', 'print the JSON of the admin API'))
    .action(async (node: string | undefined, options: NodesOptions, command: Command) => {
      process.exitCode = await showNodes(apiOf(command), node, options, console());
    });
  endHelp(asksAdmin(command), {
    examples: [
      ['Who is away, the longest first?', '--state offline --sort sign'],
      ['Is this phone asleep or gone?', 'phone-1'],
      ['Whose key expires next?', '--sort expiry --limit 5'],
    ],
    exits: LISTS,
  });
}

function addEvents(program: Command, console: OpenConsole): void {
  const command = program
    .command('events')
    .helpGroup(LOOK)
    .description('list what happened, and why')
    .addOption(option(WHICH, '--node <name|id|key>', 'only events of this node'))
    .addOption(option(WHICH, '--stream <id>', 'only events of this stream'))
    .addOption(kindsOf(option(WHICH, '--kind <kind>', 'only events of these kinds, which are listed below')))
    .addOption(severalOf(option(WHICH, '--level <level>', 'only events of these levels'), LEVELS))
    .addOption(
      countOf(
        option(
          WHICH,
          '--limit <number>',
          'look at so many of the newest events; the default is 100, with --since 20000',
        ),
      ),
    )
    .addOption(
      timeOf(option(WHICH, '--since <time>', 'only events since then: 7d or 12h ago, 02:00, 2026-11-27 08:00'), 'here'),
    )
    .addOption(timeOf(option(WHICH, '--until <time>', 'only events before then, in the same form'), 'here'))
    .addOption(
      option(
        HOW,
        '--steps',
        'show each step of a takeover, and not only how it came out; --kind, --csv and --json always do',
      ),
    )
    .addOption(option(HOW, '--follow', 'also show new events as they happen, until Ctrl-C').conflicts('until'))
    .addOption(option(HOW, '--csv', 'print the events as CSV').conflicts('json'))
    .addOption(option(HOW, '--json', 'print each event as one line of JSON'))
    .action(async (options: EventsOptions, command: Command) => {
      process.exitCode = await showEvents(apiOf(command), options, console());
    });
  endHelp(asksAdmin(command), {
    examples: [
      ['Why was the stream of this node cut?', '--node phone-1 --kind stream_severed,stream_closed'],
      ['What happened within the last week?', '--since 7d'],
      ['Takeovers as they happen', '--kind contest_opened,stream_severed --follow'],
    ],
    exits: LISTS,
    more: {
      Kinds: `${EVENT_KINDS.join(', ')}. The first part of several stands for all of them: upstream, notification. docs/api.md says what each means.`,
    },
  });
}

function addAvailability(program: Command, console: OpenConsole): void {
  const command = program
    .command('availability')
    .helpGroup(LOOK)
    .description('show how long each node was online, the worst first; with a node: day by day')
    .argument('[name|id|key]', 'only this node')
    .addOption(
      timeOf(option(WHICH, '--since <time>', 'since then: 7d or 12h ago, 2026-11-01'), 'elsewhere').default('30d'),
    )
    .addOption(timeOf(option(WHICH, '--until <time>', 'until then, in the same form; the default is now'), 'elsewhere'))
    .addOption(option(HOW, '--timezone <name>', 'where days begin, as in Europe/Berlin').default('UTC'))
    .addOption(option(HOW, '--csv', 'print the seconds of each node and day as CSV').conflicts('json'))
    .addOption(option(HOW, '--json', 'print the JSON of the admin API'))
    .action(async (node: string | undefined, options: AvailabilityOptions, command: Command) => {
      process.exitCode = await showAvailability(apiOf(command), node, options, console());
    });
  endHelp(asksAdmin(command), {
    examples: [
      ['Which nodes were away most in the last week?', '--since 7d'],
      ['When was this router away?', 'router-1 --timezone Europe/Berlin'],
      ['November for a spreadsheet', '--since 2026-11-01 --until 2026-12-01 --csv'],
    ],
    exits: LISTS,
  });
}

function addSever(program: Command, console: OpenConsole): void {
  const command = program
    .command('sever')
    .helpGroup(ACT)
    .description('end a stream, or all streams of a node; a client that is still there reconnects by itself')
    .argument(
      '<node|id>',
      "the id of a stream (REPLICA/ID if several watchdogs have it), or a node's name, key or id:NUMBER",
    )
    .addOption(option(HOW, '--yes', 'do not ask for confirmation'))
    .action(async (target: string, { yes }: { yes?: boolean }, command: Command) => {
      process.exitCode = await sever(apiOf(command), target, yes === true, console());
    });
  endHelp(asksAdmin(command), {
    examples: [
      ['All streams of a node', 'phone-1'],
      ['Stream 12, without a question', '12 --yes'],
    ],
    exits: {
      0: 'the streams were severed',
      1: 'one was not: no answer, not confirmed, a name that several nodes have, or a stream that ends already',
      2: 'a flag, a variable or the file cannot be used',
      3: 'there is no such node, or it has no open stream',
    },
  });
}

function addReload(program: Command): void {
  const command = program
    .command('reload')
    .helpGroup(ACT)
    .description('make the running watchdog read again its keys and the settings file that it was started with')
    .action(async ({ config }: { config?: string }, command: Command) => {
      process.exitCode = report(await apiOf(command).reload(), config && resolve(config));
    });
  endHelp(asksAdmin(command), {
    examples: [
      ['After a change of the file', ''],
      ['The admin address is not the default: the file knows it', '--config /etc/headscale-watchdog/watchdog.yaml'],
    ],
    exits: {
      0: 'reloaded; what has changed is listed',
      1: 'the watchdog did not answer, or the file has a mistake: then nothing has changed',
      2: 'a flag, a variable or the file cannot be used',
    },
  });
}

function addHandover(program: Command): void {
  const command = program
    .command('handover')
    .helpGroup(ACT)
    .description('make the running watchdog give its streams to the program that is on disk now, without ending one')
    .action(async (_flags, command: Command) => {
      process.exitCode = reportHandover(await apiOf(command).handOver());
    });
  endHelp(asksAdmin(command), {
    examples: [['After an upgrade of the program', '--config /etc/headscale-watchdog/watchdog.yaml']],
    exits: {
      0: 'a new process has the streams',
      1: 'the watchdog did not answer, or the new process could not take over: the old one goes on',
      2: 'a flag, a variable or the file cannot be used',
    },
  });
}

function reportHandover(outcome: HandoverOutcome): ExitCode {
  if (!outcome.ok) {
    process.stderr.write(errorLine(outcome.code, `not handed over:\n${outcome.problems.join('\n')}`));
    return EXIT.failed;
  }
  const { pid, moved, stayed, tookMs } = outcome;
  process.stdout.write(
    `handed over to process ${pid} in ${span(tookMs)}: ${moved} streams went on, ${stayed} cannot go\n`,
  );
  return EXIT.done;
}

/** @param file the one in which the command has looked for the watchdog; the watchdog itself may have been started with another. */
function report(outcome: ReloadOutcome, file: string | undefined): ExitCode {
  const { stdout, stderr } = process;
  if (!outcome.ok) {
    const problems = outcome.problems.join('\n');
    stderr.write(errorLine(outcome.code, `not reloaded, nothing has changed:\n${problems}`));
    return EXIT.failed;
  }
  for (const change of outcome.changes) stdout.write(`${change}\n`);
  for (const setting of outcome.needRestart) stdout.write(`needs a restart: ${setting}\n`);
  const { changes, file: read } = outcome;
  // A watchdog of a version before does not say which file it was.
  const what = read === undefined ? '' : ` ${read ?? 'the keys; the watchdog was started without a settings file'}`;
  stdout.write(`reloaded${what}${changes.length > 0 ? '' : ': no setting has changed'}\n`);
  if (file !== undefined && read !== undefined && read !== file)
    stderr.write(`note: ${file} was not applied; it only said where the watchdog is\n`);
  return EXIT.done;
}

/** Adds `completion`. It completes every command that the program has when it runs. */
export function addCompletion(program: Command): void {
  const command = program
    .command('completion')
    .description('print a script that makes your shell complete commands and flags')
    .addArgument(new Argument('<shell>', 'your shell').choices(SHELLS))
    .action((shell: Shell) => void process.stdout.write(completionScript(shell, program)));
  endHelp(command, {
    examples: [['For this shell, until it ends (bash; zsh likewise)', 'bash > /tmp/completion && . /tmp/completion']],
    exits: { 0: 'the script was printed', 2: 'there is no script for that shell' },
  });
}
