import { InvalidArgumentError, type Option } from 'commander';
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
  const takeovers = new Takeovers(!(options.steps || options.json || options.csv || kind !== undefined));
  const shown = takeovers.withoutSteps(first.events);
  for (const event of shown) console.stdout.write(textOf(event, options, console));
  for (const remark of remarksOn(first, limit)) console.stderr.write(`${remark}\n`);
  if (shown.length < first.events.length)
    console.stderr.write(`The other steps of each takeover are left out: --steps shows them.\n`);
  if (!options.follow) {
    if (first.events.length === 0) console.stderr.write('There are no such events.\n');
    return first.events.length > 0 ? EXIT.done : EXIT.nothing;
  }
  let after = first.next;
  for (;;) {
    await console.pause(EVERY_MS);
    if (console.signal.aborted) return EXIT.done;
    const { events, next } = await api.get<EventsAnswer>('/events', { ...query, after, limit: '1000' });
    for (const event of takeovers.withoutSteps(events)) console.stdout.write(textOf(event, options, console));
    after = next;
  }
}

/** Leaves out what the sentence of a severing says already: the contest before it, its end, and that the stream has closed. */
class Takeovers {
  readonly #isOn: boolean;
  readonly #old = new Set<string>();
  readonly #contests = new Set<string>();

  constructor(isOn: boolean) {
    this.#isOn = isOn;
  }

  withoutSteps(events: readonly EventView[]): readonly EventView[] {
    if (!this.#isOn) return events;
    for (const { kind, machineKey, stream, otherStream } of events) {
      if (kind !== 'stream_severed') continue;
      this.#old.add(`${machineKey} ${stream}`);
      this.#contests.add(`${machineKey} ${otherStream} ${stream}`);
    }
    return events.filter(({ kind, machineKey, stream, otherStream }) => {
      if (kind === 'stream_closed') return !this.#old.delete(`${machineKey} ${stream}`);
      const isStep = kind === 'contest_opened' || kind === 'contest_ended';
      return !(isStep && this.#contests.has(`${machineKey} ${stream} ${otherStream}`));
    });
  }
}

/** What the list leaves out. */
function remarksOn(list: EventsAnswer, limit: string | undefined): readonly string[] {
  const { events, knownSince, fromFile, since } = list;
  const remarks: string[] = [];
  const [oldest] = events;
  if (since === null && events.length === Number(limit ?? BY_DEFAULT) && oldest !== undefined)
    remarks.push(
      `There may be more: these are the newest ${events.length} events. --limit or --since shows more, such as --since 1d.`,
    );
  if (since !== null && oldest !== undefined && String(events.length) === limit)
    remarks.push(
      `There may be more: these are the newest ${events.length} events. Ask for those before with --until ${oldest.time}.`,
    );
  if (since !== null && since < knownSince) {
    const why = fromFile
      ? ''
      : ' Without --history-file, the watchdog remembers one day at most, and forgets it when it restarts.';
    remarks.push(`Events are known since ${localTime(knownSince)} only.${why}`);
  }
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

function colourOf({ kind, level, reason }: EventView): Colour | undefined {
  if (level === 'error' || kind === 'stream_severed' || kind === 'machine_key_duplicated') return 'red';
  if (kind === 'stream_closed' && (reason === 'gone' || reason === 'not_reading')) return 'red';
  return level === 'warn' || kind === 'contest_opened' || kind === 'would_sever' ? 'yellow' : undefined;
}
