import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, describe, expect, test } from 'vitest';
import { History, historyBounds } from '../../src/history/history.ts';
import { HistoryFile } from '../../src/history/history-file.ts';
import { linesOf, readHistory } from '../../src/history/history-reading.ts';
import { PresenceLog } from '../../src/history/presence-log.ts';
import { formatRecord, type HistoryRecord, Notes, parseRecord } from '../../src/history/records.ts';
import { StartError } from '../../src/lib/errors.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { Harness, until } from '../support/harness.ts';
import { keyOf } from '../telemetry/stage.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const START = Date.parse('2026-11-27T00:00:00Z');
const DAY_MS = 86_400_000;

/** Virtual time with dates of today. */
class DatedClock extends FakeClock {
  override dateOf(instant: ReturnType<FakeClock['now']>): Date {
    return new Date(START + instant - 1_000_000);
  }
}

function bench({ mostBytes = 1024 * 1024, path = join(harness.folder(), 'history.jsonl') } = {}) {
  const clock = new DatedClock();
  const events: WatchdogEvent[] = [];
  const summary: string[] = [];
  const file = new HistoryFile({
    ...{ clock, path, mostBytes, keptMs: 30 * DAY_MS, summary: () => summary },
    emit: (event) => events.push(event),
  });
  harness.defer(() => file.close());
  const now = (): number => clock.dateOf(clock.now()).getTime();
  const kinds = (): string[] => events.map(({ kind }) => kind);
  return {
    ...{ file, clock, path, events, kinds, now, summary },
    text: () => readFileSync(path, 'utf8'),
    /** Lets time pass until what waits has been written. */
    async written(): Promise<void> {
      clock.advance(1000);
      await file.settled(async () => {});
    },
  };
}

const event = (seq: number, at: number, more: object = {}): HistoryRecord => ({
  ...({ seq, at, kind: 'stream_opened', level: 'debug', code: undefined } as const),
  ...{ subject: { machineKey: keyOf(1), stream: seq as never }, sentence: 'It was opened.', ...more },
});

const refusal = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    if (error instanceof StartError) return `${error.code} ${error.message}`;
    throw error;
  }
  throw new Error('it was not refused');
};

describe('a history file', () => {
  test('is made for its user alone, and gets what was appended within a second together', async () => {
    const { file, path, text, written, clock } = bench();
    file.append('{"a":1}\n', true);
    file.append('{"a":2}\n', true);
    expect(text()).toBe('');
    await written();
    expect(text()).toBe('{"a":1}\n{"a":2}\n');
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(file.bytes).toBe(16);
    expect(clock.timers).toBe(0);
  });

  test('a file that others may read is closed to them', async () => {
    const path = join(harness.folder(), 'h');
    writeFileSync(path, formatRecord(event(1, START)));
    chmodSync(path, 0o644);
    bench({ path });
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test('is written completely at the end', async () => {
    const { file, text } = bench();
    file.append('{"a":1}\n', true);
    await file.close();
    expect(text()).toBe('{"a":1}\n');
  });

  test('begins a new line after one that is torn', async () => {
    const path = join(harness.folder(), 'h');
    writeFileSync(path, `${formatRecord(event(1, START))}{"v":1,"at":17642`);
    const { file, text, written } = bench({ path });
    file.append('{"a":1}\n', true);
    await written();
    expect(text()).toBe(`${formatRecord(event(1, START))}{"v":1,"at":17642\n{"a":1}\n`);
  });

  test('is refused if it is something else, with what to do', () => {
    const folder = harness.folder();
    const foreign = join(folder, 'foreign');
    writeFileSync(foreign, 'PRIVATE=settings\n');
    const link = join(folder, 'link');
    symlinkSync(foreign, link);
    const at = (path: string): string => refusal(() => bench({ path }));
    expect(at(foreign)).toBe(
      `HSW_HISTORY_FILE_UNUSABLE --history-file ${foreign}: holds something else than a history; name another file, or remove it`,
    );
    expect(at(link)).toContain('holds something else than a history');
    expect(at(folder)).toBe(`HSW_HISTORY_FILE_UNUSABLE --history-file ${folder}: is a folder; name a file in it`);
    expect(at(join(folder, 'none', 'h'))).toContain('there is no such folder; make it first');
    expect(at('/dev/null')).toContain('is no regular file');
    expect(readFileSync(foreign, 'utf8')).toBe('PRIVATE=settings\n');
  });

  test.skipIf(process.getuid?.() !== 0)('is refused if it belongs to somebody else', async () => {
    const path = join(harness.folder(), 'h');
    writeFileSync(path, '');
    const { chownSync } = await import('node:fs');
    chownSync(path, 12_345, 12_345);
    expect(refusal(() => bench({ path }))).toContain(
      'belongs to user 12345, and the watchdog runs as user 0; name another file, or give it to that user with chown',
    );
  });

  test('that cannot be written is reported once, tried again, and loses nothing', async () => {
    const { file, path, text, written, kinds, events, clock } = bench();
    file.append('{"a":1}\n', true);
    await written();
    // Nothing can be written where the file was.
    renameSync(path, `${path}.old`);
    mkdirSync(path);
    for (let i = 2; i <= 4; i++) {
      file.append(`{"a":${i}}\n`, true);
      clock.advance(10_000);
      await written();
    }
    expect(kinds()).toEqual(['history_file_failed']);
    expect(file.isWorking).toBe(false);
    rmSync(path, { recursive: true });
    clock.advance(10_000);
    await written();
    expect(events.at(-1)).toEqual({ kind: 'history_file_recovered', path, lost: 0 });
    expect(file.isWorking).toBe(true);
    expect(text()).toBe('{"a":2}\n{"a":3}\n{"a":4}\n');
  });

  test('keeps a limited amount in memory while it cannot be written, and says how much it lost', async () => {
    const { file, path, written, events, clock, text, summary } = bench({ mostBytes: 16 * 1024 * 1024 });
    summary.push('{"summary":true}\n');
    mkdirSync(`${path}.x`);
    rmSync(path);
    renameSync(`${path}.x`, path);
    const line = `${'x'.repeat(64 * 1024 - 1)}\n`;
    for (let i = 0; i < 100; i++) file.append(line, i !== 99);
    await written();
    rmSync(path, { recursive: true });
    clock.advance(10_000);
    await written();
    expect(events.at(-1)).toEqual({ kind: 'history_file_recovered', path, lost: 36 });
    // A record of presence was lost, so the file is written anew.
    file.append('{"a":1}\n', true);
    clock.advance(60_000);
    await until(() => text().startsWith('{"summary":true}\n'), 'it is written anew');
  });

  test('that was moved or removed meanwhile begins anew, with a summary', async () => {
    const { file, path, written, text, clock, summary } = bench();
    file.append('{"a":1}\n', true);
    await written();
    renameSync(path, `${path}.1`);
    file.append(formatRecord(event(2, START)), true);
    await written();
    expect(text()).toBe(formatRecord(event(2, START)));
    summary.push(formatRecord({ at: START, note: 'a', value: 1 }));
    clock.advance(60_000);
    file.append(formatRecord(event(3, START)), true);
    await written();
    const all = summary[0] + [2, 3].map((seq) => formatRecord(event(seq, START))).join('');
    await until(() => text() === all, 'it has a summary');
    expect(readFileSync(`${path}.1`, 'utf8')).toBe('{"a":1}\n');
  });
});

/** A file system of 64 KiB. @returns undefined if this user may not mount one. */
function smallDisk(): string | undefined {
  const folder = harness.folder();
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'none', folder], { stdio: 'ignore' });
  if (status !== 0) return undefined;
  harness.defer(() => spawnSync('umount', [folder]));
  return folder;
}

test('on a full disk it stops in the middle of a line, and goes on there when there is room', async (context) => {
  const disk = smallDisk();
  if (disk === undefined) return context.skip('it needs a user that may mount');
  const ballast = join(disk, 'ballast');
  writeFileSync(ballast, Buffer.alloc(48 * 1024));
  const { file, text, written, kinds, clock } = bench({ path: join(disk, 'h') });
  const lines = Array.from({ length: 300 }, (_, i) => formatRecord(event(i + 1, START)));
  for (const line of lines) file.append(line, true);
  await written();
  expect(kinds()).toEqual(['history_file_failed']);
  expect(text().length).toBeGreaterThan(0);
  expect(text()).not.toMatch(/\n$/);
  clock.advance(10_000);
  await written();
  rmSync(ballast);
  clock.advance(10_000);
  await written();
  expect(text()).toBe(lines.join(''));
  expect(kinds()).toEqual(['history_file_failed', 'history_file_recovered']);
});

test('a watchdog that stops does not rewrite the file that the next one uses already', async () => {
  const { file, path, text, written, clock, summary } = bench();
  summary.push('{"summary":true}\n');
  file.append(formatRecord(event(1, START)), true);
  await written();
  // The next watchdog has rewritten it.
  writeFileSync(`${path}.other`, formatRecord(event(7, START)));
  renameSync(`${path}.other`, path);
  file.append(formatRecord(event(2, START)), true);
  clock.advance(120_000);
  await written();
  file.append(formatRecord(event(3, START)), true);
  clock.advance(120_000);
  await written();
  expect(text().replace('\n\n', '\n')).toBe([7, 2, 3].map((seq) => formatRecord(event(seq, START))).join(''));
  file.endRewrites();
  file.resume(0, START - 100 * DAY_MS);
  for (let i = 0; i < 3; i++) {
    clock.advance(600_000);
    file.append(formatRecord(event(10 + i, START)), true);
    await written();
  }
  expect(text()).not.toContain('summary');
});

describe('rewriting', () => {
  test('a file that is too large loses its oldest events, and keeps the newest and the summary', async () => {
    const { file, path, clock, now, written, summary } = bench();
    summary.push(formatRecord({ at: START, note: 'a', value: 1 }));
    clock.advance(60_000);
    const lines: string[] = [];
    for (let i = 0; i < 6000; i++) {
      lines.push(formatRecord(event(i + 1, now())));
      file.append(lines.at(-1) ?? '', true);
      clock.advance(10);
    }
    await written();
    const most = 1024 * 1024;
    await until(() => file.bytes < most, 'it has become smaller');
    const { size } = statSync(path);
    expect(size).toBeLessThanOrEqual(0.75 * most);
    expect(size).toBeGreaterThan(0.7 * most);
    const text = readFileSync(path, 'utf8');
    expect(text.startsWith(summary[0] ?? '-')).toBe(true);
    expect(lines.join('').endsWith(text.slice((summary[0] ?? '').length))).toBe(true);
    const oldest = JSON.parse(text.split('\n')[1] ?? '') as { at: number };
    expect(file.eventsSince).toBeLessThanOrEqual(oldest.at);
    expect(file.eventsSince).toBeGreaterThan(oldest.at - 11);
    expect(existsSync(`${path}.new`)).toBe(false);
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test('what is older than thirty days goes, also if there is room; lines of a later version stay', async () => {
    const path = join(harness.folder(), 'h');
    const later = `{"v":2,"at":${START - 5 * DAY_MS},"something":"new"}\n`;
    const good = formatRecord(event(2, START - 10 * DAY_MS));
    writeFileSync(path, `${formatRecord(event(1, START - 32 * DAY_MS))}garbled\n${later}${good}`);
    const { file, clock, text, written } = bench({ path });
    file.resume(0, START - 32 * DAY_MS);
    clock.advance(60_000);
    file.append(formatRecord(event(3, START)), true);
    await written();
    await until(() => text() === later + good + formatRecord(event(3, START)), 'it is written anew');
  });

  test('a crash while it is rewritten leaves the old file, and what it began does no harm', async () => {
    const path = join(harness.folder(), 'h');
    writeFileSync(path, formatRecord(event(1, START - 32 * DAY_MS)));
    writeFileSync(`${path}.new`, '{"v":1,"half a li');
    const { file, clock, text, written } = bench({ path });
    file.resume(0, START - 32 * DAY_MS);
    clock.advance(60_000);
    file.append(formatRecord(event(2, START)), true);
    await written();
    await until(() => text() === formatRecord(event(2, START)), 'it is written anew');
    expect(existsSync(`${path}.new`)).toBe(false);
  });

  test('if it fails, that is said once, and the file does not grow for ever', async () => {
    const { file, path, clock, now, written, kinds } = bench();
    mkdirSync(`${path}.new`);
    clock.advance(60_000);
    for (let i = 0; i < 12; i++) {
      for (let j = 0; j < 1000; j++) file.append(formatRecord(event(1000 * i + j + 1, now())), true);
      await written();
      clock.advance(600_000);
      await written();
    }
    expect(kinds()).toEqual(['history_file_failed']);
    expect(statSync(path).size).toBeLessThan(1.5 * 1024 * 1024);
    rmSync(`${path}.new`, { recursive: true });
    clock.advance(600_000);
    file.append(formatRecord(event(99_999, now())), true);
    await written();
    await until(() => kinds().length === 2, 'it works again');
    expect(kinds()).toEqual(['history_file_failed', 'history_file_recovered']);
    expect(statSync(path).size).toBeLessThan(0.8 * 1024 * 1024);
  });
});

describe('reading', () => {
  const KERNEL = {
    ...{ unackedSegments: 1, unsentBytes: 0, ackedBytes: 5, retransmits: 3, unansweredProbes: 2 },
    ...{ receivedAgoMs: 12_000, rttMs: 21.5, rttvarMs: 3 },
  };
  const RECORDS: readonly HistoryRecord[] = [
    { at: START, run: 'abc', since: START - 1000 },
    { at: START, run: 'abc', node: keyOf(1), since: undefined },
    { at: START, run: 'abc', node: keyOf(1), since: START - 5000 },
    { at: START, run: undefined, node: keyOf(2), since: START - 5000 },
    { at: START, note: 'expiring/7', value: START + 5 },
    { at: START, note: 'waiting/1', value: null },
    {
      ...{ at: START, seq: 5, kind: 'stream_severed', level: 'info', code: undefined, sentence: 'Üñï "x"\n' },
      subject: {
        ...{ machineKey: keyOf(1), stream: 4 as never, streamKind: 'control', otherStream: 5 as never },
        ...{ remoteAddress: '[::1]:5', reason: 'dead', silentMs: 5.5, kernel: KERNEL },
      },
    },
    {
      ...{ at: START, seq: 6, kind: 'redis_down', level: 'error', code: 'HSW_REDIS_UNREACHABLE', sentence: '' },
      subject: {},
    },
  ];

  test.each(RECORDS)('a record is read as it was written: %j', (record) => {
    expect(parseRecord(Buffer.from(formatRecord(record).trimEnd()))).toEqual(record);
  });

  async function read(bytes: Buffer | string) {
    const path = join(harness.folder(), 'h');
    // The first line makes it a history.
    writeFileSync(path, Buffer.concat([Buffer.from(formatRecord(RECORDS[0] as HistoryRecord)), Buffer.from(bytes)]));
    const { file, clock, now } = bench({ path });
    const history = new History(clock, { nameOf: () => undefined, isNode: () => true }, historyBounds(1000));
    const log = new PresenceLog('later');
    const notes = new Notes(() => {});
    const found = await readHistory(file, { history, log, notes, since: now() - 30 * DAY_MS });
    return { found, history, log, notes };
  }

  const lines = RECORDS.map(formatRecord);

  test('reads everything, and goes on counting', async () => {
    const { found, history, log, notes } = await read(lines.join(''));
    expect(found).toEqual({ events: 2, skipped: 0, lastSeq: 6, lastStream: 5 });
    expect([...log.keys()]).toEqual([keyOf(1), keyOf(2)]);
    expect([...notes.all()]).toEqual([['expiring/7', START + 5]]);
    expect(history.size).toBe(2);
  });

  const odd: fc.Arbitrary<Buffer> = fc.oneof(
    // Anything at all, and huge lines of it.
    fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
    fc.integer({ min: 60_000, max: 600_000 }).map((length) => Buffer.alloc(length, 'x')),
    fc.json().map((text) => Buffer.from(text)),
    // A good line, torn or with other bytes in it.
    fc.tuple(fc.constantFrom(...lines), fc.nat(200), fc.nat(200), fc.nat(255)).map(([line, keep, place, byte]) => {
      const bytes = Buffer.from(line).subarray(0, keep);
      if (place < bytes.length) bytes[place] = byte;
      return bytes;
    }),
    // A good line with a member of another type.
    fc.tuple(fc.constantFrom(...lines), fc.nat(12), fc.jsonValue()).map(([line, member, value]) => {
      const fields = JSON.parse(line) as Record<string, unknown>;
      const name = Object.keys(fields)[member % Object.keys(fields).length] as string;
      return Buffer.from(JSON.stringify({ ...fields, [name]: value }));
    }),
  );

  test('whatever stands between the good lines, they are read, and nothing breaks', { timeout: 120_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(odd, { maxLength: 8 }), async (between) => {
        const parts = between.flatMap((each) => [each, Buffer.from('\n')]);
        const good = [2, 3, 4].map((i) => formatRecord(event(1_000_000 + i, START, { sentence: `good ${i}` })));
        const [one = '', two = '', three = ''] = good;
        const half = Math.floor(parts.length / 4) * 2;
        const bytes = [Buffer.from(one), ...parts.slice(0, half), Buffer.from(two), ...parts.slice(half)];
        const { history, log } = await read(Buffer.concat([...bytes, Buffer.from(three.trimEnd())]));
        const all = history.find({
          ...{ after: undefined, limit: 100, machineKeys: undefined, stream: undefined, kinds: undefined },
          ...{ levels: undefined, since: undefined, until: undefined },
        });
        expect(all.map(({ sentence }) => sentence)).toEqual(expect.arrayContaining(['good 2', 'good 3', 'good 4']));
        for (const key of log.keys()) {
          const periods = log.periods(key, START - DAY_MS, START + DAY_MS, START + DAY_MS);
          expect(periods.reduce((sum, { since, until }) => sum + until - since, 0)).toBe(2 * DAY_MS);
        }
      }),
      { numRuns: 150 },
    );
  });

  test('takes a line as it comes, wherever the pieces of the file end', async () => {
    const path = join(harness.folder(), 'h');
    const texts = Array.from({ length: 3000 }, (_, i) => `${i}:${'y'.repeat((i * 7919) % 1000)}`);
    writeFileSync(path, `${texts.join('\n')}`);
    const got: string[] = [];
    for await (const some of linesOf(path)) got.push(...some.map(String));
    expect(got).toEqual(texts);
  });
});
