import type { StreamView } from '../admin/views.ts';
import { errorLine } from '../lib/errors.ts';
import { printable } from '../lib/text.ts';
import { span } from '../lib/units.ts';
import { type Api, apiErrorIn, type StreamsAnswer, unknownNode } from './admin-client.ts';
import { type Column, type Console, coloured, EXIT, type ExitCode, showScreen, tableLines } from './terminal.ts';

export interface StreamsOptions {
  readonly node?: string;
  readonly state?: readonly string[];
  readonly kind?: readonly string[];
  readonly search?: string;
  readonly sort?: string;
  readonly limit?: string;
  readonly json?: boolean;
  readonly watch?: boolean;
}

const EVERY_MS = 2000;

const COLUMNS: readonly Column[] = [
  { title: 'STREAM', isNumber: true },
  { title: 'NODE' },
  { title: 'ADDRESS' },
  { title: 'OPEN FOR', isNumber: true },
  { title: 'HEARD', isNumber: true },
  { title: 'RTT', isNumber: true },
  { title: 'IN', isNumber: true },
  { title: 'OUT', isNumber: true },
  { title: 'STATE' },
];

/** Columns that are shown if they say something about any of the streams. */
const MORE_COLUMNS: readonly (Column & { isShown(stream: StreamView): boolean; of(stream: StreamView): string })[] = [
  { title: 'EVIDENCE', isShown: ({ evidence }) => evidence.source !== 'direct', of: ({ evidence }) => evidence.source },
  { title: 'REPLICA', isShown: ({ replica }) => replica !== null, of: ({ replica }) => replica ?? '' },
];

/** Lists the open streams. */
export async function showStreams(api: Api, options: StreamsOptions, console: Console): Promise<ExitCode> {
  const { node, state, kind, search, sort, limit } = options;
  const query = { node, state: state?.join(), kind: kind?.join(), q: search, sort, limit };
  for (;;) {
    const answer = await api.get<StreamsAnswer>('/streams', query);
    if (options.json) console.stdout.write(`${JSON.stringify(answer, undefined, options.watch ? undefined : 2)}\n`);
    else showScreen(console, linesOf(answer, console), options.watch === true);
    if (!options.watch) return answer.total > 0 ? EXIT.done : EXIT.nothing;
    await console.pause(EVERY_MS);
    if (console.signal.aborted) return EXIT.done;
  }
}

function linesOf({ streams, total }: StreamsAnswer, console: Console): readonly string[] {
  if (total === 0) return ['No stream matches.'];
  const now = Date.now();
  const more = MORE_COLUMNS.filter(({ isShown }) => streams.some(isShown));
  const [head = '', ...rows] = tableLines(
    [...COLUMNS, ...more],
    streams.map((stream) => [...rowOf(stream, now), ...more.map(({ of }) => of(stream))]),
    console.width,
  );
  const lines = rows.map((line, index) => {
    const isCalm = streams[index]?.state === 'open' && streams[index]?.contests.length === 0;
    return isCalm ? line : coloured(console, 'yellow', line);
  });
  return [coloured(console, 'faint', head), ...lines];
}

function rowOf(stream: StreamView, now: number): readonly string[] {
  const { id, remoteAddress, openedAt, lastHeardAt, kernel, bytesReceived, bytesSent } = stream;
  return [
    ...[String(id), printable(ownerOf(stream)), remoteAddress],
    ...[span(wholeSeconds(now - Date.parse(openedAt))), ago(now - Date.parse(lastHeardAt))],
    kernel === null || kernel.ended ? '-' : roundTrip(kernel.rttMs),
    ...[amount(bytesReceived), amount(bytesSent), stateOf(stream)],
  ];
}

function ownerOf({ node, machineKey, kind }: StreamView): string {
  if (node !== null) return node.name;
  return machineKey === null ? `(${kind}, not identified)` : `${machineKey.slice(0, 13)}…`;
}

function stateOf({ state, contests, wouldSever }: StreamView): string {
  if (wouldSever !== null) return `${state}, would sever: ${wouldSever}`;
  const contest = contests[0];
  if (contest === undefined) return state;
  return contest.role === 'old'
    ? `${state}, contested by ${contest.otherStream}`
    : `${state}, against ${contest.otherStream}`;
}

export function ago(ms: number): string {
  return `${span(wholeSeconds(Math.max(0, ms))).replace(/^0 ms$/, '0 s')} ago`;
}

export function wholeSeconds(ms: number): number {
  return Math.round(ms / 1000) * 1000;
}

export function roundTrip(ms: number): string {
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

function amount(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1_000_000) return `${(bytes / 1000).toFixed(1)} kB`;
  return `${(bytes / 1_000_000).toFixed(1)} MB`;
}

const NODE_ID = /^id:(?=\d+$)/;
/** `12`, or with several watchdogs `replica/12`, because each watchdog numbers its own streams. */
const STREAM = /^(?:(.+)\/)?(\d+)$/;

/** Severs one stream by its id, or every stream of a node. It asks first, unless `isSure`. */
export async function sever(api: Api, target: string, isSure: boolean, console: Console): Promise<ExitCode> {
  const found = await find(api, target);
  if (STREAM.test(target) && found.length > 1) {
    const each = found.map(({ id, replica }) => `${replica}/${id}`).join(' or ');
    console.stderr.write(errorLine('HSW_STREAM_AMBIGUOUS', `several watchdogs have a stream ${target}: write ${each}`));
    return EXIT.failed;
  }
  if (found.length === 0) {
    const isId = STREAM.test(target);
    const problem = isId ? undefined : await unknownNode(api, target.replace(NODE_ID, ''));
    const none = isId ? `there is no open stream ${target}` : `${printable(target)} has no open stream`;
    const advice = 'headscale-watchdog streams lists the open ones';
    console.stderr.write(
      problem === undefined
        ? errorLine('HSW_STREAM_UNKNOWN', `${none}: ${advice}`)
        : errorLine('HSW_NODE_UNKNOWN', problem),
    );
    return EXIT.nothing;
  }
  if (!isSure && !(await isConfirmed(found, console))) return EXIT.failed;
  const outcomes = await Promise.all(found.map((stream) => severOne(api, stream, console)));
  return outcomes.every(Boolean) ? EXIT.done : EXIT.failed;
}

/** A number is the id of a stream. A node's id is written `id:7`, so that a mistake does not sever another node. */
async function find(api: Api, target: string): Promise<readonly StreamView[]> {
  const [isStream, replica, id] = STREAM.exec(target) ?? [];
  if (isStream !== undefined) {
    const { streams } = await api.get<StreamsAnswer>('/streams');
    return streams.filter((each) => each.id === Number(id) && (replica === undefined || each.replica === replica));
  }
  const { streams } = await api.get<StreamsAnswer>('/streams', { node: target.replace(NODE_ID, '') });
  return streams;
}

async function isConfirmed(found: readonly StreamView[], console: Console): Promise<boolean> {
  for (const stream of found) console.stderr.write(`${describe(stream)}, from ${stream.remoteAddress}\n`);
  if (!console.isInteractive) {
    console.stderr.write(errorLine('HSW_NOT_CONFIRMED', 'there is no terminal to confirm it on: add --yes'));
    return false;
  }
  const answer = await console.ask(found.length === 1 ? 'Sever it? [y/N] ' : `Sever all ${found.length}? [y/N] `);
  if (/^y(es)?$/i.test(answer.trim())) return true;
  console.stderr.write('Nothing was severed.\n');
  return false;
}

async function severOne(api: Api, stream: StreamView, console: Console): Promise<boolean> {
  const at = stream.replica === null ? '' : `?${new URLSearchParams({ replica: stream.replica })}`;
  const { status, text } = await api.post(`/streams/${stream.id}/sever${at}`);
  if (status === 202) {
    console.stdout.write(`${stream.replica} is asked to sever ${describe(stream)}\n`);
    return true;
  }
  if (status === 200) {
    console.stdout.write(`severed: ${describe(stream)}\n`);
    return true;
  }
  const { code, message } = apiErrorIn(text);
  console.stderr.write(errorLine(code, `stream ${stream.id} was not severed: ${message}`));
  return false;
}

function describe(stream: StreamView): string {
  return `stream ${stream.id} of ${printable(ownerOf(stream))}`;
}
