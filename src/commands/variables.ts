import { type Command, InvalidArgumentError, type Option } from 'commander';
import { VARIABLE_PREFIX, variableOf } from '../config/problems.ts';
import { UsageError } from '../lib/errors.ts';
import { inQuotes, nearest, printable } from '../lib/text.ts';
import { isRepeatable } from './help.ts';

/** What the environment variables of this program say. */
export interface Variables {
  /** One sentence for each variable that stands in for no flag. */
  readonly unknown: readonly string[];
  /** @throws UsageError with each variable that the command cannot use. */
  check(command: Command): void;
}

/**
 * Kubernetes and Docker tell a container about services and links in variables like `NAME_SERVICE_HOST` and `NAME_PORT_80_TCP`.
 * With a service called headscale-watchdog, these begin as ours do. No flag ends like them.
 */
const OF_SERVICES = /(^|_)(SERVICE_(HOST|PORT)|PORT)(_\w+)?$/;

/** Gives each flag of each command the value of its variable. The command line comes later, and wins. */
export function readVariables(program: Command, env: NodeJS.ProcessEnv): Variables {
  const problems = new Map<Command, string[]>(program.commands.map((command) => [command, []]));
  const unknown: string[] = [];
  const flags = new Map(
    program.commands.flatMap(({ options }) => options).map((option) => [variableOf(option.attributeName()), option]),
  );
  for (const [variable, text = ''] of Object.entries(env)) {
    // `NAME=${UNSET:-}` is how compose files leave a variable out.
    if (!variable.startsWith(VARIABLE_PREFIX) || text === '') continue;
    const known = flags.get(variable);
    if (known === undefined) {
      if (!OF_SERVICES.test(variable.slice(VARIABLE_PREFIX.length)))
        unknown.push(unknownText(variable, [...flags.keys()]));
      continue;
    }
    for (const command of program.commands) {
      const option = command.options.find(({ long }) => long === known.long);
      if (option === undefined) continue;
      try {
        command.setOptionValueWithSource(option.attributeName(), valueFrom(option, text), 'env');
      } catch (error) {
        if (!(error instanceof InvalidArgumentError)) throw error;
        problems.get(command)?.push(`${variable}: ${inQuotes(text)} cannot be used. ${error.message}`);
      }
    }
  }
  return {
    unknown,
    check(command) {
      const found = problems.get(command) ?? [];
      if (found.length > 0) throw new UsageError('HSW_USAGE_INVALID', found);
    },
  };
}

function valueFrom(option: Option, text: string): unknown {
  if (option.isBoolean()) {
    if (/^(true|1|yes|on)$/i.test(text)) return true;
    if (/^(false|0|no|off)$/i.test(text)) return false;
    throw new InvalidArgumentError('Write true or false.');
  }
  const read = (one: string): unknown => (option.parseArg === undefined ? one : option.parseArg(one, undefined));
  // This is not the array of the command line's values, so a flag replaces it.
  return isRepeatable(option) ? text.split(',').flatMap((one) => read(one.trim())) : read(text);
}

/** The value is not shown, because it may be a secret. */
function unknownText(variable: string, known: readonly string[]): string {
  const lower = (name: string): string => name.toLowerCase().replaceAll('_', '-');
  const meant = nearest(
    lower(variable.slice(VARIABLE_PREFIX.length)),
    known.map((name) => lower(name.slice(VARIABLE_PREFIX.length))),
  );
  const name = meant && `${VARIABLE_PREFIX}${meant.replaceAll('-', '_').toUpperCase()}`;
  const advice =
    name === undefined
      ? 'headscale-watchdog help serve lists them'
      : name === `${variable}_FILE`
        ? `write ${name}, with the path of a file: secrets are only read from files`
        : `did you mean ${name}?`;
  return `the variable ${printable(variable, 80)} is not used, because it names no flag: ${advice}`;
}
