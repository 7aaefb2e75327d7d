import { describe, expect, test } from 'vitest';
import type { EventView } from '../../src/admin/views.ts';
import type { Api } from '../../src/commands/admin-client.ts';
import { type EventsOptions, showEvents } from '../../src/commands/events.ts';

interface Told extends Pick<EventView, 'kind'>, Partial<Pick<EventView, 'machineKey' | 'reason'>> {
  readonly stream: number;
  readonly otherStream: number | null;
}

const view = ({ kind, stream, otherStream, machineKey = 'mkey:a', reason = null }: Told, seq: number) =>
  ({
    seq,
    time: '2026-11-27T12:00:00Z',
    level: 'info',
    node: null,
    reason,
    code: null,
    kind,
    stream,
    otherStream,
    machineKey,
    sentence: `${kind} ${stream}`,
  }) as unknown as EventView;

/** Stream 2 takes over from stream 1, and stream 4 of another node closes. */
const TAKEOVER: readonly Told[] = [
  { kind: 'contest_opened', stream: 2, otherStream: 1 },
  { kind: 'stream_severed', stream: 1, otherStream: 2 },
  { kind: 'contest_ended', stream: 2, otherStream: 1 },
  { kind: 'stream_closed', stream: 1, otherStream: null, reason: 'severed_dead' },
  { kind: 'stream_closed', stream: 4, otherStream: null, machineKey: 'mkey:b' },
];

/** The same where Headscale refuses a second stream: the newcomer is held until the old one is gone. */
const HELD: readonly Told[] = [
  { kind: 'stream_held', stream: 2, otherStream: null },
  ...TAKEOVER.slice(0, 4),
  { kind: 'stream_released', stream: 2, otherStream: null },
];

/** What `events` shows of the batches that the API answers, one after the other. */
async function shown(batches: readonly (readonly Told[])[], options: EventsOptions = {}) {
  let [text, errors, asked] = ['', '', 0];
  const stop = new AbortController();
  const api = {
    get: () => {
      const events = (batches[asked++] ?? []).map((told, i) => view(told, 100 * asked + i));
      if (asked >= batches.length) stop.abort();
      return Promise.resolve({
        events,
        next: String(asked),
        since: null,
        knownSince: '2026-11-27T00:00:00Z',
        fromFile: false,
      });
    },
  } as unknown as Api;
  const console = {
    ...{ stdout: { write: (line: string) => (text += line) }, stderr: { write: (line: string) => (errors += line) } },
    ...{ colours: false, width: undefined, isInteractive: false, ask: () => Promise.resolve('') },
    ...{ signal: stop.signal, pause: () => Promise.resolve() },
  };
  const code = await showEvents(api, options, console);
  const lines = text
    .trimEnd()
    .split('\n')
    .map((line) => line.split('  ').at(-1));
  return { code, lines, errors };
}

describe('events', () => {
  test('a takeover is one line; --steps shows the others, and so do --kind, --json and --csv', async () => {
    const { lines, errors } = await shown([TAKEOVER]);
    expect(lines).toEqual(['stream_severed 1', 'stream_closed 4']);
    expect(errors).toBe('3 steps of takeovers are left out: --steps shows them.\n');
    expect(await shown([TAKEOVER], { steps: true })).toMatchObject({ lines: { length: 5 }, errors: '' });
    expect((await shown([TAKEOVER], { kind: ['contest_ended', 'stream_closed'] })).lines).toHaveLength(5);
    expect((await shown([TAKEOVER], { json: true })).lines).toHaveLength(5);
    expect((await shown([TAKEOVER], { csv: true })).lines).toHaveLength(6);
  });

  test('with --follow, the steps that come after the severing are left out, whenever they come', async () => {
    const { lines } = await shown([TAKEOVER.slice(0, 1), TAKEOVER.slice(1, 3), TAKEOVER.slice(3)], { follow: true });
    // The contest was already shown when it was not known yet how it would end.
    expect(lines.slice(0, 2)).toEqual(['contest_opened 2', 'stream_severed 1']);
    expect(lines).not.toContain('contest_ended 2');
  });

  test('a takeover is one line also where the newcomer was held, and while it goes on', async () => {
    expect((await shown([HELD])).lines).toEqual(['stream_severed 1']);
    expect((await shown([HELD.slice(0, 2)])).lines).toEqual(['contest_opened 2']);
    // The old stream's client was still there.
    expect((await shown([[...HELD.slice(0, 2), ...HELD.slice(3, 4)]])).lines).toEqual(['contest_ended 2']);
  });

  test('with --follow, it has a line when it begins and one when it has come out', async () => {
    const batches = HELD.map((event) => [event]);
    expect((await shown([[], ...batches, []], { follow: true })).lines).toEqual(['stream_held 2', 'stream_severed 1']);
    const contest = [
      { kind: 'contest_opened', stream: 2, otherStream: 1 },
      { kind: 'contest_ended', stream: 2, otherStream: 1 },
    ] as const;
    expect((await shown([[], ...contest.map((event) => [event]), []], { follow: true })).lines).toEqual([
      'contest_opened 2',
      'contest_ended 2',
    ]);
  });

  test('if there may be more than the newest hundred, it says so and how to see them', async () => {
    const hundred = Array.from(
      { length: 100 },
      (_, i) => ({ kind: 'stream_opened', stream: i, otherStream: null }) as unknown as Told,
    );
    const more =
      'There may be more: this list was made from the newest 100 events. --limit or --since shows more, such as --since 1d.\n';
    expect((await shown([hundred])).errors).toBe(more);
    expect((await shown([hundred.slice(1)])).errors).toBe('');
    expect((await shown([hundred.slice(0, 7)], { limit: '7' })).errors).toContain('the newest 7 events');
  });
});
