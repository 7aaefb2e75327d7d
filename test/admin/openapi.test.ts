import { readFileSync, writeFileSync } from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { join } from 'node:path';
import { Validator } from '@seriousme/openapi-schema-validator';
import { afterEach, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import type { z } from 'zod';
import type { AdminBackend } from '../../src/admin/routes.ts';
import { problem } from '../../src/admin/schemas.ts';
import { createAdminServer } from '../../src/admin/server.ts';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import { History, historyBounds } from '../../src/history/history.ts';
import { formatNoiseKey } from '../../src/identity/noise.ts';
import { systemClock } from '../../src/lib/clock.ts';
import { acceptStream, Harness, readAll, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';
import { describeApi, OPERATIONS } from './api-description.ts';
import { type Sample, samplesIn, withSamples } from './samples.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const [recorded] = initiations;
const TOKEN = 'a-token-of-enough-characters';
const BEARER = { authorization: `Bearer ${TOKEN}` };

interface Answered {
  readonly status: number;
  readonly type: string;
  readonly text: string;
}

interface Asked {
  readonly headers?: Record<string, string>;
  readonly body?: string;
}

function ask(admin: string, method: string, path: string, { headers = {}, body }: Asked = {}): Promise<Answered> {
  return new Promise((resolve, reject) => {
    const take = (response: IncomingMessage): void => {
      let text = '';
      response.on('data', (chunk) => {
        text += chunk;
      });
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, type: String(response.headers['content-type']), text }),
      );
    };
    const asking = request(admin + path, { method, headers, agent: false }, take);
    asking.on('error', reject);
    asking.end(body);
  });
}

const operationOf = (method: string, path: string) => {
  const found = OPERATIONS.find(
    (each) =>
      each.method === method.toLowerCase() &&
      new RegExp(`^${each.path.replace(':id', '[^/]+')}$`).test(path.replace(/\?.*/, '')),
  );
  if (found === undefined) throw new Error(`${method} ${path} is not described`);
  return found;
};

/** The first answer of each kind: `get /streams 200`. */
const seen = new Map<string, Sample>();

/** Checks an answer against the description. */
function check(method: string, path: string, { status, type, text }: Answered): void {
  const operation = status === 405 ? undefined : operationOf(method, path);
  const { content } = operation?.answers[status] ?? { content: problem };
  if (content === undefined) throw new Error('an answer without content');
  const what = `${method} ${path} ${status}: ${text}`;
  const kind = `${operation?.method} ${operation?.path} ${status}`;
  if (!seen.has(kind)) seen.set(kind, { path, status, text });
  if ('text' in content) {
    expect(type.split(';')[0], what).toBe(content.text);
    return;
  }
  expect((content as z.ZodType).safeParse(JSON.parse(text)).error, what).toBeUndefined();
  const isError = status >= 400 && 'detail' in (JSON.parse(text) as object);
  expect(type, what).toMatch(isError ? /^application\/problem\+json; / : /^application\/json\b/);
  if (isError) expect(JSON.parse(text), what).toMatchObject({ status });
}

/** Headscale with three nodes, two of which have one name. */
async function bench(flags: Record<string, unknown> = {}) {
  const machines = ['1', '2', '3'].map((id) => ({ id, key: generateNoiseKey() }));
  const nodes = machines.map(({ id, key }) => ({
    ...{
      id,
      name: `node-${id}`,
      givenName: id === '1' ? 'phone' : 'printer',
      user: { name: 'alice' },
      online: id === '1',
    },
    ...{ machineKey: formatNoiseKey(key), nodeKey: `nodekey:${id.repeat(64)}`, ipAddresses: [`100.64.0.${id}`] },
    ...{ expiry: '2030-01-01T00:00:00Z', lastSeen: '2026-11-23T22:55:38Z', validTags: ['tag:home'] },
  }));
  const upstream = await harness.upstream(acceptStream, ({ url }, response) => {
    if (url === '/api/v1/node') response.end(JSON.stringify({ nodes }));
    else response.writeHead(404).end();
  });
  const folder = harness.folder();
  writeFileSync(join(folder, 'secret'), `${TOKEN}\n`);
  const running = await harness.watchdog(
    upstream.url,
    { headscaleApiKeyFile: join(folder, 'secret'), ...flags },
    noiseKeyOf(recorded),
  );
  await until(() => running.events.some(({ kind }) => kind === 'nodes_listed'), 'the nodes are listed');
  const connectNode = async (number: number) => {
    const client = harness.client(running.port);
    const handshake = freshHandshake(recorded, machines[number]?.key);
    client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${handshake}\r\n`));
    expect(await readHead(client)).toBe(SWITCHING);
  };
  const asked = async (method: string, path: string, more?: Asked): Promise<Answered> => {
    const answered = await ask(running.admin, method, path, more);
    check(method, path, answered);
    return answered;
  };
  return { ...running, connectNode, asked, folder };
}

/** An admin server whose watchdog says what is hard to bring about. */
async function serverOf(says: Partial<AdminBackend>): Promise<string> {
  const history = new History(systemClock, { nameOf: () => undefined, isNode: () => true }, historyBounds(100));
  const backend = {
    history,
    keysOf: () => new Set(),
    failed: () => {},
    now: () => Date.now(),
    ...says,
  } as unknown as AdminBackend;
  const server = createAdminServer(backend, {
    ...{ clock: systemClock, tokens: { all: undefined, read: undefined }, adminHost: '127.0.0.1' },
    ...{ corsOrigins: () => [], isTrustedProxy: () => false },
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  harness.defer(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

describe('the description of the admin API', () => {
  test('openapi.json is made from the schemas (vitest -u writes it anew), and is valid OpenAPI 3.1', async () => {
    const text = `${JSON.stringify(describeApi(), undefined, 2)}\n`;
    await expect(text).toMatchFileSnapshot('../../src/admin/openapi.json');
    const { valid, errors } = await new Validator().validate(JSON.parse(text));
    expect([valid, errors]).toEqual([true, undefined]);
    expect(new Set(JSON.stringify(describeApi()).match(/(?<="operationId":")[^"]+/g)).size).toBe(OPERATIONS.length);
  });

  test('describes every route and every parameter, and nothing else', async () => {
    const { admin } = await bench();
    const { text } = await ask(admin, 'GET', '/nothing');
    const [, known = ''] = /Known paths: (.*)\./.exec((JSON.parse(text) as { detail: string }).detail) ?? [];
    const described = OPERATIONS.map(({ path }) => path);
    expect(
      known
        .split(', ')
        .filter((path) => path !== '/')
        .sort(),
    ).toEqual(described.sort());
    for (const { method, path, query } of OPERATIONS) {
      if (method !== 'get' || path.includes('health') || path === '/events/live') continue;
      const answer = await ask(admin, 'GET', `${path.replace(':id', 'phone')}?xx=1`);
      const [, parameters] = /Use one of ([\w, ]*)\./.exec(answer.text) ?? [];
      expect([path, parameters?.split(', ').sort()]).toEqual([path, query && Object.keys(query.shape).sort()]);
    }
  });

  test('every answer is as described, and every described answer was given', { timeout: 60_000 }, async () => {
    const plain = await bench();
    await plain.connectNode(0);
    await plain.connectNode(0);
    await until(
      async () => (await ask(plain.admin, 'GET', '/nodes/phone/health')).status === 200,
      'the phone is there',
    );
    const { asked } = plain;
    for (const { path } of OPERATIONS.filter(({ method, path }) => method === 'get' && !/:|live/.test(path)))
      expect(await asked('GET', path)).toMatchObject({ status: 200 });
    expect((await asked('GET', '/streams?node=phone')).text).toContain('"contests": [');
    expect((await asked('GET', '/nodes/phone')).text).toContain('"state": "connected"');
    await asked('GET', '/nodes/phone/health');
    expect((await asked('GET', `/nodes/3/health`)).status).toBe(503);
    for (const more of ['', '/health', '/availability', '/badge.svg']) {
      expect((await asked('GET', `/nodes/nobody${more}`)).status).toBe(404);
      expect((await asked('GET', `/nodes/printer${more}`)).status).toBe(409);
    }
    expect((await asked('GET', '/nodes/phone/availability')).text).toContain('"state": "online"');
    expect((await asked('GET', '/nodes/phone/badge.svg')).text).toContain('>phone: connected<');
    for (const path of [
      '/streams',
      '/nodes',
      '/events',
      '/availability',
      '/nodes/phone/availability',
      '/badge.svg',
      '/nodes/phone/badge.svg',
    ])
      expect((await asked('GET', `${path}?x=1`)).status).toBe(400);
    expect((await asked('POST', '/streams')).status).toBe(405);
    expect((await asked('POST', '/streams/99/sever')).status).toBe(404);
    expect((await asked('POST', '/streams/1/sever', { headers: { origin: 'http://evil.example' } })).status).toBe(403);
    expect((await asked('POST', '/streams/1/sever')).status).toBe(200);
    expect((await asked('POST', '/reload')).status).toBe(200);
    expect((await asked('POST', '/handover')).status).toBe(422);
    await watch(plain.admin);

    const guarded = await bench({ adminTokenFile: join(plain.folder, 'secret') });
    const token = (text: string) => ({ body: JSON.stringify({ token: text }) });
    expect((await guarded.asked('GET', '/streams')).status).toBe(401);
    expect((await guarded.asked('GET', '/streams', { headers: BEARER })).status).toBe(200);
    expect(JSON.parse((await guarded.asked('GET', '/readyz')).text)).toEqual({ ready: true });
    expect((await guarded.asked('POST', '/login', token('wrong'))).status).toBe(401);
    expect((await guarded.asked('POST', '/login', token('x'.repeat(9000)))).status).toBe(413);
    expect((await guarded.asked('POST', '/login', token(TOKEN))).status).toBe(200);
    expect((await guarded.asked('POST', '/logout')).status).toBe(200);

    const odd = await serverOf({
      sever: (id) => (id === 1 ? 'asked' : 'ending'),
      reload: () => ({ ok: false, code: 'HSW_CONFIG_INVALID', problems: ['--hold: …'] }),
      handOver: async () => ({ ok: true, pid: 4711, moved: 300, stayed: 0, tookMs: 1204 }),
      readiness: () => ({ ...NOT_READY }),
      metrics: () => Promise.reject(new Error('on purpose')),
    });
    const askOdd = async (method: string, path: string) => {
      const answered = await ask(odd, method, path);
      check(method, path, answered);
      return answered.status;
    };
    expect(await askOdd('POST', '/streams/1/sever')).toBe(202);
    expect(await askOdd('POST', '/streams/2/sever')).toBe(409);
    expect(await askOdd('POST', '/reload')).toBe(422);
    expect(await askOdd('POST', '/handover')).toBe(200);
    expect(await askOdd('GET', '/readyz')).toBe(503);
    expect(await askOdd('GET', '/metrics')).toBe(500);
    for (let i = 0; i < 32; i++) await live(`${odd}/events/live`);
    expect(await live(`${odd}/events/live`)).toBe(503);

    const described = OPERATIONS.flatMap(({ method, path, answers }) =>
      Object.keys(answers).map((status) => `${method} ${path} ${status}`),
    );
    expect(described.filter((each) => !seen.has(each))).toEqual([]);
    const page = process.env.API_SAMPLES;
    if (page !== undefined)
      writeFileSync(
        page,
        withSamples(readFileSync(page, 'utf8'), (kind) => seen.get(kind)),
      );
  });

  test('docs/api.md has a sample of each answer, as the schema describes it', () => {
    const samples = samplesIn(readFileSync(join(import.meta.dirname, '..', '..', 'docs', 'api.md'), 'utf8'));
    const operations = samples.map(({ method, path }) => operationOf(method, path));
    const named = (all: typeof OPERATIONS) => all.map(({ method, path }) => `${method} ${path}`);
    expect(named(operations), 'API_SAMPLES=docs/api.md makes them anew').toEqual(named(OPERATIONS));
    for (const [i, { method, path, text }] of samples.entries()) {
      const [answer] = Object.values(operations[i]?.answers ?? {});
      const content = answer?.content;
      if (content !== undefined && !('text' in content))
        expect(
          content.safeParse(JSON.parse(text)).error,
          `${method} ${path}: API_SAMPLES=docs/api.md makes the samples anew`,
        ).toBeUndefined();
    }
  });

  test.each([
    ['no HTTP', 'what is this?\r\n\r\n', 400],
    ['a head that is too large', `GET / HTTP/1.1\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`, 431],
  ])('%s gets a problem too', async (_what, bytes, status) => {
    const { admin } = await bench();
    const client = connect({ port: Number(new URL(admin).port), host: '127.0.0.1' });
    harness.defer(() => client.destroy());
    client.on('error', () => {});
    client.write(bytes);
    const [head = '', body = ''] = (await readAll(client)).toString().split('\r\n\r\n', 2);
    expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} [\\s\\S]*\r\nContent-Type: application/problem\\+json`));
    expect(problem.parse(JSON.parse(body))).toMatchObject({ status, code: 'HSW_ADMIN_REQUEST_INVALID' });
  });
});

const NOT_READY = {
  ...{ ready: false, draining: true, listen: [null], noiseKeyMatches: null },
  upstream: { url: 'http://127.0.0.1:1', up: false, silentOn: null, isHeadscale: null, detail: 'no', version: null },
};

/** The first message of the live feed, and what it answers to a wrong parameter. */
async function watch(admin: string): Promise<void> {
  const socket = new WebSocket(`${admin.replace('http', 'ws')}/events/live?after=0`);
  harness.defer(() => socket.terminate());
  const message = await new Promise((resolve) => socket.on('message', resolve));
  check('GET', '/events/live', { status: 101, type: 'application/json', text: String(message) });
  expect(await live(`${admin}/events/live?x=1`)).toBe(400);
}

/** Opens a WebSocket. @returns the status of the answer. An error is checked. */
function live(url: string): Promise<number> {
  const socket = new WebSocket(url.replace('http', 'ws'));
  harness.defer(() => socket.terminate());
  socket.on('error', () => {});
  return new Promise((resolve) => {
    socket.on('open', () => resolve(101));
    socket.on('unexpected-response', (_request, response) => {
      let text = '';
      response.on('data', (chunk) => {
        text += chunk;
      });
      response.on('end', () => {
        const status = response.statusCode ?? 0;
        check('GET', '/events/live', { status, type: String(response.headers['content-type']), text });
        resolve(status);
      });
    });
  });
}
