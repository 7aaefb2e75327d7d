import pino from 'pino';
import { describe, expect, test } from 'vitest';
import type { NodeKey } from '../../src/identity/keys.ts';
import type { NodeInfo } from '../../src/identity/node-info.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { logEvents } from '../../src/telemetry/log.ts';
import { NOTHING_MORE } from '../headscale/node-answers.ts';
import { ALICE, Bench } from '../takeover/takeover-bench.ts';

const LEVELS: Readonly<Record<number, string>> = { 20: 'debug', 30: 'info', 40: 'warn', 50: 'error' };
const { stream } = new Bench().opens(ALICE, '192.0.2.1');
const newcomer = new Bench().opens(ALICE, '192.0.2.2').stream;
const phone: NodeInfo = {
  ...NOTHING_MORE,
  machineKey: ALICE,
  nodeKey: '2'.repeat(64) as NodeKey,
  id: '3',
  name: 'phone-1',
  user: 'alice',
};

function lineOf(event: WatchdogEvent, node: NodeInfo | null = phone): Record<string, unknown> {
  const lines: Record<string, unknown>[] = [];
  const log = pino({ level: 'debug', base: null }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  logEvents(log, () => node ?? undefined)(event);
  expect(lines).toHaveLength(1);
  const { level, time: _, ...rest } = lines[0] as { level: number; time: unknown };
  return { level: LEVELS[level], ...rest };
}

const times = { silentAfterMs: 30_000, answers: false, contestedMs: 450 };
const severed = {
  kind: 'stream_severed',
  stream,
  newcomer,
  reason: 'dead',
  silentMs: 12.3,
  ...times,
  kernel: undefined,
} as const;

describe('logEvents', () => {
  test('names the node of a stream, as far as it is known', () => {
    expect(lineOf(severed)).toMatchObject({
      level: 'info',
      event: 'stream_severed',
      msg: "phone-1's old stream 1 from 192.0.2.1:1000 was severed: its kernel no longer answered, and the node is back on stream 1 from 192.0.2.2:1000.",
      reason: 'dead',
      node: { id: '3', name: 'phone-1', user: 'alice', nodeKey: `nodekey:${'2'.repeat(64)}` },
      machineKey: `mkey:${ALICE}`,
      remoteAddress: '192.0.2.1:1000',
      silentMs: 12,
    });
    expect(lineOf(severed, null)).not.toHaveProperty('node');
  });

  test('for a duplicate key, shows both addresses and what to do', () => {
    const line = lineOf({
      ...{ kind: 'machine_key_duplicated', machineKey: ALICE, addresses: ['192.0.2.1', '192.0.2.2'], restMs: 900_000 },
    });
    expect(line).toMatchObject({ level: 'warn', addresses: ['192.0.2.1', '192.0.2.2'] });
    expect(line.msg).toBe(
      "Duplicate machine key: two machines, at 192.0.2.1 and 192.0.2.2, use the machine key of phone-1 and keep ending each other's streams. " +
        "Delete tailscaled's state on the clone, and log it in again. For the next 15 min, silence alone severs no stream of this key.",
    );
  });

  test.each([
    [
      ...(['shown_offline', false, 'warn'] as const),
      "phone-1 is connected (stream 1 from 192.0.2.1:1000, last sign of life 2 s ago), but Headscale has shown it as offline for 31 s (Headscale's issue 1234). Sever the stream to set Headscale right, or let --reconcile heal do it.",
    ],
    [
      ...(['shown_offline', true, 'info'] as const),
      "phone-1 is connected (stream 1 from 192.0.2.1:1000, last sign of life 2 s ago), but Headscale has shown it as offline for 31 s (Headscale's issue 1234). The stream is ended, so that the node comes back and Headscale notices.",
    ],
    [
      ...(['shown_online', false, 'info'] as const),
      'Headscale has shown phone-1 as online for 31 s, but it has no stream here: it reaches Headscale by another way, or Headscale still holds an old session of it.',
    ],
    [
      ...(['deleted', false, 'warn'] as const),
      "phone-1 was deleted in Headscale, but its stream 1 from 192.0.2.1:1000 is still open (Headscale's issue 1234). Sever it, so that the node notices, or let --reconcile heal do it.",
    ],
    [
      ...(['deleted', true, 'info'] as const),
      "phone-1 was deleted in Headscale, but its stream 1 from 192.0.2.1:1000 is still open (Headscale's issue 1234). It is ended now.",
    ],
  ] as const)('a node that disagrees: %s, ended: %s', (disagreement, isEnded, level, msg) => {
    const on = disagreement === 'shown_online' ? undefined : stream;
    const facts = { disagreement, issue: 1234, isEnded, forMs: 31_000, stream: on, lastSignAgoMs: on && 2000 };
    const line = lineOf({ kind: 'node_disagrees', machineKey: ALICE, node: phone, ...facts }, null);
    expect(line).toMatchObject({
      level,
      event: 'node_disagrees',
      reason: disagreement,
      machineKey: `mkey:${ALICE}`,
      msg,
    });
    expect(line.code).toBe(level === 'warn' ? 'HSW_NODE_DISAGREES' : undefined);
    const unknown = lineOf(
      { kind: 'node_disagrees', machineKey: ALICE, node: phone, ...facts, issue: undefined },
      null,
    );
    expect(unknown.msg).not.toMatch(/issue|let --reconcile/);
  });

  test.each([
    ['gone', 'info', 'was severed as gone: its client acknowledged neither data nor probes'],
    ['not_reading', 'info', "was severed: the client's machine answered, but the client read nothing"],
    ['upstream_silent', 'info', 'was severed: Headscale had sent nothing on it for more than two minutes'],
    ['shown_offline', 'info', 'was severed: Headscale showed its node as offline, although it was connected'],
    ['node_deleted', 'info', 'was severed: its node was deleted in Headscale'],
    ['severed_by_operator', 'info', 'was severed by an operator'],
    ['client_closed', 'debug', 'ended: the client closed it'],
  ] as const)('a stream that closed as %s: %s', (reason, level, why) => {
    const line = lineOf({ kind: 'stream_closed', stream, reason, lifetimeMs: 10.4 });
    expect(line).toMatchObject({ level, event: 'stream_closed', reason, lifetimeMs: 10 });
    expect(line.msg).toContain(why);
  });

  test.each([
    [
      { kind: 'would_sever', stream, reason: 'silent' },
      'info',
      /would have been severed, but it is treated as observe-only: its client has been silent/,
    ],
    [
      { kind: 'upstream_silent', upstream: 'http://u', silence: { on: 'requests' } },
      'error',
      /^Headscale accepts connections at http:\/\/u but does not answer: clients get 504/,
    ],
    [
      { kind: 'upstream_silent', upstream: 'http://u', silence: { on: 'streams', silent: 3, of: 4 } },
      'error',
      /^Headscale has sent nothing on 3 of 4 control streams/,
    ],
    [{ kind: 'nodes_listed', nodes: 3 }, 'info', /shown by name/],
    [{ kind: 'nodes_list_failed', detail: 'no' }, 'error', /last known names stay/],
    [{ kind: 'node_metrics_disabled', maxNodes: 1000 }, 'warn', /--metrics-max-nodes/],
    [{ kind: 'key_file_reloaded', key: 'API key', file: '/k' }, 'info', /^Reloaded the API key/],
    [
      { kind: 'key_file_reload_failed', code: 'HSW_NOISE_KEY_UNREADABLE', detail: 'no' },
      'error',
      /The key in use stays/,
    ],
    [
      { kind: 'settings_reloaded', changes: ['hold: auto → off'], needRestart: [] },
      'info',
      /^Settings reloaded: hold: auto → off\.$/,
    ],
    [{ kind: 'settings_reloaded', changes: [], needRestart: ['listen: :1 → :2'] }, 'warn', /wait for a restart/],
    [{ kind: 'settings_reload_failed', code: 'HSW_CONFIG_INVALID', problems: ['a'] }, 'error', /nothing has changed/],
    [
      { kind: 'handshake_checked', result: 'replayed', detail: undefined, remoteAddress: '192.0.2.1:1' },
      'debug',
      /handshake .* has been seen before: .* unidentified/,
    ],
  ] satisfies readonly (readonly [WatchdogEvent, string, RegExp])[])('$0.kind', (event, level, msg) => {
    const line = lineOf(event);
    expect(line.level).toBe(level);
    const isCoded = level === 'warn' || level === 'error';
    expect(line.code).toEqual(isCoded ? expect.stringMatching(/^HSW_/) : undefined);
    expect(line.msg).toMatch(msg);
  });
});
