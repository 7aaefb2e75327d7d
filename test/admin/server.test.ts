import { writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import type { KernelOrNot } from '../../src/liveness/kernel.ts';
import { closed, Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { get } from '../support/http.ts';
import { freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const [recorded] = initiations;
const TOKEN = 'a-token-of-enough-characters';
const NO_KERNEL: KernelOrNot = { ok: false, why: 'not in this test' };

async function bench(flags: Record<string, unknown> = {}) {
  const ended = { sessions: 0 };
  const upstream = await harness.upstream((_request, socket) => {
    socket.on('error', () => {});
    socket.on('close', () => {
      ended.sessions += 1;
    });
    socket.on('end', () => socket.end());
    socket.resume().write(SWITCHING);
  });
  const running = await harness.watchdog(upstream.url, flags, noiseKeyOf(recorded), { kernel: NO_KERNEL });
  const connect = async () => {
    const client = harness.client(running.port);
    client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded)}\r\n`));
    expect(await readHead(client)).toBe(SWITCHING);
    return client;
  };
  return { ...running, connect, ended };
}

function tokenFile(text = TOKEN): string {
  const folder = harness.folder();
  writeFileSync(join(folder, 'token'), `${text}\n`);
  return join(folder, 'token');
}

/** fetch sets Host and Origin itself. */
function ask(url: string, options: { method?: string; headers?: Record<string, string>; body?: string } = {}) {
  return new Promise<{ status: number; headers: Record<string, unknown>; text: string }>((resolve, reject) => {
    const { method = 'GET', headers = {}, body } = options;
    const asking = request(url, { method, headers, agent: false }, (response) => {
      let text = '';
      response.on('data', (chunk) => {
        text += chunk;
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, text }));
    });
    asking.on('error', reject);
    asking.end(body);
  });
}

async function json<T>(url: string): Promise<T> {
  const { status, text } = await get(url);
  expect(status, text).toBe(200);
  return JSON.parse(text) as T;
}

describe('GET /streams', () => {
  test('filters, sorts and pages, and counts the matches', async () => {
    const { admin, connect } = await bench();
    for (let i = 0; i < 3; i++) await connect();
    type Answer = { total: number; streams: { id: number }[] };
    const ids = async (query: string) => {
      const { total, streams } = await json<Answer>(`${admin}/streams?${query}`);
      return [total, streams.map(({ id }) => id)];
    };
    expect(await ids('')).toEqual([3, [1, 2, 3]]);
    expect(await ids('sort=-id&limit=2')).toEqual([3, [3, 2]]);
    expect(await ids('limit=2')).toEqual([3, [1, 2]]);
    expect(await ids('limit=2&after=/0000000000000002')).toEqual([3, [3]]);
    expect(await ids('state=held')).toEqual([0, []]);
    expect(await ids('state=held,open&kind=control')).toEqual([3, [1, 2, 3]]);
    expect(await ids('q=127.0.0.1')).toEqual([3, [1, 2, 3]]);
    expect(await ids('node=nobody')).toEqual([0, []]);
    const { streams } = await json<{ streams: { machineKey: string }[] }>(`${admin}/streams`);
    expect(await ids(`node=${streams[0]?.machineKey}`)).toEqual([3, [1, 2, 3]]);
  });

  test.each([
    ['state=opne', "state='opne' is unknown. Use one of held, connecting, open, closing, contested, no-evidence."],
    ['sort=constructor', "sort='constructor' is unknown. Use one of id, node"],
    ['limit=-1', "limit='-1' is invalid. Use a whole number from 1"],
    ['stat=open', "'stat' is not a parameter here. Use one of state, kind"],
  ])('%s gets 400, with the wrong value and what to use instead', async (query, text) => {
    const { admin } = await bench();
    expect(await get(`${admin}/streams?${query}`)).toMatchObject({ status: 400, text: expect.stringContaining(text) });
  });
});

describe('/events, /nodes, /overview and POST /streams/ID/sever', () => {
  test('an operator severs a stream, and the history shows it', async () => {
    const { admin, connect, ended } = await bench();
    await connect();
    expect(await ask(`${admin}/streams/99/sever`, { method: 'POST' })).toMatchObject({
      status: 404,
      text: expect.stringContaining('There is no open stream 99'),
    });
    expect(await ask(`${admin}/streams/1/sever`, { method: 'POST' })).toMatchObject({ status: 200 });
    await until(() => ended.sessions === 1, "Headscale's connection has ended");
    await until(async () => (await get(`${admin}/streams`)).text.includes('"total": 0'), 'the stream is gone');
    type Event = { seq: number; kind: string; reason: string | null; sentence: string };
    const { events, lastSeq } = await json<{ events: Event[]; lastSeq: number }>(`${admin}/events?stream=1`);
    expect(events.map(({ kind }) => kind)).toEqual(['stream_opened', 'stream_closed']);
    expect(events[1]).toMatchObject({ reason: 'severed_by_operator' });
    expect(events[1]?.sentence).toContain('was severed by an operator');
    const after = await json<{ events: Event[] }>(`${admin}/events?after=${events[0]?.seq}&kind=stream_closed`);
    expect(after.events.map(({ seq }) => seq)).toEqual([events[1]?.seq]);
    expect(lastSeq).toBeGreaterThanOrEqual(events[1]?.seq ?? 0);
    const { nodes } = await json<{ nodes: object[] }>(`${admin}/nodes`);
    expect(nodes).toMatchObject([{ name: null, state: 'offline', streams: [], lastSignAt: expect.any(String) }]);
    const overview = await json<object>(`${admin}/overview`);
    expect(overview).toMatchObject({
      ready: true,
      streams: { total: 0 },
      lastHour: { takeovers: 0, gone: 0, minutes: expect.any(Array) },
    });
  });

  test('the live feed sends the events after a given number, and then each new event', async () => {
    const { admin, connect } = await bench();
    await connect();
    const socket = new WebSocket(`${admin.replace('http', 'ws')}/events/live?after=0&kind=stream_opened`);
    harness.defer(() => socket.terminate());
    const told: { stream: number }[] = [];
    socket.on('message', (data) => told.push(JSON.parse(String(data)) as { stream: number }));
    await until(() => told.length === 1, 'the first is told');
    await connect();
    await until(() => told.length === 2, 'the second is told');
    expect(told.map(({ stream }) => stream)).toEqual([1, 2]);
    // A number from before a restart, when others were counted.
    const later = new WebSocket(`${admin.replace('http', 'ws')}/events/live?after=99999`);
    harness.defer(() => later.terminate());
    const toldLater: { stream: number }[] = [];
    later.on('message', (data) => toldLater.push(JSON.parse(String(data)) as { stream: number }));
    await new Promise((resolve) => later.on('open', resolve));
    await connect();
    await until(() => toldLater.some(({ stream }) => stream === 3), 'what is new is told');
  });
});

describe('access control over HTTP', () => {
  test('an upgrade that announces a body is refused, and its connection closes', async () => {
    const { admin } = await bench();
    const client = harness.client(Number(new URL(admin).port));
    const head = 'POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n';
    client.write(`${head}Content-Length: 3\r\n\r\n`);
    expect(await readHead(client)).toMatch(/^HTTP\/1\.1 404 /);
    client.resume().end();
    await closed(client);
  });

  const EVIL = { host: 'evil.example:9191' };

  test('DNS rebinding: a request with a foreign Host header gets only the health checks and the empty page', async () => {
    const { admin, connect } = await bench();
    await connect();
    for (const path of ['/streams', '/events', '/nodes', '/overview', '/metrics']) {
      const { status, text } = await ask(admin + path, { headers: EVIL });
      expect([path, status]).toEqual([path, 403]);
      expect(text).toContain("'evil.example:9191'");
    }
    const sever = await ask(`${admin}/streams/1/sever`, { method: 'POST', headers: EVIL });
    expect(sever.status).toBe(403);
    expect(await ask(`${admin}/readyz`, { headers: EVIL })).toMatchObject({
      status: 200,
      text: '{\n  "ready": true\n}\n',
    });
    expect((await ask(`${admin}/streams`)).text).toContain('"total": 1');
  });

  test('CSRF: a POST from a page of another site severs no stream', async () => {
    const { admin, connect } = await bench();
    await connect();
    for (const headers of [{ origin: 'http://evil.example' }, { 'sec-fetch-site': 'cross-site' }] as const) {
      const { status } = await ask(`${admin}/streams/1/sever`, { method: 'POST', headers: { ...headers } });
      expect(status).toBe(403);
    }
    expect((await ask(`${admin}/streams/1/sever`)).status).toBe(405);
    expect((await ask(`${admin}/streams`)).text).toContain('"state": "open"');
  });

  test.each([
    ['a page of another site', { origin: 'http://evil.example' }, 403],
    ['a framed page without an origin', { origin: 'null' }, 403],
    ['a page that uses a foreign name for this machine', { origin: 'http://evil.example:9191', ...EVIL }, 403],
  ])('refuses a WebSocket from %s', async (_what, headers, status) => {
    const { admin } = await bench();
    const socket = new WebSocket(`${admin.replace('http', 'ws')}/events/live`, { headers });
    const answer = await new Promise((resolve) => {
      socket.on('unexpected-response', (_request, response) => resolve(response.statusCode));
      socket.on('open', () => resolve('open'));
      socket.on('error', () => {});
    });
    socket.terminate();
    expect(answer).toBe(status);
  });

  test("every answer's headers forbid inline scripts, other hosts, framing, sniffing and caching", async () => {
    const { admin } = await bench();
    for (const path of ['/', '/streams', '/nope']) {
      const { headers } = await ask(admin + path);
      expect(headers).toMatchObject({ 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' });
      const policy = String(headers['content-security-policy']);
      expect(policy).toContain("default-src 'none'");
      expect(policy).toContain("frame-ancestors 'none'");
      expect(policy).not.toMatch(/unsafe|\*|http/);
      expect(headers['access-control-allow-origin']).toBeUndefined();
    }
  });
});

test('a browser keeps the icons, because a watchdog that has ended cannot send the one that says so', async () => {
  const { admin } = await bench();
  for (const name of ['icon', 'icon-warn', 'icon-bad']) {
    const { status, headers } = await ask(`${admin}/page/${name}.svg`);
    expect([status, headers['content-type'], headers['cache-control']]).toEqual([
      ...[200, 'image/svg+xml; charset=utf-8', 'private, max-age=86400'],
    ]);
  }
});

describe('with --admin-token-file', () => {
  test('every path needs the token, except the health checks and the login page', async () => {
    const { admin } = await bench({ adminTokenFile: tokenFile() });
    for (const path of ['/streams', '/events', '/nodes', '/overview', '/metrics', '/nope']) {
      const { status, headers } = await ask(admin + path);
      expect([path, status, headers['www-authenticate']]).toEqual([path, 401, 'Bearer']);
      const { status: withToken } = await ask(admin + path, { headers: { authorization: `Bearer ${TOKEN}` } });
      expect([path, withToken]).toEqual([path, path === '/nope' ? 404 : 200]);
    }
    expect((await ask(`${admin}/`)).status).toBe(200);
    expect((await ask(`${admin}/healthz`)).status).toBe(200);
    expect((await ask(`${admin}/readyz`)).text).not.toContain('upstream');
    expect((await ask(`${admin}/reload`, { method: 'POST' })).status).toBe(401);
  });

  test('a browser logs in, gets a cookie that scripts cannot read, and logs out', async () => {
    const { admin } = await bench({ adminTokenFile: tokenFile() });
    const login = (token: string, headers = {}) =>
      ask(`${admin}/login`, { method: 'POST', body: JSON.stringify({ token }), headers });
    expect((await login('wrong')).status).toBe(401);
    expect((await login(TOKEN, { origin: 'http://evil.example' })).status).toBe(403);
    const { status, headers } = await login(TOKEN, { origin: admin });
    expect(status).toBe(200);
    const [set = ''] = headers['set-cookie'] as string[];
    expect(set).toMatch(/; HttpOnly; SameSite=Strict$/);
    expect(set).not.toContain(TOKEN);
    const cookie = set.split(';')[0] ?? '';
    expect((await ask(`${admin}/streams`, { headers: { cookie } })).status).toBe(200);
    const foreign = await ask(`${admin}/streams/1/sever`, {
      method: 'POST',
      headers: { cookie, origin: 'http://evil.example' },
    });
    expect(foreign.status).toBe(403);
    await ask(`${admin}/logout`, { method: 'POST', headers: { cookie } });
    expect((await ask(`${admin}/streams`, { headers: { cookie } })).status).toBe(401);
  });

  test('with a token file that is missing or too short, the watchdog does not start', async () => {
    await expect(bench({ adminTokenFile: tokenFile('short') })).rejects.toThrow(
      /holds 5 characters, too few to be safe/,
    );
    await expect(bench({ adminTokenFile: '/nowhere/token' })).rejects.toThrow(/there is no such file; make one with/);
  });

  test.each(['0.0.0.0:9191', ':9191', '10.0.0.5:9191', '[2001:db8::1]:9191', 'watchdog.example:9191'])(
    '--admin %s is not the loopback, so it needs a token',
    async (address) => {
      await expect(bench({ admin: address })).rejects.toThrow(
        /^--admin: '.*' can be reached from other machines, so it needs a token: set admin-token-file, or write 127\.0\.0\.1:9191$/,
      );
    },
  );
});

describe('with --admin-read-token-file', () => {
  const READ = 'another-token-for-dashboards';
  const files = () => ({ adminTokenFile: tokenFile(), adminReadTokenFile: tokenFile(READ) });
  const bearer = { authorization: `Bearer ${READ}` };

  test('its token sees all that the page shows, and severs and reloads nothing', async () => {
    const { admin, connect } = await bench(files());
    await connect();
    for (const path of ['/streams', '/events', '/nodes', '/overview', '/metrics', '/badge.svg'])
      expect([path, (await ask(admin + path, { headers: bearer })).status]).toEqual([path, 200]);
    for (const path of ['/streams/1/sever', '/reload'])
      expect(await ask(admin + path, { method: 'POST', headers: bearer })).toMatchObject({
        status: 403,
        text: expect.stringContaining('HSW_ADMIN_TOKEN_READS_ONLY'),
      });
    expect((await ask(`${admin}/streams`, { headers: bearer })).text).toContain('"state": "open"');
    const socket = new WebSocket(`${admin.replace('http', 'ws')}/events/live`, { headers: bearer });
    harness.defer(() => socket.terminate());
    await new Promise((resolve) => socket.on('open', resolve));
  });

  test('a browser that logs in with it reads only, and the overview says so', async () => {
    const { admin } = await bench(files());
    const overviewFor = async (token: string) => {
      const login = await ask(`${admin}/login`, { method: 'POST', body: JSON.stringify({ token }) });
      const cookie = String(login.headers['set-cookie']).split(';')[0] ?? '';
      const { text } = await ask(`${admin}/overview`, { headers: { cookie } });
      const { status } = await ask(`${admin}/reload`, { method: 'POST', headers: { cookie } });
      return [(JSON.parse(text) as { mayChange: boolean }).mayChange, status];
    };
    expect(await overviewFor(READ)).toEqual([false, 403]);
    expect(await overviewFor(TOKEN)).toEqual([true, 200]);
  });

  test('without --admin-token-file, or with the same token, the watchdog does not start', async () => {
    await expect(bench({ adminReadTokenFile: tokenFile() })).rejects.toThrow(/^--admin-read-token-file: has no effect/);
    await expect(bench({ adminTokenFile: tokenFile(), adminReadTokenFile: tokenFile() })).rejects.toThrow(
      /^--admin-read-token-file .*: holds the token of --admin-token-file; /,
    );
  });
});

describe('with --admin-cors-origin', () => {
  const origin = 'https://dash.example';
  const question = {
    origin,
    'access-control-request-method': 'GET',
    'access-control-request-headers': 'authorization',
  };

  test('pages of that site may read answers and errors, with a token and without a cookie', async () => {
    const { admin } = await bench({ adminTokenFile: tokenFile(), adminCorsOrigin: [origin] });
    const asked = await ask(`${admin}/nodes`, { method: 'OPTIONS', headers: question });
    expect(asked).toMatchObject({
      status: 204,
      headers: { 'access-control-allow-origin': origin, 'access-control-allow-headers': 'authorization' },
    });
    for (const headers of [{ origin }, { origin, authorization: `Bearer ${TOKEN}` }]) {
      const answer = await ask(`${admin}/nodes`, { headers });
      expect(answer.status).toBe('authorization' in headers ? 200 : 401);
      expect(answer.headers).toMatchObject({ 'access-control-allow-origin': origin, vary: 'Origin' });
      expect(answer.headers['access-control-allow-credentials']).toBeUndefined();
    }
  });

  test('a browser is not told that they may send a POST, and pages of other sites get nothing', async () => {
    const { admin } = await bench({ adminCorsOrigin: [origin] });
    for (const headers of [
      { ...question, 'access-control-request-method': 'POST' },
      { ...question, origin: 'https://evil.example' },
    ]) {
      const { status, headers: answered } = await ask(`${admin}/streams/1/sever`, { method: 'OPTIONS', headers });
      expect(status).toBe(403);
      expect(Object.keys(answered).filter((name) => name.startsWith('access-control'))).toEqual([]);
    }
    const { headers } = await ask(`${admin}/nodes`, { headers: { origin: 'https://evil.example' } });
    expect(headers['access-control-allow-origin']).toBeUndefined();
    expect((await ask(`${admin}/streams/1/sever`, { method: 'POST', headers: { origin } })).status).toBe(403);
  });
});

describe('behind a proxy', () => {
  const forwarded = { origin: 'https://wd.example', 'x-forwarded-host': 'wd.example', 'x-forwarded-proto': 'https' };
  const login = (admin: string) =>
    ask(`${admin}/login`, { method: 'POST', headers: forwarded, body: JSON.stringify({ token: TOKEN }) });

  test('a trusted one is believed: the page logs in, with a cookie for HTTPS only, and severs', async () => {
    const { admin, connect } = await bench({ adminTokenFile: tokenFile(), trustedProxies: '127.0.0.1' });
    await connect();
    const { status, headers } = await login(admin);
    expect(status).toBe(200);
    expect(String(headers['set-cookie'])).toMatch(/; SameSite=Strict; Secure$/);
    const cookie = String(headers['set-cookie']).split(';')[0] ?? '';
    const severing = await ask(`${admin}/streams/1/sever`, { method: 'POST', headers: { ...forwarded, cookie } });
    expect(severing.status).toBe(200);
  });

  test('another one is not', async () => {
    const { admin } = await bench({ adminTokenFile: tokenFile(), trustedProxies: '10.0.0.0/8' });
    expect((await login(admin)).status).toBe(403);
  });
});

describe('badges', () => {
  test('say how many nodes are connected, and what Headscale does', async () => {
    const { admin, connect } = await bench();
    await connect();
    const { status, type, text } = await get(`${admin}/badge.svg`);
    expect([status, type]).toEqual([200, 'image/svg+xml; charset=utf-8']);
    expect(text).toContain('>1 of 1 connected</text>');
    await until(async () => (await get(`${admin}/badge.svg?show=health`)).text.includes('>headscale: '), 'it shows');
    const { headers } = await ask(`${admin}/badge.svg`);
    expect(headers['cache-control']).toBe('private, max-age=30');
    const [node] = (await json<{ nodes: { machineKey: string }[] }>(`${admin}/nodes`)).nodes;
    const ofNode = await get(`${admin}/nodes/${node?.machineKey}/badge.svg?label=${encodeURIComponent('<a & b>')}`);
    expect(ofNode.text).toContain('aria-label="&#60;a &#38; b&#62;: connected"');
    expect((await get(`${admin}/nodes/nobody/badge.svg`)).status).toBe(404);
    expect((await get(`${admin}/badge.svg?show=all`)).status).toBe(400);
  });
});
