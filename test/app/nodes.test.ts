import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { NodeHealth } from '../../src/admin/availability-views.ts';
import type { PresenceView } from '../../src/admin/views.ts';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import { formatNoiseKey, type NoiseKey } from '../../src/identity/noise.ts';
import { type Clock, systemClock } from '../../src/lib/clock.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { get, scrape } from '../support/http.ts';
import { freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const [recorded] = initiations;
const IN_A_DAY = new Date(Date.now() + 86_400_000).toISOString();

/** A node of the stand-in: the machine that logs in, and what the API lists. */
interface Machine {
  readonly key: NoiseKey;
  readonly listed: Record<string, unknown>;
}

function machine(id: string, name: string, more: object = {}): Machine {
  const key = generateNoiseKey();
  const keys = { machineKey: formatNoiseKey(key), nodeKey: `nodekey:${id.repeat(64)}` };
  return { key, listed: { id, ...keys, name, givenName: name, user: { name: 'alice' }, online: false, ...more } };
}

/** A watchdog in front of a stand-in whose API lists `says.nodes`; without `apiKey` there is no API key. */
async function bench(nodes: readonly Machine[], { apiKey = true, flags = {}, clock = systemClock as Clock } = {}) {
  const says = { nodes: nodes.map(({ listed }) => listed) };
  const upstream = await harness.upstream(
    (_request, socket) => {
      socket.on('error', () => {});
      socket.on('end', () => socket.end());
      socket.resume().write(SWITCHING);
    },
    ({ url }, response) => {
      if (url === '/api/v1/node') response.end(JSON.stringify(says));
      else response.writeHead(404).end();
    },
  );
  const folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-nodes-'));
  harness.defer(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, 'api.key'), 'the-key\n');
  const given = apiKey ? { headscaleApiKeyFile: join(folder, 'api.key'), ...flags } : flags;
  const running = await harness.watchdog(upstream.url, given, noiseKeyOf(recorded), { clock });
  if (apiKey) await until(() => running.events.some(({ kind }) => kind === 'nodes_listed'), 'the nodes are listed');
  const connect = async ({ key }: Machine) => {
    const client = harness.client(running.port);
    client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded, key)}\r\n`));
    expect(await readHead(client)).toBe(SWITCHING);
    return client;
  };
  const ask = async <T>(path: string): Promise<{ status: number; body: T }> => {
    const { status, text } = await get(`${running.admin}${path}`);
    return { status, body: JSON.parse(text) as T };
  };
  const list = async (query = '') => (await ask<{ total: number; nodes: PresenceView[] }>(`/nodes${query}`)).body;
  return { ...running, connect, ask, list, says };
}

describe('GET /nodes', () => {
  test('shows every node that Headscale lists, connected or not, and what both sides say about it', async () => {
    const phone = machine('1', 'phone', {
      ...{ online: true, ipAddresses: ['100.64.0.1', 'fd7a::1'], tags: ['tag:phone'], expiry: IN_A_DAY },
      preAuthKey: { ephemeral: true },
    });
    const printer = machine('2', 'printer', { lastSeen: '2026-11-23T22:55:38Z' });
    const { connect, list } = await bench([phone, printer]);
    await connect(phone);
    await until(async () => (await list()).nodes[0]?.state === 'connected', 'the phone is connected');
    const { total, nodes } = await list();
    expect(total).toBe(2);
    const date = expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
    const direct = { source: 'direct', by: null, user: null, reason: null };
    expect(nodes[0]).toEqual({
      ...{ machineKey: phone.listed.machineKey, nodeKey: phone.listed.nodeKey, id: '1', name: 'phone', user: 'alice' },
      ...{ others: [], addresses: ['100.64.0.1', 'fd7a::1'], tags: ['tag:phone'], os: null, clientVersion: null },
      ...{ capabilityVersion: recorded.version, isEphemeral: true, state: 'connected', disagreement: null },
      ...{ connectedSince: date, lastSignAt: date, rttMs: expect.any(Number), evidence: direct },
      ...{ remoteAddress: expect.stringMatching(/^127\.0\.0\.1:\d+$/) },
      ...{ shownOnline: true, shownLastSeenAt: null, keyExpiresAt: IN_A_DAY, isContested: false, isDuplicate: false },
      suspectedSince: null,
      streams: [{ id: 1, replica: null, state: 'open', evidence: direct }],
    });
    expect(nodes[1]).toMatchObject({
      ...{ name: 'printer', state: 'offline', connectedSince: null, lastSignAt: null, remoteAddress: null },
      ...{ rttMs: null, evidence: null, capabilityVersion: null, streams: [], shownOnline: false },
      shownLastSeenAt: '2026-11-23T22:55:38.000Z',
    });
  });

  test('filters by state, searches and sorts, and refuses what it does not know', async () => {
    const [b, a] = [machine('1', 'b', { tags: ['tag:x'] }), machine('2', 'a')];
    const { connect, list, ask } = await bench([b, a]);
    await connect(b);
    await until(async () => (await list('?state=connected')).total === 1, 'b is connected');
    const names = async (query: string) => (await list(query)).nodes.map(({ name }) => name);
    expect(await names('')).toEqual(['b', 'a']);
    expect(await names('?sort=name')).toEqual(['a', 'b']);
    expect(await names('?state=connected,offline&sort=-state')).toEqual(['a', 'b']);
    expect(await names('?state=offline')).toEqual(['a']);
    expect(await names('?q=TAG:x')).toEqual(['b']);
    expect(await names('?q=nobody')).toEqual([]);
    expect(await ask('/nodes?state=on')).toMatchObject({
      status: 400,
      body: { detail: expect.stringContaining("state='on' is unknown. Use one of connected, connecting, offline") },
    });
    expect((await ask('/nodes?sort=age')).status).toBe(400);
  });

  test('a machine key that Headscale does not list is shown as unknown as long as it has a stream', async () => {
    const stranger = machine('3', 'stranger');
    const { connect, list, ask } = await bench([machine('1', 'phone')]);
    const client = await connect(stranger);
    const unknown = { machineKey: stranger.listed.machineKey, name: null, state: 'unknown', shownOnline: null };
    await until(async () => (await list()).total === 2, 'it is shown');
    expect((await list()).nodes[1]).toMatchObject(unknown);
    expect((await ask(`/nodes/${stranger.listed.machineKey}/health`)).status).toBe(503);
    client.destroy();
    await until(async () => (await list()).total === 1, 'it is forgotten');
  });

  test('without an API key it shows each machine key that was seen, also after its stream has ended', async () => {
    const phone = machine('1', 'phone');
    const { connect, list } = await bench([phone], { apiKey: false });
    const client = await connect(phone);
    await until(async () => (await list()).nodes[0]?.state === 'connected', 'it is connected');
    client.destroy();
    await until(async () => (await list()).nodes[0]?.state === 'offline', 'it is offline');
    const [node] = (await list()).nodes;
    expect(node).toMatchObject({ machineKey: phone.listed.machineKey, name: null, connectedSince: null, streams: [] });
    expect(Math.abs(Date.parse(node?.lastSignAt ?? '') - Date.now())).toBeLessThan(60_000);
  });
});

test('the metrics say of every node whether it is online, and when its key expires', async () => {
  const [phone, printer] = [machine('1', 'phone', { expiry: IN_A_DAY }), machine('2', 'printer')];
  const { connect, admin } = await bench([phone, printer]);
  const client = await connect(phone);
  const sample = async (name: string, { listed }: Machine) => {
    const labels = `machine_key="${listed.machineKey}",name="${listed.name}",user="alice"`;
    return (await scrape(admin)).get(`headscale_watchdog_node_${name}{${labels}}`);
  };
  await until(async () => (await sample('online', phone)) === 1, 'the phone is online');
  expect(await sample('online', printer)).toBe(0);
  expect(await sample('key_expiry_timestamp_seconds', phone)).toBe(Date.parse(IN_A_DAY) / 1000);
  expect(await sample('key_expiry_timestamp_seconds', printer)).toBeUndefined();
  expect((await scrape(admin)).get('headscale_watchdog_nodes{state="connected"}')).toBe(1);
  client.destroy();
  await until(async () => (await sample('online', phone)) === 0, 'the phone is offline');
});

describe('GET /nodes/NODE and /nodes/NODE/health', () => {
  test('shows one node by name, id or key: 200 if it is connected, 503 if not, 404 if nobody knows it', async () => {
    const [phone, printer] = [machine('1', 'Phone of Zoë'), machine('2', 'printer')];
    const { connect, ask } = await bench([phone, printer]);
    await connect(phone);
    const { machineKey, nodeKey } = phone.listed as { machineKey: string; nodeKey: string };
    for (const name of [encodeURIComponent('phone of zoë'), '1', machineKey, nodeKey]) {
      expect(await ask(`/nodes/${name}`)).toMatchObject({ status: 200, body: { machineKey, name: 'Phone of Zoë' } });
      await until(async () => (await ask(`/nodes/${name}/health`)).status === 200, 'it is connected');
    }
    expect((await ask<NodeHealth>(`/nodes/1/health`)).body).toEqual({
      ...{ machineKey, name: 'Phone of Zoë', connected: true, state: 'connected' },
      ...{ connectedSince: expect.any(String), lastSignAt: expect.any(String) },
    });
    expect(await ask('/nodes/printer')).toMatchObject({ status: 200, body: { state: 'offline' } });
    expect(await ask('/nodes/printer/health')).toMatchObject({
      status: 503,
      body: { connected: false, state: 'offline', connectedSince: null },
    });
    for (const path of ['/nodes/nobody', '/nodes/nobody/health', '/nodes/%ff']) {
      expect(await ask(path)).toMatchObject({ status: 404, body: { code: 'HSW_NODE_UNKNOWN' } });
    }
  });

  test('a name that several nodes have gets 409, with the keys to choose from', async () => {
    // Headscale gives each node a name of its own, but one may be called like the id of another.
    const [phone, other] = [machine('1', 'phone'), machine('2', '1')];
    const { ask } = await bench([phone, other]);
    expect(await ask('/nodes/1/health')).toMatchObject({
      status: 409,
      body: {
        code: 'HSW_NODE_AMBIGUOUS',
        detail: `Several nodes are called '1': write the machine key, ${phone.listed.machineKey} or ${other.listed.machineKey}.`,
      },
    });
  });
});

/** Lets virtual time pass. What Headscale is asked meanwhile, it answers in the time between two steps. */
async function passing(clock: FakeClock, seconds: number): Promise<void> {
  for (let i = 0; i < seconds; i++) {
    clock.advance(1000);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

describe('--reconcile', () => {
  /** A watchdog on a virtual clock, and a client whose session is under way. */
  async function session(reconcile: string, flags: object = {}) {
    const clock = new FakeClock();
    const phone = machine('1', 'phone');
    const on = await bench([phone, machine('2', 'printer')], { flags: { reconcile, ...flags }, clock });
    const client = await on.connect(phone);
    client.resume();
    client.write(Buffer.from([4, 0, 2, 1, 2]));
    await until(() => on.events.some(({ kind }) => kind === 'stream_opened'), 'the stream is there');
    await until(async () => (await get(`${on.admin}/streams`)).text.includes('"bytesReceived": 5'), 'the record came');
    const pass = (seconds: number) => passing(clock, seconds);
    const told = () => on.events.filter(({ kind }) => kind === 'node_disagrees');
    return { ...on, client, phone, pass, told };
  }

  test('report: a connected node that is shown as offline disagrees, and its stream stays', async () => {
    const { pass, told, list, admin, ask } = await session('report');
    await pass(40);
    expect(told()).toMatchObject([{ disagreement: 'shown_offline', isEnded: false }]);
    const [node] = (await list('?state=disagrees')).nodes;
    const named = async (state: string) => (await list(`?state=${state}`)).nodes.map(({ name }) => name);
    expect(await named('connected')).toContain('phone');
    expect(await named('offline')).not.toContain('phone');
    expect(node).toMatchObject({ name: 'phone', disagreement: 'shown_offline', streams: [{ id: 1, state: 'open' }] });
    expect((await ask('/nodes/phone/health')).status).toBe(200);
    const { events } = (await ask<{ events: object[] }>('/events?kind=node_disagrees')).body;
    expect(events).toMatchObject([
      {
        ...{ level: 'warn', code: 'HSW_NODE_DISAGREES', reason: 'shown_offline', stream: 1 },
        sentence: expect.stringMatching(
          /^phone is connected \(stream 1 from 127\.0\.0\.1:\d+, last sign of life .* ago\), but Headscale has shown it as offline for 3\d s \(Headscale's issue 3428\)\. Sever the stream to set Headscale right, or let --reconcile heal do it\.$/,
        ),
      },
    ]);
    const samples = await scrape(admin);
    expect(samples.get('headscale_watchdog_nodes_disagreeing{reason="shown_offline"}')).toBe(1);
    expect(samples.get('headscale_watchdog_nodes{state="disagrees"}')).toBe(1);
  });

  test('heal: its stream is ended once', async () => {
    const { pass, told, client, events, admin } = await session('heal');
    await pass(40);
    await until(() => client.readableEnded, 'the client is disconnected');
    client.destroy();
    expect(told()).toMatchObject([{ disagreement: 'shown_offline', isEnded: true }]);
    await until(() => events.some(({ kind }) => kind === 'stream_closed'), 'the stream is closed');
    expect(events.filter(({ kind }) => kind === 'stream_closed')).toMatchObject([{ reason: 'shown_offline' }]);
    const closed = 'headscale_watchdog_streams_closed_total{kind="control",reason="shown_offline"}';
    expect((await scrape(admin)).get(closed)).toBe(1);
  });

  test('heal: the stream of a deleted node is ended', async () => {
    const { pass, says, client, told } = await session('heal');
    says.nodes = says.nodes.slice(1);
    await pass(40);
    await until(() => client.readableEnded, 'the client is disconnected');
    expect(told()).toMatchObject([{ disagreement: 'deleted', node: { name: 'phone' }, isEnded: true }]);
  });

  test('heal: an observe-only node is reported only', async () => {
    const { pass, told, client, events } = await session('heal', { observeOnly: true });
    await pass(40);
    expect(told()).toMatchObject([{ disagreement: 'shown_offline', isEnded: false }]);
    expect(events.filter(({ kind }) => kind === 'would_sever')).toMatchObject([{ reason: 'shown_offline' }]);
    expect(client.readyState).toBe('open');
  });

  test('a node that only Headscale shows as online is among those that are away', async () => {
    const clock = new FakeClock();
    const { list } = await bench([machine('1', 'phone', { online: true })], { clock, flags: { hold: 'off' } });
    await passing(clock, 300);
    expect((await list('?state=offline')).nodes).toMatchObject([{ state: 'disagrees', disagreement: 'shown_online' }]);
    expect((await list('?state=connected')).total).toBe(0);
  });

  test('off: nothing is told', async () => {
    const { pass, told, list } = await session('off');
    await pass(40);
    expect(told()).toEqual([]);
    expect((await list()).nodes[0]?.state).toBe('connected');
  });
});

test('a second login on one machine shows its new node within five seconds', async () => {
  const clock = new FakeClock();
  const phone = machine('1', 'phone', { online: true });
  const { connect, list, says } = await bench([phone], { clock, flags: { hold: 'off' } });
  await connect(phone);
  await passing(clock, 20);
  // The owner logs in as another user: the client comes back on a new stream, and Headscale shows both for some seconds.
  await connect(phone);
  const more = { id: '2', nodeKey: `nodekey:${'2'.repeat(64)}`, name: 'phone', givenName: 'phone-of-bob' };
  says.nodes = [...says.nodes, { ...phone.listed, ...more, user: { name: 'bob' }, lastSeen: new Date().toISOString() }];
  await passing(clock, 5);
  await until(async () => (await list()).nodes[0]?.name === 'phone-of-bob', 'the new node is shown');
  expect((await list()).nodes).toMatchObject([{ user: 'bob', others: [{ name: 'phone', user: 'alice' }] }]);
});
