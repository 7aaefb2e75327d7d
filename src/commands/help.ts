import { type Command, InvalidArgumentError, type Option } from 'commander';
import { variableOf } from '../config/problems.ts';
import { systemClock } from '../lib/clock.ts';
import { errorLine } from '../lib/errors.ts';
import { nearest } from '../lib/text.ts';

const WIDTH = 80;
/** Longer lines are hard to read. */
const WIDEST = 100;

/** How the help of the program and of each of its commands looks. */
export function styleHelp(program: Command): void {
  const { stdout, stderr } = process;
  const widthOf = (stream: NodeJS.WriteStream): number => Math.min((stream.isTTY && stream.columns) || WIDTH, WIDEST);
  program
    .helpOption('-h, --help', 'show this help')
    // The longest flag leaves 38 of 80 columns for the text. By default, commander does not wrap texts that narrow.
    .configureHelp({ minWidthToWrap: 30, optionDescription })
    .configureOutput({
      ...{ getOutHelpWidth: () => widthOf(stdout), getErrHelpWidth: () => widthOf(stderr) },
      outputError: (text, write) => write(usageError(text, 'headscale-watchdog --help lists the commands')),
    });
}

/** Commander's error as one line with our code. @param advice if it does not say itself what to write. */
function usageError(text: string, advice: string): string {
  const line = text
    .trim()
    .replace(/^error: /, '')
    .replace(/\s*\n/g, ' ');
  const isEnough = /Did you mean|Write |Allowed choices|All kinds/.test(line);
  return errorLine('HSW_USAGE_INVALID', isEnough ? line : `${line.replace(/\.$/, '')}: ${advice}`);
}

/** As many words as can be read in a line or two. */
const MOST_WORDS = 12;

/** Commander shows choices and defaults as JSON. */
function optionDescription({ flags, description, argChoices, defaultValue, defaultValueDescription }: Option): string {
  const isShown = argChoices !== undefined && argChoices.length <= MOST_WORDS && !flags.includes('|');
  const words = isShown ? `: ${anyOf(argChoices)}` : '';
  const byDefault = typeof defaultValue === 'boolean' ? undefined : (defaultValueDescription ?? defaultValue);
  return `${description}${words}${byDefault === undefined ? '' : ` (default: ${String(byDefault)})`}`;
}

/** `held, connecting or open` */
function anyOf(words: readonly string[]): string {
  return words.length < 2 ? words.join() : `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`;
}

export interface HelpEnd {
  /** What somebody wants, and the arguments that do it. */
  readonly examples: readonly (readonly [want: string, args: string])[];
  readonly exits: Readonly<Record<number, string>>;
  /** More sections, by their headings. */
  readonly more?: Readonly<Record<string, string>>;
}

/** Adds what stands below the flags of a command. */
export function endHelp(command: Command, { examples, exits, more = {} }: HelpEnd): Command {
  const sections = [
    section(
      'Examples',
      examples.flatMap(([want, args]) => [`# ${want}`, `headscale-watchdog ${command.name()} ${args}`.trimEnd()]),
    ),
    ...Object.entries(more).map(([heading, text]) => section(heading, wrapped(text, WIDTH - 2))),
    ...variablesSection(command),
    section(
      'Exit codes',
      Object.entries(exits).flatMap(([code, text]) =>
        wrapped(text, WIDTH - 5).map((line, i) => `${i === 0 ? code : ' '}  ${line}`),
      ),
    ),
  ];
  const advice = `see headscale-watchdog help ${command.name()}`;
  return command
    .configureOutput({ outputError: (text, write) => write(usageError(text, advice)) })
    .addHelpText('after', `\n${sections.join('\n\n')}`);
}

function variablesSection({ options }: Command): readonly string[] {
  if (options.length === 0) return [];
  const [name, flag] = options.some(({ long }) => long === '--drain')
    ? ['drain', '--drain 5s']
    : ['admin', '--admin 127.0.0.1:9191'];
  const example = `${variableOf(name)}=${flag.split(' ')[1]}`;
  const text = `Each flag has a variable: ${example} does what ${flag} does. Several values have commas between them, and a switch is true or false. A flag wins over its variable, and a variable over the file.`;
  return [section('Variables', wrapped(text, WIDTH - 2))];
}

function section(heading: string, lines: readonly string[]): string {
  return [`${heading}:`, ...lines.map((line) => `  ${line}`)].join('\n');
}

function wrapped(text: string, width: number): readonly string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last === undefined || last.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}

/** The values of repeated flags, as far as the command line has given them. A default or a variable gives way to them. */
const given = new WeakSet<object>();
const repeatable = new WeakSet<Option>();

/** Lets a flag be repeated. @param valuesIn the values that it has each time. */
export function repeated(option: Option, valuesIn: (text: string) => readonly string[]): Option {
  repeatable.add(option);
  return option.argParser((text: string, before: readonly string[] | undefined) => {
    const values = valuesIn(text);
    const all = before !== undefined && given.has(before) ? [...before, ...values] : [...values];
    given.add(all);
    return all;
  });
}

export function isRepeatable(option: Option): boolean {
  return repeatable.has(option);
}

/**
 * Lets a flag be repeated, and have several words with commas between them.
 *
 * @param read what a word stands for, if it may be something else than one of `words`.
 */
export function severalOf(
  option: Option,
  words: readonly string[],
  read: (word: string) => readonly string[] = (word) => [checked(word, words)],
): Option {
  option.argChoices = [...words];
  return repeated(option, (text) => text.split(',').flatMap((word) => read(word.trim())));
}

/** A flag with one of several words. A - before the word stands for the opposite order. */
export function sortOf(option: Option, words: readonly string[]): Option {
  option.argChoices = [...words];
  return option.argParser((text: string) => {
    checked(text.replace(/^-/, ''), words);
    return text;
  });
}

/** @throws InvalidArgumentError, which says what to write instead. */
function checked(word: string, words: readonly string[]): string {
  if (words.includes(word)) return word;
  const meant = nearest(word, words);
  throw new InvalidArgumentError(`${meant === undefined ? '' : `Did you mean ${meant}? `}Write ${anyOf(words)}.`);
}

/** A flag with a whole number of 1 or more. */
export function countOf(option: Option): Option {
  return option.argParser((text: string) => {
    if (/^[1-9]\d{0,8}$/.test(text)) return text;
    throw new InvalidArgumentError('Write a whole number from 1 on.');
  });
}

const AGO = /^\d{1,6}[smhd]$/;
const TIME_OF_DAY = /^([01]?\d|2[0-3]):([0-5]\d)(:[0-5]\d)?$/;
const DAY_AND_TIME = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,3})?)?) ?(Z|[+-]\d\d:?\d\d)?$/;
const DAY = /^\d{4}-\d\d-\d\d$/;

/**
 * A flag with a time. What people type is in the time zone of their terminal, as what they read is.
 *
 * @param daysBegin whether a day begins at midnight here, or where another flag says (`--timezone`).
 */
export function timeOf(option: Option, daysBegin: 'here' | 'elsewhere'): Option {
  return option.argParser((text: string) => {
    if (AGO.test(text) || (DAY.test(text) && daysBegin === 'elsewhere')) return text;
    const time = localTimeIn(text.trim(), systemClock.dateOf(systemClock.now()));
    if (!Number.isNaN(time)) return new Date(time).toISOString();
    throw new InvalidArgumentError(
      'Write 90m, 24h or 7d (that long ago), a day like 2026-11-27, or a time like 08:00, 2026-11-27 08:00 or 2026-11-27T08:00Z. Without a time zone, it is that of this terminal.',
    );
  });
}

/** @returns NaN for what is no time. A time without a day is the last one. */
export function localTimeIn(text: string, now: Date): number {
  const [, hours, minutes, seconds = ':0'] = TIME_OF_DAY.exec(text) ?? [];
  if (hours !== undefined) {
    const at = new Date(now);
    at.setHours(Number(hours), Number(minutes), Number(seconds.slice(1)), 0);
    // A day may have 23 or 25 hours.
    if (at > now) at.setDate(at.getDate() - 1);
    return at.getTime();
  }
  const [, day, time, zone = ''] = DAY_AND_TIME.exec(text) ?? [];
  if (day !== undefined) return Date.parse(`${day}T${time}${zone}`);
  return DAY.test(text) ? Date.parse(`${text}T00:00`) : Number.NaN;
}
