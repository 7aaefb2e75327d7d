import { accessSync, closeSync, constants, fchmodSync, fstatSync, openSync, readSync, realpathSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { formatMachineKey } from '../identity/keys.ts';
import { codeOf, reasonOf, StartError } from '../lib/errors.ts';
import { DAY_MS } from '../lib/units.ts';
import { type History, type HistoryEntry, type HistoryQuery, matches } from './history.ts';
import type { PresenceLog } from './presence-log.ts';
import { eventHeadOf, type Notes, parseRecord, timeOfLaterVersion } from './records.ts';

/** A history file, as a reader sees it. */
interface Readable {
  /** Its lines, some at a time. */
  lines(): AsyncIterable<readonly Buffer[]>;
  /** What the file held at the start. */
  resume(eventsSince: number, oldestAt: number | undefined): void;
  /** Runs `work` when nothing is being written. */
  settled<T>(work: () => Promise<T>): Promise<T>;
}

/** What a file held. */
export interface Remembered {
  readonly events: number;
  /** Lines that could not be used. */
  readonly skipped: number;
  readonly lastSeq: number;
  readonly lastStream: number;
}

interface Readers {
  readonly history: History;
  readonly log: PresenceLog;
  readonly notes: Notes;
  /** What is older is left out. */
  readonly since: number;
}

/** Reads a history file at the start. Of old events it reads only the beginning of their lines. */
export async function readHistory(file: Readable, { history, log, notes, since }: Readers): Promise<Remembered> {
  const recent = history.knownSince - DAY_MS;
  let [events, skipped, lastSeq, lastStream] = [0, 0, 0, 0];
  let oldestAt: number | undefined;
  for await (const lines of file.lines()) {
    for (const line of lines) {
      const head = eventHeadOf(line);
      if (head !== undefined && head.at < recent) {
        events += 1;
        if (oldestAt === undefined || head.at < oldestAt) oldestAt = head.at;
        if (head.seq > lastSeq) lastSeq = head.seq;
        if (head.stream !== undefined && head.stream > lastStream) lastStream = head.stream;
        continue;
      }
      const record = parseRecord(line);
      if (record === undefined) skipped += 1;
      else if ('seq' in record) {
        events += 1;
        history.remember(record);
        lastSeq = Math.max(lastSeq, record.seq);
        const { stream = 0, otherStream = 0 } = record.subject;
        lastStream = Math.max(lastStream, stream, otherStream);
        oldestAt = Math.min(oldestAt ?? record.at, record.at);
      } else if ('note' in record) notes.read(record.note, record.value);
      else if (record.at >= since || 'run' in record) {
        if ('node' in record) log.applyNode(record);
        else log.applyRun(record);
      }
    }
  }
  log.endEarlierRuns();
  const cutAt = notes.get('eventsSince');
  const begunAt = log.knownSince ?? oldestAt;
  const eventsSince = Math.max(typeof cutAt === 'number' ? cutAt : 0, begunAt ?? history.knownSince);
  file.resume(eventsSince, oldestAt);
  history.rememberSince(eventsSince);
  return { events, skipped, lastSeq, lastStream };
}

/** The events in the file that match, oldest first: the newest up to the limit, or with `after` the next ones after it. */
export function findInFile(file: Readable, query: HistoryQuery): Promise<readonly HistoryEntry[]> {
  return file.settled(async () => {
    const { since = 0, until = Number.POSITIVE_INFINITY, after, limit } = query;
    // To look for a key or a kind takes a fraction of the time that it takes to parse a line.
    const kinds = query.kinds === undefined ? undefined : [...query.kinds].map((kind) => `,"kind":"${kind}",`);
    const keys = query.machineKeys === undefined ? undefined : [...query.machineKeys].map(formatMachineKey);
    const isPlain = [query.machineKeys, query.stream, query.kinds, query.levels].every((each) => each === undefined);
    const parsed = (line: Buffer): readonly HistoryEntry[] => {
      const record = parseRecord(line);
      return record !== undefined && 'seq' in record && matches(record, query, after ?? 0) ? [record] : [];
    };
    let found: HistoryEntry[] = [];
    /** If all events of a time are wanted, only the lines that are left in the end are parsed. */
    let raw: Buffer[] = [];
    for await (const lines of file.lines()) {
      for (const line of lines) {
        const head = eventHeadOf(line);
        if (head === undefined || head.at < since || head.at >= until || head.seq <= (after ?? 0)) continue;
        if (kinds !== undefined && !kinds.some((kind) => line.includes(kind))) continue;
        if (keys !== undefined && !keys.some((key) => line.includes(key))) continue;
        if (isPlain) raw.push(Buffer.from(line));
        else found.push(...parsed(line));
      }
      const many = Math.max(raw.length, found.length) >= 2 * limit;
      if (many && after !== undefined) break;
      if (many) [raw, found] = [raw.slice(-limit), found.slice(-limit)];
    }
    found.push(...raw.flatMap(parsed));
    found.sort((a, b) => a.seq - b.seq);
    return after === undefined ? found.slice(-limit) : found.slice(0, limit);
  });
}

const CHUNK_BYTES = 256 * 1024;
/** A longer line was not written by this program. */
const LONGEST_LINE_BYTES = 64 * 1024;

/** The lines of a file, some at a time, also the last one if it has no end. It skips lines that are too long. */
export async function* linesOf(path: string): AsyncGenerator<readonly Buffer[]> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    let begun = Buffer.alloc(0);
    let isTooLong = false;
    for (;;) {
      const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(CHUNK_BYTES), 0, CHUNK_BYTES);
      const chunk = buffer.subarray(0, bytesRead);
      const lines: Buffer[] = [];
      let start = 0;
      for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
        const line = begun.length > 0 ? Buffer.concat([begun, chunk.subarray(start, end)]) : chunk.subarray(start, end);
        if (!isTooLong && line.length > 0 && line.length <= LONGEST_LINE_BYTES) lines.push(line);
        begun = Buffer.alloc(0);
        isTooLong = false;
        start = end + 1;
      }
      if (bytesRead === 0 && begun.length > 0 && !isTooLong) lines.push(begun);
      if (lines.length > 0) yield lines;
      if (bytesRead === 0) return;
      begun = isTooLong ? begun : Buffer.concat([begun, chunk.subarray(start)]);
      isTooLong ||= begun.length > LONGEST_LINE_BYTES;
      if (isTooLong) begun = Buffer.alloc(0);
    }
  } finally {
    await handle.close();
  }
}

/** How much of a file must hold a record, if it is a history. */
const HEAD_BYTES = 1024 * 1024;

/**
 * Looks at the file.
 *
 * @param create O_CREAT makes it if it is missing. Without it, nothing is changed, and root may look at the file of another user.
 * @throws StartError when it cannot be used.
 */
export function inspectHistoryFile(
  given: string,
  create = 0,
): { readonly path: string; readonly bytes: number; readonly isTorn: boolean } {
  const refuse = (reason: string, cause?: unknown): StartError =>
    new StartError('HSW_HISTORY_FILE_UNUSABLE', `--history-file ${given}: ${reason}`, { cause });
  let file: number | undefined;
  try {
    file = openSync(given, constants.O_RDWR | constants.O_APPEND | constants.O_NONBLOCK | create, 0o600);
    const found = fstatSync(file);
    if (!found.isFile()) throw refuse('is no regular file; name another');
    const user = process.getuid?.();
    if (user !== undefined && found.uid !== user && (create !== 0 || user !== 0)) {
      throw refuse(
        `belongs to user ${found.uid}, and the watchdog runs as user ${user}; name another file, or give it to that user with chown`,
      );
    }
    if (create !== 0 && (found.mode & 0o077) !== 0) fchmodSync(file, 0o600);
    const path = realpathSync(given);
    accessSync(dirname(path), constants.W_OK | constants.X_OK);
    if (found.size > 0 && !isHistory(file)) {
      throw refuse('holds something else than a history; name another file, or remove it');
    }
    const last = Buffer.alloc(1);
    if (found.size > 0) readSync(file, last, 0, 1, found.size - 1);
    return { path, bytes: found.size, isTorn: found.size > 0 && last[0] !== 10 };
  } catch (error) {
    if (create === 0 && codeOf(error) === 'ENOENT' && isWritable(dirname(given))) {
      return { path: given, bytes: 0, isTorn: false };
    }
    throw error instanceof StartError ? error : refuse(adviceOn(error), error);
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

function isWritable(folder: string): boolean {
  try {
    accessSync(folder, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function isHistory(file: number): boolean {
  const bytes = Buffer.alloc(HEAD_BYTES);
  const head = bytes.subarray(0, readSync(file, bytes, 0, HEAD_BYTES, 0));
  for (let start = 0; start < head.length; ) {
    const end = head.indexOf(10, start);
    const line = head.subarray(start, end < 0 ? head.length : end);
    if (parseRecord(line) !== undefined || timeOfLaterVersion(line) !== undefined) return true;
    start += line.length + 1;
  }
  // The first line of all may be torn.
  return head.subarray(0, 5).equals(Buffer.from('{"v":').subarray(0, Math.min(5, head.length)));
}

function adviceOn(error: unknown): string {
  switch (codeOf(error)) {
    case 'ENOENT':
      return 'there is no such folder; make it first';
    case 'EACCES':
    case 'EPERM':
      return 'this user may not write there, or not make files in its folder, which a rewrite needs; name a file in a folder of this user (with systemd: StateDirectory=)';
    case 'EISDIR':
      return 'is a folder; name a file in it';
    case 'EROFS':
      return 'is on a read-only file system; with systemd, name a file in StateDirectory=';
    case 'ENXIO':
      return 'is no regular file; name another';
    default:
      return reasonOf(error);
  }
}
