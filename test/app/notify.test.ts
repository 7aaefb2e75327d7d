import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { sendTests } from '../../src/commands/check.ts';
import { readConfigFile } from '../../src/config/file.ts';
import { loadConfig } from '../../src/config/load.ts';
import type { Config } from '../../src/config/types.ts';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import { formatNoiseKey } from '../../src/identity/noise.ts';
import { signature } from '../../src/notify/messages.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { acceptStream, Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { get } from '../support/http.ts';
import { freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const [recorded] = initiations;
const SECRET = `whsec_${Buffer.alloc(32, 9).toString('base64')}`;

/** A receiver that answers with `answers.status`, or not at all with 0. */
async function receiver() {
  const answers = { status: 200 };
  const got: { url: string | undefined; headers: Record<string, unknown>; body: string }[] = [];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    if (answers.status === 0) return;
    if (answers.status < 300) got.push({ url: request.url, headers: request.headers, body });
    response.writeHead(answers.status).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  harness.defer(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, got, answers };
}

function firstOf<T>([first]: readonly T[]): T {
  if (first === undefined) throw new Error('nothing has been received');
  return first;
}

/** A watchdog with virtual time, in front of a stand-in with one node, `router-1`. */
async function bench(fileOf: (folder: string) => string) {
  const folder = harness.folder();
  const file = join(folder, 'watchdog.yaml');
  const write = (text: string): void => writeFileSync(file, text);
  writeFileSync(join(folder, 'secret'), `${SECRET}\n`);
  writeFileSync(join(folder, 'api-key'), 'the-key');
  write(fileOf(folder));
  const machine = generateNoiseKey();
  const node = {
    id: '7',
    machineKey: formatNoiseKey(machine),
    nodeKey: `nodekey:${'2'.repeat(64)}`,
    givenName: 'router-1',
  };
  const upstream = await harness.upstream(acceptStream, ({ url }, response) => {
    if (url === '/api/v1/node') response.end(JSON.stringify({ nodes: [node] }));
    else if (url?.startsWith('/key')) response.end(JSON.stringify({ publicKey: recorded.serverPublicKey }));
    else response.writeHead(404).end();
  });
  const flags = { upstream: upstream.url, listen: '127.0.0.1:0', admin: '127.0.0.1:0', trustedProxies: 'none' };
  const given = { ...flags, headscaleApiKeyFile: join(folder, 'api-key') };
  const reread = (): Config => loadConfig(given, readConfigFile(file));
  const clock = new FakeClock();
  const running = await harness.watchdogOf(reread(), noiseKeyOf(recorded), { reread, clock });
  await until(() => running.events.some(({ kind }) => kind === 'nodes_listed'), 'the nodes are listed');
  const connect = async () => {
    const client = harness.client(running.port);
    client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded, machine)}\r\n`));
    expect(await readHead(client)).toBe(SWITCHING);
    return client;
  };
  const leave = async (client: Awaited<ReturnType<typeof connect>>): Promise<void> => {
    client.destroy();
    await until(() => running.events.some(({ kind }) => kind === 'stream_closed'), 'the stream is closed');
  };
  return { ...running, upstream, clock, connect, leave, write, folder, reread };
}

describe('a running watchdog', () => {
  test('tells a receiver, signed, that a node has left; it can be counted, and the URL is shown nowhere', async () => {
    const { url, got } = await receiver();
    const secretUrl = `${url.replace('//', '//user:PASSWORD@')}/hooks/TOPSECRET?token=TOKEN`;
    const { connect, leave, clock, admin, events, write, folder, watchdog } = await bench(
      (here) => `notify: [{ url: '${secretUrl}', secret-file: ${join(here, 'secret')} }]\n`,
    );
    await leave(await connect());
    clock.advance(149_000);
    clock.advance(10_000);
    await until(() => got.length === 1, 'the receiver has got it');
    const { headers, body, url: path } = firstOf(got);
    expect(path).toBe('/hooks/TOPSECRET?token=TOKEN');
    expect(JSON.parse(body)).toMatchObject({ type: 'node.offline', data: { node: { name: 'router-1' } } });
    expect(headers['webhook-signature']).toBe(
      signature(SECRET, String(headers['webhook-id']), String(headers['webhook-timestamp']), body),
    );
    const metrics = (await get(`${admin}/metrics`)).text;
    expect(metrics).toContain('headscale_watchdog_notifications_total{result="sent"} 1');
    expect(metrics).toContain('headscale_watchdog_notifications_waiting 0');

    write(`notify: [{ url: '${secretUrl}2', secret-file: ${join(folder, 'nope')} }]\n`);
    expect(watchdog.reload()).toMatchObject({ ok: false, code: 'HSW_NOTIFY_SECRET_UNREADABLE' });
    write(`notify: [{ url: '${secretUrl}2' }]\n`);
    expect(watchdog.reload()).toMatchObject({ ok: true, changes: ['notify: changed'] });
    const shown = [metrics, (await get(`${admin}/events`)).text, (await get(`${admin}/overview`)).text];
    for (const text of [...shown, JSON.stringify(events)])
      expect(text).not.toMatch(/TOPSECRET|TOKEN|PASSWORD|CQkJCQkJ/);
  });

  test('a reload keeps what waits, and a changed secret signs it', async () => {
    const { url, got, answers } = await receiver();
    const { connect, leave, clock, write, folder, watchdog, admin } = await bench(
      (here) => `notify: [{ url: '${url}', secret-file: ${join(here, 'secret')} }]\n`,
    );
    answers.status = 500;
    await leave(await connect());
    clock.advance(149_000);
    clock.advance(10_000);
    await until(async () => {
      return (await get(`${admin}/metrics`)).text.includes('notifications_total{result="delayed"} 1');
    }, 'the first attempt has failed');
    const other = `whsec_${Buffer.alloc(24, 1).toString('base64')}`;
    writeFileSync(join(folder, 'secret'), other);
    write(`notify: [{ url: '${url}', secret-file: ${join(folder, 'secret')}, events: '*' }, { url: '${url}/b' }]\n`);
    expect(watchdog.reload()).toMatchObject({ ok: true });
    answers.status = 204;
    clock.advance(1000);
    await until(() => got.length === 1, 'the receiver has got it');
    const { headers, body } = firstOf(got);
    expect(headers['webhook-signature']).toBe(
      signature(other, String(headers['webhook-id']), String(headers['webhook-timestamp']), body),
    );
  });

  test('a secret is read again when its file changes', async () => {
    const { url, got } = await receiver();
    const { connect, leave, clock, folder, events } = await bench(
      (here) => `notify: [{ url: '${url}', secret-file: ${join(here, 'secret')} }]\n`,
    );
    const other = `whsec_${Buffer.alloc(24, 1).toString('base64')}`;
    writeFileSync(join(folder, 'secret'), other);
    clock.advance(5000);
    await until(() => events.some(({ kind }) => kind === 'key_file_reloaded'), 'the file has been read');
    await leave(await connect());
    clock.advance(119_000);
    clock.advance(7000);
    await until(() => got.length === 1, 'the receiver has got it');
    const { headers, body } = firstOf(got);
    expect(headers['webhook-signature']).toBe(
      signature(other, String(headers['webhook-id']), String(headers['webhook-timestamp']), body),
    );
  });

  test('a receiver that hangs does not keep it from stopping, and what is lost is said', async () => {
    const { url, answers } = await receiver();
    const { connect, leave, clock, watchdog, events } = await bench(() => `notify: [{ url: '${url}' }]\n`);
    answers.status = 0;
    await leave(await connect());
    clock.advance(149_000);
    clock.advance(10_000);
    const closed = watchdog.close();
    let isClosed = false;
    void closed.then(() => {
      isClosed = true;
    });
    await until(() => {
      clock.advance(500);
      return isClosed;
    }, 'the watchdog has stopped');
    expect(events).toContainEqual(
      expect.objectContaining({ kind: 'notification_dropped', reason: 'stopped', count: 1, isNews: true }),
    );
  });
});

describe('headscale-watchdog notify --test', () => {
  const tests = async (text: string) => {
    const lines: string[] = [];
    const config = loadConfig({}, { path: 'w.yaml', text });
    const code = await sendTests(config, { write: (line: string) => lines.push(line) });
    return { code, out: lines.join('') };
  };

  test('sends one message to each target, and says how it went without showing URLs', async () => {
    const [good, bad] = [await receiver(), await receiver()];
    bad.answers.status = 403;
    const text = `notify:
  - { url: ${good.url}/SECRET, format: ntfy }
  - { url: ${bad.url}/SECRET }
  - { url: 'http://127.0.0.1:1/SECRET' }
  - { url: '${good.url}/SECRET', secret-file: /nonexistent }
`;
    const { code, out } = await tests(text);
    expect(code).toBe(1);
    expect(out.split('\n')).toEqual([
      `ok    target 1 (ntfy, ${good.url}/…): it answered 200`,
      `fail  [HSW_NOTIFICATION_DROPPED] target 2 (standard, ${bad.url}/…): it answered 403`,
      'fail  [HSW_NOTIFICATION_DELAYED] target 3 (standard, http://127.0.0.1:1/…): ECONNREFUSED',
      expect.stringMatching(
        /^fail {2}\[HSW_NOTIFY_SECRET_UNREADABLE\] target 4 \(standard, .*: there is no such file; /,
      ),
      '',
    ]);
    expect(good.got.map(({ body, headers }) => `${String(headers.title)}: ${body}`)).toEqual([
      'Test: This is a test of headscale-watchdog. Notifications reach you.',
    ]);
    expect((await tests(`notify: { url: ${good.url} }`)).code).toBe(0);
    expect(await tests('drain: off')).toEqual({
      code: 3,
      out: 'nobody to notify: add notify: to the file that --config names\n',
    });
  });
});

test('the sample of the documentation can be used', () => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/notifications.md'), 'utf8');
  const samples = [...page.matchAll(/```yaml\n([\s\S]*?)```/g)].map(([, text = '']) => text);
  expect(samples.length).toBeGreaterThan(1);
  for (const text of samples)
    expect(loadConfig({ headscaleApiKeyFile: '/a' }, { path: 'docs', text }).policy.offlineAfterMs).toBeGreaterThan(0);
});
