import { InvalidArgumentError, type Option } from 'commander';
import { addTo, type Line, linesOf, mainOf } from '../admin/page/takeovers.js';
import type { EventView } from '../admin/views.ts';
import { nearest, printable } from '../lib/text.ts';
import { EVENT_KINDS } from '../telemetry/event-table.ts';
import { type Api, type EventsAnswer, knowsNode } from './admin-client.ts';
import { severalOf } from './help.ts';
import { type Colour, type Console, coloured, csvLine, EXIT, type ExitCode, localTime } from './terminal.ts';

export interface EventsOptions {
  readonly node?: string;
  readonly stream?: string;
  readonly kind?: readonly string[];
  readonly level?: readonly string[];
  readonly limit?: string;
  readonly since?: string;
  readonly until?: string;
  readonly follow?: boolean;
  readonly steps?: boolean;
  readonly json?: boolean;
  readonly csv?: boolean;
}

/** How many events the API returns if nobody says how many. */
const BY_DEFAULT = 100;
/** With `--since`, all events of that time are wanted. This is the most that the API returns at once. */
const MOST = 20_000;

const EVERY_MS = 1000;
/** A takeover takes seconds; this many lines are enough to find where a step belongs. */
const REMEMBERED = 1000;

/** What operators call things, and the kinds that tell of them. */
const MEANT: readonly (readonly [called: RegExp, kinds: string])[] = [
  [/take.?over|sever|cut|kill/, 'a takeover is contest_opened, and then stream_severed'],
  [/clos|gone|vanish|offline|away|lost/, 'a stream that ends, with its reason, is stream_closed'],
  [/open|online|connect/, 'a stream that begins is stream_opened'],
  [/dup|clone/, 'two machines with one key are machine_key_duplicated'],
  [/headscale/, "Headscale's state is upstream_up, upstream_down, upstream_silent and upstream_refused"],
];

/** Kinds of events. The first part of several kinds stands for all of them: `notification`, `upstream`. */
export function kindsOf(option: Option): Option {
  return severalOf(option, EVENT_KINDS, (word) => {
    const kinds = EVENT_KINDS.filter((kind) => kind === word || kind.startsWith(`${word}_`));
    if (kinds.length > 0) return kinds;
    const meant = nearest(word.replaceAll('-', '_'), EVENT_KINDS);
    const called = MEANT.find(([pattern]) => pattern.test(word.toLowerCase()))?.[1];
    const advice = meant === undefined ? (called ?? 'see the list') : `did you mean ${meant}?`;
    throw new InvalidArgumentError(
      `There is no kind '${printable(word, 40)}': ${advice}. All kinds: headscale-watchdog events --help.`,
    );
  });
}

/** Lists recent events, the oldest first. */
export async function showEvents(api: Api, options: EventsOptions, console: Console): Promise<ExitCode> {
  const { node, stream, kind, level, since, until } = options;
  const limit = options.limit ?? (since === undefined ? undefined : String(MOST));
  if (node !== undefined && !(await knowsNode(api, node, console))) return EXIT.nothing;
  const query = { node, stream, kind: kind?.join(), level: level?.join() };
  const first = await api.get<EventsAnswer>('/events', { ...query, since, until, limit });
  if (options.csv) console.stdout.write(csvLine(CSV_COLUMNS));
  const shown = new Shown(!(options.steps || options.json || options.csv || kind !== undefined));
  for (const event of shown.first(first.events)) console.stdout.write(textOf(event, options, console));
  for (const remark of remarksOn(first, limit, shown.leftOut)) console.stderr.write(`${remark}\n`);
  if (!options.follow) {
    if (first.events.length === 0)
      console.stderr.write(
        node === undefined ? 'There are no such events.\n' : `${printable(node)} is known, and has no such events.\n`,
      );
    return first.events.length > 0 ? EXIT.done : EXIT.nothing;
  }
  let after = first.next;
  for (;;) {
    await console.pause(EVERY_MS);
    if (console.signal.aborted) return EXIT.done;
    const { events, next } = await api.get<EventsAnswer>('/events', { ...query, after, limit: '1000' });
    for (const event of shown.next(events)) console.stdout.write(textOf(event, options, console));
    after = next;
  }
}

/** What is shown. A takeover is one line: the event that says how it came out, or how it stands. */
class Shown {
  readonly #isFolded: boolean;
  readonly #lines: Line[] = [];
  /** How many events have been left out as steps of a takeover. */
  leftOut = 0;

  constructor(isFolded: boolean) {
    this.#isFolded = isFolded;
  }

  /** @param events oldest first. */
  first(events: readonly EventView[]): readonly EventView[] {
    if (!this.#isFolded) return events;
    const mains = linesOf(events, this.#lines).flatMap((line) => mainOf(line.events) ?? []);
    this.leftOut = events.length - mains.length;
    return mains.sort((a, b) => a.seq - b.seq);
  }

  /** Events that come later. What has been printed stays, so a takeover has a line when it begins and one when it has come out. */
  next(events: readonly EventView[]): readonly EventView[] {
    if (!this.#isFolded) return events;
    return events.filter((event) => {
      const { contest, events: all } = addTo(this.#lines, event);
      this.#lines.splice(0, this.#lines.length - REMEMBERED);
      const isFirst = all.length === 1;
      return contest === undefined || isFirst || (isOutcome(event) && mainOf(all) === event);
    });
  }
}

function isOutcome({ kind }: EventView): boolean {
  return kind === 'stream_severed' || kind === 'contest_ended';
}

/** What the list leaves out. */
function remarksOn(list: EventsAnswer, limit: string | undefined, leftOut: number): readonly string[] {
  const { events, knownSince, fromFile, since } = list;
  const remarks: string[] = [];
  const [oldest] = events;
  if (since === null && events.length === Number(limit ?? BY_DEFAULT) && oldest !== undefined)
    remarks.push(
      `There may be more: this list was made from the newest ${events.length} events. --limit or --since shows more, such as --since 1d.`,
    );
  if (since !== null && oldest !== undefined && String(events.length) === limit)
    remarks.push(
      `There may be more: this list was made from the newest ${events.length} events. Ask for those before with --until ${oldest.time}.`,
    );
  if (since !== null && since < knownSince) {
    const why = fromFile
      ? ''
      : ' Without --history-file, the watchdog remembers one day at most, and forgets it when it restarts.';
    remarks.push(`Events are known since ${localTime(knownSince)} only.${why}`);
  }
  if (leftOut === 1) remarks.push('One step of a takeover is left out: --steps shows it.');
  if (leftOut > 1) remarks.push(`${leftOut} steps of takeovers are left out: --steps shows them.`);
  return remarks;
}

const CSV_COLUMNS = [
  ...(['time', 'level', 'kind', 'node', 'machineKey', 'stream', 'otherStream', 'remoteAddress'] as const),
  ...(['reason', 'code', 'sentence'] as const),
];

function textOf(event: EventView, { json, csv }: EventsOptions, console: Console): string {
  if (csv) return csvLine(CSV_COLUMNS.map((name) => (name === 'node' ? event.node?.name : event[name]) ?? ''));
  if (json) return `${JSON.stringify(event)}\n`;
  const colour = colourOf(event);
  const sentence = printable(event.sentence);
  return `${coloured(console, 'faint', localTime(event.time))}  ${colour === undefined ? sentence : coloured(console, colour, sentence)}\n`;
}

/** The page has the same colours: a takeover is a success. */
function colourOf({ kind, level }: EventView): Colour | undefined {
  if (level === 'error') return 'red';
  if (kind === 'stream_severed') return 'green';
  return level === 'warn' || kind === 'contest_opened' ? 'yellow' : undefined;
}
