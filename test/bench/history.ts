import { createWriteStream, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openHistory } from '../../src/app/history.ts';
import { loadConfig } from '../../src/config/load.ts';
import { NodeDirectory } from '../../src/headscale/nodes.ts';
import type { HistoryQuery } from '../../src/history/history.ts';
import { formatRecord, type HistoryRecord } from '../../src/history/records.ts';
import type { MachineKey } from '../../src/identity/keys.ts';
import { systemClock } from '../../src/lib/clock.ts';
import { Events } from '../../src/streams/events.ts';
import { Registry } from '../../src/streams/registry.ts';
import type { Stream, StreamId } from '../../src/streams/stream.ts';
import { keyOf, nodeOf } from '../telemetry/stage.ts';

/*
 * What a history file costs: to read thirty days of 300 nodes at a start, to find events in it, and for each event.
 *
 *   npm run bench:history
 */

const NODES = 300;
const DAYS = 30;
const SESSIONS_A_DAY = 10;
const DAY_MS = 86_400_000;
const folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-history-'));
const path = join(folder, 'history.jsonl');
const ms = (since: number): string => `${(performance.now() - since).toFixed(0)} ms`;
const rssMiB = (): string => {
  (globalThis as { gc?: () => void }).gc?.();
  return `${(process.memoryUsage.rss() / 1024 ** 2).toFixed(0)} MiB`;
};

/** What a node leaves in the file each time that it comes back while its old stream is still open. */
function* session(at: number, node: MachineKey, since: number, stream: number): Generator<HistoryRecord> {
  const subject = { machineKey: node, streamKind: 'control' as const, remoteAddress: '203.0.113.7:51820' };
  const old = { ...subject, stream: stream as StreamId };
  const key = { ...subject, stream: (stream + 1) as StreamId, otherStream: stream as StreamId };
  const event = (kind: string, level: string, about: object, sentence: string): HistoryRecord =>
    ({ seq: ++seq, at, kind, level, code: undefined, subject: about, sentence }) as HistoryRecord;
  yield { at: since, run: '5f3a9c21', node, since: undefined };
  yield event('stream_opened', 'debug', key, `router-1's stream ${stream} was opened from 203.0.113.7:51820.`);
  yield event(
    ...(['contest_opened', 'info', key] as const),
    `router-1 is back on stream ${stream} from 203.0.113.7:51820 while its old stream ${stream - 1} from 203.0.113.7:4711 is still open.`,
  );
  yield event(
    ...(['stream_severed', 'info', { ...old, reason: 'dead', silentMs: 250_000 }] as const),
    `router-1's old stream ${stream} from 203.0.113.7:50122 was severed: its kernel answered none of the last 3 probes, 460 ms after the node had come back (its last sign of life was 4 min 10 s ago), and the node is back on stream 15 from 198.51.100.9:41310.`,
  );
  yield event('stream_closed', 'debug', { ...old, reason: 'severed_dead' }, `router-1's stream ${stream} was closed.`);
  yield { at, run: '5f3a9c21', node, since };
}
let seq = 0;

async function writeFile(): Promise<void> {
  const out = createWriteStream(path);
  const begun = Date.now() - DAYS * DAY_MS;
  const every = DAY_MS / SESSIONS_A_DAY;
  let stream = 0;
  for (let at = begun; at < Date.now() - every; at += every) {
    let lines = formatRecord({ at: Math.round(at), run: '5f3a9c21', since: begun });
    for (let i = 1; i <= NODES; i++) {
      const until = Math.round(at + every - 60_000);
      for (const record of session(until, keyOf(i), Math.round(at), ++stream)) lines += formatRecord(record);
    }
    if (!out.write(lines)) await new Promise<void>((resolve) => out.once('drain', () => resolve()));
  }
  await new Promise<void>((resolve) => out.end(() => resolve()));
}

async function open(historyFile: string | undefined) {
  const events = new Events();
  const registry = new Registry();
  const nodes = Array.from({ length: NODES }, (_, i) => nodeOf(i + 1));
  const directory = new NodeDirectory({ clock: systemClock, emit: events.emit, list: async () => nodes });
  const flags = { historyFile, maxHistoryFileSize: '1GiB' };
  const kept = await openHistory(loadConfig(flags), { clock: systemClock, events, registry, directory });
  directory.start();
  await new Promise((resolve) => setTimeout(resolve, 50));
  return { kept, events, directory };
}

/** How long an event takes, and how much processor time with all that is written: each session begins and ends. */
async function costOfEvent({ events }: Awaited<ReturnType<typeof open>>): Promise<string> {
  const many = 40_000;
  const cpu = process.cpuUsage();
  let took = 0;
  for (let i = 0; i < many; i++) {
    const key = keyOf((i % NODES) + 1);
    const now = systemClock.now();
    const stream: Stream = {
      ...{ id: (1_000_000 + i) as StreamId, kind: 'control', machineKey: key, address: '192.0.2.1' },
      ...{ remoteAddress: '192.0.2.1:1', openedAt: now, heardAt: now, spokenAt: now, firstRecordAt: undefined },
      ...{ bytesReceived: 0, bytesSent: 0, state: { kind: 'open' }, wouldSever: undefined },
    };
    events.emit({ kind: 'stream_opened', stream });
    events.emit({ kind: 'stream_closed', stream, reason: 'client_closed', lifetimeMs: 1 });
    took += systemClock.now() - now;
    // A second for what waits to be written.
    if (i % 4000 === 3999) await new Promise((resolve) => setTimeout(resolve, 1100));
  }
  const { user, system } = process.cpuUsage(cpu);
  const each = (us: number): string => `${(us / (2 * many)).toFixed(1)} µs`;
  return `an event takes ${each(took * 1000)}, and ${each(user + system)} of processor time with all that follows`;
}

const ALL: HistoryQuery = {
  ...{ after: undefined, limit: 20_000, machineKeys: undefined, stream: undefined, kinds: undefined },
  ...{ levels: undefined, since: Date.now() - 29 * DAY_MS, until: undefined },
};

try {
  const out = (text: string): void => void process.stdout.write(`${text}\n`);
  const without = await open(undefined);
  out(`without a file: ${rssMiB()}, ${await costOfEvent(without)}`);
  await without.directory.close();
  await without.kept.close();
  await writeFile();
  out(`a file of ${DAYS} days of ${NODES} nodes: ${(statSync(path).size / 1024 ** 2).toFixed(0)} MiB`);
  const before = rssMiB();
  const started = performance.now();
  const running = await open(path);
  out(`read in ${(performance.now() - started - 50).toFixed(0)} ms; memory ${before} before, ${rssMiB()} after`);
  for (const [what, query] of [
    ['20 000 events of 29 days', ALL],
    ['those of one node', { ...ALL, machineKeys: new Set([keyOf(7)]) }],
    ['takeovers', { ...ALL, kinds: new Set(['stream_severed']) }],
  ] as const) {
    const asked = performance.now();
    const { entries } = await running.kept.find(query);
    out(`${what}: ${entries.length} in ${ms(asked)}`);
  }
  const asked = performance.now();
  for (const key of running.kept.presence.keys()) running.kept.presence.periods(key, ALL.since ?? 0, Date.now());
  out(`the periods of all nodes: ${ms(asked)}`);
  out(`with the file ${await costOfEvent(running)}`);
  await running.directory.close();
  const closing = performance.now();
  await running.kept.close();
  out(`closed in ${ms(closing)}; memory ${rssMiB()}`);
} finally {
  rmSync(folder, { recursive: true });
}
