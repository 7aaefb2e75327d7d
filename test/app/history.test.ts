import {
  appendFileSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { AvailabilityList, NodeAvailability } from '../../src/admin/availability-views.ts';
import type { EventList, Overview, PresenceView } from '../../src/admin/views.ts';
import { openHistory } from '../../src/app/history.ts';
import { loadConfig } from '../../src/config/load.ts';
import { NodeDirectory } from '../../src/headscale/nodes.ts';
import { daysBetween, totalsByDay } from '../../src/history/availability.ts';
import type { HistoryQuery } from '../../src/history/history.ts';
import type { MachineKey } from '../../src/identity/keys.ts';
import { Events, type WatchdogEvent } from '../../src/streams/events.ts';
import { Registry } from '../../src/streams/registry.ts';
import type { CloseReason, Stream } from '../../src/streams/stream.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { acceptStream, Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { get, scrape } from '../support/http.ts';
import { freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';
import { keyOf, nodeOf } from '../telemetry/stage.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const MIDNIGHT = Date.parse('2026-11-26T00:00:00Z');
const DAY_S = 86_400;
const [ROUTER, PHONE, PRINTER] = [keyOf(1), keyOf(2), keyOf(3)];
const ALL: HistoryQuery = {
  ...{ after: undefined, limit: 20_000, machineKeys: undefined, stream: undefined, kinds: undefined },
  ...{ levels: undefined, since: undefined, until: undefined },
};

/** Virtual time that begins at midnight. */
class Calendar extends FakeClock {
  readonly #began = this.now();
  override dateOf(instant: ReturnType<FakeClock['now']>): Date {
    return new Date(MIDNIGHT + instant - this.#began);
  }
  get seconds(): number {
    return (this.now() - this.#began) / 1000;
  }
}

/** One run of what remembers, with streams that a test opens. */
async function run(
  clock: Calendar,
  historyFile: string | undefined,
  flags: Record<string, unknown> = {},
  old?: object,
) {
  const events = new Events();
  const registry = new Registry();
  const nodes = [ROUTER, PHONE, PRINTER].map((_, i) => nodeOf(i + 1));
  const directory = new NodeDirectory({ clock, emit: events.emit, list: async () => nodes });
  const seen: WatchdogEvent[] = [];
  events.listen((event) => seen.push(event));
  const kept = await openHistory(loadConfig({ historyFile, ...flags }), { clock, events, registry, directory, old });
  directory.start();
  await until(() => directory.loaded, 'the nodes are listed');
  const open = (key: MachineKey, isAccepted = true): Stream => {
    const now = clock.now();
    const stream: Stream = {
      ...{
        id: registry.nextId(),
        kind: 'control',
        machineKey: key,
        address: '192.0.2.1',
        remoteAddress: '192.0.2.1:1',
      },
      ...{ openedAt: now, heardAt: now, spokenAt: isAccepted ? now : undefined, firstRecordAt: undefined },
      ...{ bytesReceived: 0, bytesSent: 0, state: { kind: 'open' }, wouldSever: undefined },
    };
    registry.add(stream);
    events.emit({ kind: 'stream_opened', stream });
    return stream;
  };
  const close = (stream: Stream, reason: CloseReason = 'client_closed'): void => {
    registry.remove(stream);
    events.emit({ kind: 'stream_closed', stream, reason, lifetimeMs: clock.now() - stream.openedAt });
  };
  return {
    ...{ kept, events, seen, open, close },
    /** The seconds of each day that a node was online, offline, and nobody knows. */
    seconds(key: MachineKey, from = 0, to = clock.seconds): number[][] {
      const [since, end] = [MIDNIGHT + from * 1000, MIDNIGHT + to * 1000];
      const days = totalsByDay(kept.presence.periods(key, since, end), daysBetween(since, end, 'UTC'));
      return days.map(({ online, offline, unknown }) => [online / 1000, offline / 1000, unknown / 1000]);
    },
    async end(): Promise<void> {
      await directory.close();
      await kept.close();
    },
    /** Ends as if the process had been killed: what was written stays. */
    async crash(): Promise<void> {
      clock.advance(1000);
      const before = await kept.find({ ...ALL, since: 0 });
      if (historyFile === undefined) throw new Error('no file');
      const bytes = statSync(historyFile).size;
      await this.end();
      truncateSync(historyFile, bytes);
      expect(before.fromFile).toBe(true);
    },
  };
}

describe('a history file', () => {
  test('a day of presence, to the second, across a restart with a torn last line', async () => {
    const path = join(harness.folder(), 'history.jsonl');
    const clock = new Calendar();
    const at = (s: number): void => clock.advance((s - clock.seconds) * 1000);
    const first = await run(clock, path);
    // Everyone connects ten seconds after midnight, except the printer, which comes at seven.
    at(10);
    const router = first.open(ROUTER);
    let phone = first.open(PHONE);
    at(3600);
    first.close(phone, 'gone');
    at(5400);
    phone = first.open(PHONE);
    at(7 * 3600);
    first.open(PRINTER);
    // A takeover leaves no gap.
    at(8 * 3600);
    phone = first.open(PHONE);
    at(8 * 3600 + 2);
    // The process is killed in the middle of a line; its last sign of life was at 8:00:02.
    at(9 * 3600);
    await first.crash();
    appendFileSync(path, '{"v":1,"at":17641');
    const lastRun = clock.seconds;

    // It comes back ten minutes later. The router and the phone need 20 s, and the printer has been taken away meanwhile.
    at(lastRun + 600);
    const restart = clock.seconds;
    const second = await run(clock, path);
    expect(second.seen[0]).toMatchObject({ kind: 'history_file_read', skipped: 1 });
    at(restart + 20);
    second.open(ROUTER);
    const again = second.open(PHONE);
    at(20 * 3600);
    second.close(again);
    at(DAY_S + 3600);
    const aliveAt = 9 * 3600;
    const unknown = restart + 20 - aliveAt;
    expect(second.seconds(ROUTER)).toEqual([
      [aliveAt - 10 + DAY_S - (restart + 20), 0, 10 + unknown],
      [3600, 0, 0],
    ]);
    expect(second.seconds(PHONE)).toEqual([
      [3590 + (aliveAt - 5400) + (20 * 3600 - restart - 20), 1800 + 4 * 3600, 10 + unknown],
      [0, 3600, 0],
    ]);
    expect(second.seconds(PRINTER)).toEqual([
      [2 * 3600, 7 * 3600 + DAY_S - restart, restart - aliveAt],
      [0, 3600, 0],
    ]);
    for (const key of [ROUTER, PHONE, PRINTER])
      expect(second.seconds(key).map((day) => day.reduce((a, b) => a + b))).toEqual([DAY_S, 3600]);
    expect(router.id).toBe(1);
    await second.end();

    // And so after an orderly stop.
    const third = await run(clock, path);
    expect(third.seconds(PHONE, 0, DAY_S)).toEqual(second.seconds(PHONE, 0, DAY_S));
    await third.end();
  });

  test('events go on after a restart: with their numbers, and those of streams, going up', async () => {
    const path = join(harness.folder(), 'history.jsonl');
    const clock = new Calendar();
    const first = await run(clock, path);
    const stream = first.open(ROUTER);
    clock.advance(1000);
    first.close(stream);
    clock.advance(1000);
    const before = first.kept.history.find(ALL);
    const cursor = [first.kept.history.run, first.kept.history.lastSeq];
    await first.end();
    const second = await run(clock, path);
    const after = second.kept.history.find(ALL);
    expect(after.slice(0, before.length)).toEqual(before);
    expect(second.kept.history.run).toBe(cursor[0]);
    expect(second.open(PHONE).id).toBeGreaterThan(1);
    const all = second.kept.history.find(ALL);
    expect(all.at(-1)?.seq).toBeGreaterThan(cursor[1] as number);
    expect(new Set(all.map(({ seq }) => seq)).size).toBe(all.length);
    expect([...second.kept.lastOnline()]).toEqual([[ROUTER, MIDNIGHT + 1000]]);
    await second.end();
  });

  test('events of thirty days are found in the file, each once, filtered, the newest up to the limit', async () => {
    const path = join(harness.folder(), 'history.jsonl');
    const clock = new Calendar();
    const { kept, open, close, end } = await run(clock, path, { maxHistory: 100 });
    for (let day = 0; day < 32; day++) {
      for (const key of [ROUTER, PHONE]) close(open(key), 'gone');
      clock.advance(DAY_S * 1000);
      await kept.find({ ...ALL, since: 0 });
    }
    const find = async (more: Partial<HistoryQuery>) => (await kept.find({ ...ALL, ...more })).entries;
    const now = MIDNIGHT + clock.seconds * 1000;
    expect(await find({ since: now - 2.5 * DAY_S * 1000 })).toHaveLength(8);
    expect(await find({ since: now - 2.5 * DAY_S * 1000, machineKeys: new Set([PHONE]) })).toHaveLength(4);
    expect(await find({ since: now - 9.5 * DAY_S * 1000, kinds: new Set(['stream_closed']) })).toHaveLength(18);
    const week = await find({ since: now - 9.5 * DAY_S * 1000, until: now - 7.5 * DAY_S * 1000 });
    expect(week).toHaveLength(8);
    expect((await find({ since: now - 9.5 * DAY_S * 1000, limit: 5 })).map(({ seq }) => seq)).toEqual(
      (await find({ since: now - 9.5 * DAY_S * 1000 })).slice(-5).map(({ seq }) => seq),
    );
    const all = await find({ since: 0 });
    expect(all.map(({ seq }) => seq)).toEqual([...new Set(all.map(({ seq }) => seq))].sort((a, b) => a - b));
    expect(all[0]?.at).toBeGreaterThanOrEqual(now - 30 * DAY_S * 1000);
    expect((await kept.find({ ...ALL, since: 0 })).knownSince).toBe(now - 30 * DAY_S * 1000);
    await end();
  });

  test('while Headscale refuses, the tries of nodes do not fill the file; strangers never do', async () => {
    const path = join(harness.folder(), 'history.jsonl');
    const clock = new Calendar();
    const { kept, open, close, end } = await run(clock, path);
    clock.advance(5000);
    await kept.find({ ...ALL, since: 0 });
    const { size } = statSync(path);
    for (let i = 0; i < 500; i++) {
      close(open(ROUTER, false), 'upstream_unreachable');
      close(open(keyOf(1000 + i)), 'client_closed');
      clock.advance(10);
    }
    const accepted = open(ROUTER);
    clock.advance(3000);
    close(accepted);
    await kept.find({ ...ALL, since: 0 });
    await end();
    const added = readFileSync(path, 'utf8').slice(size).trim().split('\n');
    expect(added.map((line) => (JSON.parse(line) as { kind?: string }).kind)).toEqual([
      ...['stream_opened', undefined, 'stream_closed', undefined, undefined],
    ]);
  });

  test('a session is in the file soon after Headscale has accepted it, also if nothing else happens', async () => {
    const path = join(harness.folder(), 'history.jsonl');
    const clock = new Calendar();
    const { kept, open, end } = await run(clock, path);
    const stream = open(ROUTER, false);
    clock.advance(1000);
    stream.spokenAt = clock.now();
    clock.advance(3000);
    await kept.find({ ...ALL, since: 0 });
    clock.advance(1000);
    await until(() => readFileSync(path, 'utf8').includes('"kind":"stream_opened"'), 'it is written');
    expect(clock.seconds).toBeLessThan(10);
    await end();
  });

  test('has one writer: a new process writes once the old one does not, and what the old one still notes comes with new numbers', async () => {
    const path = join(harness.folder(), 'history.jsonl');
    const lines = () => readFileSync(path, 'utf8').trimEnd().split('\n');
    const seqs = () => [...readFileSync(path, 'utf8').matchAll(/"seq":(\d+)/g)].map(([, seq]) => Number(seq));
    const numbers = (...all: number[]) => all.map((ms) => ({ kind: 'drain_ended' as const, tookMs: ms }));
    const clock = new Calendar();
    const old = await run(clock, path);
    const router = old.open(ROUTER);
    for (const event of numbers(1, 2)) old.events.emit(event);
    clock.advance(40_000);
    await until(() => seqs().length > 1, 'the old one has written');
    const next = await run(clock, path, {}, {});
    const before = lines();
    for (const event of numbers(3)) next.events.emit(event);
    clock.advance(2000);
    await next.kept.find({ ...ALL, since: 0 });
    expect(lines()).toEqual(before);

    for (const event of numbers(4)) old.events.emit(event);
    const seen: number[] = [];
    next.kept.history.onEntry(({ seq }) => seen.push(seq));
    await old.kept.pause();
    expect(lines().length).toBeGreaterThan(before.length);
    next.kept.history.takeOver(old.kept.history.everything());
    const given = lines();
    // Between the two, nobody writes, and nobody gives numbers.
    for (const event of numbers(5, 6)) old.events.emit(event);
    old.events.emit({ kind: 'handover_ended', pid: 1, moved: 0, stayed: 0, tookMs: 1 });
    for (const event of numbers(7)) next.events.emit(event);
    clock.advance(120_000);
    await Promise.all([old, next].map(({ kept }) => kept.find({ ...ALL, since: 0 })));
    expect(lines()).toEqual(given);
    expect(seen).toEqual([]);

    next.kept.goOn();
    next.kept.addLater(old.kept.takeLater());
    old.close(router, 'client_closed');
    next.kept.addLater(old.kept.takeLater());
    await old.end();
    next.kept.addLater(old.kept.takeLater());
    await next.end();
    expect(new Set(seqs()).size).toBe(seqs().length);
    expect(seqs()).toEqual([...seqs()].sort((a, b) => a - b));
    const text = readFileSync(path, 'utf8');
    expect(text.split('"kind":"drain_ended"').length - 1).toBe(7);
    expect(text).toContain('"kind":"handover_ended"');
    expect(text).toMatch(/"seq":\d+,"stream":\d+,"kind":"stream_closed"/);
    const again = await run(clock, path);
    // The old process has seen the router until then, and the new one has not.
    expect(again.seconds(ROUTER)).toEqual([[42, 120, 0]]);
    await again.end();
  });

  test('belongs to the old process again if the new one does not take over', async () => {
    const path = join(harness.folder(), 'history.jsonl');
    const clock = new Calendar();
    const old = await run(clock, path);
    await old.kept.pause();
    old.events.emit({ kind: 'drain_ended', tookMs: 1 });
    const { lastSeq } = old.kept.history;
    old.kept.goOn();
    expect(old.kept.history.lastSeq).toBe(lastSeq + 1);
    clock.advance(2000);
    await until(() => readFileSync(path, 'utf8').includes('"kind":"drain_ended"'), 'it is written');
    await old.end();
  });

  test('without a file, the same answers come from memory, and say since when', async () => {
    const clock = new Calendar();
    const { kept, open, seconds, end } = await run(clock, undefined);
    clock.advance(10_000);
    open(ROUTER);
    clock.advance(2000);
    expect(await kept.find({ ...ALL, since: 0 })).toMatchObject({ knownSince: MIDNIGHT, fromFile: false });
    expect(seconds(ROUTER)).toEqual([[2, 0, 10]]);
    await end();
    expect(clock.timers).toBe(0);
  });
});

const [recorded] = initiations;

/** A watchdog with a history file, in front of a stand-in. */
async function startWithFile(folder: string, flags: Record<string, unknown> = {}) {
  const upstream = await harness.upstream((request, socket, head) => {
    socket.on('error', () => {});
    acceptStream(request, socket, head);
  });
  const running = await harness.watchdog(
    upstream.url,
    { historyFile: join(folder, 'history.jsonl'), ...flags },
    noiseKeyOf(recorded),
  );
  const ask = async <T>(path: string): Promise<T> => JSON.parse((await get(`${running.admin}${path}`)).text) as T;
  const connect = async () => {
    const client = harness.client(running.port);
    client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded)}\r\n`));
    expect(await readHead(client)).toBe(SWITCHING);
    return client;
  };
  return { ...running, ask, connect };
}

describe('a watchdog with a history file', () => {
  test('shows after a restart what happened before it', async () => {
    const folder = harness.folder();
    const first = await startWithFile(folder);
    await first.connect();
    await until(async () => (await first.ask<EventList>('/events?kind=stream_opened')).events.length > 0, 'it opens');
    await first.watchdog.close();
    const second = await startWithFile(folder);
    const { events, fromFile, knownSince } = await second.ask<EventList>('/events?since=1h');
    expect(fromFile).toBe(true);
    expect(Date.parse(knownSince)).toBeLessThanOrEqual(Date.parse(events[0]?.time ?? ''));
    expect(events.map(({ kind }) => kind)).toEqual(
      expect.arrayContaining(['upstream_not_headscale', 'history_file_read']),
    );
    expect(await (await get(`${second.admin}/events?since=yesterday`)).status).toBe(400);
    expect((await scrape(second.admin)).get('headscale_watchdog_history_file_up')).toBe(1);
  });

  test('a full disk is a problem on the status page, and everything goes on', async () => {
    const folder = harness.folder();
    const { ask, connect, admin, events, watchdog } = await startWithFile(folder);
    const path = join(folder, 'history.jsonl');
    await until(() => statSync(path).size > 0, 'something is written');
    renameSync(path, `${path}.old`);
    mkdirSync(path);
    watchdog.reload();
    await until(() => events.some(({ kind }) => kind === 'history_file_failed'), 'it fails');
    await connect();
    const { problems } = await ask<Overview>('/overview');
    expect(problems.map(({ kind }) => kind)).toContain('history_file_failed');
    expect((await scrape(admin)).get('headscale_watchdog_history_file_up')).toBe(0);
    rmSync(path, { recursive: true });
  });

  test('does not start with a file that is something else', async () => {
    const folder = harness.folder();
    writeFileSync(join(folder, 'history.jsonl'), 'something else\n');
    await expect(startWithFile(folder)).rejects.toMatchObject({ code: 'HSW_HISTORY_FILE_UNUSABLE' });
  });

  test('a node is in /nodes and in /availability after a restart, also without an API key', async () => {
    const folder = harness.folder();
    const clock = new (class extends FakeClock {
      override dateOf(instant: ReturnType<FakeClock['now']>): Date {
        return new Date(MIDNIGHT + instant);
      }
    })();
    const upstream = await harness.upstream(acceptStream);
    const flags = { historyFile: join(folder, 'history.jsonl') };
    const start = () => harness.watchdog(upstream.url, flags, noiseKeyOf(recorded), { clock });
    const first = await start();
    const client = harness.client(first.port);
    client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded)}\r\n`));
    expect(await readHead(client)).toBe(SWITCHING);
    for (let i = 0; i < 40; i++) clock.advance(2000);
    client.end();
    await until(() => first.events.some(({ kind }) => kind === 'stream_closed'), 'it closes');
    const leftAt = clock.dateOf(clock.now()).toISOString();
    clock.advance(60_000);
    await first.watchdog.close();
    clock.advance(60_000);
    const second = await start();
    clock.advance(180_000);
    const ask = async <T>(path: string): Promise<T> => JSON.parse((await get(`${second.admin}${path}`)).text) as T;
    const { nodes } = await ask<{ nodes: PresenceView[] }>('/nodes');
    expect(nodes).toMatchObject([{ state: 'offline', lastSignAt: leftAt }]);
    const list = await ask<AvailabilityList>('/availability');
    expect(list).toMatchObject({ total: 1, nodes: [{ onlineMs: 80_000, offlineMs: 60_000 + 180_000 }] });
    const one = await ask<NodeAvailability>(`/nodes/${nodes[0]?.machineKey}/availability?since=1h`);
    expect(one.periods.map(({ state }) => state)).toEqual(['unknown', 'online', 'offline', 'unknown', 'offline']);
    expect(one.periods[1]?.until).toBe(leftAt);
  });
});
