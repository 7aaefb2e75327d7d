import type { MachineKey } from '../identity/keys.ts';
import type { Clock } from '../lib/clock.ts';
import type { ErrorCode } from '../lib/errors.ts';
import { compact } from '../lib/text.ts';
import type { EventKind, WatchdogEvent } from '../streams/events.ts';
import type { StreamId } from '../streams/stream.ts';
import type { EventSubject, NameOf } from '../telemetry/event-phrases.ts';
import type { Level } from '../telemetry/event-rows.ts';
import { describeEvent, errorCodeOf, levelOf, subjectOf } from '../telemetry/event-table.ts';
import { type Minute, Minutes } from './minutes.ts';

/** One event, described with what was known when it happened. */
export interface HistoryEntry {
  /** The number of the event, from 1. Numbers are missing where an entry was not kept. */
  readonly seq: number;
  /** Milliseconds of the Unix epoch. */
  readonly at: number;
  readonly kind: EventKind;
  readonly level: Level;
  /** The code, if the event is a warning or an error. */
  readonly code: ErrorCode | undefined;
  readonly subject: EventSubject;
  readonly sentence: string;
}

/** Which entries to find. A field that is undefined matches all entries. */
export interface HistoryQuery {
  /** Only entries after this number, the oldest first. Undefined: the newest entries. */
  readonly after: number | undefined;
  readonly limit: number;
  readonly machineKeys: ReadonlySet<MachineKey> | undefined;
  readonly stream: StreamId | undefined;
  readonly kinds: ReadonlySet<string> | undefined;
  /** Only entries of these levels. */
  readonly levels: ReadonlySet<Level> | undefined;
  /** Only entries from then on, in milliseconds of the Unix epoch. */
  readonly since: number | undefined;
  /** Only entries before then. */
  readonly until: number | undefined;
}

export interface FoundEvents {
  /** Oldest first. */
  readonly entries: readonly HistoryEntry[];
  /** Since when every event is known. */
  readonly knownSince: number;
  /** Whether a file keeps them. */
  readonly fromFile: boolean;
}

export interface HistoryBounds {
  readonly ofNodes: number;
  /** How many entries about no node are kept. They have their own limit, so that strangers cannot push out the nodes' history. */
  readonly ofOthers: number;
  readonly ageMs: number;
}

/** @param most how many entries about nodes are kept. */
export function historyBounds(most: number): HistoryBounds {
  return { ofNodes: most, ofOthers: Math.ceil(most / 10), ageMs: 24 * 3_600_000 };
}

export interface HistoryPorts {
  readonly nameOf: NameOf;
  /** Whether Headscale knows the key; true while that is not known. */
  isNode(key: MachineKey): boolean;
}

/** What one process has noted, for the next. */
export interface HandedHistory {
  /** Oldest first. */
  readonly entries: readonly HistoryEntry[];
  readonly run: string;
  readonly lastSeq: number;
  /** Since when the entries are complete. */
  readonly since: number;
  readonly minutes: ReturnType<Minutes['all']>;
}

/** @param event undefined if it happened in the process before this one. */
type EntryListener = (entry: HistoryEntry, event: WatchdogEvent | undefined) => void;

/** The events of the last day. They are kept in memory, up to a limit. */
export class History {
  readonly #clock: Clock;
  readonly #ports: HistoryPorts;
  readonly #ofNodes: Recent;
  readonly #ofOthers: Recent;
  readonly #minutes = new Minutes();
  readonly #listeners = new Set<EntryListener>();
  readonly #ageMs: number;
  #lastSeq = 0;
  /** Entries that have no number yet; undefined while this process numbers them. */
  #waiting: Parameters<EntryListener>[] | undefined;
  #beganAt: number;
  #run: string;

  constructor(clock: Clock, ports: HistoryPorts, bounds: HistoryBounds) {
    this.#clock = clock;
    this.#run = this.#now().toString(36);
    this.#ports = ports;
    this.#ofNodes = new Recent(bounds.ofNodes);
    this.#ofOthers = new Recent(bounds.ofOthers);
    this.#ageMs = bounds.ageMs;
    this.#beganAt = this.#now();
  }

  /** Takes an entry of an earlier run. Call it before the first event, oldest first. */
  remember(entry: HistoryEntry): void {
    this.#keep(entry);
  }

  /** @param since from when on the entries of earlier runs are complete. */
  rememberSince(since: number): void {
    this.#beganAt = Math.min(this.#beganAt, since);
  }

  /** Goes on counting where the earlier runs have ended. @param run what they called themselves. */
  resume(lastSeq: number, run: string): void {
    this.#lastSeq = lastSeq;
    this.#run = run;
  }

  /** All that is known, for the process that goes on with it. */
  everything(): HandedHistory {
    const all = [...this.#ofNodes.all(), ...this.#ofOthers.all()];
    const { run, lastSeq, knownSince: since } = this;
    return { entries: all.sort((a, b) => a.seq - b.seq), run, lastSeq, since, minutes: this.#minutes.all() };
  }

  /** Goes on with what another process has noted. */
  takeOver({ entries, run, lastSeq, since, minutes }: HandedHistory): void {
    for (const recent of [this.#ofNodes, this.#ofOthers]) recent.clear();
    for (const entry of entries) this.remember(entry);
    this.resume(lastSeq, run);
    this.rememberSince(since);
    this.#minutes.resume(minutes);
  }

  /** From now on another process numbers the events. What happens here waits, and nobody sees it. */
  pause(): void {
    this.#waiting ??= [];
  }

  /** From now on this process numbers the events: first those that wait. */
  goOn(): void {
    const waiting = this.takeWaiting();
    this.#waiting = undefined;
    for (const [entry, event] of waiting) this.#number(entry, event);
  }

  /** The entries that wait for a number. They wait here no longer. */
  takeWaiting(): readonly Parameters<EntryListener>[] {
    return this.#waiting?.splice(0) ?? [];
  }

  /** Takes an entry that the process before this one has noted since it handed over. */
  add(entry: HistoryEntry): void {
    this.#number(entry, undefined);
  }

  readonly listen = (event: WatchdogEvent): void => {
    const at = this.#now();
    this.#minutes.listen(event, at);
    // Repetitions would push out everything else. They are counted, and logged at `debug`.
    if ('isNews' in event && !event.isNews) return;
    const level = levelOf(event);
    if (level === undefined) return;
    const subject = subjectOf(event);
    const sentence = compact(describeEvent(event, this.#ports.nameOf));
    const code = errorCodeOf(event);
    this.#number({ seq: 0, at, kind: event.kind, level, code, subject, sentence }, event);
  };

  /** @returns a function that removes the listener. */
  onEntry(listener: EntryListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Names the runs that count their events together. Without a history file, the next run counts from the beginning. */
  get run(): string {
    return this.#run;
  }

  get lastSeq(): number {
    return this.#lastSeq;
  }

  /** Since when every entry is here. */
  get knownSince(): number {
    return Math.max(this.#beganAt, this.#now() - this.#ageMs, this.#ofNodes.lostUntil, this.#ofOthers.lostUntil);
  }

  get size(): number {
    this.#forget();
    return this.#ofNodes.size + this.#ofOthers.size;
  }

  /** @returns matching entries, oldest first. If there are more than `limit`: the newest, or with `after` the next ones after it. */
  find(query: HistoryQuery): readonly HistoryEntry[] {
    this.#forget();
    const { after = 0, limit } = query;
    const found = [...this.#ofNodes.all(), ...this.#ofOthers.all()].filter((each) => matches(each, query, after));
    found.sort((a, b) => a.seq - b.seq);
    return query.after === undefined ? found.slice(Math.max(0, found.length - limit)) : found.slice(0, limit);
  }

  lastHour(): readonly Minute[] {
    return this.#minutes.lastHour(this.#now());
  }

  #number({ at, kind, level, code, subject, sentence }: HistoryEntry, event: WatchdogEvent | undefined): void {
    const seq = this.#waiting === undefined ? ++this.#lastSeq : 0;
    const entry = { seq, at, kind, level, code, subject, sentence };
    if (this.#waiting !== undefined) {
      this.#waiting.push([entry, event]);
      return;
    }
    this.#keep(entry);
    for (const listener of this.#listeners) listener(entry, event);
  }

  #keep(entry: HistoryEntry): void {
    const { machineKey } = entry.subject;
    const isOfNode = machineKey !== undefined && this.#ports.isNode(machineKey);
    (isOfNode ? this.#ofNodes : this.#ofOthers).add(entry);
  }

  #forget(): void {
    const oldest = this.#now() - this.#ageMs;
    for (const recent of [this.#ofNodes, this.#ofOthers]) recent.forgetBefore(oldest);
  }

  #now(): number {
    return this.#clock.dateOf(this.#clock.now()).getTime();
  }
}

export function matches(entry: HistoryEntry, query: Omit<HistoryQuery, 'limit' | 'after'>, after: number): boolean {
  const { machineKeys, stream, kinds, levels, since = entry.at, until = Number.POSITIVE_INFINITY } = query;
  const { machineKey, stream: own, otherStream } = entry.subject;
  if (entry.seq <= after || entry.at < since || entry.at >= until) return false;
  if (kinds !== undefined && !kinds.has(entry.kind)) return false;
  if (levels !== undefined && !levels.has(entry.level)) return false;
  if (stream !== undefined && own !== stream && otherStream !== stream) return false;
  return machineKeys === undefined || (machineKey !== undefined && machineKeys.has(machineKey));
}

/** Keeps the newest entries, up to `most`, in order of arrival. */
export class Recent {
  readonly #most: number;
  #kept: HistoryEntry[] = [];
  /** How many entries at the start of `#kept` are forgotten. A removal moves the whole array, so they are removed in batches. */
  #forgotten = 0;
  #lostUntil = 0;

  constructor(most: number) {
    this.#most = most;
  }

  clear(): void {
    this.#kept = [];
    this.#forgotten = 0;
  }

  /** When the last entry happened that was forgotten for lack of room. */
  get lostUntil(): number {
    return this.#lostUntil;
  }

  get size(): number {
    return this.#kept.length - this.#forgotten;
  }

  add(entry: HistoryEntry): void {
    this.#kept.push(entry);
    if (this.size > this.#most) {
      this.#lostUntil = (this.#kept[this.#forgotten]?.at ?? 0) + 1;
      this.#forgotten += 1;
    }
    this.#tidy();
  }

  all(): readonly HistoryEntry[] {
    return this.#forgotten === 0 ? this.#kept : this.#kept.slice(this.#forgotten);
  }

  forgetBefore(at: number): void {
    while (this.#forgotten < this.#kept.length && (this.#kept[this.#forgotten]?.at ?? at) < at) this.#forgotten += 1;
    this.#tidy();
  }

  #tidy(): void {
    if (this.#forgotten < 1 + this.#most / 10 && this.size > 0) return;
    this.#kept = this.#kept.slice(this.#forgotten);
    this.#forgotten = 0;
  }
}
