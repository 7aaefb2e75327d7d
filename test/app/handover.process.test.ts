import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { afterEach, describe, expect, test } from 'vitest';
import { readConfigFile } from '../../src/config/file.ts';
import { loadConfig } from '../../src/config/load.ts';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import { type Instant, plus, systemClock } from '../../src/lib/clock.ts';
import { Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { get, scrape } from '../support/http.ts';
import { freshHandshake, initiations } from '../support/initiations.ts';
import { Keystream, KeystreamCheck } from '../support/keystream.ts';
import { CLI, freePort, type Run, run, runWith } from '../support/process.ts';
import { RedisServer } from '../support/redis.ts';
import { service } from '../support/service.ts';

const harness = new Harness();
const [recorded] = initiations;
afterEach(() => harness.closeAll());

interface Files {
  readonly port: number;
  readonly admin: number;
  readonly configFile: string;
  readonly keyFile: string;
  /** The program that a hand-over starts: at first it is the built one. */
  readonly program: string;
}

interface Setup extends Files {
  readonly serve: Run;
}

const BUILT = `await import(${JSON.stringify(CLI)});\n`;

interface Wanted {
  /** More lines of the file of settings. */
  readonly settings?: string;
  listen?(port: number): string;
  onUpgrade?(socket: Socket): void;
}

/** The files of a watchdog in front of an upstream that takes every upgrade and echoes. */
async function prepare({ settings = '', listen, onUpgrade = echo }: Wanted): Promise<Files> {
  const { url } = await harness.upstream(
    (_request, socket, head) => {
      if (head.length > 0) socket.unshift(head);
      socket.write(SWITCHING);
      socket.on('end', () => socket.end());
      onUpgrade(socket);
    },
    ({ url: path = '' }, response) => {
      response.end(path.startsWith('/key') ? `{"publicKey":"${recorded.serverPublicKey}"}` : '{}');
    },
  );
  const [port, admin] = [await freePort(), await freePort()];
  const folder = harness.folder();
  const keyFile = join(folder, 'noise_private.key');
  writeFileSync(keyFile, `${recorded.serverPrivateKey}\n`, { mode: 0o600 });
  const [configFile, program] = [join(folder, 'watchdog.yaml'), join(folder, 'program.mjs')];
  const where = `upstream: ${url}\nlisten: ${listen?.(port) ?? `127.0.0.1:${port}`}\nadmin: 127.0.0.1:${admin}\n`;
  writeFileSync(configFile, `${where}noise-key: ${keyFile}\ntrusted-proxies: none\n${settings}`);
  writeFileSync(program, BUILT);
  return { port, admin, configFile, keyFile, program };
}

/** A watchdog with a file of settings, as a process. */
async function start(wanted: Wanted = {}): Promise<Setup> {
  const files = await prepare(wanted);
  const serve = runWith(harness, { program: files.program }, 'serve', '--config', files.configFile);
  await until(() => serve.stdout.includes('"listening"'), 'it has started');
  harness.defer(async () => {
    for (const pid of pidsOf(serve)) kill(pid, 'SIGKILL');
    await until(() => pidsOf(serve).every((pid) => !isThere(pid)), 'every process has ended');
  });
  return { ...files, serve };
}

function echo(socket: Socket): void {
  socket.on('error', () => {}).on('data', (chunk) => socket.write(chunk));
}

/** A watchdog as `start` makes it, but in this process, and with a clock that a test can put forward. */
async function startHere(wanted: Wanted = {}) {
  const files = await prepare(wanted);
  const clock = {
    ...systemClock,
    ahead: 0,
    now: () => plus(systemClock.now(), clock.ahead),
    dateOf: (instant: Instant) => systemClock.dateOf(plus(instant, -clock.ahead)),
  };
  const { configFile, program } = files;
  const running = await harness.watchdogOf(loadConfig({}, readConfigFile(configFile)), undefined, {
    clock,
    successor: {
      program: { command: process.execPath, args: [program, 'serve', '--config', configFile] },
      env: process.env,
    },
  });
  const opened = (kinds: readonly string[]): number => running.events.filter(({ kind }) => kinds.includes(kind)).length;
  return { ...files, ...running, clock, streams: () => opened(['stream_opened']) - opened(['stream_closed']) };
}

async function theNextOneCan({ watchdog, program, port }: Awaited<ReturnType<typeof startHere>>): Promise<void> {
  const clients = [await control(port), await harness.upgraded(port, '/other')];
  writeFileSync(program, BUILT);
  const outcome = await watchdog.handOver();
  expect(outcome).toMatchObject({ ok: true, moved: 2, stayed: 0 });
  const pid = outcome.ok ? outcome.pid : 0;
  harness.defer(() => kill(pid, 'SIGKILL'));
  expect(await areAlive(clients)).toEqual([true, true]);
}

function areAlive(clients: readonly Socket[]): Promise<readonly boolean[]> {
  return Promise.all(
    clients.map(async (client) => {
      return !(client.destroyed || client.readableEnded) && (await echoed(client, Buffer.from('still here')));
    }),
  );
}

/** The processes that have taken over, in order. */
function pidsOf({ stdout }: Run): readonly number[] {
  return [...stdout.matchAll(/"event":"handover_ended"[^\n]*?"successor":(\d+)/g)].map(([, pid]) => Number(pid));
}

function isThere(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

function isStopped(pid: number): boolean {
  return isThere(pid) && / T /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
}

function kill(pid: number, signal: NodeJS.Signals): void {
  if (isThere(pid)) process.kill(pid, signal);
}

async function handOver({ admin }: Pick<Files, 'admin'>): Promise<unknown> {
  return (await fetch(`http://127.0.0.1:${admin}/handover`, { method: 'POST' })).json();
}

async function handOverByCommand({ configFile }: Pick<Files, 'configFile'>): Promise<{
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}> {
  const command = run(harness, 'handover', '--config', configFile);
  const { code } = await command.ended;
  return { code, stdout: command.stdout, stderr: command.stderr };
}

/** A stream of a node, with its first record. */
async function control(port: number, machine?: Parameters<typeof freshHandshake>[1]): Promise<Socket> {
  const client = harness.client(port);
  client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded, machine)}\r\n`));
  expect(await readHead(client)).toMatch(/^HTTP\/1\.1 101 /);
  expect(await echoed(client, FIRST_RECORD)).toBe(true);
  return client;
}

/** The streams of three nodes that have vanished, and have been silent for a second. */
async function leaveStreams(port: number) {
  const left = [];
  for (const when of ['before', 'during', 'after'] as const) {
    const machine = generateNoiseKey();
    left.push({ when, machine, old: await control(port, machine) });
  }
  await new Promise((resolve) => setTimeout(resolve, 1200));
  return left;
}

const FIRST_RECORD = Buffer.from([4, 0, 2, 1, 1]);

/** A second listener, with TLS. */
function withTls(port: number): string {
  const tls = (name: string): string => new URL(`../support/tls/${name}.pem`, import.meta.url).pathname;
  return `[127.0.0.1:${port}, "https://127.0.0.1:${port + 1}?cert=${tls('cert')}&key=${tls('key')}"]`;
}

async function securedStream(port: number): Promise<Socket> {
  const secured = connectTls({ socket: harness.client(port), rejectUnauthorized: false });
  secured.on('error', () => {});
  secured.write(upgradeHead('/other'));
  expect(await readHead(secured)).toMatch(/ 101 /);
  return secured.resume();
}

/** Whether these bytes come back. */
async function echoed(client: Socket, bytes: Buffer): Promise<boolean> {
  let got = Buffer.alloc(0);
  const take = (chunk: Buffer): void => {
    got = Buffer.concat([got, chunk]);
  };
  client.on('data', take).resume();
  client.write(bytes);
  await until(() => got.length >= bytes.length || client.destroyed || client.readableEnded, 'it comes back');
  client.off('data', take);
  return got.equals(bytes);
}

/** Sends keystream bytes now and then, some streams often, and checks what comes. */
function talk(socket: Socket, own: number, others: number) {
  const [stream, check] = [new Keystream(own), new KeystreamCheck(others)];
  const state = { sent: 0, check, isClosed: false };
  socket.on('data', (chunk: Buffer) => check.feed(chunk));
  socket.on('close', () => {
    state.isClosed = true;
  });
  socket.on('error', () => {});
  const timer = setInterval(
    () => {
      if (socket.writableNeedDrain || socket.destroyed) return;
      const length = 1 + ((state.sent * 7919) % 4000);
      state.sent += length;
      socket.write(stream.next(length));
    },
    (own % 8 === 0 ? 10 : 40) + (own % 7),
  );
  harness.defer(() => clearInterval(timer));
  return Object.assign(state, { stop: () => clearInterval(timer) });
}

describe('a hand-over', () => {
  test('keeps every byte of busy streams in order, ten times in a row', async () => {
    const ends: ReturnType<typeof talk>[] = [];
    const setup = await start({
      onUpgrade: (socket) => ends.push(talk(socket, 1000 + ends.length, 5000 + ends.length)),
    });
    const clients: ReturnType<typeof talk>[] = [];
    for (let i = 0; i < 40; i++) {
      const client = await harness.upgraded(setup.port, '/other');
      clients.push(talk(client, 5000 + i, 1000 + i));
    }
    const startedAt = performance.now();
    for (let i = 0; i < 10; i++) {
      expect(await handOver(setup)).toMatchObject({ ok: true, moved: 40, stayed: 0 });
    }
    const tookMs = performance.now() - startedAt;
    for (const each of [...clients, ...ends]) each.stop();
    const sent = (from: readonly { sent: number }[]): number[] => from.map((each) => each.sent);
    const received = (to: typeof clients): number[] => to.map(({ check }) => check.received);
    await until(
      () => JSON.stringify([received(ends), received(clients)]) === JSON.stringify([sent(clients), sent(ends)]),
      'all bytes have come',
      20_000,
    ).catch(() => {});
    expect([...clients, ...ends].filter(({ isClosed }) => isClosed)).toEqual([]);
    expect([...clients, ...ends].map(({ check }) => check.wrong).filter((wrong) => wrong > 0)).toEqual([]);
    expect(received(ends)).toEqual(sent(clients));
    expect(received(clients)).toEqual(sent(ends));
    const all = [...sent(clients), ...sent(ends)].reduce((sum, each) => sum + each, 0);
    console.log(`ten hand-overs of 40 busy streams: ${all} bytes, ${Math.round(tookMs)} ms`);
    const pids = pidsOf(setup.serve);
    expect(new Set(pids).size).toBe(10);
    expect((await get(`http://127.0.0.1:${setup.admin}/streams`)).text).toContain('"total": 40');
  });

  test('when the new process ends, at whatever step, the old one goes on and says why', async () => {
    const setup = await startHere();
    for (const [when, code, why, lost] of [
      ['ends at once', 'process.exit(7);', /ended with exit code 7/, 0],
      ['cannot be loaded', 'import "./missing.mjs";', /ended with exit code 1/, 0],
      ['is killed before it is ready', doBefore('ready', DIE), KILLED, 0],
      ['is killed once it is ready', doAfter('ready', DIE), KILLED, 0],
      ['is killed with the first socket', doAt('stream', 1, DIE), KILLED, 0],
      ['is killed with the second socket', doAt('stream', 2, DIE), KILLED, 0],
      ['is killed before it has taken a stream', doBefore('taken', DIE), KILLED, 0],
      ['is killed when it is to listen', doAt('listen', 1, DIE), KILLED, 2],
      ['is killed before it says that it listens', doBefore('listening', DIE), KILLED, 2],
    ] as const) {
      const clients = [await control(setup.port), await harness.upgraded(setup.port, '/other')];
      writeFileSync(setup.program, `${code}\n${BUILT}`);
      expect(await setup.watchdog.handOver(), when).toMatchObject({
        ...{ ok: false, code: 'HSW_HANDOVER_FAILED', problems: [expect.stringMatching(why)] },
      });
      // What it had taken has ended with it; everything else goes on.
      expect(
        setup.events.findLast(({ kind }) => kind === 'handover_failed'),
        when,
      ).toMatchObject({ lost });
      expect(await areAlive(clients), when).toEqual([lost === 0, lost === 0]);
      clients.push(await harness.upgraded(setup.port, '/other'));
      expect(await echoed(clients[2] as Socket, Buffer.from('newcomer')), when).toBe(true);
      for (const client of clients) client.destroy();
      await until(() => setup.streams() === 0, 'they have closed');
    }
    await theNextOneCan(setup);
  });

  test('when the new process hangs, at whatever step, the old one ends it after a while, says why, and goes on, also with newcomers', async () => {
    const setup = await startHere();
    for (const [when, code, afterMs, why, lost] of [
      ['at once', STOP, 30_000, /was not ready after 30 s/, 0],
      ['once it is ready', doAfter('ready', STOP), 5000, /has not answered for 5 s/, 0],
      ['with the second socket', doAt('stream', 2, STOP), 5000, /has not answered for 5 s/, 0],
      ['when it is to listen', doAt('listen', 1, STOP), 10_000, /did not listen within 10 s/, 2],
      ['before it says that it listens', doBefore('listening', STOP), 10_000, /did not listen within 10 s/, 2],
    ] as const) {
      const clients = [await control(setup.port), await harness.upgraded(setup.port, '/other')];
      const pidFile = join(harness.folder(), 'pid');
      const notePid = `import { writeFileSync } from 'node:fs'; writeFileSync('${pidFile}', String(process.pid));`;
      writeFileSync(setup.program, `${notePid}\n${code}\n${BUILT}`);
      const handing = setup.watchdog.handOver();
      await until(() => existsSync(pidFile) && isStopped(Number(readFileSync(pidFile))), `it hangs, ${when}`);
      const pid = Number(readFileSync(pidFile));
      let isOver = false;
      void handing.then(() => {
        isOver = true;
      });
      const newcomers: Socket[] = [];
      const coming = Array.from({ length: 12 }, async () => {
        newcomers.push(await harness.upgraded(setup.port, '/other'));
      });
      // Eight wait for the new process at most.
      await until(() => newcomers.length >= 4, `newcomers are let in, ${when}`);
      expect(isOver, when).toBe(false);
      setup.clock.ahead += afterMs;
      expect(await handing, when).toMatchObject({ ok: false, problems: [expect.stringMatching(why)] });
      await Promise.all(coming);
      expect(
        setup.events.findLast(({ kind }) => kind === 'handover_failed'),
        when,
      ).toMatchObject({ lost });
      expect(await areAlive(clients), when).toEqual([lost === 0, lost === 0]);
      expect(await areAlive(newcomers), when).toEqual(newcomers.map(() => true));
      await until(() => !isThere(pid), 'the new process has ended');
      for (const client of [...clients, ...newcomers]) client.destroy();
      await until(() => setup.streams() === 0, 'they have closed');
    }
    await theNextOneCan(setup);
  });

  test('a stop wins: it ends the new process, and later nothing is handed over', async () => {
    const setup = await startHere({ settings: 'drain: 1s\n' });
    const clients = [await control(setup.port), await harness.upgraded(setup.port, '/other')];
    const pidFile = join(harness.folder(), 'pid');
    const notePid = `import { writeFileSync } from 'node:fs'; writeFileSync('${pidFile}', String(process.pid));`;
    // The first stream is the new one's, and the second one is on its way.
    writeFileSync(setup.program, `${notePid}\n${doAt('yours', 1, STOP)}\n${BUILT}`);
    const handing = setup.watchdog.handOver();
    await until(() => existsSync(pidFile) && isStopped(Number(readFileSync(pidFile))), 'streams move');
    const drained = setup.watchdog.drain();
    expect(await handing).toMatchObject({ ok: false, problems: ['the watchdog is stopping'] });
    expect(await setup.watchdog.handOver()).toMatchObject({ ok: false, problems: ['the watchdog is stopping'] });
    await drained;
    await until(() => clients.every((client) => client.destroyed || client.readableEnded), 'both have ended');
    await until(() => !isThere(Number(readFileSync(pidFile))), 'the new process has ended');
    expect(setup.events.map(({ kind }) => kind)).toEqual(expect.arrayContaining(['handover_failed', 'drain_ended']));
    expect(setup.events.filter(({ kind }) => kind === 'handover_ended' || kind === 'internal_error')).toEqual([]);
  });

  test.each([
    ['before it says hello', `process.kill(process.ppid, 'SIGKILL');`],
    ['once the new one is ready', doAfter('ready', KILL_OLD)],
    ['while streams move', doAt('yours', 1, KILL_OLD)],
  ])('when the old process is killed %s, the new one ends and leaves nothing', async (_when, code) => {
    const setup = await start();
    const clients = [await control(setup.port), await harness.upgraded(setup.port, '/other')];
    writeFileSync(setup.program, `${code}\n${BUILT}`);
    setup.serve.child.kill('SIGUSR2');
    // The pipes of both have to close.
    expect(await setup.serve.ended).toEqual({ code: null, signal: 'SIGKILL' });
    expect(setup.serve.stderr).toContain('HSW_HANDOVER_FAILED');
    expect(setup.serve.stdout.split('"listening"')).toHaveLength(2);
    await until(() => clients.every((client) => client.destroyed || client.readableEnded), 'the streams have ended');
    const again = runWith(harness, {}, 'serve', '--config', setup.configFile);
    await until(() => again.stdout.includes('"listening"'), 'the next one can listen');
  });

  test.each([
    ['once it has told the new one to listen', doAt('listen', 1, KILL_OLD)],
    ['when the new one listens', doBefore('listening', `(${KILL_OLD}, say(message, ...rest))`)],
  ])('when the old process is killed %s, the new one is the watchdog', async (_when, code) => {
    const historyFile = join(harness.folder(), 'history.jsonl');
    const setup = await start({ settings: `drain: off\nhistory-file: ${historyFile}\n` });
    const clients = [await control(setup.port), await harness.upgraded(setup.port, '/other')];
    const pidFile = join(harness.folder(), 'pid');
    const notePid = `import { writeFileSync } from 'node:fs'; writeFileSync('${pidFile}', String(process.pid));`;
    writeFileSync(setup.program, `${notePid}\n${code}\n${BUILT}`);
    harness.defer(() => kill(Number(readFileSync(pidFile)), 'SIGKILL'));
    setup.serve.child.kill('SIGUSR2');
    await until(() => setup.serve.stdout.split('"listening"').length === 3, 'the new one listens');
    await until(() => setup.serve.child.signalCode !== null, 'the old one has ended');
    clients.push(await control(setup.port));
    expect(await areAlive(clients)).toEqual([true, true, true]);
    writeFileSync(setup.program, BUILT);
    expect(await handOver(setup)).toMatchObject({ ok: true });
    expect(await areAlive(clients)).toEqual([true, true, true]);
    process.kill(Number(readFileSync(pidFile)), 'SIGTERM');
    await setup.serve.ended;
    expect(pidsOf(setup.serve).filter(isThere)).toEqual([]);
    const seqs = [...readFileSync(historyFile, 'utf8').matchAll(/"seq":(\d+)/g)].map(([, seq]) => Number(seq));
    expect(seqs).toEqual([...new Set(seqs)].sort((a, b) => a - b));
    expect(seqs.length).toBeGreaterThan(5);
  });

  test('when the settings or the key are wrong, nothing happens', async () => {
    const setup = await startHere();
    const { watchdog, configFile, keyFile, port } = setup;
    const client = await control(port);
    const [config, key] = [readFileSync(configFile), readFileSync(keyFile)];
    for (const [what, spoil, why] of [
      ['the settings are wrong', () => writeFileSync(configFile, 'listen: nowhere\n'), /listen/],
      [
        "the key is not Headscale's",
        () => writeFileSync(keyFile, `privkey:${'42'.repeat(32)}\n`),
        /HSW_NOISE_KEY_MISMATCH/,
      ],
      ['the key file is gone', () => rmSync(keyFile), /HSW_NOISE_KEY_UNREADABLE/],
    ] as const) {
      spoil();
      const problems = [expect.stringMatching(why)];
      expect(await watchdog.handOver(), what).toMatchObject({ ok: false, problems });
      expect(await echoed(client, Buffer.from('still here')), what).toBe(true);
      writeFileSync(configFile, config);
      writeFileSync(keyFile, key, { mode: 0o600 });
    }
    client.destroy();
    await until(() => setup.streams() === 0, 'it has closed');
    await theNextOneCan(setup);
  });

  test('when two are asked for at the same time, one happens and the other one says that it is under way', async () => {
    const setup = await start();
    const client = await control(setup.port);
    // The new process takes its time, so that both commands meet.
    writeFileSync(setup.program, `await new Promise((resolve) => setTimeout(resolve, 2000));\n${BUILT}`);
    const both = await Promise.all([handOverByCommand(setup), handOverByCommand(setup)]);
    expect(both.map(({ code }) => code).sort()).toEqual([0, 1]);
    const { stderr } = both.find(({ code }) => code === 1) ?? {};
    expect(stderr).toMatch(/^error \[HSW_HANDOVER_FAILED\]: not handed over:\n.*a hand-over is under way already\n/);
    expect(pidsOf(setup.serve)).toHaveLength(1);
    expect(await echoed(client, Buffer.from('moved'))).toBe(true);
  });

  test('newcomers are neither refused nor kept waiting', async () => {
    const setup = await start();
    for (let i = 0; i < 30; i++) await harness.upgraded(setup.port, '/other');
    const waits = { before: [] as number[], during: [] as number[] };
    const failed: string[] = [];
    const open = async (into: number[]): Promise<void> => {
      const startedAt = performance.now();
      try {
        const client = await control(setup.port, generateNoiseKey());
        into.push(performance.now() - startedAt);
        client.destroy();
      } catch (error) {
        failed.push(String(error));
      }
    };
    for (let i = 0; i < 40; i++) await open(waits.before);
    let isOver = false;
    const all: Promise<void>[] = [];
    const timer = setInterval(() => {
      if (!isOver) all.push(open(waits.during));
    }, 20);
    harness.defer(() => clearInterval(timer));
    for (let i = 0; i < 3; i++) expect(await handOver(setup)).toMatchObject({ ok: true });
    isOver = true;
    await Promise.all(all);
    const [before, during] = [waits.before, waits.during].map((each) => Math.round(Math.max(...each)));
    console.log(
      `newcomers: ${waits.during.length} during 3 hand-overs, slowest ${during} ms; before, slowest ${before} ms`,
    );
    expect(failed).toEqual([]);
    expect(waits.during.length).toBeGreaterThan(20);
    // What a busy machine adds is no matter of the hand-over: the command itself runs on it too.
    expect(during).toBeLessThan(5000);
  });

  test('a node that comes back takes over from a stream that was handed over, before, during and after', async () => {
    const setup = await start({ settings: 'silent-after: 1s\n' });
    const nodes = await leaveStreams(setup.port);
    let handing: Promise<unknown> | undefined;
    for (const { when, machine, old } of nodes) {
      if (when === 'during') handing = handOver(setup);
      if (handing !== undefined)
        await until(() => setup.serve.stdout.split('"handover_started"').length > 1, 'it begins');
      if (when === 'after') expect(await handing).toMatchObject({ ok: true });
      const newcomer = await control(setup.port, machine);
      await until(() => old.destroyed || old.readableEnded || old.closed, `the old stream is severed, ${when}`);
      expect(await echoed(newcomer, Buffer.from('the new one'))).toBe(true);
    }
    expect(setup.serve.stdout.split('"stream_severed"').length - 1).toBe(3);
  });

  test.each(['', 'history-file'] as const)(
    'a notification waits while its receiver is away, goes along, and is delivered once; %s',
    async (kept) => {
      const receiver = { status: 500, tries: 0, got: 0 };
      const { url } = await harness.upstream(
        (_request, socket) => void socket.destroy(),
        (request, response) => {
          receiver.tries += 1;
          if (receiver.status === 200) receiver.got += 1;
          response.statusCode = receiver.status;
          request.resume().once('end', () => response.end());
        },
      );
      const file = kept && `history-file: ${join(harness.folder(), 'history.jsonl')}\n`;
      const notify = `notify: [{ url: '${url}', format: text, events: [takeover] }]\n`;
      const setup = await start({ settings: `silent-after: 1s\ndrain: 20s\n${notify}${file}` });
      const [{ machine, old } = {}] = await leaveStreams(setup.port);
      await control(setup.port, machine);
      await until(() => old?.readableEnded === true || old?.closed === true, 'the old stream is severed');
      await until(() => receiver.tries > 1, 'the receiver was tried');
      expect(await handOver(setup)).toMatchObject({ ok: true });
      const tried = receiver.tries;
      await until(() => receiver.tries > tried, 'the new process tries, too');
      receiver.status = 200;
      await until(() => receiver.got > 0, 'it is delivered');
      await new Promise((resolve) => setTimeout(resolve, 2000));
      expect(receiver.got).toBe(1);
    },
  );

  test("counters and history go on, and a stream's bytes too", async () => {
    const setup = await start();
    const admin = `http://127.0.0.1:${setup.admin}`;
    const client = await control(setup.port);
    (await control(setup.port)).destroy();
    const counters = (samples: ReadonlyMap<string, number>) =>
      [...samples].filter(([name]) => /^headscale_watchdog_\w+(_total|_count|_sum|_bucket)\b/.test(name));
    await until(async () => (await get(`${admin}/streams`)).text.includes('"total": 1'), 'the second one has closed');
    const before = counters(await scrape(admin));
    const events = JSON.parse((await get(`${admin}/events`)).text) as {
      readonly lastSeq: number;
      readonly events: { readonly seq: number }[];
    };
    for (let i = 0; i < 2; i++) expect(await handOver(setup)).toMatchObject({ ok: true });
    const done = 'headscale_watchdog_handovers_total{result="done"}';
    await until(async () => (await scrape(admin)).get(done) === 2, 'both hand-overs are counted');
    const after = await scrape(admin);
    for (const [name, value] of before) expect([name, (after.get(name) ?? 0) >= value]).toEqual([name, true]);
    expect(after.get('headscale_watchdog_streams_opened_total{kind="control"}')).toBe(2);
    expect(after.get('headscale_watchdog_streams{kind="control"}')).toBe(1);
    const later = JSON.parse((await get(`${admin}/events?after=0&limit=1000`)).text) as typeof events;
    expect(later.lastSeq).toBeGreaterThan(events.lastSeq);
    expect(later.events.slice(0, events.events.length)).toEqual(events.events);
    expect(await echoed(client, Buffer.from('still here'))).toBe(true);
  });

  test('a stream with TLS stays with the old process until --drain has passed, and is counted; one process writes the history', async () => {
    const historyFile = join(harness.folder(), 'history.jsonl');
    const setup = await start({
      settings: `drain: 3s\nlog-level: debug\nhistory-file: ${historyFile}\n`,
      listen: withTls,
    });
    const plain = await harness.upgraded(setup.port, '/other');
    const secured = await securedStream(setup.port + 1);
    type Events = {
      readonly lastSeq: number;
      readonly events: readonly { readonly seq: number; readonly kind: string }[];
    };
    const events = async (): Promise<Events> =>
      JSON.parse((await get(`http://127.0.0.1:${setup.admin}/events?after=0&limit=1000`)).text);
    const before = await events();
    const { code, stdout, stderr } = await handOverByCommand(setup);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/^handed over to process \d+ in .*: 1 streams went on, 1 cannot go\n$/);
    expect(await echoed(plain, Buffer.from('moved'))).toBe(true);
    // Both processes have something to note now.
    setup.serve.child.kill('SIGHUP');
    secured.resume();
    await until(() => secured.destroyed || secured.readableEnded, 'its drain has passed');
    await until(() => setup.serve.stdout.includes('"not_handed_over"'), 'the log says why it ended');
    const counted = 'headscale_watchdog_streams_closed_total{kind="other",reason="not_handed_over"}';
    const metrics = () => scrape(`http://127.0.0.1:${setup.admin}`);
    await until(async () => (await metrics()).get(counted) === 1, 'the new process counts it');
    expect(await echoed(plain, Buffer.from('still here'))).toBe(true);
    const after = await events();
    const closed = setup.serve.stdout.split('"event":"stream_closed"').length - 1;
    expect(after.events.slice(0, before.events.length)).toEqual(before.events);
    expect(after.events.map(({ seq }) => seq)).toEqual(Array.from({ length: after.lastSeq }, (_, i) => i + 1));
    const kinds = after.events.map(({ kind }) => kind);
    expect(kinds).toEqual(expect.arrayContaining(['handover_ended', 'handover_received', 'settings_reloaded']));
    expect(kinds.filter((kind) => kind === 'stream_closed')).toHaveLength(closed);
    kill(pidsOf(setup.serve)[0] as number, 'SIGTERM');
    await setup.serve.ended;
    const lines = readFileSync(historyFile, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    const seqs = lines.flatMap(({ seq }) => (seq === undefined ? [] : [seq]));
    expect(seqs).toEqual([...new Set(seqs)].sort((a, b) => a - b));
    expect(lines.map(({ kind }) => kind)).toEqual(
      expect.arrayContaining(['handover_ended', 'handover_received', 'settings_reloaded', 'drain_started']),
    );
  });

  test('when the new process is killed later, the old one ends its last streams at once, so that both can be started again', async () => {
    const setup = await start({ settings: 'drain: 2m\n', listen: withTls });
    const secured: Socket[] = [];
    for (let i = 0; i < 3; i++) secured.push(await securedStream(setup.port + 1));
    expect(await handOver(setup)).toMatchObject({ ok: true, stayed: 3 });
    kill(pidsOf(setup.serve)[0] as number, 'SIGKILL');
    await until(() => secured.every((each) => each.destroyed || each.readableEnded), 'its streams end');
    expect(await setup.serve.ended).toEqual({ code: 1, signal: null });
  });

  test('with a service manager, the new process becomes the main one, with the sockets of the manager, and the old one ends', async () => {
    const folder = harness.folder();
    const manager = await service(harness, { ports: [0], notify: join(folder, 'notify'), flags: ['--drain', '1s'] });
    const [port = 0] = manager.ports;
    const first = await manager.started();
    const client = await harness.upgraded(port, '/other');
    process.kill(first, 'SIGUSR2');
    const mainPid = (): number => Number(/MAINPID=(\d+)/.exec(manager.notified.join('\n'))?.[1]);
    await until(() => mainPid() > 0, 'the manager knows the new process');
    harness.defer(() => kill(mainPid(), 'SIGKILL'));
    expect(await manager.end(first)).toBe(0);
    const after = manager.notified.slice(manager.notified.findIndex((each) => each.startsWith('MAINPID=')) + 1);
    expect(after.some((each) => each.startsWith('READY=1'))).toBe(true);
    expect(after.join()).not.toContain('STOPPING=1');
    expect(isThere(mainPid())).toBe(true);
    expect(client.destroyed || client.readableEnded).toBe(false);
    await harness.upgraded(port, '/other');
    // The next one has the same sockets, and knows whose they are.
    process.kill(mainPid(), 'SIGUSR2');
    await until(() => manager.notified.filter((each) => each.startsWith('MAINPID=')).length === 2, 'the next one');
    const last = Number(
      /MAINPID=(\d+)/.exec(manager.notified.findLast((each) => each.startsWith('MAINPID=')) ?? '')?.[1],
    );
    harness.defer(() => kill(last, 'SIGKILL'));
    await harness.upgraded(port, '/other');
    expect(client.destroyed || client.readableEnded).toBe(false);
    kill(last, 'SIGTERM');
    await until(() => !isThere(last), 'it has stopped', 30_000);
    expect(manager.output).toContain('"drain_ended"');
  });

  test('without a service manager, the first process stays, passes signals on, and ends with the last one', async () => {
    const setup = await start({ settings: 'drain: off\n' });
    expect(await handOver(setup)).toMatchObject({ ok: true });
    expect(await handOver(setup)).toMatchObject({ ok: true });
    expect(setup.serve.child.exitCode).toBeNull();
    setup.serve.child.kill('SIGHUP');
    await until(() => setup.serve.stdout.includes('"settings_reloaded"'), 'the last one reloads');
    setup.serve.child.kill('SIGUSR2');
    await until(() => pidsOf(setup.serve).length === 3, 'the last one hands over');
    setup.serve.child.kill('SIGTERM');
    expect(await setup.serve.ended).toEqual({ code: 0, signal: null });
    expect(pidsOf(setup.serve).filter(isThere)).toEqual([]);
  });
});

describe('a hand-over of one of two replicas', () => {
  test('the other one sees one member that goes on, and a node of it takes over before, during and after', async () => {
    const redis = await RedisServer.start();
    harness.defer(() => redis.close());
    const settings = `silent-after: 1s\nhold: 300ms\nredis: ${redis.url}\n`;
    const a = await start({ settings: `${settings}replica-name: a\n` });
    const b = await start({ settings: `${settings}replica-name: b\n` });
    const shown = async (): Promise<readonly { readonly id: number; readonly replica: string }[]> =>
      JSON.parse((await get(`http://127.0.0.1:${b.admin}/streams?limit=1000`)).text).streams;
    const knows = (count: number, name: string): Promise<void> =>
      until(
        async () => (await shown()).filter(({ replica }) => replica.startsWith(name)).length === count,
        name,
        20_000,
      );
    const idle = [];
    for (let i = 0; i < 5; i++) idle.push(await control(a.port, generateNoiseKey()));
    await knows(5, 'a#');
    const before = (await shown()).map(({ id, replica }) => `${replica}/${id}`).sort();
    const lease = async (): Promise<string> => await redis.command('KEYS', 'headscale-watchdog:lease:*');
    const leases = await lease();

    for (const { when, machine, old } of await leaveStreams(a.port)) {
      if (when === 'after') expect(await handOver(a)).toMatchObject({ ok: true });
      const handing = when === 'during' ? handOver(a) : undefined;
      if (handing !== undefined)
        await until(() => a.serve.stdout.split('"handover_started"').length > 1, 'the hand-over begins');
      const newcomer = await control(b.port, machine);
      await until(() => old.destroyed || old.readableEnded, `the old stream at A is severed, ${when}`, 20_000);
      expect(newcomer.destroyed || newcomer.readableEnded).toBe(false);
      if (handing !== undefined) expect(await handing).toMatchObject({ ok: true });
      newcomer.destroy();
      await knows(0, 'b#');
    }
    // A member that has gone is missed after 15 seconds.
    if (process.env.E2E_LONG === '1') await new Promise((resolve) => setTimeout(resolve, 21_000));
    expect((await shown()).map(({ id, replica }) => `${replica}/${id}`).sort()).toEqual(before);
    expect((await lease()).split('\r\n').sort()).toEqual(leases.split('\r\n').sort());
    expect(b.serve.stdout.match(/"(replica_gone|replica_message_rejected|redis_down)".*/)?.[0]).toBeUndefined();
    for (const client of idle) expect(await echoed(client, Buffer.from('still here'))).toBe(true);
    expect(pidsOf(a.serve)).toHaveLength(2);

    // A newcomer at A, after both hand-overs, takes over from a stream at B.
    const machine = generateNoiseKey();
    const old = await control(b.port, machine);
    await new Promise((resolve) => setTimeout(resolve, 1200));
    const newcomer = await control(a.port, machine);
    await until(() => old.destroyed || old.readableEnded, 'the old stream at B is severed', 20_000);
    expect(await echoed(newcomer, Buffer.from('the new one'))).toBe(true);

    // What is lost with a new process is gone for the other one, and in Redis.
    await knows(6, 'a#');
    const announced = async (): Promise<string> => redis.command('KEYS', 'headscale-watchdog:node:*');
    expect(await announced()).toMatch(/^\*6\r/);
    writeFileSync(a.program, `${doBefore('listening', DIE)}\n${BUILT}`);
    expect(await handOver(a)).toMatchObject({ ok: false });
    await knows(0, 'a#');
    await until(async () => (await announced()).startsWith('*0\r'), 'Redis has none of them any more');
  }, 120_000);
});

const DIE = "process.kill(process.pid, 'SIGKILL')";
const STOP = "process.kill(process.pid, 'SIGSTOP')";
/** It waits until the old process has ended. */
const KILL_OLD =
  "(process.kill(process.ppid, 'SIGKILL'), Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100))";
const KILLED = /was ended by SIGKILL/;

/** The program as it does something before it says something. */
function doBefore(kind: string, what: string): string {
  return `const say = process.send?.bind(process); process.send = (message, ...rest) => message.kind === '${kind}' ? ${what} : say(message, ...rest);`;
}

function doAfter(kind: string, what: string): string {
  return `const say = process.send?.bind(process); process.send = (message, ...rest) => { const sent = say(message, ...rest); if (message.kind === '${kind}') setTimeout(() => ${what}, 0); return sent; };`;
}

/** The program as it does something when it hears something for the n-th time. */
function doAt(kind: string, nth: number, what: string): string {
  // A listener of its own would take the first messages away from the program's.
  return `let heard = 0; const emit = process.emit.bind(process); process.emit = (event, message, ...rest) => { if (event === 'message' && message.kind === '${kind}' && ++heard === ${nth}) ${what}; return emit(event, message, ...rest); };`;
}
