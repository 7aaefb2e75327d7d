import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { afterEach, describe, expect, test } from 'vitest';
import { TRUSTED_BY_DEFAULT } from '../../src/config/settings.ts';
import type { Cidr } from '../../src/config/types.ts';
import type { MachineKey } from '../../src/identity/keys.ts';
import { FrontProxies } from '../../src/proxy/front-proxies.ts';
import { trustOf } from '../../src/proxy/trusted-proxies.ts';
import type { FrontProxyEvent } from '../../src/streams/events.ts';
import type { Stream } from '../../src/streams/stream.ts';
import { describeEvent, levelOf } from '../../src/telemetry/event-table.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { Harness, readHead, SWITCHING, upgradeHead } from '../support/harness.ts';
import { get } from '../support/http.ts';

const HOUR_MS = 3_600_000;

function start(given: readonly string[] = TRUSTED_BY_DEFAULT) {
  const clock = new FakeClock();
  const told: FrontProxyEvent[] = [];
  const world = { trusted: given as readonly Cidr[] };
  const proxies = new FrontProxies({
    clock,
    emit: (event) => void told.push(event as FrontProxyEvent),
    trusted: () => world.trusted,
    trust: () => trustOf(world.trusted),
    // As the real one: the loopback is this machine's, too.
    isGateway: (address) => address === '172.18.0.1' || address === '127.0.0.1',
  });
  return {
    ...{ clock, told, world, proxies },
    ask(sender: string, headers: IncomingHttpHeaders, url = '/key?v=142'): void {
      proxies.requested({ headers, url } as IncomingMessage, sender);
    },
    node(address: string, machineKey: number, kind: Stream['kind'] = 'control'): void {
      const stream = { kind, address, machineKey: `key ${machineKey}` as unknown as MachineKey } as Stream;
      proxies.listen({ kind: 'stream_opened', stream });
    },
    sentences: () => told.map((event) => describeEvent(event, () => undefined)),
    levels: () => told.map(levelOf),
  };
}

const NODE = { upgrade: 'tailscale-control-protocol', 'x-tailscale-handshake': 'AAAA' };

describe('a proxy that is not trusted', () => {
  test.each(['10.0.0.1', '172.31.255.1', '192.168.1.5', '100.64.0.3', '169.254.1.1', 'fd00::5', 'fe80::1'])(
    'at %s is reported once, with the flag to set',
    (address) => {
      const { ask, told, sentences, levels, proxies } = start();
      for (let i = 0; i < 3; i++) ask(address, { 'x-forwarded-for': '203.0.113.7' });
      expect(levels()).toEqual(['warn']);
      expect(sentences()[0]).toContain(`set --trusted-proxies ${address}.`);
      expect(proxies.standing()).toEqual(told);
    },
  );

  test.each(['x-forwarded-for', 'x-real-ip', 'forwarded', 'x-forwarded-proto', 'true-client-ip'])(
    'is recognised by %s',
    (name) => {
      const { ask, told } = start();
      ask('10.0.0.1', { [name]: 'x' });
      expect(told).toMatchObject([{ kind: 'proxy_not_trusted', header: name }]);
    },
  );

  test('the flag in the message keeps the proxies trusted so far, and the problem disappears once the new one is trusted', () => {
    const { ask, sentences, world, proxies } = start(['10.0.0.0/24']);
    ask('10.0.1.5', { 'x-real-ip': 'x' });
    expect(sentences()[0]).toContain('set --trusted-proxies 10.0.0.0/24,10.0.1.5.');
    world.trusted = ['10.0.0.0/16'] as readonly string[] as readonly Cidr[];
    expect(proxies.standing()).toEqual([]);
  });

  test('public addresses, trusted proxies and clients without such a header are not reported', () => {
    const { ask, told } = start(['127.0.0.1', '10.0.0.0/24']);
    ask('203.0.113.9', { 'x-forwarded-for': 'x' });
    ask('2001:db8::1', { 'x-forwarded-for': 'x' });
    ask('10.0.0.1', { 'x-forwarded-for': 'x' });
    ask('10.0.1.1', { 'user-agent': 'x' });
    ask('unknown', { 'x-forwarded-for': 'x' });
    expect(told).toEqual([]);
  });

  test('the loopback is reported if other proxies are trusted, but not if nobody is', () => {
    const some = start(['10.0.0.1']);
    some.ask('127.0.0.1', { 'x-forwarded-for': 'x' });
    expect(some.sentences()[0]).toContain('set --trusted-proxies 10.0.0.1,127.0.0.1.');
    const nobody = start([]);
    nobody.ask('127.0.0.1', { 'x-forwarded-for': 'x' });
    expect(nobody.told).toEqual([]);
    nobody.ask('10.0.0.1', { 'x-forwarded-for': 'x' });
    expect(nobody.sentences()[0]).toContain('set --trusted-proxies 10.0.0.1.');
  });

  test("at a gateway of this machine, it is reported as the container engine's", () => {
    const { ask, sentences } = start();
    ask('172.18.0.1', { 'x-forwarded-for': 'x' });
    expect(sentences()[0]).toMatch(
      /proxy of the container engine: publish the port on 127\.0\.0\.1 only.*--trusted-proxies 172\.18\.0\.1\./,
    );
  });

  test('if a whole network sends such headers, only the first addresses are remembered and reported', () => {
    const { ask, told, proxies } = start();
    for (let i = 0; i < 1000; i++) ask(`10.0.${i >> 8}.${i & 255}`, { 'x-forwarded-for': 'x' });
    expect(told).toHaveLength(64);
    expect(proxies.standing()).toHaveLength(64);
  });
});

describe('addresses that nodes share', () => {
  test("a gateway of this machine is reported as the container engine's proxy, once, at the second node", () => {
    const { node, told, sentences, levels } = start();
    node('172.18.0.1', 1);
    node('172.18.0.1', 1);
    expect(told).toEqual([]);
    node('172.18.0.1', 2);
    expect(told).toHaveLength(1);
    for (let i = 3; i < 9; i++) node('172.18.0.1', i);
    expect(told).toEqual([
      { kind: 'client_addresses_hidden', address: '172.18.0.1', isTrusted: false, isEngine: true },
    ]);
    expect(levels()).toEqual(['warn']);
    expect(sentences()[0]).toMatch(/docker-proxy, rootless Docker, slirp4netns, pasta/);
  });

  test('another private address is reported at the fourth node', () => {
    const { node, told, sentences } = start();
    for (let i = 0; i < 3; i++) node('10.0.2.100', i);
    node('10.0.2.100', 9, 'derp');
    expect(told).toEqual([]);
    node('10.0.2.100', 4);
    expect(told).toHaveLength(1);
    expect(sentences()[0]).toMatch(/proxy of the container engine .*, a NAT or a proxy/);
  });

  test('a trusted proxy that sends no client addresses is reported', () => {
    const { node, sentences, proxies, world } = start();
    for (let i = 0; i < 2; i++) node('127.0.0.1', i);
    expect(sentences()).toEqual([expect.stringMatching(/trusted, and says nothing of its clients.*option forwardfor/)]);
    expect(proxies.standing()).toHaveLength(1);
    world.trusted = [];
    expect(proxies.standing()).toEqual([]);
  });

  test('many nodes behind a public address are normal, and so are nodes on this machine if nobody is trusted', () => {
    const { node, told } = start([]);
    for (let i = 0; i < 100; i++) {
      node('203.0.113.7', i);
      node('127.0.0.1', i);
    }
    expect(told).toEqual([]);
  });

  test('a proxy that was reported as untrusted is not reported again for hiding its clients', () => {
    const { ask, node, told } = start();
    ask('172.18.0.1', { 'x-forwarded-for': 'x' });
    for (let i = 0; i < 9; i++) node('172.18.0.1', i);
    expect(told).toHaveLength(1);
  });
});

describe('a request for /ts2021 without a header that it needs', () => {
  test.each([
    ['upgrade', '/ts2021', { 'x-tailscale-handshake': 'AAAA' }],
    ['upgrade', '/ts2021?X-Tailscale-Handshake=AAAA', {}],
    ['handshake', '/ts2021', { upgrade: 'tailscale-control-protocol' }],
  ] as const)('%s: %s, and the message says how to configure the proxy', (header, url, headers) => {
    const { ask, told, sentences, levels } = start();
    ask('127.0.0.1', headers, url);
    expect(told).toMatchObject([{ kind: 'upgrade_header_lost', address: '127.0.0.1', header, isNews: true }]);
    ask('127.0.0.1', headers, url);
    expect(levels()).toEqual(['warn', 'debug']);
    expect(sentences()[0]).toMatch(/the proxy at 127\.0\.0\.1 .*proxy_http_version 1\.1.*\$http_upgrade.*proxies\.md/);
  });

  test.each([
    ['/ts2021', NODE],
    ['/ts2021?X-Tailscale-Handshake=AAAA', { upgrade: 'websocket' }],
    ['/key?v=142', {}],
    ['/ts2021x', {}],
  ])('%s %o lacks nothing', (url, headers) => {
    const { ask, told } = start();
    ask('127.0.0.1', headers, url);
    expect(told).toEqual([]);
  });

  test('it is reported once an hour for each address, and counts as a problem for an hour', () => {
    const { ask, told, clock, proxies } = start();
    const news = (): number => told.filter((event) => event.kind === 'upgrade_header_lost' && event.isNews).length;
    for (let i = 0; i < 5; i++) ask('203.0.113.7', {}, '/ts2021');
    ask('203.0.113.8', {}, '/ts2021');
    expect(told).toHaveLength(6);
    expect(news()).toBe(2);
    expect(proxies.standing()).toHaveLength(2);
    clock.advance(HOUR_MS);
    expect(proxies.standing()).toEqual([]);
    ask('203.0.113.7', {}, '/ts2021');
    expect(news()).toBe(3);
    for (let i = 0; i < 1000; i++) ask(`203.0.${i >> 8}.${i & 255}`, {}, '/ts2021');
    expect(news()).toBeLessThanOrEqual(67);
    expect(proxies.standing().length).toBeLessThanOrEqual(64);
  });

  test('it is no problem any more once the same proxy passes both on, and is not news again within the hour', () => {
    const { ask, levels, clock, proxies } = start();
    ask('127.0.0.1', {}, '/ts2021');
    ask('203.0.113.7', NODE, '/ts2021');
    ask('127.0.0.1', {}, '/key?v=142');
    expect(proxies.standing()).toHaveLength(1);
    ask('127.0.0.1', NODE, '/ts2021');
    expect(proxies.standing()).toEqual([]);
    clock.advance(60_000);
    ask('127.0.0.1', {}, '/ts2021');
    expect(proxies.standing()).toHaveLength(1);
    expect(levels()).toEqual(['warn', 'debug']);
  });
});

describe('the problems with proxies of a watchdog', () => {
  const harness = new Harness();
  afterEach(() => harness.closeAll());

  test('appear in events, in /overview and in metrics', async () => {
    const upstream = await harness.upstream((_request, socket) => socket.on('error', () => {}).write(SWITCHING));
    const watchdog = await harness.watchdog(upstream.url, { trustedProxies: '10.0.0.1' });
    const client = harness.client(watchdog.port);
    client.write(upgradeHead('/ts2021', 'X-Forwarded-For: 203.0.113.7\r\n'));
    expect(await readHead(client)).toBe(SWITCHING);
    await fetch(`${watchdog.url}/ts2021`, { method: 'POST', headers: { connection: 'close' } });
    const kinds = ['proxy_not_trusted', 'upgrade_header_lost'];
    expect(watchdog.events.map(({ kind }) => kind).filter((kind) => kinds.includes(kind))).toEqual([
      'proxy_not_trusted',
      'upgrade_header_lost',
      'upgrade_header_lost',
    ]);
    const overview = JSON.parse((await get(`${watchdog.admin}/overview`)).text);
    expect(overview.frontProxies).toMatchObject([
      {
        kind: 'proxy_not_trusted',
        remoteAddress: '127.0.0.1',
        sentence: expect.stringContaining('10.0.0.1,127.0.0.1'),
      },
      { kind: 'upgrade_header_lost', remoteAddress: '127.0.0.1' },
    ]);
    const metrics = (await get(`${watchdog.admin}/metrics`)).text;
    expect(metrics).toMatch(/^headscale_watchdog_untrusted_proxies 1$/m);
    expect(metrics).toMatch(/^headscale_watchdog_shared_addresses 0$/m);
    expect(metrics).toMatch(/^headscale_watchdog_upgrade_headers_lost_total\{header="handshake"\} 1$/m);
    expect(metrics).toMatch(/^headscale_watchdog_upgrade_headers_lost_total\{header="upgrade"\} 1$/m);
    const { events } = JSON.parse((await get(`${watchdog.admin}/events`)).text) as { events: { kind: string }[] };
    expect(events.map(({ kind }) => kind).filter((kind) => kinds.includes(kind))).toEqual(kinds);
  });
});
