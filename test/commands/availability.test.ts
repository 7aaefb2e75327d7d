import { describe, expect, test } from 'vitest';
import type { AvailabilityView } from '../../src/admin/availability-views.ts';
import type { EventView } from '../../src/admin/views.ts';
import type { Api } from '../../src/commands/admin-client.ts';
import { type AvailabilityOptions, showAvailability } from '../../src/commands/availability.ts';
import { showEvents } from '../../src/commands/events.ts';
import { csvLine, localTime } from '../../src/commands/terminal.ts';

const HOUR_MS = 3_600_000;
const SPAN = {
  ...{ since: '2026-11-25T00:00:00.000Z', until: '2026-11-27T00:00:00.000Z', timezone: 'UTC' },
  knownSince: '2026-11-20T00:00:00.000Z',
};
const DAYS = [
  { date: '2026-11-25', onlineMs: 23 * HOUR_MS, offlineMs: HOUR_MS, unknownMs: 0 },
  { date: '2026-11-26', onlineMs: 24 * HOUR_MS - 1000, offlineMs: 0, unknownMs: 1000 },
];
const NODE: AvailabilityView = {
  ...{ machineKey: `mkey:${'a'.repeat(64)}`, id: '1', name: 'router-1', availability: 0.97872, days: DAYS },
  ...{ onlineMs: 47 * HOUR_MS - 1000, offlineMs: HOUR_MS, unknownMs: 1000 },
};

function outputs(answers: Readonly<Record<string, object>>) {
  const asked: (readonly [string, unknown])[] = [];
  let [text, errors] = ['', ''];
  const api = {
    get: (path: string, query: unknown) => {
      asked.push([path, query]);
      return Promise.resolve(answers[path]);
    },
  } as unknown as Api;
  const console = {
    ...{ stdout: { write: (line: string) => (text += line) }, stderr: { write: (line: string) => (errors += line) } },
    ...{ colours: false, width: undefined, isInteractive: false, ask: () => Promise.resolve('') },
    ...{ signal: new AbortController().signal, pause: () => Promise.resolve() },
  };
  return { api, console, asked, said: () => ({ text, errors }) };
}

describe('headscale-watchdog availability', () => {
  const options: AvailabilityOptions = { since: '30d', timezone: 'UTC' };

  test('lists the nodes, the least available one first', async () => {
    const never = { ...NODE, name: null, availability: null, onlineMs: 0, offlineMs: 0, unknownMs: 48 * HOUR_MS };
    const best = { ...NODE, name: 'phone', availability: 0.999999, offlineMs: 0, unknownMs: 0 };
    const answer = { ...SPAN, total: 3, nodes: [never, best, NODE] };
    const { api, console, asked, said } = outputs({ '/availability': answer });
    expect(await showAvailability(api, undefined, options, console)).toBe(0);
    expect(asked).toEqual([['/availability', { since: '30d', until: undefined, timezone: 'UTC' }]]);
    expect(said()).toEqual({
      // A pipe gets whole keys.
      text: [
        `${'NODE'.padEnd(69)}  AVAILABLE    ONLINE  OFFLINE  UNKNOWN`,
        `${'router-1'.padEnd(69)}   97.872 %  1 d 23 h      1 h      1 s`,
        `${'phone'.padEnd(69)}   99.999 %  1 d 23 h        -        -`,
        `${NODE.machineKey}          -         -        -      2 d`,
        '',
      ].join('\n'),
      errors: '',
    });
  });

  test('shows one node day by day, and says what is not known', async () => {
    const answer = { ...SPAN, ...NODE, knownSince: '2026-11-25T12:00:00.000Z', periods: [] };
    const nodes = { total: 1, nodes: [{ ...NODE, nodeKey: null, others: [] }] };
    const { api, console, said } = outputs({ '/nodes/router-1/availability': answer, '/nodes': nodes });
    expect(await showAvailability(api, 'router-1', options, console)).toBe(0);
    const { text, errors } = said();
    expect(text.split('\n').map((line) => line.trim().split(/ {2,}/))).toEqual([
      ['DAY', 'AVAILABLE', 'ONLINE', 'OFFLINE', 'UNKNOWN'],
      ['2026-11-25', '95.833 %', '23 h', '1 h', '-'],
      ['2026-11-26', '100.000 %', '1 d', '-', '1 s'],
      ['all', '97.872 %', '1 d 23 h', '1 h', '1 s'],
      [''],
    ]);
    expect(errors).toBe(`Nothing is known before ${localTime('2026-11-25T12:00:00Z')}.\n`);
  });

  test('prints seconds as CSV', async () => {
    const { api, console, said } = outputs({ '/availability': { ...SPAN, total: 1, nodes: [NODE] } });
    expect(await showAvailability(api, undefined, { ...options, csv: true }, console)).toBe(0);
    expect(said().text.split('\r\n')).toEqual([
      'node,machine_key,day,online_seconds,offline_seconds,unknown_seconds',
      `router-1,mkey:${'a'.repeat(64)},2026-11-25,82800,3600,0`,
      `router-1,mkey:${'a'.repeat(64)},2026-11-26,86399,0,1`,
      '',
    ]);
  });

  test('does not know a node that nobody knows', async () => {
    const { api, console, said } = outputs({ '/nodes': { total: 1, nodes: [{ ...NODE, nodeKey: null, others: [] }] } });
    expect(await showAvailability(api, 'router-2', options, console)).toBe(3);
    expect(said().errors).toBe("error [HSW_NODE_UNKNOWN]: there is no node 'router-2': did you mean router-1?\n");
  });
});

describe('headscale-watchdog events --since', () => {
  const event = { seq: 7, time: '2026-11-26T08:00:00.000Z', kind: 'stream_opened', level: 'debug' } as EventView;
  const answer = {
    ...{ lastSeq: 9, since: '2026-11-20T00:00:00.000Z', knownSince: '2026-11-25T00:00:00.000Z', fromFile: false },
    events: [{ ...event, sentence: 'It was opened.' }],
  };

  test('asks for all events of that time, and says if only those in memory are known', async () => {
    const { api, console, asked, said } = outputs({ '/events': answer });
    expect(await showEvents(api, { since: '7d' }, console)).toBe(0);
    expect(asked).toEqual([['/events', { since: '7d', limit: '20000' }]]);
    expect(said()).toEqual({
      text: `${localTime(event.time)}  It was opened.\n`,
      errors: `Events are known since ${localTime(answer.knownSince)} only. Without --history-file, the watchdog remembers one day at most, and forgets it when it restarts.\n`,
    });
  });

  test('says that there may be more', async () => {
    const whole = { ...answer, knownSince: answer.since };
    const { api, console, said } = outputs({ '/events': whole });
    expect(await showEvents(api, { since: '7d', limit: '1' }, console)).toBe(0);
    expect(said().errors).toBe(
      'There may be more: this list was made from the newest 1 events. Ask for those before with --until 2026-11-26T08:00:00.000Z.\n',
    );
  });

  test('prints CSV that a spreadsheet does not take for a formula', async () => {
    const odd = { ...event, sentence: 'It said "a, b".', remoteAddress: '=1+1' };
    const { api, console, said } = outputs({ '/events': { ...answer, events: [odd] } });
    expect(await showEvents(api, { csv: true }, console)).toBe(0);
    expect(said().text).toBe(
      'time,level,kind,node,machineKey,stream,otherStream,remoteAddress,reason,code,sentence\r\n' +
        `2026-11-26T08:00:00.000Z,debug,stream_opened,,,,,'=1+1,,,"It said ""a, b""."\r\n`,
    );
    expect(csvLine(['a\nb', 3])).toBe('"a\nb",3\r\n');
  });
});
