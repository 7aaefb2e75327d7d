import type { PresenceView, StreamView } from '../admin/views.ts';
import { ERRORS, type ExitErrorCode, errorLine } from '../lib/errors.ts';
import { printable } from '../lib/text.ts';
import { span } from '../lib/units.ts';
import { lastSignAgoMs } from '../nodes/presence.ts';
import { type Api, apiErrorIn, type NodesAnswer, nodesCalled, notAmong, type StreamsAnswer } from './admin-client.ts';
import { type Column, type Console, coloured, EXIT, type ExitCode, showScreen, tableOf } from './terminal.ts';

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
  { title: 'NODE', isName: true },
  { title: 'ADDRESS' },
  { title: 'OPEN FOR', isNumber: true, leaveOut: 4 },
  { title: 'LAST SIGN', isNumber: true, leaveOut: 6 },
  { title: 'RTT', isNumber: true, leaveOut: 3 },
  { title: 'IN', isNumber: true, leaveOut: 1 },
  { title: 'OUT', isNumber: true, leaveOut: 2 },
  { title: 'STATE' },
];

/** The columns that show what `--sort` sorts by, as far as a narrow terminal may leave them out. */
const SORTED_BY: Readonly<Record<string, string>> = { opened: 'OPEN FOR', rtt: 'RTT', bytes: 'IN', heard: 'LAST BYTE' };

interface MoreColumn extends Column {
  /** @param sort what the table is sorted by. */
  isShown(stream: StreamView, sort: string | undefined): boolean;
  of(stream: StreamView, now: number): string;
}

/** Columns that are shown if they say something about any of the streams. */
const MORE_COLUMNS: readonly MoreColumn[] = [
  {
    title: 'LAST BYTE',
    isNumber: true,
    isShown: (_stream, sort) => sort === 'heard',
    of: ({ lastHeardAt }, now) => ago(now - Date.parse(lastHeardAt)),
  },
  {
    title: 'EVIDENCE',
    leaveOut: 5,
    isShown: ({ evidence }) => evidence.source !== 'direct',
    of: ({ evidence }) => evidence.source,
  },
  { title: 'REPLICA', isShown: ({ replica }) => replica !== null, of: ({ replica }) => replica ?? '' },
];

/** Lists the open streams. */
export async function showStreams(api: Api, options: StreamsOptions, console: Console): Promise<ExitCode> {
  const { node, state, kind, search, sort, limit } = options;
  const query = { node, state: state?.join(), kind: kind?.join(), q: search, sort, limit };
  for (;;) {
    const answer = await api.get<StreamsAnswer>('/streams', query);
    if (options.json) console.stdout.write(`${JSON.stringify(answer, undefined, options.watch ? undefined : 2)}\n`);
    else showScreen(console, linesOf(answer, console, sort), options.watch === true);
    if (!options.watch) {
      if (answer.total > 0) return EXIT.done;
      if (node !== undefined) await tellWhyNoStream(api, node, console);
      return EXIT.nothing;
    }
    await console.pause(EVERY_MS);
    if (console.signal.aborted) return EXIT.done;
  }
}

/** Tells a node that nobody knows from one that is not connected, and from one of which the other flags leave nothing. */
async function tellWhyNoStream(api: Api, node: string, console: Console): Promise<void> {
  const { nodes } = await api.get<NodesAnswer>('/nodes');
  const [found] = nodesCalled(node, nodes);
  if (found === undefined) console.stderr.write(errorLine('HSW_NODE_UNKNOWN', notAmong(node, nodes)));
  else if (found.streams.length === 0) console.stderr.write(errorLine('HSW_STREAM_UNKNOWN', noStreamOf(found)));
  else console.stderr.write(`${printable(node)} has a stream, but the other flags leave none of it.\n`);
}

/** Why a known node has no stream. */
function noStreamOf({ name, machineKey, state, lastSignAt }: PresenceView): string {
  const who = printable(name ?? machineKey);
  if (lastSignAt === null) return `${who} has no open stream: the watchdog has had no sign of it since it started`;
  const ended = `headscale-watchdog events --node ${who} says why its last one ended`;
  return `${who} has no open stream: it is ${state}, and its last sign of life was ${ago(Date.now() - Date.parse(lastSignAt))}; ${ended}`;
}

function linesOf({ streams, total }: StreamsAnswer, console: Console, sort: string | undefined): readonly string[] {
  if (total === 0) return ['No stream matches.'];
  const now = Date.now();
  const sortedBy = sort?.replace(/^-/, '');
  const more = MORE_COLUMNS.filter(({ isShown }) => streams.some((stream) => isShown(stream, sortedBy)));
  const { head, rows, note } = tableOf(
    [...COLUMNS, ...more],
    streams.map((stream) => [...rowOf(stream, now), ...more.map(({ of }) => of(stream, now))]),
    console.width,
    SORTED_BY[sortedBy ?? ''],
  );
  const lines = rows.map((line, index) => {
    const isCalm = streams[index]?.state === 'open' && streams[index]?.contests.length === 0;
    return isCalm ? line : coloured(console, 'yellow', line);
  });
  return [coloured(console, 'faint', head), ...lines, ...footOf(console, note, streams.length, total)];
}

/** What stands below a table: how much of it is shown. */
export function footOf(console: Console, note: string | undefined, shown: number, total: number): readonly string[] {
  const texts = [shown < total ? `${shown} of ${total} are shown.` : undefined, note];
  return texts.flatMap((text) => (text === undefined ? [] : [coloured(console, 'faint', text)]));
}

function rowOf(stream: StreamView, now: number): readonly string[] {
  const { id, remoteAddress, openedAt, lastHeardAt, kernel, bytesReceived, bytesSent } = stream;
  return [
    ...[String(id), printable(ownerOf(stream)), remoteAddress],
    ...[lasting(now - Date.parse(openedAt)), ago(lastSignAgoMs(now - Date.parse(lastHeardAt), kernel ?? undefined))],
    kernel === null || kernel.ended ? '-' : roundTrip(kernel.rttMs),
    ...[amount(bytesReceived), amount(bytesSent), stateOf(stream)],
  ];
}

function ownerOf({ node, machineKey, kind }: StreamView): string {
  if (node !== null) return node.name;
  return machineKey ?? `(${kind}, not identified)`;
}

function stateOf({ state, contests, wouldSever }: StreamView): string {
  if (wouldSever !== null) return `${state}, would sever: ${wouldSever}`;
  const contest = contests[0];
  if (contest === undefined) return state;
  const twins = contests.some(({ waitingFor }) => waitingFor === 'guard') ? ', two machines?' : '';
  return contest.role === 'old'
    ? `${state}, contested by ${contest.otherStream}${twins}`
    : `${state}, against ${contest.otherStream}${twins}`;
}

export function ago(ms: number): string {
  return `${lasting(ms)} ago`;
}

/** In whole seconds: `0 s`, `14 min`. */
export function lasting(ms: number): string {
  return span(wholeSeconds(Math.max(0, ms))).replace(/^0 ms$/, '0 s');
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
  if (bytes < 1_000_000_000) return `${(bytes / 1_000_000).toFixed(1)} MB`;
  return `${(bytes / 1_000_000_000).toFixed(1)} GB`;
}

const NODE_ID = /^id:(?=\d+$)/;
/** `12`, or with several watchdogs `replica/12`, because each watchdog numbers its own streams. */
const STREAM = /^(?:(.+)\/)?(\d+)$/;

/** Severs one stream by its id, or every stream of a node. It asks first, unless `isSure`. */
export async function sever(api: Api, target: string, isSure: boolean, console: Console): Promise<ExitCode> {
  const found = await (STREAM.test(target) ? streamsOf(api, target) : streamsOfNode(api, target.replace(NODE_ID, '')));
  if ('problem' in found) {
    console.stderr.write(found.problem);
    return found.exit;
  }
  if (!isSure && !(await isConfirmed(found.streams, console))) return EXIT.failed;
  const outcomes = await Promise.all(found.streams.map((stream) => severOne(api, stream, console)));
  return outcomes.every(Boolean) ? EXIT.done : EXIT.failed;
}

type Found = { readonly streams: readonly StreamView[] } | { readonly problem: string; readonly exit: ExitCode };

function not(code: ExitErrorCode, text: string): Found {
  return { problem: errorLine(code, text), exit: ERRORS[code].exit };
}

/** A number is the id of a stream. A node's id is written `id:7`, so that a mistake does not sever another node. */
async function streamsOf(api: Api, target: string): Promise<Found> {
  const [, replica, id] = STREAM.exec(target) ?? [];
  const { streams: all } = await api.get<StreamsAnswer>('/streams');
  const streams = all.filter((each) => each.id === Number(id) && (replica === undefined || each.replica === replica));
  if (streams.length === 1) return { streams };
  if (streams.length > 1) {
    const each = streams.map((stream) => `${stream.replica}/${stream.id}`).join(' or ');
    return not('HSW_STREAM_AMBIGUOUS', `several watchdogs have a stream ${target}: write ${each}`);
  }
  const advice = `headscale-watchdog streams lists the open ones; for the node with this id, write id:${id}`;
  return not('HSW_STREAM_UNKNOWN', `there is no open stream ${target}: ${advice}`);
}

/** The streams of one node. Several nodes with that name are not severed all together, because only one was meant. */
async function streamsOfNode(api: Api, node: string): Promise<Found> {
  const { nodes } = await api.get<NodesAnswer>('/nodes');
  const [meant, ...others] = nodesCalled(node, nodes);
  if (meant === undefined) return not('HSW_NODE_UNKNOWN', notAmong(node, nodes));
  if (others.length > 0) {
    const each = [meant, ...others].map(
      ({ machineKey, user, state }) => `${machineKey} (${user ? `${printable(user)}, ` : ''}${state})`,
    );
    return not(
      'HSW_NODE_AMBIGUOUS',
      `several nodes are called '${printable(node)}': write the key of one, ${each.join(' or ')}`,
    );
  }
  const { streams } = await api.get<StreamsAnswer>('/streams', { node: meant.machineKey });
  return streams.length > 0 ? { streams } : not('HSW_STREAM_UNKNOWN', noStreamOf(meant));
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
