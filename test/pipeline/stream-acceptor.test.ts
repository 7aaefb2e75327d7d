import type { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import type { KernelOrNot } from '../../src/liveness/kernel.ts';
import { ProxySockets } from '../../src/liveness/proxy-sockets.ts';
import { Admission } from '../../src/pipeline/admission.ts';
import { LONGEST_WAIT_MS, Pacer } from '../../src/pipeline/pacer.ts';
import { StreamAcceptor } from '../../src/pipeline/stream-acceptor.ts';
import { upstreamOf } from '../../src/proxy/upstream.ts';
import { ALONE, type Arrival, NOWHERE_ELSE } from '../../src/streams/directory.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { Registry } from '../../src/streams/registry.ts';
import { Takeover } from '../../src/takeover/takeover.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { fakeKernel } from '../support/fake-kernel.ts';
import { Harness, readHead, SWITCHING, switching, until, upgradeHead } from '../support/harness.ts';
import { freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const [recorded] = initiations;
const RECORD = Buffer.from([4, 0, 2, 1, 2]);
async function bench(kernel: KernelOrNot, flags: Record<string, unknown> = {}) {
  const seen: string[] = [];
  let streams = 0;
  const upstream = await harness.upstream((request, socket) => {
    const id = ++streams;
    seen.push(`open ${id}`);
    socket.on('error', () => {}).on('close', () => seen.push(`closed ${id}`));
    socket.on('end', () => socket.end()).resume();
    socket.write(switching(request.headers.upgrade ?? ''));
  });
  const clock = new FakeClock();
  const options = { kernel, clock };
  const watchdog = await harness.watchdog(upstream.url, { hold: '5s', ...flags }, noiseKeyOf(recorded), options);
  const opens = (path = '/ts2021', header = freshHandshake(recorded)): Socket => {
    const client = harness.client(watchdog.port);
    client.write(upgradeHead(path, `X-Tailscale-Handshake: ${header}\r\n`));
    return client;
  };
  const told = <K extends WatchdogEvent['kind']>(kind: K) =>
    watchdog.events.filter((event): event is Extract<WatchdogEvent, { kind: K }> => event.kind === kind);
  const limited = () => told('limit_reached').map(({ limit }) => limit);
  return { clock, seen, opens, told, limited };
}

/** A browser's upgrade, which has the handshake in its query. */
function webSocketHead(query: string, more = ''): string {
  const key = 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n';
  return `GET /ts2021?${query} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n${key}${more}\r\n`;
}

describe('StreamAcceptor, a browser', () => {
  test.each([
    [
      'in the query',
      (handshake: string) => webSocketHead(`X-Tailscale-Handshake=${encodeURIComponent(handshake)}`),
      'identified',
    ],
    [
      'in the query behind others',
      (handshake: string) => webSocketHead(`a=b&X-Tailscale-Handshake=${encodeURIComponent(handshake)}`),
      'identified',
    ],
    // Headscale reads a browser's in the query alone, and any other client's in the header alone.
    ['in a header', (handshake: string) => webSocketHead('', `X-Tailscale-Handshake: ${handshake}\r\n`), 'missing'],
    [
      'in the query, and no browser',
      (handshake: string) => upgradeHead(`/ts2021?X-Tailscale-Handshake=${encodeURIComponent(handshake)}`),
      'missing',
    ],
  ])('its handshake %s', async (_where, headOf, result) => {
    const { opens, told } = await bench({ ok: false, why: 'a test' });
    const client = opens('/other');
    await readHead(client);
    const browser = harness.client(client.remotePort ?? 0);
    browser.write(headOf(freshHandshake(recorded)));
    await readHead(browser);
    expect(told('handshake_checked')).toMatchObject([{ result }]);
  });

  test('settles with the first record inside its WebSocket frames, and takes over like any other client', async () => {
    const { clock, opens, told } = await bench({ ok: false, why: 'a test' });
    const old = opens();
    await readHead(old);
    const browser = harness.client(old.remotePort ?? 0);
    browser.write(webSocketHead(`X-Tailscale-Handshake=${encodeURIComponent(freshHandshake(recorded))}`));
    await readHead(browser);
    clock.advance(40_000);
    expect(told('stream_severed')).toEqual([]);
    // The frame's own length would be a record's, were it taken for one.
    browser.write(Buffer.concat([Buffer.from([0x82, 0x80 | RECORD.length, 0, 0, 0, 0]), RECORD]));
    const [, newcomer] = told('stream_opened');
    await until(() => newcomer?.stream.firstRecordAt !== undefined, 'the record is seen');
    clock.advance(1000);
    expect(told('stream_severed')).toMatchObject([{ reason: 'silent' }]);
  });
});

describe('StreamAcceptor, a stranger', () => {
  test("who adds another node's handshake to their own gets the identity that Headscale reads, and severs nobody", async () => {
    const { clock, opens, told } = await bench({ ok: false, why: 'a test' });
    const victim = opens();
    await readHead(victim);
    clock.advance(40_000);
    const stranger = generateNoiseKey();
    const own = encodeURIComponent(freshHandshake(recorded, stranger));
    // The victim's, overheard before it reached Headscale.
    const captured = `X-Tailscale-Handshake: ${freshHandshake(recorded)}\r\n`;
    const client = harness.client(victim.remotePort ?? 0);
    client.write(webSocketHead(`X-Tailscale-Handshake=${own}`, `Upgrade: tailscale-control-protocol\r\n${captured}`));
    await readHead(client);
    client.write(Buffer.concat([Buffer.from([0x82, 0x80 | RECORD.length, 0, 0, 0, 0]), RECORD]));
    const stream = told('stream_opened')[1]?.stream;
    await until(() => stream?.firstRecordAt !== undefined, 'the session has begun');
    clock.advance(5000);
    expect(stream?.machineKey).toBe(stranger.publicRaw.toString('hex'));
    expect(told('contest_opened')).toEqual([]);
    expect(told('stream_severed')).toEqual([]);
  });

  test.each(['http://head.example/ts2021', 'HTTP://head.example/ts2021?x'])(
    'who requests %s is identified, limited and paced like any other client',
    async (target) => {
      const { opens, told, limited } = await bench({ ok: false, why: 'a test' }, { maxHandshakesPerAddress: '1' });
      // Ten at once.
      for (let i = 0; i < 10; i++) expect(await readHead(opens(target))).toMatch(/ 101 /);
      expect(await readHead(opens(target))).toMatch(/ 503 /);
      expect(limited()).toEqual(['handshakes_per_address']);
      expect(new Set(told('handshake_checked').map(({ result }) => result))).toEqual(new Set(['identified']));
      expect(new Set(told('stream_opened').map(({ stream }) => stream.kind))).toEqual(new Set(['control']));
    },
  );
});

describe('StreamAcceptor', () => {
  test('a dead old stream: Headscale sees it close before the newcomer arrives; probing stops afterwards', async () => {
    const { kernel, dead, calls } = fakeKernel();
    const { seen, opens, told } = await bench(kernel);
    const old = opens();
    await readHead(old);
    dead.add(old.localPort);
    const newcomer = opens();
    expect(await readHead(newcomer)).toMatch(/ 101 /);
    expect(seen).toEqual(['open 1', 'closed 1', 'open 2']);
    await until(() => told('stream_closed').length === 1, 'the old stream is closed');
    expect(told('stream_closed')).toMatchObject([{ reason: 'severed_dead', stream: { id: 1 } }]);
    // The kernel of the fake client was heard 20 s before the contest.
    const [{ lastSignAt, stream: severed } = {}] = told('stream_closed');
    expect((severed?.openedAt ?? 0) - (lastSignAt ?? 0)).toBe(20_000);
    expect(told('contest_ended')).toMatchObject([{ verdict: 'dead' }]);
    expect(calls.filter((call) => call.includes(` ${old.localPort}`))).toEqual([
      `order ${old.localPort} 120000 75000`,
      `probe ${old.localPort}`,
      `order ${old.localPort} 120000 75000`,
    ]);
  });

  test("a silent old stream is severed one second after the newcomer's first record", async () => {
    const { clock, opens, told } = await bench({ ok: false, why: 'a test' });
    await readHead(opens());
    clock.advance(30_000);
    const newcomer = opens();
    await readHead(newcomer);
    clock.advance(5000);
    expect(told('stream_severed')).toEqual([]);
    newcomer.write(RECORD);
    const stream = told('stream_opened')[1]?.stream;
    await until(() => stream?.firstRecordAt !== undefined, 'the first record has come');
    clock.advance(999);
    expect(told('stream_severed')).toEqual([]);
    clock.advance(1);
    await until(() => told('stream_closed').length === 1, 'the old stream is closed');
    expect(told('stream_closed')).toMatchObject([{ reason: 'severed_silent', stream: { id: 1 } }]);
  });

  test.each(['/derp', '/other'])('an upgrade of %s belongs to no node, whatever handshake it sends', async (path) => {
    const { opens, told } = await bench(fakeKernel().kernel);
    for (const _ of [1, 2]) await readHead(opens(path));
    expect(told('handshake_checked')).toEqual([]);
    expect(told('contest_opened')).toEqual([]);
    expect(told('stream_opened')[0]?.stream.kind).toBe(path === '/derp' ? 'derp' : 'other');
  });
});

describe('StreamAcceptor, a repeated handshake', () => {
  const head = (handshake: string): string => upgradeHead('/ts2021', `X-Tailscale-Handshake: ${handshake}\r\n`);
  const unreachable = async (): Promise<string> => {
    const { server, url } = await harness.upstream(() => {});
    await new Promise((resolve) => server.close(resolve));
    return url;
  };
  /** What was answered to one handshake that is sent twice, each time behind a crowd of others, and what was said of it. */
  async function sentTwice(upstream: string, flags: Record<string, unknown> = {}, crowd = 0) {
    const clock = new FakeClock();
    const watchdog = await harness.watchdog(upstream, { hold: 'off', ...flags }, noiseKeyOf(recorded), { clock });
    const read = (): readonly string[] =>
      watchdog.events.flatMap((event) => (event.kind === 'handshake_checked' ? [event.result] : []));
    const opens = async (handshake: string): Promise<Socket> => {
      const [client, earlier] = [harness.client(watchdog.port), read().length];
      client.write(head(handshake));
      await until(() => read().length > earlier, 'it has been read');
      return client;
    };
    const said: string[] = [];
    const handshake = freshHandshake(recorded);
    for (const _time of [1, 2]) {
      for (let i = 0; i < crowd; i++) await opens(freshHandshake(recorded));
      const client = await opens(handshake);
      said.push(read().at(-1) ?? '');
      clock.advance(LONGEST_WAIT_MS);
      said.push((await readHead(client)).slice(9, 12));
    }
    return said;
  }

  test('after a 502, because Headscale could not be reached, it still identifies its node', async () => {
    expect(await sentTwice(await unreachable())).toEqual(['identified', '502', 'identified', '502']);
  });

  test('after a 503, because it waited too long for its turn, it still identifies its node', async () => {
    const { url } = await harness.upstream((_request, socket) => socket.write(SWITCHING));
    const said = await sentTwice(url, { upstreamRate: '1', upstreamBurst: '1' }, 6);
    expect(said).toEqual(['identified', '503', 'identified', '503']);
  });

  test('after Headscale has seen it, whatever the answer was, it counts as replayed', async () => {
    const { url } = await harness.upstream((_request, socket) => socket.end('HTTP/1.1 500 No\r\n\r\n'));
    expect(await sentTwice(url)).toEqual(['identified', '500', 'replayed', '500']);
  });

  test('after its client left while it was held, it still identifies its node', async () => {
    const { opens, told } = await bench(fakeKernel().kernel);
    await readHead(opens());
    const handshake = freshHandshake(recorded);
    const held = opens('/ts2021', handshake);
    await until(() => told('stream_held').length === 1, 'it is held');
    held.destroy();
    await until(() => told('stream_closed').length === 1, 'it has left');
    opens('/ts2021', handshake);
    await until(() => told('handshake_checked').length === 3, 'it has come again');
    expect(told('handshake_checked').map(({ result }) => result)).toEqual(['identified', 'identified', 'identified']);
  });
});

describe('StreamAcceptor, as it ends', () => {
  /** An acceptor, and what other replicas know of its newcomers once `found` says so. */
  function acceptor() {
    const [clock, registry, events] = [new FakeClock(), new Registry(), [] as WatchdogEvent[]];
    const emit = (event: WatchdogEvent): void => void events.push(event);
    const limits = loadConfig({ upstream: 'http://127.0.0.1:1' }).limits;
    const terms = { silentAfterMs: 30_000, holdMs: 0, holdUsuallyMs: 0, observeOnly: false };
    const withdrawn: number[] = [];
    let found = (_arrival: Arrival): void => {};
    const announcing = vi.fn(() => new Promise<Arrival>((resolve) => (found = resolve)));
    const ends = new StreamAcceptor({
      ...{ clock, registry, emit, kernel: undefined, noiseKey: () => noiseKeyOf(recorded), limits: () => limits },
      takeover: new Takeover(clock, registry, () => terms, emit),
      directory: { ...ALONE, announce: announcing, withdraw: ({ id }) => void withdrawn.push(id) },
      admission: new Admission(clock, () => limits, emit),
      pacer: new Pacer(clock, () => undefined),
      proxySockets: new ProxySockets({ clock, emit, diag: { ok: false, code: 'EPERM', why: 'a test' } }),
      isObserved: () => false,
      tcpTimeoutsOf: () => ({ goneAfterMs: 0, probeIdleMs: 0 }),
      upstream: upstreamOf(new URL('http://127.0.0.1:1')),
      ...{ upstreamReached() {}, upstreamFailed() {}, answeredLate() {} },
      awaitAnswer: () => ({ sent() {}, answered() {}, ended() {} }),
    });
    const comes = (): Socket => {
      const client = new Socket();
      const asked = {
        protocol: 'tailscale-control-protocol',
        streamKind: 'control',
        handshake: freshHandshake(recorded),
      } as const;
      const request = { method: 'POST', url: '/ts2021' } as IncomingMessage;
      const origin = { address: '192.0.2.1', port: 1, path: { kind: 'direct' }, proto: 'http', host: 'h' } as const;
      ends.upgrade({ request, asked, client, head: Buffer.alloc(0), rawHeaders: [] }, origin);
      return client;
    };
    const opened = (): number => events.filter(({ kind }) => kind === 'stream_opened').length;
    return { ends, comes, opened, withdrawn, announcing, registry, found: (arrival: Arrival) => found(arrival) };
  }

  test('who waits for Redis is let go, and becomes no stream when Redis answers', async () => {
    const { ends, comes, opened, withdrawn, registry, found } = acceptor();
    const client = comes();
    await ends.end();
    expect(client.destroyed).toBe(true);
    found(NOWHERE_ELSE);
    await new Promise(setImmediate);
    expect([opened(), registry.size, ends.size]).toEqual([0, 0, 0]);
    expect(withdrawn).toEqual([1]);
  });

  test('who comes after it is let go, and nobody is asked about them', async () => {
    const { ends, comes, opened, announcing } = acceptor();
    await ends.end();
    expect(comes().destroyed).toBe(true);
    expect([opened(), announcing.mock.calls]).toEqual([0, []]);
  });
});
