import type { IncomingMessage, ServerResponse } from 'node:http';
import { text } from 'node:stream/consumers';
import { afterEach, describe, expect, test } from 'vitest';
import { headscaleApi } from '../../src/headscale/api.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { Harness } from '../support/harness.ts';
import { ANSWER_V2 } from './node-answers.ts';

const SECRET = 'hskey-client-0123456789ab-5e5e5e5e5e5e';
const HOUR = 3_600_000;
const harness = new Harness();
afterEach(() => harness.closeAll());

type Answer = readonly [status: number, body: string];

const refusedToken = (error: string): Answer => [error === 'invalid_client' ? 401 : 400, JSON.stringify({ error })];

/** A Headscale as 0.30, whose tokens a test can declare invalid. */
async function bench() {
  const clock = new FakeClock();
  const asked: string[] = [];
  const valid = new Set<string>();
  const says = {
    expiresIn: 3600 as unknown,
    token: undefined as Answer | undefined,
    devices: undefined as Answer | undefined,
    /** Of a token, as it is issued. */
    isValid: true,
  };
  let issued = 0;
  const issue = (): Answer => {
    issued += 1;
    const token = `hskey-oauthtok-${issued}`;
    if (says.isValid) valid.add(token);
    return [200, JSON.stringify({ access_token: token, token_type: 'Bearer', expires_in: says.expiresIn })];
  };
  const answerTo = async (request: IncomingMessage): Promise<Answer> => {
    const { method, url, headers } = request;
    if (url === '/api/v2/oauth/token') {
      const form = Object.fromEntries(new URLSearchParams(await text(request)));
      asked.push(`${method} token ${form.grant_type} ${form.client_secret === SECRET} ${form.scope}`);
      return says.token ?? issue();
    }
    const token = (headers.authorization ?? '').replace('Bearer ', '');
    asked.push(`${method} ${url} ${token}`);
    if (!valid.has(token)) return [401, '{"message":"unauthorized","status":401}'];
    return says.devices ?? [200, ANSWER_V2];
  };
  const upstream = await harness.upstream(
    (_request, socket) => socket.destroy(),
    (request, response: ServerResponse) => {
      void answerTo(request).then(([status, body]) => response.writeHead(status).end(body));
    },
  );
  const api = headscaleApi(new URL(upstream.url), { clock });
  harness.defer(() => api.close());
  const nodes = (secret = SECRET) => api.nodes({ by: 'OAuth client', secret });
  return {
    ...{ clock, valid, says, nodes, upstream },
    /** What has been asked since the last call. */
    asked: () => asked.splice(0),
    /** What the rejection says. It never shows the secret or a token. */
    async failure(): Promise<string> {
      const said = await nodes().then(
        () => 'no error',
        (error: unknown) => (error instanceof Error ? error.message : 'no Error'),
      );
      expect(said).not.toMatch(/hskey/);
      return said.replace(upstream.url, '');
    },
  };
}

const TOKEN = 'POST token client_credentials true devices:core:read';
const DEVICES = 'GET /api/v2/tailnet/-/devices hskey-oauthtok';
const CREATE =
  'create one with `headscale oauth-clients create --scope devices:core:read` and put its secret into the file that --headscale-oauth-client-file names';
const POINT = "point --upstream at Headscale's listen_addr";

describe('HeadscaleApi.nodes with an OAuth client', () => {
  test('asks for a token that may only read nodes, and reads the nodes with it', async () => {
    const { nodes, asked } = await bench();
    expect(await nodes()).toMatchObject([
      { name: 'phone', online: true, os: 'linux', clientVersion: '1.102.3' },
      { name: 'router', online: false, isEphemeral: true },
    ]);
    expect(asked()).toEqual([TOKEN, `${DEVICES}-1`]);
  });

  test('uses the token again until a minute before it expires', async () => {
    const { nodes, asked, clock } = await bench();
    await nodes();
    clock.advance(HOUR - 60_001);
    await nodes();
    expect(asked()).toEqual([TOKEN, `${DEVICES}-1`, `${DEVICES}-1`]);
    clock.advance(1);
    await nodes();
    expect(asked()).toEqual([TOKEN, `${DEVICES}-2`]);
  });

  test.each([[30], [undefined], ['3600']])('uses a token that lasts %j s only once', async (expiresIn) => {
    const { nodes, asked, says } = await bench();
    says.expiresIn = expiresIn;
    await nodes();
    await nodes();
    expect(asked()).toEqual([TOKEN, `${DEVICES}-1`, TOKEN, `${DEVICES}-2`]);
  });

  test('another secret gets another token', async () => {
    const { nodes, asked } = await bench();
    await nodes();
    await nodes('another');
    expect(asked()).toEqual([TOKEN, `${DEVICES}-1`, TOKEN.replace('true', 'false'), `${DEVICES}-2`]);
  });

  test('a token that Headscale does not accept any more is renewed once', async () => {
    const { nodes, asked, valid, says, failure } = await bench();
    await nodes();
    asked();
    valid.clear();
    expect(await nodes()).toHaveLength(2);
    expect(asked()).toEqual([`${DEVICES}-1`, TOKEN, `${DEVICES}-2`]);
    valid.clear();
    says.isValid = false;
    const said = "401, Headscale refuses a token that it has just issued; look in Headscale's log";
    expect(await failure()).toBe(`asking Headscale for its nodes (GET /api/v2/tailnet/-/devices): ${said}`);
    expect(asked()).toEqual([`${DEVICES}-2`, TOKEN, `${DEVICES}-3`]);
  });

  test('after a failure for another reason the token is used again', async () => {
    const { nodes, asked, says, failure } = await bench();
    says.devices = [502, ''];
    expect(await failure()).toContain("502, Headscale or a proxy in front of it failed; look in Headscale's log");
    says.devices = undefined;
    await nodes();
    expect(asked()).toEqual([TOKEN, `${DEVICES}-1`, `${DEVICES}-1`]);
  });

  test.each<[string, Answer, string]>([
    ['an unknown secret', refusedToken('invalid_client'), `401, Headscale refuses the OAuth client; ${CREATE}`],
    [
      'a client without the scope',
      refusedToken('invalid_scope'),
      `400, the OAuth client may not read nodes, because it lacks the scope devices:core:read; ${CREATE}`,
    ],
    ['another mistake', refusedToken('invalid_request'), `400, Headscale refuses the OAuth client; ${CREATE}`],
    // What 0.29.2 answers to every unknown path under /api/.
    [
      'Headscale 0.29.2',
      [401, 'Unauthorized'],
      '401, so this Headscale has no OAuth clients, which are new in 0.30; upgrade it, or use --headscale-api-key-file instead',
    ],
    // What 0.23.0 answers.
    [
      'Headscale 0.23.0',
      [404, ''],
      '404, so this Headscale has no OAuth clients, which are new in 0.30; upgrade it, or use --headscale-api-key-file instead',
    ],
    [
      'a failure',
      [500, '{"error":"server_error"}'],
      "500, Headscale or a proxy in front of it failed; look in Headscale's log",
    ],
    ['a redirect', [302, ''], `302, a redirect, which is not followed with the OAuth client's secret; ${POINT}`],
    ['no token', [200, '{}'], `200, but the answer holds no access token; ${POINT}`],
    ['a token for no header', [200, '{"access_token":"a\\nb"}'], `200, but the answer holds no access token; ${POINT}`],
    ['another page', [200, '<html>'], `200, but the answer holds no access token; ${POINT}`],
  ])('no token, because of %s: the error says what to do', async (_case, answer, why) => {
    const { says, failure, asked } = await bench();
    says.token = answer;
    expect(await failure()).toBe(`asking Headscale for an access token (POST /api/v2/oauth/token): ${why}`);
    expect(asked()).toEqual([TOKEN]);
  });

  test.each<[Answer, string]>([
    [
      [403, '{"message":"token is missing the required scope devices:core:read","status":403}'],
      `403, the OAuth client may not read nodes, because it lacks the scope devices:core:read; ${CREATE}`,
    ],
    [[404, ''], `404, so this is not Headscale's API; ${POINT}`],
    [[302, ''], `302, a redirect, which is not followed with the access token; ${POINT}`],
    [[200, '{"nodes":[]}'], `200, but the answer has no list 'devices'; ${POINT}`],
  ])('devices answered with %j: the error says what to do', async (answer, why) => {
    const { says, failure } = await bench();
    says.devices = answer;
    expect(await failure()).toBe(`asking Headscale for its nodes (GET /api/v2/tailnet/-/devices): ${why}`);
  });

  test('no connection: the error says what was asked', async () => {
    const { failure, upstream } = await bench();
    await new Promise((resolve) => upstream.server.close(resolve));
    expect(await failure()).toMatch(
      /^asking Headscale for an access token \(POST \/api\/v2\/oauth\/token\): .*ECONNREFUSED.*; check that Headscale runs, and /,
    );
  });
});
