import { describe, expect, test } from 'vitest';
import { span } from '../../src/lib/units.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { CLOSE_REASONS, type Stream, type StreamId } from '../../src/streams/stream.ts';
import { withName } from '../../src/telemetry/event-phrases.ts';
import { describeEvent } from '../../src/telemetry/event-table.ts';
import { keyOf, stage } from './stage.ts';

const { open } = stage();
const nobody = { listen: () => {} };
const old: Stream = { ...open(nobody, keyOf(1)), id: 12 as StreamId, remoteAddress: '203.0.113.7:4242' };
const newcomer: Stream = { ...open(nobody, keyOf(1)), id: 15 as StreamId, remoteAddress: '198.51.100.9:1' };
const kernel = {
  unackedSegments: 0,
  retransmits: 0,
  unansweredProbes: 3,
  unsentBytes: 0,
  ackedBytes: 0,
  receivedAgoMs: 61_000,
  rttMs: 20,
  rttvarMs: 5,
};
const times = { silentMs: 90_000, silentAfterMs: 30_000, answers: false, contestedMs: 460 };
const severed = { kind: 'stream_severed', stream: old, newcomer, reason: 'dead', ...times, kernel } as const;
const name = (event: WatchdogEvent): string =>
  describeEvent(event, (key) => (key === keyOf(1) ? 'router-1' : undefined));

describe('describeEvent', () => {
  test('says why a dead stream was severed: the evidence, and where the node is now', () => {
    expect(name(severed)).toBe(
      "router-1's old stream 12 from 203.0.113.7:4242 was severed: its kernel answered none of the last 3 probes, 460 ms after the node had come back (its last sign of life was 1 min 1 s ago), and the node is back on stream 15 from 198.51.100.9:1.",
    );
  });

  test('describes a severing by retransmissions, by silence, and without kernel evidence', () => {
    const unacked = { ...kernel, unackedSegments: 2, retransmits: 4, unansweredProbes: 0 };
    expect(name({ ...severed, kernel: unacked })).toContain('acknowledged nothing through 4 retransmissions');
    const silent = name({ ...severed, reason: 'silent', kernel: undefined });
    expect(silent).toContain(
      ': its client had sent nothing for 1 min 30 s, longer than silent-after (30 s), and the node',
    );
  });

  const byPort = { kind: 'proxy', by: 'port', user: 'caddy' } as const;
  const byAddress = { kind: 'proxy', by: 'address', user: 'www-data' } as const;
  const unacked = { ...kernel, unackedSegments: 2, retransmits: 1, unansweredProbes: 0 };

  test.each([
    [byPort, kernel, 'its kernel did not answer the last 3 probes on its connection to the proxy (user caddy)'],
    [
      byAddress,
      kernel,
      'its kernel did not answer the last 3 probes on any connection from its address to the proxy (user www-data)',
    ],
    [
      byPort,
      unacked,
      'its kernel acknowledged nothing through 1 retransmission on its connection to the proxy (user caddy)',
    ],
  ])('behind a proxy it says whose connection showed it: %o', (source, seen, why) => {
    const last = 'its last sign of life was 1 min 1 s ago';
    expect(name({ ...severed, source, kernel: seen })).toBe(
      `router-1's old stream 12 from 203.0.113.7:4242 was severed: ${why}; ${last}, and the node is back on stream 15 from 198.51.100.9:1.`,
    );
    const gone = { source, kernel: seen };
    expect(name({ kind: 'stream_closed', stream: old, reason: 'gone', lifetimeMs: 60_000, gone })).toBe(
      `router-1's stream 12 from 203.0.113.7:4242 was severed as gone: ${why}; ${last} (it lasted 1 min).`,
    );
  });

  test.each([
    [byPort, "its client's connection to the proxy (user caddy) has ended"],
    [byAddress, "every connection from its client's address to the proxy (user www-data) has ended"],
  ])('of a client that has left its proxy: %o', (source, why) => {
    const left = { ...kernel, receivedAgoMs: 0, unansweredProbes: 0, ended: true };
    expect(name({ ...severed, source, kernel: left })).toContain(
      ` was severed: ${why}, and the node is back on stream 15`,
    );
    const gone = { source, kernel: left };
    // It has not waited for gone-after, so it must not say that.
    expect(name({ kind: 'stream_closed', stream: old, reason: 'gone', lifetimeMs: 60_000, gone })).toBe(
      `router-1's stream 12 from 203.0.113.7:4242 was severed as gone: ${why} (it lasted 1 min).`,
    );
  });

  test.each([
    ['port', /\(user caddy\) and its clients.* every client counts for itself\.$/],
    ['address', /\(user caddy\).* if several nodes share an address, .*docs\/proxies\.md for the line/],
  ] as const)('of a proxy that Linux shows, by %s: what follows', (by, sentence) => {
    const found = { kind: 'proxy_sockets_found', address: '127.0.0.1', user: 'caddy', by } as const;
    expect(name(found)).toMatch(sentence);
  });

  test.each([
    [
      'netlink_unavailable',
      /because Linux cannot be asked about its connections \(it is forbidden\)\. So .*Allow netlink/,
    ],
    ['proxy_elsewhere', /because it runs on another machine or .*\. So .*network_mode: service:NAME/],
    ['several_proxies', /because another proxy stands in front of it.*\. So .*behind the outermost proxy/],
    ['address_hidden', /because it does not say who they are\. So .*X-Forwarded-For/],
    ['socket_not_found', /because it has no connection with .*\. So .*address and port of its own client/],
  ] as const)('of a proxy whose clients it cannot see, %s: why, what follows, and what to do', (reason, sentence) => {
    const detail = reason === 'netlink_unavailable' ? 'it is forbidden' : undefined;
    const said = name({ kind: 'proxy_sockets_hidden', address: '172.18.0.5', reason, detail });
    expect(said).toMatch(/^The watchdog cannot see clients of the proxy at 172\.18\.0\.5, /);
    expect(said).toContain(
      'So --gone-after does nothing for them, and a dead stream is severed only after --silent-after.',
    );
    expect(said).toMatch(sentence);
    expect(said).toMatch(/ See docs\/proxies\.md\.$/);
  });

  test('shows the key if the node has no name', () => {
    const stranger = { ...old, machineKey: keyOf(2) };
    expect(name({ kind: 'stream_opened', stream: stranger })).toMatch(/^mkey:00000002…'s stream 12 was opened from /);
    expect(name({ kind: 'stream_opened', stream: { ...old, machineKey: undefined } })).toBe(
      'Stream 12 (node not identified) was opened from 203.0.113.7:4242.',
    );
  });

  test('adds the name to a sentence that was written before the name was known', () => {
    const before = describeEvent(severed, () => undefined);
    expect(withName(before, keyOf(1), 'router-1')).toBe(name(severed));
    expect(withName(before, keyOf(1), '$&')).toContain("$&'s old stream 12");
  });

  test.each(CLOSE_REASONS)(
    'for a stream closed by %s, says which stream, from where, why, and how long it lasted',
    (reason) => {
      const sentence = name({ kind: 'stream_closed', stream: old, reason, lifetimeMs: 7_260_000 });
      expect(sentence).toMatch(/^router-1's stream 12 from 203\.0\.113\.7:4242 .{15,} \(it lasted 2 h 1 min\)\.$/);
      expect(sentence).not.toContain('undefined');
    },
  );
});

describe('span', () => {
  test.each([
    [0, '0 ms'],
    [449.6, '450 ms'],
    [1340, '1.3 s'],
    [59_960, '1 min'],
    [61_000, '1 min 1 s'],
    [3_599_800, '1 h'],
    [7_260_000, '2 h 1 min'],
    [86_399_000, '1 d'],
    [187_200_000, '2 d 4 h'],
  ])('%d ms is %s', (ms, text) => {
    expect(span(ms)).toBe(text);
  });
});
