import { constants } from 'node:fs';
import { type FileHandle, open, rename, stat, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { atMost, type Clock, type Instant, type Timer } from '../lib/clock.ts';
import { codeOf, reasonOf } from '../lib/errors.ts';
import { DAY_MS } from '../lib/units.ts';
import type { Emit } from '../streams/events.ts';
import { inspectHistoryFile, linesOf } from './history-reading.ts';
import { eventHeadOf, parseRecord, timeOfLaterVersion } from './records.ts';

/** What is written within this time is written together. */
const FLUSH_AFTER_MS = 1000;
/** How often writing is tried while it fails. */
const RETRY_EVERY_MS = 10_000;
/** How much may wait to be written. */
const MOST_PENDING_BYTES = 4 * 1024 * 1024;
/** Pieces of this size are written. */
const CHUNK_BYTES = 256 * 1024;
/** A file is rewritten to this share of its limit, so that it takes a while until the next time. */
const REWRITE_TO = 0.75;
/** If the file cannot be rewritten, it may grow to this multiple of its limit. */
const AT_MOST = 1.25;
const REWRITE_EVERY_MS = 10 * 60_000;
/** How long a stop waits for a disk that does not answer. */
const CLOSE_WITHIN_MS = 2000;

export interface HistoryFileOptions {
  readonly clock: Clock;
  readonly emit: Emit;
  readonly path: string;
  readonly mostBytes: number;
  /** How old an event may become. */
  readonly keptMs: number;
  /** The lines of everything but events, for a new file. @param most about how many bytes they may have. */
  summary(most: number): Iterable<string>;
}

interface Identity {
  readonly ino: number;
  readonly dev: number;
}

/** A file to which lines are appended. It never throws, and nothing waits for it. */
export class HistoryFile {
  readonly #options: HistoryFileOptions;
  readonly #path: string;
  #handle: FileHandle | undefined;
  #identity: Identity | undefined;
  #bytes: number;
  #pending: string[] = [];
  #pendingBytes = 0;
  /** What is left of a write that ended early. It is written first, so that its line becomes whole. */
  #rest = Buffer.alloc(0);
  /** Whether the file does not end with a whole line. */
  #isTorn: boolean;
  readonly #failing = new Set<'write' | 'rewrite'>();
  #lost = 0;
  /** Records other than events were lost, so the file must be written anew. */
  #mustRewrite = false;
  #mayRewrite = true;
  #isHeld = false;
  #rewriteAt: Instant;
  #eventsSince = 0;
  /** Of the oldest event in the file; undefined if there is none. */
  #oldestAt: number | undefined;
  #timer: Timer | undefined;
  /** Writes, rewrites and searches, one after the other. */
  #queue: Promise<unknown> = Promise.resolve();
  #isClosing = false;

  /** @throws StartError when the file cannot be used. */
  constructor(options: HistoryFileOptions) {
    this.#options = options;
    const { path, bytes, isTorn } = inspectHistoryFile(options.path, constants.O_CREAT);
    this.#path = path;
    this.#bytes = bytes;
    this.#isTorn = isTorn;
    // Another watchdog may be stopping meanwhile, and still write.
    this.#rewriteAt = (options.clock.now() + REWRITE_EVERY_MS / 10) as Instant;
  }

  /** Whether the file can be written. */
  get isWorking(): boolean {
    return this.#failing.size === 0;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Events before this time may have been removed for lack of room. */
  get eventsSince(): number {
    return this.#eventsSince;
  }

  /** What the file held at the start. */
  resume(eventsSince: number, oldestAt: number | undefined): void {
    this.#eventsSince = eventsSince;
    this.#oldestAt = oldestAt;
  }

  /** The lines of the file, some at a time. */
  async *lines(): AsyncGenerator<readonly Buffer[]> {
    yield* linesOf(this.#path);
  }

  /** @param isEvent whether it may be lost. */
  append(line: string, isEvent: boolean): void {
    if (this.#isClosing) return;
    const isFull = this.#bytes > this.#options.mostBytes * AT_MOST;
    if (this.#pendingBytes + line.length > MOST_PENDING_BYTES || isFull) {
      this.#lost += 1;
      this.#mustRewrite ||= !isEvent;
      if (!isFull) return;
    } else {
      this.#pending.push(line);
      this.#pendingBytes += line.length;
    }
    this.#schedule(this.#failing.has('write') ? RETRY_EVERY_MS : FLUSH_AFTER_MS);
  }

  /** From now on it only appends. The next watchdog may use the file already, and knows what this one does not. */
  endRewrites(): void {
    this.#mayRewrite = false;
  }

  /** Another process is to write to the file. Writes what waits; whatever comes later waits for `release`. */
  async hold(): Promise<void> {
    this.#isHeld = true;
    const done = this.#inTurn(() => this.#write());
    await atMost(this.#options.clock, CLOSE_WITHIN_MS, done);
  }

  /** The lines that wait while it is held. They wait here no longer. */
  takeHeld(): readonly string[] {
    if (!this.#isHeld) return [];
    this.#pendingBytes = 0;
    return this.#pending.splice(0);
  }

  /** This process is the only one that writes to the file. */
  release(): void {
    this.#isHeld = false;
    this.#schedule(FLUSH_AFTER_MS);
  }

  /** Runs `work` when nothing is being written, after everything so far has been written if that is possible. */
  async settled<T>(work: () => Promise<T>): Promise<T> {
    return this.#inTurn(async () => {
      await this.#tryWrite();
      return work();
    });
  }

  /** Writes what waits, and closes the file. */
  async close(): Promise<void> {
    this.#timer?.cancel();
    this.#isClosing = true;
    const done = this.#inTurn(async () => {
      await this.#tryWrite();
      await this.#handle?.sync().catch(() => {});
      await this.#forgetHandle();
    });
    await atMost(this.#options.clock, CLOSE_WITHIN_MS, done);
  }

  #schedule(ms: number): void {
    if (this.#timer !== undefined || this.#isClosing) return;
    this.#timer = this.#options.clock.after(ms, () => {
      this.#timer = undefined;
      void this.#inTurn(async () => {
        await this.#tryWrite();
        await this.#rewriteIfDue();
      });
    });
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#queue.then(work);
    this.#queue = turn.catch(() => {});
    return turn;
  }

  async #tryWrite(): Promise<void> {
    if (!this.#isHeld) await this.#write();
  }

  async #write(): Promise<void> {
    if (this.#pending.length === 0 && this.#rest.length === 0) return;
    try {
      await this.#open();
      while (this.#rest.length > 0 || this.#pending.length > 0) {
        if (this.#rest.length === 0) {
          this.#rest = Buffer.from(`${this.#isTorn ? '\n' : ''}${this.#pending.join('')}`);
          this.#pending = [];
          this.#pendingBytes = 0;
        }
        const handle = await this.#open();
        const { bytesWritten: written } = await handle.write(this.#rest, 0, this.#rest.length);
        if (written === 0) throw new Error('nothing could be written');
        this.#bytes += written;
        this.#rest = this.#rest.subarray(written);
        this.#isTorn = this.#rest.length > 0;
      }
      this.#oldestAt ??= this.#now();
      this.#worked('write');
    } catch (error) {
      await this.#forgetHandle();
      this.#failed('write', error);
      this.#schedule(RETRY_EVERY_MS);
    }
  }

  #worked(at: 'write' | 'rewrite'): void {
    if (!this.#failing.delete(at) || !this.isWorking) return;
    const lost = this.#lost;
    this.#lost = 0;
    this.#options.emit({ kind: 'history_file_recovered', path: this.#path, lost });
  }

  /** It is said once, until everything works again. */
  #failed(at: 'write' | 'rewrite', error: unknown): void {
    const isNews = this.isWorking;
    this.#failing.add(at);
    const detail = codeOf(error) ?? reasonOf(error);
    if (isNews) this.#options.emit({ kind: 'history_file_failed', path: this.#path, detail });
  }

  async #forgetHandle(): Promise<void> {
    const handle = this.#handle;
    this.#handle = undefined;
    await handle?.close().catch(() => {});
  }

  /** Opens the file, also if it was moved or removed meanwhile. */
  async #open(): Promise<FileHandle> {
    const found = await stat(this.#path).catch(() => undefined);
    const isSame = found !== undefined && found.ino === this.#identity?.ino && found.dev === this.#identity.dev;
    if (this.#handle !== undefined && isSame) return this.#handle;
    await this.#forgetHandle();
    if (found !== undefined && !found.isFile()) throw new Error('it is no regular file any more');
    const handle = await open(this.#path, APPENDING, 0o600);
    this.#handle = handle;
    const { ino, dev, size } = await handle.stat();
    if (this.#identity !== undefined && this.#identity.ino !== ino) {
      // A new file needs what was in the one before. If it has something already, the next watchdog has rewritten it.
      this.#mustRewrite ||= size === 0;
      this.#isTorn = size > 0;
    }
    this.#identity = { ino, dev };
    this.#bytes = size;
    return handle;
  }

  async #rewriteIfDue(): Promise<void> {
    const { clock, mostBytes, keptMs } = this.#options;
    const isOld = this.#oldestAt !== undefined && this.#oldestAt < this.#now() - keptMs - DAY_MS;
    const isDue = this.#bytes > mostBytes || this.#mustRewrite || isOld;
    if (!isDue || !this.#mayRewrite || clock.now() < this.#rewriteAt) return;
    if (this.#failing.has('write') || this.#isClosing || this.#isHeld) return;
    this.#rewriteAt = (clock.now() + REWRITE_EVERY_MS) as Instant;
    try {
      await this.#rewrite();
      this.#mustRewrite = false;
      this.#worked('rewrite');
    } catch (error) {
      await unlink(this.#newPath).catch(() => {});
      if (!this.#isClosing) this.#failed('rewrite', error);
    }
  }

  /** Writes the file anew beside the old one, without what is too old, and puts it in the place of the old one. */
  async #rewrite(): Promise<void> {
    const { mostBytes, keptMs } = this.#options;
    const most = mostBytes * REWRITE_TO;
    const oldest = this.#now() - keptMs;
    let oldestAt: number | undefined;
    await unlink(this.#newPath).catch(() => {});
    const handle = await open(this.#newPath, APPENDING | constants.O_EXCL, 0o600);
    const out = new Output(handle, () => this.#isClosing);
    try {
      for (const line of this.#options.summary(most)) await out.write(Buffer.from(line));
      let tooMany = (await this.#bytesOfEvents(oldest)) - (most - out.bytes);
      let eventsSince = this.#eventsSince;
      for await (const lines of linesOf(this.#path)) {
        for (const line of lines) {
          const at = eventTimeOf(line);
          if (at === undefined || at < oldest) continue;
          if (tooMany > 0) {
            tooMany -= line.length + 1;
            eventsSince = at + 1;
          } else {
            oldestAt = Math.min(at, oldestAt ?? at);
            await out.write(Buffer.concat([line, NEWLINE]));
          }
        }
      }
      await out.end();
      await handle.sync();
      await rename(this.#newPath, this.#path);
      this.#eventsSince = Math.max(eventsSince, oldest);
      await syncFolder(dirname(this.#path));
    } catch (error) {
      await handle.close().catch(() => {});
      throw error;
    }
    await this.#forgetHandle();
    this.#handle = handle;
    this.#oldestAt = oldestAt;
    const { ino, dev, size } = await handle.stat();
    this.#identity = { ino, dev };
    this.#bytes = size;
    this.#isTorn = false;
  }

  async #bytesOfEvents(oldest: number): Promise<number> {
    let bytes = 0;
    for await (const lines of linesOf(this.#path)) {
      for (const line of lines) if ((eventTimeOf(line) ?? 0) >= oldest) bytes += line.length + 1;
    }
    return bytes;
  }

  #now(): number {
    const { clock } = this.#options;
    return clock.dateOf(clock.now()).getTime();
  }

  get #newPath(): string {
    return `${this.#path}.new`;
  }
}

/** The time of a line that a rewrite keeps as it is: an event, or a record of a later version. */
function eventTimeOf(line: Buffer): number | undefined {
  const head = eventHeadOf(line);
  if (head !== undefined) return line.at(-1) === CLOSING_BRACE ? head.at : undefined;
  const record = parseRecord(line);
  if (record === undefined) return timeOfLaterVersion(line);
  return 'seq' in record ? record.at : undefined;
}

const NEWLINE = Buffer.from('\n');
const CLOSING_BRACE = 0x7d;
/** Without O_NONBLOCK, opening a pipe waits for a reader. */
const APPENDING = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NONBLOCK;

/** Writes in large pieces. */
class Output {
  readonly #handle: FileHandle;
  readonly #mustStop: () => boolean;
  #chunks: Buffer[] = [];
  #waiting = 0;
  bytes = 0;

  constructor(handle: FileHandle, mustStop: () => boolean) {
    this.#handle = handle;
    this.#mustStop = mustStop;
  }

  async write(line: Buffer): Promise<void> {
    this.#chunks.push(line);
    this.#waiting += line.length;
    this.bytes += line.length;
    if (this.#waiting >= CHUNK_BYTES) await this.end();
  }

  async end(): Promise<void> {
    if (this.#mustStop()) throw new Error('the watchdog stops');
    await this.#handle.appendFile(Buffer.concat(this.#chunks));
    this.#chunks = [];
    this.#waiting = 0;
  }
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, constants.O_RDONLY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
