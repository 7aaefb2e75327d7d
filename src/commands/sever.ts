import type { StreamView } from '../admin/stream-view.ts';
import { type Api, type StreamsAnswer, unknownNode } from './ask.ts';
import type { Console } from './console.ts';
import { EXIT, type ExitCode } from './exit.ts';
import { ownerOf } from './streams.ts';
import { plain } from './table.ts';

const NODE_ID = /^id:(?=\d+$)/;
/** The replica before it only where there are several: a stream's id is its own watchdog's. */
const STREAM = /^(?:(.+)\/)?(\d+)$/;

/** Severs one stream, by its id, or every stream of a node, after a question. */
export async function sever(api: Api, target: string, isSure: boolean, console: Console): Promise<ExitCode> {
  const found = await find(api, target);
  if (STREAM.test(target) && found.length > 1) {
    const each = found.map(({ id, replica }) => `${replica}/${id}`).join(' or ');
    console.stderr.write(`headscale-watchdog: several watchdogs have a stream ${target}: write ${each}\n`);
    return EXIT.failed;
  }
  if (found.length === 0) {
    const isId = STREAM.test(target);
    const problem = isId ? undefined : await unknownNode(api, target.replace(NODE_ID, ''));
    const none = isId ? `there is no open stream ${target}` : `${plain(target)} has no open stream`;
    const cure = 'headscale-watchdog streams lists those that are open';
    console.stderr.write(`headscale-watchdog: ${problem ?? `${none}: ${cure}`}\n`);
    return EXIT.nothing;
  }
  if (!isSure && !(await isConfirmed(found, console))) return EXIT.failed;
  const outcomes = await Promise.all(found.map((stream) => severOne(api, stream, console)));
  return outcomes.every(Boolean) ? EXIT.done : EXIT.failed;
}

/** A number is a stream's: a node's id is written `id:7`, so that no slip severs somebody else. */
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
    console.stderr.write('headscale-watchdog: nobody is there to confirm it: add --yes\n');
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
  console.stderr.write(`headscale-watchdog: stream ${stream.id} was not severed: ${text.trim()}\n`);
  return false;
}

function describe(stream: StreamView): string {
  return `stream ${stream.id} of ${plain(ownerOf(stream))}`;
}
