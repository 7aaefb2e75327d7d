import type { FoundEvents, History, HistoryEntry, HistoryQuery } from '../history/history.ts';
import { formatMachineKey, type MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import { isoTime } from '../lib/clock.ts';
import type { StreamId } from '../streams/stream.ts';
import { withName } from '../telemetry/event-phrases.ts';
import { LEVELS } from '../telemetry/event-rows.ts';
import { EVENT_KINDS } from '../telemetry/event-table.ts';
import { checkOrder, ParameterError, Parameters } from './parameters.ts';
import { nodeView } from './stream-list.ts';
import type { EventList, EventView } from './views.ts';

const BY_DEFAULT = 100;
const MOST = 20_000;

type Counted = Pick<History, 'run' | 'lastSeq'>;

/** The parameters of `/events` and of its live feed. @throws ParameterError */
export function eventQuery(
  query: URLSearchParams,
  history: Counted,
  keysOf: (node: string) => ReadonlySet<MachineKey>,
  now: number,
): HistoryQuery {
  const given = new Parameters(query, ['after', 'since', 'until', 'limit', 'node', 'stream', 'kind', 'level']);
  const node = given.text('node');
  const [since, until] = [given.time('since', now), given.time('until', now)];
  if (since !== undefined && until !== undefined) checkOrder(since, until);
  return {
    since,
    until,
    after: afterIn(given, history),
    limit: given.number('limit', 1, MOST) ?? BY_DEFAULT,
    machineKeys: node === undefined ? undefined : keysOf(node),
    stream: given.number('stream', 1, Number.MAX_SAFE_INTEGER) as StreamId | undefined,
    kinds: given.words('kind', EVENT_KINDS),
    levels: given.words('level', LEVELS),
  };
}

/** The number of the last event that the client knows: a `seq`, or what `next` was. 0 if it is from an earlier run. */
function afterIn(given: Parameters, { run, lastSeq }: Counted): number | undefined {
  const [, itsRun = run, seq] = /^(?:([0-9a-z]{1,12})-)?(\d{1,15})$/.exec(given.text('after') ?? '') ?? [];
  if (seq !== undefined) return itsRun === run && Number(seq) <= lastSeq ? Number(seq) : 0;
  if (given.text('after') === undefined) return undefined;
  throw new ParameterError('after= is invalid. Use the seq of an event, or what next was in an answer.');
}

/**
 * The events that match, and where to go on.
 *
 * @param before what the history counted before it was searched. More may have been found: a file is not read at once.
 */
export function listEvents(
  before: Counted,
  { after, limit, since }: HistoryQuery,
  { entries, knownSince, fromFile }: FoundEvents,
  view: (entry: HistoryEntry) => EventView,
): EventList {
  const { run } = before;
  const lastSeq = Math.max(before.lastSeq, entries.at(-1)?.seq ?? 0);
  const isPart = after !== undefined && entries.length === limit;
  const next = `${run}-${isPart ? (entries.at(-1)?.seq ?? lastSeq) : lastSeq}`;
  const asked = since === undefined ? null : isoTime(since);
  return { lastSeq, next, since: asked, knownSince: isoTime(knownSince), fromFile, events: entries.map(view) };
}

/** An entry as `/events` shows it. */
export function eventView(
  { seq, at, kind, level, code, subject, sentence }: HistoryEntry,
  node: NodeInfo | undefined,
): EventView {
  const { machineKey, stream, streamKind, otherStream, remoteAddress, reason, silentMs, kernel } = subject;
  return {
    seq,
    time: isoTime(at),
    level,
    code: code ?? null,
    kind,
    machineKey: machineKey === undefined ? null : formatMachineKey(machineKey),
    node: node === undefined ? null : nodeView(node),
    stream: stream ?? null,
    streamKind: streamKind ?? null,
    otherStream: otherStream ?? null,
    remoteAddress: remoteAddress ?? null,
    reason: reason ?? null,
    silentMs: silentMs ?? null,
    kernel: kernel ?? null,
    // The name of a node that was just registering is known by now.
    sentence: machineKey && node ? withName(sentence, machineKey, node.name) : sentence,
  };
}
