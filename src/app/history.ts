import { randomBytes } from 'node:crypto';
import type { PresenceHistory } from '../admin/availability-list.ts';
import type { Config } from '../config/types.ts';
import type { NodeDirectory } from '../headscale/nodes.ts';
import { Attendance } from '../history/attendance.ts';
import { type FoundEvents, History, type HistoryEntry, type HistoryQuery, historyBounds } from '../history/history.ts';
import { HistoryFile } from '../history/history-file.ts';
import { findInFile, type Remembered, readHistory } from '../history/history-reading.ts';
import { KEPT_MS, PresenceLog } from '../history/presence-log.ts';
import { formatRecord, type HistoryRecord, Notes, parseRecord } from '../history/records.ts';
import type { MachineKey } from '../identity/keys.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import type { Events, WatchdogEvent } from '../streams/events.ts';
import type { Registry } from '../streams/registry.ts';
import type { Stream } from '../streams/stream.ts';

interface KeptHistoryOptions {
  readonly clock: Clock;
  readonly events: Events;
  readonly registry: Registry;
  readonly directory: NodeDirectory;
  /** The process that hands over to this one. Until this one is told to go on, only the old one writes to the file. */
  readonly old?: object | undefined;
}

/** What happened, and when nodes were connected. */
export interface KeptHistory {
  readonly history: History;
  readonly presence: PresenceHistory;
  /** When each node was last online before this start. */
  lastOnline(): Iterable<readonly [MachineKey, number]>;
  /** What else is to be remembered beyond a restart. */
  readonly notes: Notes;
  /** Undefined without a file. */
  readonly file: Pick<HistoryFile, 'isWorking' | 'bytes'> | undefined;
  /** The events that match. */
  find(query: HistoryQuery): Promise<FoundEvents>;
  /** Another process is to number the events, and to write to the file. Resolves when this one has written its own. */
  pause(): Promise<void>;
  /** What has been noted here since then, for that process. */
  takeLater(): LaterHistory;
  /** Takes what the process before this one has noted since it handed over. */
  addLater(later: LaterHistory): void;
  /** From now on this process does. */
  goOn(): void;
  close(): Promise<void>;
}

/** What a process notes while another one numbers the events and writes to the file. */
export interface LaterHistory {
  /** Without their numbers. */
  readonly entries: readonly HistoryEntry[];
  /** Of the file. */
  readonly lines: readonly string[];
}

const FORGET_EVERY_MS = 3_600_000;
/** About how many bytes a record of a node's presence has. */
const RECORD_BYTES = 130;

/**
 * Goes on with the history in the file, if there is one, and begins to remember what happens.
 *
 * @throws StartError when the file cannot be used.
 */
export async function openHistory(config: Config, options: KeptHistoryOptions): Promise<KeptHistory> {
  const { clock, events, registry, directory } = options;
  const now = (): number => clock.dateOf(clock.now()).getTime();
  const isListed = (key: MachineKey): boolean => directory.nodeOf(key) !== undefined;
  // Until Headscale has listed its nodes, every key may be a node's.
  const mayBeNode = (key: MachineKey): boolean => !directory.loaded || isListed(key);
  const history = new History(
    clock,
    { nameOf: (key) => directory.nodeOf(key)?.name, isNode: mayBeNode },
    historyBounds(config.limits.history),
  );
  const run = randomBytes(4).toString('hex');
  const log = new PresenceLog(run);
  const startedAt = clock.now();
  let file: HistoryFile | undefined;
  let remembered: Remembered | undefined;
  const write = (record: HistoryRecord): void => file?.append(formatRecord(record), 'seq' in record);
  const notes = new Notes((note, value) => write({ at: now(), note, value }), config.historyFile !== undefined);
  const forget = (): void => log.forgetBefore(now() - KEPT_MS, mayBeNode);

  if (config.historyFile !== undefined) {
    const summary = function* (most: number): Generator<string> {
      log.shrinkTo(most / 2 / RECORD_BYTES, mayBeNode);
      for (const record of log.records()) yield formatRecord(record);
      for (const [note, value] of notes.all()) yield formatRecord({ at: now(), note, value });
    };
    file = new HistoryFile({
      ...{ clock, emit: events.emit, path: config.historyFile, mostBytes: config.limits.historyFileBytes },
      ...{ keptMs: KEPT_MS, summary },
    });
    remembered = await readHistory(file, { history, log, notes, since: now() - KEPT_MS });
    goOn(remembered, history, registry, notes);
  }
  if (options.old !== undefined) {
    history.pause();
    await file?.hold();
  }
  forget();

  // Only nodes have an entry in the log.
  const chosen = new WorthKeeping(
    (stream) => attendance.wasSession(stream) && log.has(stream.machineKey as MachineKey),
    (key) => log.has(key),
  );
  const attendance: Attendance = new Attendance({
    ...{ clock, run, log },
    noted(record) {
      write(record);
      for (const each of chosen.ripe()) write(each);
    },
    nodes: {
      isListed: () => directory.loaded,
      isNode: isListed,
      keys: () => directory.all().map(({ machineKey }) => machineKey),
    },
  });
  if (file !== undefined) {
    history.onEntry((entry, event) => {
      for (const each of chosen.choose(entry, event)) write(each);
    });
  }
  events.listen(history.listen);
  events.listen(attendance.listen);
  events.listen(({ kind }) => {
    if (kind === 'drain_started') file?.endRewrites();
  });
  directory.onRefresh(() => attendance.listed());
  if (remembered !== undefined && config.historyFile !== undefined) {
    const { events: read, skipped } = remembered;
    const tookMs = Math.round(clock.now() - startedAt);
    events.emit({ kind: 'history_file_read', path: config.historyFile, events: read, skipped, tookMs });
  }
  let timer: Timer | undefined;
  const tidy = (): void => {
    forget();
    timer = clock.after(FORGET_EVERY_MS, tidy);
  };
  tidy();
  return {
    ...{ history, notes, file },
    presence: {
      get knownSince() {
        return log.knownSince;
      },
      keys: () => log.keys(),
      has: (key) => log.has(key),
      periods: (key, since, until) => log.periods(key, since, until, attendance.watchedUntil()),
    },
    lastOnline() {
      const times = [...log.keys()].map((key) => [key, log.lastOnlineAt(key) ?? 0] as const);
      return times.filter(([, at]) => at > 0).sort(([, a], [, b]) => a - b);
    },
    find: (query) => findEvents(query, history, file, now() - KEPT_MS),
    async pause() {
      history.pause();
      await file?.hold();
    },
    takeLater: () => ({ entries: history.takeWaiting().map(([entry]) => entry), lines: file?.takeHeld() ?? [] }),
    addLater({ entries, lines }) {
      for (const line of lines) {
        const record = parseRecord(Buffer.from(line));
        if (record === undefined) continue;
        if ('note' in record) notes.read(record.note, record.value);
        else if ('node' in record) log.applyNode(record);
        else if ('run' in record) log.applyRun(record);
        write(record);
      }
      for (const entry of entries) history.add(entry);
    },
    goOn() {
      // When this process read the file, the old one may not have written it yet.
      if (notes.get('series') !== history.run) notes.set('series', history.run);
      file?.release();
      history.goOn();
    },
    async close() {
      timer?.cancel();
      attendance.end();
      await file?.close();
    },
  };
}

/** Numbers go on where they ended, so that neither an event nor a stream has the number of another one. */
function goOn({ lastSeq, lastStream }: Remembered, history: History, registry: Registry, notes: Notes): void {
  const series = notes.get('series');
  if (typeof series === 'string' && /^[0-9a-z]{1,12}$/.test(series)) history.resume(lastSeq, series);
  else notes.set('series', history.run);
  registry.resume(lastStream);
}

/** The events in memory, and those in the file that are older. */
async function findEvents(
  query: HistoryQuery,
  history: History,
  file: HistoryFile | undefined,
  oldest: number,
): Promise<FoundEvents> {
  const { knownSince } = history;
  if (file === undefined) return { entries: history.find(query), knownSince, fromFile: false };
  const inAll = Math.max(file.eventsSince, oldest);
  if (query.since === undefined || query.since >= knownSince) {
    return { entries: history.find(query), knownSince: inAll, fromFile: true };
  }
  const until = Math.min(query.until ?? knownSince, knownSince);
  const older = await findInFile(file, { ...query, since: Math.max(query.since, oldest), until });
  // The search took a while.
  const newer = history.find({ ...query, since: Math.max(knownSince, query.since) });
  const all = [...older, ...newer];
  const { after, limit } = query;
  const found = after === undefined ? all.slice(Math.max(0, all.length - limit)) : all.slice(0, limit);
  return { entries: found, knownSince: inAll, fromFile: true };
}

/**
 * Chooses the events that are worth a place in the file: those at `info` and above, and the beginning and the end of nodes' sessions.
 * While Headscale is down, thousands of tries would push out everything else.
 */
class WorthKeeping {
  readonly #isSession: (stream: Stream) => boolean;
  readonly #isNode: (key: MachineKey) => boolean;
  /** Streams that are open and were no session at the last look. */
  readonly #opened = new Map<Stream, HistoryEntry>();
  readonly #kept = new WeakSet<Stream>();

  constructor(isSession: (stream: Stream) => boolean, isNode: (key: MachineKey) => boolean) {
    this.#isSession = isSession;
    this.#isNode = isNode;
  }

  /** The beginnings of streams that have become sessions. */
  ripe(): HistoryEntry[] {
    const ripe: HistoryEntry[] = [];
    for (const [stream, opened] of this.#opened) {
      if (!this.#isSession(stream)) continue;
      this.#opened.delete(stream);
      this.#kept.add(stream);
      ripe.push(opened);
    }
    return ripe;
  }

  /** @param event undefined if it happened in the process before this one: then it is not known whether it was of a session. */
  choose(entry: HistoryEntry, event: WatchdogEvent | undefined): readonly HistoryEntry[] {
    if (event === undefined) return entry.level !== 'debug' || this.#mayBeSession(entry) ? [entry] : [];
    const isOpening = event.kind === 'stream_opened' && event.stream.machineKey !== undefined;
    if (isOpening && event.stream.kind === 'control') this.#opened.set(event.stream, entry);
    const chosen = this.ripe();
    if (entry.level !== 'debug') chosen.push(entry);
    if (event.kind === 'stream_closed') {
      this.#opened.delete(event.stream);
      if (entry.level === 'debug' && this.#kept.has(event.stream)) chosen.push(entry);
    }
    return chosen;
  }

  #mayBeSession({ kind, subject: { machineKey, streamKind } }: HistoryEntry): boolean {
    if (kind !== 'stream_opened' && kind !== 'stream_closed') return false;
    return streamKind === 'control' && machineKey !== undefined && this.#isNode(machineKey);
  }
}
