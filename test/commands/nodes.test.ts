import { describe, expect, test } from 'vitest';
import type { EventView, PresenceView } from '../../src/admin/views.ts';
import type { Api } from '../../src/commands/admin-client.ts';
import { type NodesOptions, showNodes } from '../../src/commands/nodes.ts';
import { showStatus } from '../../src/commands/status.ts';

const DIRECT = { source: 'direct', by: null, user: null, reason: null } as const;
const ago = (ms: number): string => new Date(Date.now() - ms).toISOString();

function node(more: Partial<PresenceView>): PresenceView {
  return {
    ...{ machineKey: `mkey:${'a'.repeat(64)}`, id: '1', name: 'phone', user: 'alice', nodeKey: null, others: [] },
    ...{ addresses: [], tags: [], os: null, clientVersion: null, capabilityVersion: null, isEphemeral: null },
    ...({ state: 'connected', disagreement: null, connectedSince: ago(3_600_000), rttMs: 12 } as const),
    ...{ remoteAddress: '192.0.2.1:1', evidence: DIRECT, lastSignAt: ago(40_000), isContested: false },
    ...{
      isDuplicate: false,
      suspectedSince: null,
      shownOnline: null,
      shownLastSeenAt: null,
      keyExpiresAt: null,
      streams: [],
      ...more,
    },
  };
}

const event = (kind: string, stream: number, sentence: string) =>
  ({ kind, stream, sentence, time: '2026-11-27T12:00:00Z' }) as unknown as EventView;

async function shown(
  nodes: readonly PresenceView[],
  asked: string | undefined,
  options: NodesOptions = {},
  events: readonly EventView[] = [],
) {
  let [text, errors] = ['', ''];
  const stop = new AbortController();
  const pause = () => {
    stop.abort();
    return Promise.resolve();
  };
  const answers: Record<string, object> = {
    '/nodes': { total: nodes.length, next: null, nodes },
    '/events': { events },
  };
  const api = { get: (path: string) => Promise.resolve(answers[path]) } as unknown as Api;
  const console = {
    ...{ stdout: { write: (line: string) => (text += line) }, stderr: { write: (line: string) => (errors += line) } },
    ...{ colours: false, width: undefined, isInteractive: false, ask: () => Promise.resolve('') },
    ...{ signal: stop.signal, pause },
  };
  const code = await showNodes(api, asked, options, console);
  return { code, lines: text.trimEnd().split('\n'), errors };
}

describe('nodes NAME says below its table', () => {
  test('that a phone is there, asleep or not, if a sign of it came lately', async () => {
    const { lines } = await shown([node({})], 'phone');
    const words = 'It is there: the last sign of it came 40 s ago. A phone that sleeps gives one, too.';
    expect(lines.at(-1)).toBe(words);
    expect((await shown([node({})], 'phone', { watch: true })).lines.at(-1)).toBe(words);
  });

  test('that it may be gone, if none has come for longer than Headscale lets pass', async () => {
    const { lines } = await shown([node({ lastSignAt: ago(300_000) })], 'phone');
    expect(lines.at(-1)).toBe(
      'It may be gone: the last sign of it came 5 min ago. If so, --gone-after ends its stream.',
    );
  });

  test('that Linux knows nothing of it', async () => {
    const evidence = { ...DIRECT, source: 'none', reason: 'proxy_elsewhere' } as const;
    const { lines } = await shown([node({ evidence })], 'phone');
    expect(lines.at(-1)).toMatch(/^Linux shows nothing of its client \(proxy_elsewhere\), so only what it sends/);
  });

  test('why its last stream ended: the severing, not the close that follows', async () => {
    const away = node({ state: 'offline', evidence: null, connectedSince: null });
    const events = [event('stream_severed', 7, 'It was severed.'), event('stream_closed', 7, 'It was closed.')];
    const { lines } = await shown([away], 'phone', {}, events);
    expect(lines.slice(2)).toEqual([
      'It is not connected: the last sign of it came 40 s ago.',
      expect.stringMatching(/^How its last stream ended, 2026-11-27 \d\d:\d\d:\d\d\S+: It was severed\.$/),
    ]);
    const older = [event('stream_severed', 6, 'It was severed.'), event('stream_closed', 7, 'It was closed.')];
    expect((await shown([away], 'phone', {}, older)).lines.at(-1)).toMatch(/: It was closed\.$/);
  });

  test('nothing, if several nodes have the name, if none was named, or as JSON', async () => {
    const other = node({ machineKey: `mkey:${'b'.repeat(64)}` });
    expect((await shown([node({}), other], 'phone')).lines).toHaveLength(3);
    expect((await shown([node({})], undefined)).lines).toHaveLength(2);
    expect(JSON.parse((await shown([node({})], 'phone', { json: true })).lines.join('\n')).total).toBe(1);
  });
});

test('nodes shows which machine key two machines use, or may use', async () => {
  expect((await shown([node({ isDuplicate: true })], undefined)).lines[1]).toContain('  connected, duplicate key  ');
  const { lines } = await shown([node({ suspectedSince: '2026-11-27T12:00:00Z' })], 'phone');
  expect(lines[1]).toContain('  connected, two machines?  ');
  expect(lines[2]).toMatch(/^Two machines may use its key: .* The watchdog has been looking into it since 2026-11-27 /);
});

test('of a node without a sign of its own, nodes shows when Headscale saw it', async () => {
  const away = node({ state: 'offline', connectedSince: null, lastSignAt: null, shownOnline: false });
  expect((await shown([away], undefined)).lines[1]).toMatch(/ never /);
  const seen = { ...away, shownLastSeenAt: ago(86_400_000) };
  expect((await shown([seen], undefined)).lines[1]).toContain(' 1 d ago, by Headscale ');
});

test('nodes tells a node that is known, but left out by the other flags', async () => {
  const { code, errors } = await shown([], 'phone');
  expect([code, errors]).toEqual([3, expect.stringContaining("HSW_NODE_UNKNOWN]: there is no node 'phone'")]);
});

test('status does not guess for a watchdog that does not say what is wrong', async () => {
  let errors = '';
  const api = {
    get: (path: string) => Promise.resolve(path === '/nodes' ? { nodes: [] } : { upstream: {} }),
  } as unknown as Api;
  const out = { write: (text: string) => (errors += text) };
  const console = {
    ...{ stdout: out, stderr: out, colours: false, width: undefined, isInteractive: false },
    ...{ ask: () => Promise.resolve(''), signal: new AbortController().signal, pause: () => Promise.resolve() },
  };
  expect(await showStatus(api, {}, console)).toBe(1);
  expect(errors).toMatch(/^error \[HSW_ADMIN_ANSWER_UNEXPECTED\]: the watchdog is of an older version/);
});
