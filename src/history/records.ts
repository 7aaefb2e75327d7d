import { formatMachineKey, type MachineKey, parseMachineKey } from '../identity/keys.ts';
import { isErrorCode } from '../lib/errors.ts';
import { fieldsOf, hasFields, type JsonFields, parseJson } from '../lib/json.ts';
import { STREAM_KINDS, type StreamId, type StreamKind } from '../streams/stream.ts';
import type { EventSubject } from '../telemetry/event-phrases.ts';
import { LEVELS } from '../telemetry/event-rows.ts';
import { EVENT_KINDS } from '../telemetry/event-table.ts';
import type { HistoryEntry } from './history.ts';
import type { NodeRecord, RunRecord } from './presence-log.ts';

/*
 * The lines of a history file. Each is one JSON object that begins with its version and its time:
 *
 *   {"v":1,"at":1764230400000,"run":"5f3a9c21","since":1764229000000}                      a watchdog ran from `since` until `at`
 *   {"v":1,"at":1764230400000,"run":"5f3a9c21","node":"mkey:…"}                            a node came online
 *   {"v":1,"at":1764230400000,"run":"5f3a9c21","node":"mkey:…","since":1764229000000}      it was online from `since` until `at`
 *   {"v":1,"at":1764230400000,"seq":17,"stream":4,"kind":"stream_opened","level":…}        an event
 *   {"v":1,"at":1764230400000,"note":"expiring/7","value":…}                               something to remember; null: no more
 */

/** Something to remember beyond a restart. A later note of the same name replaces it. */
interface NoteRecord {
  readonly at: number;
  readonly note: string;
  readonly value: unknown;
}

export type HistoryRecord = RunRecord | NodeRecord | HistoryEntry | NoteRecord;

const VERSION = 1;

/** The line of a record, with its line break. */
export function formatRecord(record: HistoryRecord): string {
  return `${JSON.stringify(fieldsToWrite(record))}\n`;
}

/** Spread operators would take most of the time that an event takes. */
function fieldsToWrite(record: HistoryRecord): object {
  const { at } = record;
  if ('note' in record) return { v: VERSION, at, note: record.note, value: record.value };
  if ('node' in record) {
    return { v: VERSION, at, run: record.run, node: formatMachineKey(record.node), since: record.since };
  }
  if ('run' in record) return { v: VERSION, at, run: record.run, since: record.since };
  const { seq, kind, level, code, sentence, subject } = record;
  const { machineKey, stream, streamKind, otherStream, remoteAddress, reason, silentMs, kernel } = subject;
  const key = machineKey === undefined ? undefined : formatMachineKey(machineKey);
  return {
    v: VERSION,
    at,
    seq,
    stream,
    kind,
    level,
    code,
    machineKey: key,
    streamKind,
    otherStream,
    remoteAddress,
    reason,
    silentMs,
    kernel,
    sentence,
  };
}

/** The beginning of an event's line: enough to know whether the rest is of interest. */
export interface EventHead {
  readonly at: number;
  readonly seq: number;
  readonly stream: number | undefined;
}

const HEAD_BYTES = 80;
const HEAD = /^\{"v":1,"at":(\d{12,14}),"seq":(\d{1,15}),(?:"stream":(\d{1,15}),)?"kind":"/;

/** @returns undefined if the line is no event, or was not written by this program. */
export function eventHeadOf(line: Buffer): EventHead | undefined {
  const [, at, seq, stream] = HEAD.exec(line.toString('latin1', 0, HEAD_BYTES)) ?? [];
  if (at === undefined || seq === undefined) return undefined;
  return { at: Number(at), seq: Number(seq), stream: stream === undefined ? undefined : Number(stream) };
}

/** @returns undefined if the line is torn, garbled, or of a later version. */
export function parseRecord(line: Buffer): HistoryRecord | undefined {
  const fields = fieldsOf(parseJson(line.toString()));
  const { v, at } = fields;
  if (v !== VERSION || !isTime(at)) return undefined;
  if (typeof fields.note === 'string') return { at, note: fields.note, value: fields.value };
  if ('node' in fields) return nodeRecord(at, fields);
  if ('run' in fields) {
    const { run, since } = fields;
    return isName(run) && isTime(since) && since <= at ? { at, run, since } : undefined;
  }
  return entryOf(at, fields);
}

/** Whether a line of a later version should stay where it is. @returns its time. */
export function timeOfLaterVersion(line: Buffer): number | undefined {
  const { v, at } = fieldsOf(parseJson(line.toString()));
  return typeof v === 'number' && v > VERSION && isTime(at) ? at : undefined;
}

/** In milliseconds since 1970, between 2001 and 2286. */
function isTime(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 1e12 && (value as number) < 1e13;
}

function isName(value: unknown): value is string {
  return typeof value === 'string' && /^[\w-]{1,40}$/.test(value);
}

function nodeRecord(at: number, { node, run, since }: JsonFields): NodeRecord | undefined {
  const key = typeof node === 'string' ? parseMachineKey(node) : undefined;
  if (key === undefined || (run !== undefined && !isName(run))) return undefined;
  if (since !== undefined && (!isTime(since) || since > at)) return undefined;
  return since === undefined && run === undefined ? undefined : { at, run, node: key, since };
}

function entryOf(at: number, fields: JsonFields): HistoryEntry | undefined {
  const { seq, code, sentence } = fields;
  const kind = EVENT_KINDS.find((each) => each === fields.kind);
  const level = LEVELS.find((each) => each === fields.level);
  if (!isCount(seq) || kind === undefined || level === undefined || typeof sentence !== 'string') return undefined;
  if (code !== undefined && !isErrorCode(code)) return undefined;
  const subject = subjectOf(fields);
  return subject && { seq, at, kind, level, code, subject, sentence };
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 1;
}

function subjectOf(fields: JsonFields): EventSubject | undefined {
  const { machineKey, stream, otherStream, streamKind, remoteAddress, reason, silentMs, kernel } = fields;
  const key = typeof machineKey === 'string' ? parseMachineKey(machineKey) : undefined;
  const isGood =
    (machineKey === undefined || key !== undefined) &&
    [stream, otherStream].every((id) => id === undefined || isCount(id)) &&
    (streamKind === undefined || (STREAM_KINDS as readonly unknown[]).includes(streamKind)) &&
    [remoteAddress, reason].every((text) => text === undefined || typeof text === 'string') &&
    (silentMs === undefined || typeof silentMs === 'number') &&
    (kernel === undefined || isKernel(kernel));
  if (!isGood) return undefined;
  const found = { machineKey: key as MachineKey | undefined, stream: stream as StreamId | undefined };
  const more = { otherStream: otherStream as StreamId | undefined, streamKind: streamKind as StreamKind | undefined };
  const rest = { remoteAddress, reason, silentMs, kernel } as Pick<EventSubject, 'remoteAddress' | 'reason'>;
  // A subject has no members that are undefined.
  return Object.fromEntries(
    Object.entries({ ...found, ...more, ...rest }).filter(([, value]) => value !== undefined),
  ) as EventSubject;
}

const KERNEL_COUNTS = ['unackedSegments', 'unsentBytes', 'ackedBytes', 'retransmits', 'unansweredProbes'];
const KERNEL_TIMES = ['receivedAgoMs', 'rttMs', 'rttvarMs'];

function isKernel(value: unknown): boolean {
  if (!hasFields(value)) return false;
  const { ended, nextProbeInMs } = value;
  return (
    KERNEL_COUNTS.every((name) => Number.isSafeInteger(value[name]) && (value[name] as number) >= 0) &&
    KERNEL_TIMES.every((name) => typeof value[name] === 'number') &&
    (ended === undefined || typeof ended === 'boolean') &&
    (nextProbeInMs === undefined || typeof nextProbeInMs === 'number') &&
    Object.keys(value).every((name) => [...KERNEL_COUNTS, ...KERNEL_TIMES, 'ended', 'nextProbeInMs'].includes(name))
  );
}

const MOST_NOTES = 20_000;

/** Small things to remember beyond a restart, by name. Without a history file they last until the end of the process. */
export class Notes {
  /** Whether they outlive a restart. */
  readonly isKept: boolean;
  readonly #changed: (name: string, value: unknown) => void;
  readonly #notes = new Map<string, unknown>();

  /** @param changed called with each change; null means that the note is gone. */
  constructor(changed: (name: string, value: unknown) => void, isKept = true) {
    this.isKept = isKept;
    this.#changed = changed;
  }

  get(name: string): unknown {
    return this.#notes.get(name);
  }

  all(): Iterable<readonly [name: string, value: unknown]> {
    return this.#notes;
  }

  /** @param value null removes the note. */
  set(name: string, value: unknown): void {
    if (value === null && !this.#notes.has(name)) return;
    this.read(name, value);
    this.#changed(name, value);
  }

  /** A note that the file has. */
  read(name: string, value: unknown): void {
    if (value === null) this.#notes.delete(name);
    else if (this.#notes.size < MOST_NOTES || this.#notes.has(name)) this.#notes.set(name, value);
  }
}
