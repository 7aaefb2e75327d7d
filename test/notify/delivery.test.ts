import { createServer, type IncomingMessage, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import type { NotifyTarget } from '../../src/config/types.ts';
import { Notes } from '../../src/history/records.ts';
import { systemClock } from '../../src/lib/clock.ts';
import { deliverOnce, MOST_WAITING, Outbox, type Post, poster } from '../../src/notify/delivery.ts';
import { type Message, testMessage } from '../../src/notify/messages.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { Harness, until } from '../support/harness.ts';
import { settle } from './bench.ts';

const MINUTE = 60_000;
const harness = new Harness();
afterEach(() => harness.closeAll());

function targetOf(url: string, format = 'text'): NotifyTarget {
  const [target] = loadConfig({}, { path: 'w.yaml', text: `notify: [{ url: '${url}', format: ${format} }]` }).notify;
  if (target === undefined) throw new Error('there is no target');
  return target;
}

/** What is sent, without when it was written: messages here are old, or become so. */
const bare = (body: string): string => body.replace(/^At \d\d:\d\d UTC on [\d-]+: /, '');

const message = (text: string): Message => ({ ...testMessage(new Date(0)), text });

/** An outbox with virtual time, whose receiver does what `receiver` says. */
function outboxBench(
  receiver: { post: Post },
  random = (): number => 1,
  notes = new Notes(() => {}, false),
  isPaused = false,
) {
  const clock = new FakeClock();
  const events: WatchdogEvent[] = [];
  const emit = (event: WatchdogEvent): void => void events.push(event);
  const post: Post = (...all) => receiver.post(...all);
  const target = targetOf('http://r.example/');
  const outbox = new Outbox({ clock, emit, post, random, notes }, '1 (text)', target, undefined, isPaused);
  const pass = async (ms: number): Promise<void> => {
    await settle();
    for (let left = ms; left > 0; left -= 1000) {
      clock.advance(Math.min(left, 1000));
      await settle();
    }
  };
  const kinds = (): string[] => events.map(({ kind }) => kind);
  return { clock, events, outbox, pass, kinds };
}

/** A receiver that answers with `status`, and what it got. */
function receiverOf(status: number, retryAfter?: string) {
  const receiver = {
    ...{ status, retryAfter },
    got: [] as string[],
    tries: [] as number[],
    clock: undefined as FakeClock | undefined,
    async post(_url: URL, { body }: { body: string }) {
      receiver.tries.push(receiver.clock?.now() ?? 0);
      if (receiver.status < 300) receiver.got.push(bare(body));
      return { status: receiver.status, retryAfter: receiver.retryAfter };
    },
  };
  return receiver;
}

describe('Outbox', () => {
  test('loses nothing while the receiver is away for ten minutes, and delivers in order', async () => {
    const receiver = { got: [] as string[], isAway: true, tries: 0 };
    const { outbox, pass, events, kinds, clock } = outboxBench({
      async post(_url, { body }) {
        receiver.tries += 1;
        if (receiver.isAway)
          throw Object.assign(new Error('connect to http://r.example/SECRET'), { code: 'ECONNREFUSED' });
        receiver.got.push(bare(body));
        return { status: 200, retryAfter: undefined };
      },
    });
    const texts = Array.from({ length: 20 }, (_, i) => `message ${i}`);
    for (const text of texts) {
      outbox.send(message(text));
      await pass(30_000);
    }
    expect(outbox.waiting).toBe(20);
    expect(receiver.tries).toBeLessThan(20);
    receiver.isAway = false;
    await pass(2 * MINUTE);
    expect(receiver.got).toEqual(texts);
    expect(kinds()).not.toContain('notification_dropped');
    // One warning, and one line when it works again.
    expect(events.filter((event) => 'isNews' in event && event.isNews)).toEqual([
      {
        kind: 'notification_delayed',
        target: '1 (text)',
        about: expect.any(String),
        detail: 'ECONNREFUSED',
        isNews: true,
      },
    ]);
    expect(events.filter((event) => event.kind === 'notification_sent' && event.worksAgain)).toHaveLength(1);
    expect(clock.timers).toBe(0);
  });

  test('tries again after 1, 2, 4, … seconds, at most a minute, for an hour, with variation', async () => {
    const receiver = receiverOf(503);
    const { outbox, pass, events, clock } = outboxBench(receiver);
    receiver.clock = clock;
    outbox.send(message('a'));
    await pass(62 * MINUTE);
    const waits = receiver.tries.slice(1).map((at, i) => at - (receiver.tries[i] ?? 0));
    expect(waits.slice(0, 8)).toEqual([1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
    expect(outbox.waiting).toBe(0);
    expect(events.filter(({ kind }) => kind === 'notification_dropped')).toMatchObject([
      { reason: 'expired', count: 1 },
    ]);
    const varied = receiverOf(503);
    const other = outboxBench(varied, () => 0);
    varied.clock = other.clock;
    other.outbox.send(message('a'));
    for (let i = 0; i < 4; i++) await other.pass(500);
    expect(varied.tries.slice(0, 3).map((at) => at - (varied.tries[0] ?? 0))).toEqual([0, 500, 1500]);
  });

  test.each([400, 404, 410, 301, 308])('%i is final: one warning until it works again', async (status) => {
    const receiver = receiverOf(status);
    const { outbox, pass, events } = outboxBench(receiver);
    for (const text of ['a', 'b', 'c']) outbox.send(message(text));
    await pass(5000);
    expect(receiver.tries).toHaveLength(3);
    expect(events).toMatchObject([
      { kind: 'notification_dropped', reason: 'refused', isNews: true },
      { kind: 'notification_dropped', reason: 'refused', isNews: false },
      { kind: 'notification_dropped', reason: 'refused', isNews: false },
    ]);
    receiver.status = 204;
    outbox.send(message('d'));
    await pass(1000);
    receiver.status = status;
    outbox.send(message('e'));
    await pass(1000);
    expect(events.slice(3)).toMatchObject([{ kind: 'notification_sent', worksAgain: true }, { isNews: true }]);
  });

  test.each([408, 429, 500, 503])('%i is tried again', async (status) => {
    const receiver = receiverOf(status);
    const { outbox, pass } = outboxBench(receiver);
    outbox.send(message('a'));
    await pass(500);
    receiver.status = 200;
    await pass(2000);
    expect(receiver.got).toEqual(['a']);
  });

  test.each([
    ['30', 30_000],
    ['86400', 600_000],
    ['nonsense', 1000],
    ['-5', 1000],
    ['0', 1000],
    [new Date(1_000_000 + 45_000).toUTCString(), 45_000],
  ])('Retry-After: %s waits for %i ms', async (retryAfter, waitMs) => {
    const receiver = receiverOf(429, retryAfter);
    const { outbox, pass, clock } = outboxBench(receiver);
    receiver.clock = clock;
    outbox.send(message('a'));
    await pass(waitMs + 2000);
    expect((receiver.tries[1] ?? 0) - (receiver.tries[0] ?? 0)).toBe(waitMs);
  });

  test('a receiver that hangs is given up after ten seconds, and gets the message later', async () => {
    const got: string[] = [];
    let hangs = true;
    const { outbox, pass, events } = outboxBench({
      post: (_url, { body }, signal) =>
        new Promise((resolve, reject) => {
          signal.addEventListener('abort', () => reject(new Error('aborted')));
          if (hangs) return;
          got.push(bare(body));
          resolve({ status: 200, retryAfter: undefined });
        }),
    });
    outbox.send(message('a'));
    await pass(9000);
    expect(events).toEqual([]);
    await pass(1000);
    expect(events).toMatchObject([{ kind: 'notification_delayed', detail: 'no answer within 10 s' }]);
    hangs = false;
    await pass(2000);
    expect(got).toEqual(['a']);
  });

  test('what is too much is dropped, oldest first, and counted', async () => {
    const receiver = receiverOf(500);
    const { outbox, pass, events } = outboxBench(receiver);
    for (let i = 0; i < MOST_WAITING + 10; i++) outbox.send(message(String(i)));
    expect(outbox.waiting).toBe(MOST_WAITING);
    expect(events.filter((event) => event.kind === 'notification_dropped' && event.reason === 'overflow')).toHaveLength(
      10,
    );
    receiver.status = 200;
    await pass(3000);
    // The first was under way.
    expect(receiver.got.slice(0, 3)).toEqual(['0', '11', '12']);
    expect(receiver.got).toHaveLength(MOST_WAITING);
  });

  describe('stop', () => {
    test('tries what waits once more', async () => {
      const receiver = receiverOf(500);
      const { outbox, pass, kinds } = outboxBench(receiver);
      outbox.send(message('a'));
      outbox.send(message('b'));
      await pass(20_000);
      receiver.status = 200;
      await outbox.stop(new AbortController().signal, 'stopped');
      expect(receiver.got).toEqual(['a', 'b']);
      expect(kinds()).not.toContain('notification_dropped');
    });

    test('says how many are left, when the receiver is away', async () => {
      const receiver = receiverOf(500);
      const { outbox, events } = outboxBench(receiver);
      for (const text of ['a', 'b', 'c']) outbox.send(message(text));
      await outbox.stop(new AbortController().signal, 'stopped');
      expect(events.at(-1)).toMatchObject({ kind: 'notification_dropped', reason: 'stopped', count: 3 });
      outbox.send(message('d'));
      expect(outbox.waiting).toBe(0);
    });

    test('with notes that outlive a restart, the next start goes on with what waits, for the rest of its hour', async () => {
      const kept = new Map<string, unknown>();
      const notesNow = () => {
        const notes = new Notes((name, value) => kept.set(name, value));
        for (const [name, value] of kept) notes.read(name, JSON.parse(JSON.stringify(value)));
        return notes;
      };
      const receiver = receiverOf(500);
      const first = outboxBench(receiver, undefined, notesNow());
      const sent = (text: string, minutes: number): Message => ({
        ...message(text),
        ...{ id: text, at: new Date(first.clock.dateOf(first.clock.now()).getTime() + minutes * MINUTE) },
      });
      for (const text of ['a', 'b']) first.outbox.send(sent(text, 0));
      first.outbox.send(sent('too old', -61));
      await first.outbox.stop(new AbortController().signal, 'stopped');
      expect(first.kinds()).not.toContain('notification_dropped');
      expect(JSON.stringify([...kept])).not.toContain('r.example');

      receiver.status = 200;
      const second = outboxBench(receiver, undefined, notesNow());
      await second.pass(1000);
      expect(receiver.got).toEqual(['a', 'b']);
      expect([...kept.values()]).toEqual([null, null, null]);
      const third = outboxBench(receiver, undefined, notesNow());
      await third.pass(1000);
      expect(receiver.got).toHaveLength(2);
    });

    test('another process takes over what waits: nothing is lost, and nothing is attempted by both', async () => {
      const away = receiverOf(500);
      const first = outboxBench(away);
      for (const id of ['a', 'b', 'c']) first.outbox.send({ ...message(id), id });
      await first.pass(5000);
      await first.outbox.pause();
      const handed = JSON.parse(JSON.stringify(first.outbox.handed));
      const { length } = away.tries;
      expect(first.outbox.waiting).toBe(0);

      const notes = new Notes(() => {});
      // The file was read a moment ago: one has been delivered since, and two have come.
      for (const id of ['a', 'delivered'])
        notes.read(`${handed[0]}${id}`, { ...message(id), id, at: new Date(0).toISOString() });
      const receiver = receiverOf(200);
      const second = outboxBench(receiver, undefined, notes, true);
      second.outbox.send({ ...message('d'), id: 'd', at: new Date(1) });
      await second.pass(5000);
      expect(receiver.got).toEqual([]);
      second.outbox.takeOver([['waiting/of-another/', [{ ...message('x'), at: new Date(0).toISOString() }]], handed]);
      await second.pass(5000);
      expect(receiver.got).toEqual(['a', 'b', 'c', 'd']);
      expect([...notes.all()]).toEqual([]);

      first.outbox.send({ ...message('e'), id: 'e' });
      await first.pass(60_000);
      expect(away.tries).toHaveLength(length);
      away.status = 200;
      await first.outbox.stop(new AbortController().signal, 'stopped');
      expect(away.got).toEqual(['e']);
    });

    test('if the other process does not take over, it goes on', async () => {
      const receiver = receiverOf(500);
      const { outbox, pass } = outboxBench(receiver);
      for (const id of ['a', 'b']) outbox.send({ ...message(id), id });
      await pass(1000);
      await outbox.pause();
      outbox.send({ ...message('c'), id: 'c' });
      receiver.status = 200;
      await pass(60_000);
      expect(receiver.got).toEqual([]);
      outbox.goOn();
      await pass(1000);
      expect(receiver.got).toEqual(['a', 'b', 'c']);
    });

    test('if the other process ends while an attempt is still under way, nothing is forgotten', async () => {
      const got: string[] = [];
      let hangs = true;
      const { outbox, pass } = outboxBench({
        post: (_url, { body }, signal) =>
          new Promise((resolve, reject) => {
            if (!hangs) got.push(bare(body));
            if (!hangs) resolve({ status: 200, retryAfter: undefined });
            signal.addEventListener('abort', () => reject(new Error('aborted')));
          }),
      });
      for (const id of ['a', 'b']) outbox.send({ ...message(id), id });
      await settle();
      const pausing = outbox.pause();
      hangs = false;
      outbox.goOn();
      await pass(20_000);
      await pausing;
      expect(got).toEqual(['a', 'b']);
    });

    test.each([
      [50, 'is finished', ['b']],
      [5000, 'is made anew', ['a', 'b']],
    ] as const)('an attempt that takes %d ms more %s', async (ms, _what, expected) => {
      const clock = { now: undefined as FakeClock | undefined };
      const {
        outbox,
        pass,
        clock: itsClock,
        kinds,
      } = outboxBench({
        post: (_url, _request, signal) =>
          new Promise((resolve, reject) => {
            clock.now?.after(ms, () => resolve({ status: 200, retryAfter: undefined }));
            signal.addEventListener('abort', () => reject(new Error('aborted')));
          }),
      });
      clock.now = itsClock;
      for (const id of ['a', 'b']) outbox.send({ ...message(id), id });
      await settle();
      const pausing = outbox.pause();
      itsClock.advance(100);
      await pausing;
      const [, messages] = outbox.handed;
      expect(messages.map((each) => (each as { id: string }).id)).toEqual(expected);
      await pass(1000);
      expect(kinds()).toEqual(expected.length === 1 ? ['notification_sent'] : []);
    });

    test('what was sent, refused or removed is not sent again, and a garbled note is no message', async () => {
      const kept = new Map<string, unknown>();
      const notes = new Notes((name, value) => kept.set(name, value));
      const refused = outboxBench(receiverOf(404), undefined, notes);
      refused.outbox.send(message('a'));
      await refused.pass(1000);
      const removed = outboxBench(receiverOf(500), undefined, notes);
      removed.outbox.send({ ...message('b'), id: 'b' });
      const [name = ''] = [...notes.all()].map(([each]) => each);
      await removed.outbox.stop(AbortSignal.abort(), 'removed');
      expect([...notes.all()]).toEqual([]);
      for (const garbled of [
        5,
        {},
        [],
        { id: 'x' },
        { ...message('c'), at: 'never' },
        { ...message('d'), nodes: [5] },
      ]) {
        notes.read(`${name}x`, JSON.parse(JSON.stringify(garbled)));
        expect(outboxBench(receiverOf(500), undefined, notes).outbox.waiting).toBe(0);
        expect([...notes.all()]).toEqual([]);
      }
    });

    test('waits no longer than it is told, when the receiver hangs', async () => {
      const { outbox, events, clock } = outboxBench({
        post: (_url, _request, signal) =>
          new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(new Error('aborted')))),
      });
      outbox.send(message('a'));
      await settle();
      const end = new AbortController();
      const stopped = outbox.stop(end.signal, 'stopped');
      end.abort();
      await stopped;
      expect(events.at(-1)).toMatchObject({ reason: 'stopped', count: 1 });
      expect(clock.timers).toBe(0);
    });
  });
});

/** A real receiver. @returns its URL and the requests that it got. */
async function receive(listener: RequestListener) {
  const requests: { request: IncomingMessage; body: string }[] = [];
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => {
      body += chunk.toString();
    });
    request.on('end', () => {
      requests.push({ request, body });
      listener(request, response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  harness.defer(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests };
}

describe('through undici, to a real receiver', () => {
  const open = () => {
    const { post, close } = poster();
    harness.defer(close);
    return (url: string, format?: string, secret?: string, ended?: AbortSignal) =>
      deliverOnce({ clock: systemClock, post }, targetOf(url, format), secret, message('hello'), ended);
  };

  test('as ntfy takes it, with the user of the URL', async () => {
    const { url, requests } = await receive((_request, response) => void response.end('{"id":"x"}'));
    const deliver = open();
    const withUser = `${url.replace('//', '//me:pw@')}/topic?up=1`;
    expect(await deliver(withUser, 'ntfy')).toEqual({ kind: 'sent', detail: 'it answered 200' });
    const [got] = requests;
    expect(got?.request.method).toBe('POST');
    expect(got?.request.url).toBe('/topic?up=1');
    expect(got?.request.headers).toMatchObject({ title: 'Test', priority: '3', tags: 'white_check_mark' });
    expect(got?.request.headers.authorization).toBe(`Basic ${Buffer.from('me:pw').toString('base64')}`);
    expect(bare(got?.body ?? '')).toBe('hello');
  });

  test('a redirect is not followed', async () => {
    const other = await receive((_request, response) => void response.end());
    const { url } = await receive((_request, response) => void response.writeHead(307, { location: other.url }).end());
    expect(await open()(url)).toMatchObject({ kind: 'refused', detail: expect.stringContaining('307, a redirect') });
    expect(other.requests).toEqual([]);
  });

  test('500 and then 200', async () => {
    let status = 500;
    const { url } = await receive(
      (_request, response) => void response.writeHead(status, { 'retry-after': '7' }).end(),
    );
    const deliver = open();
    expect(await deliver(url)).toEqual({ kind: 'failed', detail: 'it answered 500', retryAfter: '7' });
    status = 200;
    expect(await deliver(url)).toMatchObject({ kind: 'sent' });
  });

  test('an answer without an end is cut, and one that hangs is left', async () => {
    let flowed = 0;
    const { url } = await receive((request, response) => {
      if (request.url === '/hang') return;
      response.writeHead(200);
      const more = (): void => {
        do flowed += 65_536;
        while (!response.destroyed && response.write('x'.repeat(65_536)));
        if (!response.destroyed) response.once('drain', more);
      };
      more();
    });
    const deliver = open();
    expect(await deliver(`${url}/endless`)).toMatchObject({ kind: 'sent' });
    expect(flowed).toBeLessThan(64 * 1024 * 1024);
    const end = new AbortController();
    const hanging = deliver(`${url}/hang`, 'text', undefined, end.signal);
    setTimeout(() => end.abort(), 50);
    expect(await hanging).toMatchObject({ kind: 'failed' });
  });

  test('nobody listens, and the detail shows no part of the URL', async () => {
    const { url } = await receive(() => {});
    const port = new URL(url).port;
    const refused = await open()(`http://user:PASSWORD@127.0.0.1:1/SECRET?token=TOKEN`);
    expect(refused).toEqual({ kind: 'failed', detail: 'ECONNREFUSED', retryAfter: undefined });
    expect(port).not.toBe('1');
  });

  test('the watchdog stops while messages go to a real receiver', async () => {
    const { url, requests } = await receive((_request, response) => void response.end());
    const { post, close } = poster();
    harness.defer(close);
    const outbox = new Outbox(
      { clock: systemClock, emit: () => {}, post, random: Math.random, notes: new Notes(() => {}, false) },
      ...(['1 (text)', targetOf(url), undefined] as const),
    );
    for (let i = 0; i < 50; i++) outbox.send(message(String(i)));
    await until(() => requests.length > 3, 'it delivers');
    await outbox.stop(new AbortController().signal, 'stopped');
    expect(requests.map(({ body }) => bare(body))).toEqual(Array.from({ length: 50 }, (_, i) => String(i)));
  });
});
