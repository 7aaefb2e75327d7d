import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import pino from 'pino';
import { afterEach, describe, expect, test } from 'vitest';
import { HANDSHAKE_RESULTS } from '../../src/streams/events.ts';
import { CLOSE_REASONS, STREAM_KINDS } from '../../src/streams/stream.ts';
import { acceptStream, Harness, readAll, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { get, scrape } from '../support/http.ts';
import { freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const [recorded] = initiations;
const noiseKey = noiseKeyOf(recorded);

/** A Headscale that answers 101 to every upgrade, and to `/key` with the recorded server's key. */
function headscale(publicKey = recorded.serverPublicKey, version: object | undefined = undefined) {
  return harness.upstream(acceptStream, (request, response) => {
    if (request.url?.startsWith('/key')) response.end(JSON.stringify({ publicKey }));
    else if (request.url === '/version' && version) response.end(JSON.stringify(version));
    else response.writeHead(404).end();
  });
}

function handshake(header: string): string {
  return upgradeHead('/ts2021', `X-Tailscale-Handshake: ${header}\r\n`);
}

describe('startWatchdog', () => {
  test('identifies a node by its handshake, and /streams shows the node', async () => {
    const { url } = await headscale();
    const { port, admin, events } = await harness.watchdog(url, {}, noiseKey);
    const client = harness.client(port);
    client.write(handshake(recorded.header));
    await until(() => client.bytesRead > 0, 'the 101 has come');
    client.write(Buffer.from([4, 0, 2, 1, 2]));
    const streams = async () =>
      (JSON.parse((await get(`${admin}/streams`)).text) as { streams: Record<string, unknown>[] }).streams;
    await until(async () => (await streams())[0]?.bytesReceived === 5, 'the record was counted');
    const [stream] = await streams();
    expect(stream).toMatchObject({
      id: 1,
      kind: 'control',
      machineKey: recorded.machineKey,
      remoteAddress: expect.stringMatching(/^127\.0\.0\.1:\d+$/),
      bytesSent: 0,
      state: 'open',
      contests: [],
    });
    expect(stream?.kernel).toMatchObject(process.platform === 'linux' ? { unansweredProbes: 0 } : {});
    for (const time of ['openedAt', 'lastHeardAt'] as const) {
      expect(Math.abs(Date.parse(stream?.[time] as string) - Date.now())).toBeLessThan(5000);
    }
    client.end();
    await readAll(client);
    await until(async () => (await streams()).length === 0, 'the stream is gone');
    expect(events.map(({ kind }) => kind)).not.toContain('contest_opened');
  });

  test.each([
    ['unreadable', handshake(recorded.header.replace(/^..../, 'AAAA'))],
    ['missing', upgradeHead('/ts2021')],
  ])('a handshake that is %s is counted, and the connection is still tunnelled', async (result, head) => {
    const { url } = await headscale();
    const { port, admin } = await harness.watchdog(url, {}, noiseKey);
    const client = harness.client(port);
    client.write(head);
    expect(await readHead(client)).toBe(SWITCHING);
    expect((await scrape(admin)).get(`headscale_watchdog_handshakes_total{result="${result}"}`)).toBe(1);
  });

  test('a replayed handshake is counted and tunnelled, but gives no identity, so there is no contest', async () => {
    const { url } = await headscale();
    const { port, admin, events } = await harness.watchdog(url, {}, noiseKey);
    for (const _ of [1, 2]) {
      const client = harness.client(port);
      client.write(handshake(recorded.header));
      expect(await readHead(client)).toBe(SWITCHING);
    }
    const samples = await scrape(admin);
    expect(samples.get('headscale_watchdog_handshakes_total{result="identified"}')).toBe(1);
    expect(samples.get('headscale_watchdog_handshakes_total{result="replayed"}')).toBe(1);
    const { streams } = JSON.parse((await get(`${admin}/streams`)).text) as {
      streams: { machineKey: string | null }[];
    };
    expect(streams.map(({ machineKey }) => machineKey)).toEqual([recorded.machineKey, null]);
    expect(events.map(({ kind }) => kind)).not.toContain('contest_opened');
  });

  test('with an API key nodes have names: in /streams, in the log and in the metrics', async () => {
    const folder = harness.folder();
    const headscaleApiKeyFile = join(folder, 'api.key');
    writeFileSync(headscaleApiKeyFile, 'the-key\n');
    const node = { id: '7', machineKey: recorded.machineKey, nodeKey: `nodekey:${'2'.repeat(64)}` };
    const named = { ...node, name: 'phone', givenName: 'phone-1', user: { id: '1', name: 'alice' } };
    const lines: Record<string, unknown>[] = [];
    const log = pino({ level: 'debug' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
    const { url } = await harness.upstream(
      (_request, socket) => void socket.write(SWITCHING),
      ({ url, headers }, response) => {
        if (url !== '/api/v1/node') response.writeHead(404).end();
        else if (headers.authorization !== 'Bearer the-key') response.writeHead(401).end();
        else response.end(JSON.stringify({ nodes: [named] }));
      },
    );
    const { port, admin } = await harness.watchdog(url, { headscaleApiKeyFile }, noiseKey, { log });
    await until(() => lines.some(({ event }) => event === 'nodes_listed'), 'the nodes are listed');
    const client = harness.client(port);
    client.write(handshake(recorded.header));
    expect(await readHead(client)).toBe(SWITCHING);
    const shown = { id: '7', name: 'phone-1', user: 'alice', nodeKey: node.nodeKey };
    const { streams } = JSON.parse((await get(`${admin}/streams`)).text) as { streams: object[] };
    expect(streams).toMatchObject([{ machineKey: recorded.machineKey, node: shown }]);
    expect(lines.find(({ event }) => event === 'stream_opened')).toMatchObject({ node: shown });
    const labels = `machine_key="${recorded.machineKey}",node_key="${node.nodeKey}",node_id="7",name="phone-1",user="alice"`;
    expect((await scrape(admin)).get(`headscale_watchdog_node_info{${labels}}`)).toBe(1);
    expect(JSON.stringify(lines)).not.toContain('the-key');
  });

  test('with both credentials it is the API key until Headscale is known to be 0.30, and then the OAuth client; no log has them', async () => {
    const folder = harness.folder();
    const [headscaleApiKeyFile, headscaleOauthClientFile] = [join(folder, 'api.key'), join(folder, 'oauth.secret')];
    writeFileSync(headscaleApiKeyFile, 'the-key\n');
    writeFileSync(headscaleOauthClientFile, 'the-secret\n');
    const lines: string[] = [];
    const log = pino({ level: 'debug' }, { write: (line: string) => void lines.push(line) });
    const asked: string[] = [];
    let answers = 200;
    const { url } = await harness.upstream(acceptStream, ({ url = '', headers }, response) => {
      const json = (value: object): void => void response.end(JSON.stringify(value));
      if (url.startsWith('/key?')) json({ publicKey: recorded.serverPublicKey });
      else if (url === '/version') json({ version: 'v0.30.0' });
      else if (url === '/api/v2/oauth/token') json({ access_token: 'the-token', expires_in: 3600 });
      else {
        asked.push(`${url} ${headers.authorization}`);
        response.statusCode = answers;
        json({ nodes: [], devices: [] });
      }
    });
    const flags = { headscaleApiKeyFile, headscaleOauthClientFile };
    const { watchdog } = await harness.watchdog(url, flags, noiseKey, { log });
    const byClient = '/api/v2/tailnet/-/devices Bearer the-token';
    await until(() => asked.at(-1) === byClient, 'nodes are asked for with the OAuth client');
    expect(new Set(asked)).toEqual(new Set(['/api/v1/node Bearer the-key', byClient]));
    answers = 403;
    watchdog.reload();
    await until(() => lines.some((line) => line.includes('nodes_list_failed')), 'the failure is in the log');
    expect(lines.join()).not.toMatch(/the-key|the-secret|the-token/);
  });

  test('two streams of one node are in a contest, and /streams shows what it waits for', async () => {
    const { url } = await headscale();
    const { port, admin } = await harness.watchdog(url, {}, noiseKey);
    const clients = [harness.client(port), harness.client(port)];
    for (const client of clients) {
      client.write(handshake(freshHandshake(recorded)));
      expect(await readHead(client)).toBe(SWITCHING);
    }
    const { streams } = JSON.parse((await get(`${admin}/streams`)).text) as { streams: { contests: unknown[] }[] };
    const contest = {
      otherReplica: null,
      openedAt: expect.any(String),
      waitingFor: 'silence',
      until: expect.any(String),
    };
    expect(streams.map(({ contests }) => contests)).toEqual([
      [{ role: 'old', otherStream: 2, ...contest }],
      [{ role: 'newcomer', otherStream: 1, ...contest }],
    ]);
  });

  test('the log has one line for a feature that is off, one debug line for an unreadable handshake, and never a whole handshake', async () => {
    const lines: Record<string, unknown>[] = [];
    const log = pino({ level: 'debug' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
    const { url } = await headscale();
    const kernel = { ok: false, why: 'koffi cannot be loaded: not here' } as const;
    const { port } = await harness.watchdog(url, {}, noiseKey, { log, kernel });
    expect(lines.filter(({ level }) => level === 40)).toEqual([
      expect.objectContaining({
        msg: expect.stringMatching(/^no kernel evidence: /),
        code: 'HSW_KERNEL_EVIDENCE_UNAVAILABLE',
        detail: kernel.why,
      }),
    ]);
    const unreadable = recorded.header.replace(/^..../, 'AAAA');
    const client = harness.client(port);
    client.write(handshake(unreadable));
    expect(await readHead(client)).toBe(SWITCHING);
    const told = lines.filter(({ event, reason }) => event === 'handshake_checked' && reason === 'unreadable');
    expect(told).toMatchObject([{ level: 20, remoteAddress: expect.stringContaining('127.0.0.1:') }]);
    expect(JSON.stringify(lines)).not.toContain(unreadable.slice(0, 60));
  });

  test('kernel_evidence_available is 0 if the kernel cannot be asked', async () => {
    const { url } = await headscale();
    const { admin } = await harness.watchdog(url, {}, noiseKey, { kernel: { ok: false, why: 'a test' } });
    expect((await scrape(admin)).get('headscale_watchdog_kernel_evidence_available{source="direct"}')).toBe(0);
  });

  test('every metric exists before anything has happened', async () => {
    const { url } = await headscale();
    const { admin } = await harness.watchdog(url, {}, noiseKey);
    const samples = await scrape(admin);
    const expected = [
      ...STREAM_KINDS.flatMap((kind) => [`streams{kind="${kind}"}`, `streams_opened_total{kind="${kind}"}`]),
      ...STREAM_KINDS.flatMap((kind) =>
        CLOSE_REASONS.map((reason) => `streams_closed_total{kind="${kind}",reason="${reason}"}`),
      ),
      ...HANDSHAKE_RESULTS.map((result) => `handshakes_total{result="${result}"}`),
      ...['dead', 'left', 'silent', 'old_ended', 'newcomer_ended'].map(
        (verdict) => `contests_total{verdict="${verdict}"}`,
      ),
      ...['kernel', 'silence'].map((evidence) => `takeovers_total{evidence="${evidence}"}`),
      ...['hold', 'contest', 'stream_lifetime'].map((name) => `${name}_seconds_count`),
    ];
    for (const name of expected) expect(samples.get(`headscale_watchdog_${name}`), name).toBe(0);
    expect([...samples.keys()]).toContainEqual(
      expect.stringMatching(/^headscale_watchdog_build_info\{version="\d+\.\d+\.\d+"\}$/),
    );
    await until(async () => (await scrape(admin)).get('headscale_watchdog_upstream_up') === 1, 'upstream_up is 1');
    expect((await scrape(admin)).get('headscale_watchdog_noise_key_matches')).toBe(1);
  });

  test("a key that is not Headscale's is an error in the log and a metric, and traffic flows", async () => {
    const { url } = await headscale(`mkey:${'0'.repeat(64)}`);
    const { admin, port, events } = await harness.watchdog(url, {}, noiseKey);
    await until(
      () => events.some((event) => event.kind === 'noise_key_checked' && !event.matches),
      'the mismatch is told',
    );
    expect((await scrape(admin)).get('headscale_watchdog_noise_key_matches')).toBe(0);
    const client = harness.client(port);
    client.write(handshake(recorded.header));
    expect(await readHead(client)).toBe(SWITCHING);
  });

  test('if something other than Headscale answers at --upstream, that is an error in the log, and /readyz says isHeadscale: false', async () => {
    const { url } = await harness.upstream(
      () => {},
      (_request, response) => void response.end('welcome to somebody else'),
    );
    const { admin, events } = await harness.watchdog(url, {}, noiseKey);
    await until(() => events.some(({ kind }) => kind === 'upstream_not_headscale'), 'it is told');
    expect(events.map(({ kind }) => kind)).not.toContain('upstream_up');
    const ready = JSON.parse((await get(`${admin}/readyz`)).text) as object;
    expect(ready).toMatchObject({ upstream: { up: true, isHeadscale: false }, noiseKeyMatches: null });
  });

  test('the admin server answers health and readiness checks, a 404 that lists the paths, and a 405', async () => {
    const { url } = await headscale(recorded.serverPublicKey, { version: 'v0.29.2' });
    const { admin } = await harness.watchdog(url, {}, noiseKey);
    expect(await get(`${admin}/healthz`)).toMatchObject({ status: 200, text: 'ok\n' });
    await until(async () => (await get(`${admin}/readyz`)).text.includes('v0.29.2'), 'Headscale has said its version');
    const ready = await get(`${admin}/readyz`);
    expect(ready.status).toBe(200);
    expect(JSON.parse(ready.text)).toMatchObject({ ready: true, upstream: { url, up: true }, noiseKeyMatches: true });
    expect(await get(`${admin}/nope`)).toMatchObject({ status: 404, text: expect.stringContaining('/metrics') });
    const post = await fetch(`${admin}/streams`, { method: 'POST', headers: { connection: 'close' } });
    expect(post.status).toBe(405);
    await post.text();
  });
});
