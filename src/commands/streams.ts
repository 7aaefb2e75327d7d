import type { StreamView } from '../admin/stream-view.ts';
import { span } from '../history/span.ts';
import type { Api, StreamsAnswer } from './ask.ts';
import { type Console, coloured } from './console.ts';
import { EXIT, type ExitCode } from './exit.ts';
import { type Column, plain, tableLines } from './table.ts';

export interface StreamsOptions {
  readonly node?: string;
  readonly state?: string;
  readonly kind?: string;
  readonly search?: string;
  readonly sort?: string;
  readonly json?: boolean;
  readonly watch?: boolean;
}

const EVERY_MS = 2000;
const CLEAR = '\x1b[H\x1b[2J\x1b[3J';

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

/** Lists the open streams. */
export async function showStreams(api: Api, options: StreamsOptions, console: Console): Promise<ExitCode> {
  const { node, state, kind, search, sort } = options;
  for (;;) {
    const answer = await api.get<StreamsAnswer>('/streams', { node, state, kind, q: search, sort });
    if (options.json) console.stdout.write(`${JSON.stringify(answer, undefined, options.watch ? undefined : 2)}\n`);
    else {
      const text = `${linesOf(answer, console).join('\n')}\n`;
      // Without a terminal there is no screen to clear: the tables follow each other.
      console.stdout.write(options.watch && console.width !== undefined ? `${CLEAR}${text}` : text);
    }
    if (!options.watch) return answer.total > 0 ? EXIT.done : EXIT.nothing;
    await console.pause(EVERY_MS);
    if (console.signal.aborted) return EXIT.done;
  }
}

function linesOf({ streams, total }: StreamsAnswer, console: Console): readonly string[] {
  if (total === 0) return ['No stream matches.'];
  const now = Date.now();
  // Only where there are several watchdogs is it worth a column which of them has a stream.
  const hasReplicas = streams.some(({ replica }) => replica !== null);
  const [head = '', ...rows] = tableLines(
    hasReplicas ? [...COLUMNS, { title: 'REPLICA' }] : COLUMNS,
    streams.map((stream) => [...rowOf(stream, now), ...(hasReplicas ? [stream.replica ?? ''] : [])]),
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
    ...[String(id), plain(ownerOf(stream)), remoteAddress],
    ...[span(Math.round((now - Date.parse(openedAt)) / 1000) * 1000), ago(now - Date.parse(lastHeardAt))],
    kernel === null ? '-' : `${kernel.rttMs < 10 ? kernel.rttMs.toFixed(1) : Math.round(kernel.rttMs)} ms`,
    ...[amount(bytesReceived), amount(bytesSent), stateOf(stream)],
  ];
}

export function ownerOf({ node, machineKey, kind }: StreamView): string {
  if (node !== null) return node.name;
  return machineKey === null ? `(${kind}, not identified)` : `${machineKey.slice(0, 13)}…`;
}

function stateOf({ state, contests, wouldSever }: StreamView): string {
  if (wouldSever !== null) return `${state}, would sever: ${wouldSever}`;
  const contest = contests[0];
  if (contest === undefined) return state;
  return contest.role === 'old' ? `${state}, contested by ${contest.against}` : `${state}, against ${contest.against}`;
}

function ago(ms: number): string {
  return `${span(Math.max(0, Math.round(ms / 1000)) * 1000).replace(/^0 ms$/, '0 s')} ago`;
}

function amount(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1_000_000) return `${(bytes / 1000).toFixed(1)} kB`;
  return `${(bytes / 1_000_000).toFixed(1)} MB`;
}
