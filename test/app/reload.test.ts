import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { readConfigFile } from '../../src/config/file.ts';
import { loadConfig } from '../../src/config/load.ts';
import type { Config } from '../../src/config/types.ts';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import { formatNoiseKey } from '../../src/identity/noise.ts';
import type { KernelOrNot } from '../../src/liveness/kernel.ts';
import { Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { get } from '../support/http.ts';
import { freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';

const harness = new Harness();
const [recorded] = initiations;
let folder: string;
let file: string;
beforeEach(() => {
  folder = harness.folder();
  file = join(folder, 'watchdog.yaml');
});
afterEach(() => harness.closeAll());

/** The kernel of these tests throws when it is told this. */
const UNUSABLE = 44_000;

/** A watchdog with the file as it is, one open stream, and what Linux was told about that stream's client. */
async function bench(text: string) {
  writeFileSync(file, text);
  const orders: string[] = [];
  const kernel: KernelOrNot = {
    ok: true,
    kernel: {
      evidenceOf: () => undefined,
      applyTimeouts: (_socket, { userTimeoutMs, idleMs, probes }) => {
        if (userTimeoutMs === UNUSABLE) throw new Error('the kernel does not take it');
        const isStream = userTimeoutMs > 0 || probes > 9;
        if (isStream) orders.push(`${userTimeoutMs} ${idleMs}`);
      },
      setUserTimeout: () => {},
      probe: () => {},
      trimMemory: () => {},
    },
  };
  const asked: (string | undefined)[] = [];
  const machine = generateNoiseKey();
  const node = { id: '1', machineKey: formatNoiseKey(machine), nodeKey: `nodekey:${'2'.repeat(64)}`, name: 'phone' };
  const upstream = await harness.upstream(
    (_request, socket) => void socket.write(SWITCHING),
    ({ url, headers }, response) => {
      if (url !== '/api/v1/node') return void response.writeHead(404).end();
      asked.push(headers.authorization);
      response.end(JSON.stringify({ nodes: [node] }));
    },
  );
  const flags = { upstream: upstream.url, listen: '127.0.0.1:0', admin: '127.0.0.1:0', trustedProxies: 'none' };
  const reread = (): Config => loadConfig(flags, readConfigFile(file));
  const options = { kernel, reread };
  const running = await harness.watchdogOf(reread(), noiseKeyOf(recorded), options);
  const client = harness.client(running.port);
  client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded, machine)}\r\n`));
  expect(await readHead(client)).toBe(SWITCHING);
  const post = async (headers: Record<string, string> = {}) => {
    const answer = await fetch(`${running.admin}/reload`, {
      method: 'POST',
      headers: { connection: 'close', ...headers },
    });
    return { status: answer.status, text: await answer.text() };
  };
  const streams = async () =>
    JSON.parse((await get(`${running.admin}/streams`)).text) as { streams: { node: object | null }[] };
  return { ...running, orders, asked, post, streams };
}

describe('reload', () => {
  test('new settings apply to open streams, and no stream is closed', async () => {
    const { orders, post, streams, events } = await bench('gone-after: 60s\n');
    expect(orders).toEqual(['60000 75000']);
    writeFileSync(file, 'gone-after: 30s\nprobe-idle: 10s\n');
    const { status, text } = await post();
    expect(status).toBe(200);
    expect(JSON.parse(text)).toEqual({
      ok: true,
      file,
      changes: ['gone-after: 1m → 30s', 'probe-idle: off → 10s'],
      needRestart: [],
    });
    expect(orders).toEqual(['60000 75000', '29000 10000']);
    expect((await streams()).streams).toMatchObject([{ id: 1, state: 'open' }]);
    expect(events.map(({ kind }) => kind)).toContain('settings_reloaded');
  });

  test('a new rule for a machine key applies to its open stream', async () => {
    const { orders, post, events } = await bench('gone-after: 60s\n');
    const opened = events.flatMap((event) => (event.kind === 'stream_opened' ? [event.stream] : []));
    const key = `mkey:${opened[0]?.machineKey}`;
    writeFileSync(file, `gone-after: 60s\nnodes:\n  - machine-key: ${key}\n    gone-after: off\n`);
    expect((await post()).status).toBe(200);
    expect(orders).toEqual(['60000 75000', '0 75000']);
  });

  test('a file with mistakes changes nothing, and each mistake is reported with its place', async () => {
    const { orders, post, streams, events } = await bench('gone-after: 60s\n');
    writeFileSync(file, 'gone-after: 5 minutes\nsilent-aftr: 10s\n');
    const { status, text } = await post();
    expect(status).toBe(422);
    expect(JSON.parse(text)).toEqual({
      ok: false,
      code: 'HSW_CONFIG_INVALID',
      ...{ type: 'about:blank', title: 'Unprocessable Entity', status },
      detail: expect.stringContaining('nothing has changed'),
      problems: [expect.stringContaining(`${file}:1:13: `), expect.stringContaining(`${file}:2:1: `)],
    });
    expect(orders).toEqual(['60000 75000']);
    expect((await streams()).streams).toHaveLength(1);
    expect(events.map(({ kind }) => kind)).toContain('settings_reload_failed');
  });

  test('an unexpected error while reading the settings ends the reload, and changes nothing', async () => {
    const upstream = await harness.upstream(() => {});
    const reread = (): Config => {
      throw new TypeError('unforeseen');
    };
    const flags = { upstream: upstream.url, listen: '127.0.0.1:0', admin: '127.0.0.1:0' };
    const { watchdog, events } = await harness.watchdogOf(loadConfig(flags), undefined, { reread });
    expect(watchdog.reload()).toEqual({
      ok: false,
      code: 'HSW_INTERNAL',
      problems: ['the watchdog could not finish the reload: unforeseen'],
    });
    expect(events.map(({ kind }) => kind)).toEqual(
      expect.arrayContaining(['internal_error', 'settings_reload_failed']),
    );
  });

  test('a key file that cannot be used is reported like any other mistake', async () => {
    const { post, events } = await bench('gone-after: 60s\n');
    writeFileSync(file, `gone-after: 30s\nheadscale-api-key-file: ${join(folder, 'nope')}\n`);
    expect((await post()).status).toBe(422);
    expect(events).toContainEqual({
      kind: 'settings_reload_failed',
      code: 'HSW_API_KEY_UNREADABLE',
      problems: [expect.stringContaining('nope: ')],
    });
  });

  test('settings that need a restart keep their old values, and each reload reports them', async () => {
    const { post, admin } = await bench('log-level: info\n');
    writeFileSync(file, 'log-level: warn\n');
    const readable = JSON.parse((await post()).text) as object;
    expect(readable).toMatchObject({ ok: true, changes: ['log-level: info → warn'] });
    expect((await get(`${admin}/healthz`)).status).toBe(200);
  });

  test('an API key that a reload adds is used at once, and one that it removes is not used any more', async () => {
    const { post, asked, streams } = await bench('log-level: info\n');
    const apiKeyFile = join(folder, 'api.key');
    writeFileSync(apiKeyFile, 'the-key');
    expect(asked).toEqual([]);
    writeFileSync(file, `headscale-api-key-file: ${apiKeyFile}\n`);
    expect((await post()).status).toBe(200);
    await until(() => asked.length === 1, 'Headscale is asked');
    await until(async () => (await streams()).streams.some(({ node }) => node !== null), 'the node has its name');
    writeFileSync(file, 'log-level: info\n');
    expect((await post()).status).toBe(200);
    expect((await streams()).streams).toMatchObject([{ node: null }]);
    expect(asked).toEqual(['Bearer the-key']);
  });

  test('a bug in the middle of a reload restores the old settings, and is reported', async () => {
    const { orders, post, events } = await bench('gone-after: 60s\n');
    writeFileSync(file, `gone-after: ${(UNUSABLE + 1000) / 1000}s\nprobe-idle: 10s\nlog-level: warn\n`);
    expect((await post()).status).toBe(422);
    expect(events.map(({ kind }) => kind)).toEqual(
      expect.arrayContaining(['internal_error', 'settings_reload_failed']),
    );
    expect(orders.at(-1)).toBe(orders[0]);
    writeFileSync(file, 'gone-after: 30s\n');
    // What it differs from is the file it began with.
    expect(JSON.parse((await post()).text)).toMatchObject({ ok: true, changes: ['gone-after: 1m → 30s'] });
  });

  test('a page of another site cannot trigger a reload, and GET /reload is refused', async () => {
    const { post, admin, events } = await bench('log-level: info\n');
    expect((await post({ origin: 'http://evil.example' })).status).toBe(403);
    expect((await get(`${admin}/reload`)).status).toBe(405);
    expect(events.map(({ kind }) => kind)).not.toContain('settings_reloaded');
  });
});
