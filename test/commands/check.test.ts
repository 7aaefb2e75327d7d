import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createServer as createSecureServer } from 'node:tls';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { runCheck } from '../../src/commands/check.ts';
import { loadConfig } from '../../src/config/load.ts';
import { isLoopback, ownAddresses } from '../../src/lib/addresses.ts';
import { UsageError } from '../../src/lib/errors.ts';
import { Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { initiations } from '../support/initiations.ts';
import { freePort } from '../support/process.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const [recorded] = initiations;
const API_KEY = 'a-key-of-headscale';
const MACHINE = `mkey:${'1'.repeat(64)}`;
let folder: string;
let noiseKey: string;
let headscaleApiKeyFile: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-check-'));
  noiseKey = join(folder, 'noise_private.key');
  headscaleApiKeyFile = join(folder, 'api.key');
  writeFileSync(noiseKey, recorded.serverPrivateKey);
  writeFileSync(headscaleApiKeyFile, API_KEY);
});
afterAll(() => rmSync(folder, { recursive: true }));

const NODE = {
  ...{ id: '3', machineKey: MACHINE, nodeKey: `nodekey:${'2'.repeat(64)}`, name: 'phone', givenName: 'phone-1' },
  user: { id: '1', name: 'alice' },
};

function headscale(publicKey = recorded.serverPublicKey, version = 'v0.29.2') {
  return harness.upstream(
    () => {},
    (request, response) => {
      const json = (value: object): void => void response.end(JSON.stringify(value));
      if (request.url?.startsWith('/key?')) json({ publicKey });
      else if (request.url === '/version') json({ version });
      else if (request.url === '/api/v2/oauth/token') json({ access_token: 'the-token', expires_in: 3600 });
      else if (request.url === '/api/v2/tailnet/-/devices') {
        if (request.headers.authorization !== 'Bearer the-token') response.writeHead(401).end();
        else json({ devices: [{ ...NODE, name: 'phone-1', user: 'alice@example.com' }] });
      } else if (request.url !== '/api/v1/node') response.writeHead(404).end();
      else if (request.headers.authorization === `Bearer ${API_KEY}`) json({ nodes: [NODE] });
      else response.writeHead(401).end('Unauthorized');
    },
  );
}

interface Checked {
  readonly passed: boolean;
  readonly lines: readonly string[];
  /** The last line. */
  readonly summary: string | undefined;
}

async function check(
  flags: Record<string, string>,
  node?: string,
  file?: string,
  gateways: readonly string[] = [],
): Promise<Checked> {
  let text = '';
  const [listen, admin] = [`0.0.0.0:${await freePort()}`, `127.0.0.1:${await freePort()}`];
  const readConfig = () =>
    loadConfig({ listen, admin, ...flags }, file === undefined ? undefined : { path: 'watchdog.yaml', text: file });
  const write = (line: string): void => {
    text += line;
  };
  const out = { stdout: { write }, colours: false };
  const exitCode = await runCheck(readConfig, { node }, out, () => gateways);
  const [findings = '', summary] = text.trimEnd().split('\n\n');
  return { passed: exitCode === 0, lines: findings.split('\n'), summary };
}

describe('runCheck', () => {
  test('if all is well, every check prints a line with ok', async () => {
    const { url } = await headscale();
    const { passed, lines } = await check({ upstream: url, noiseKey, headscaleApiKeyFile });
    expect(lines).toEqual([
      'ok    configuration: valid',
      `ok    Headscale at ${url}: answers, v0.29.2`,
      'ok    Noise key: the same as that of the running Headscale',
      'ok    API key: accepted, 1 node',
      expect.stringMatching(/^(ok|warn) +(\[.*\] )?kernel evidence: /),
      expect.stringMatching(/^ok {4}kernel evidence behind a proxy: /),
      expect.stringMatching(/^ok {4}--listen 0\.0\.0\.0:\d+: free$/),
      expect.stringMatching(/^ok {4}--admin 127\.0\.0\.1:\d+: free$/),
    ]);
    expect(passed).toBe(true);
  });

  test('targets of notifications: what they are told, and what is not safe, without their secrets', async () => {
    const { url } = await headscale();
    const token = join(folder, 'token');
    writeFileSync(token, 'tk_1234567890');
    const file = `notify:
  - { url: https://ntfy.example/SECRET, format: ntfy, secret-file: ${token}, events: node.on*, nodes: { name: a } }
  - { url: 'http://hooks.example/SECRET', events: takeover }
  - { url: https://hooks.example/SECRET, secret-file: ${token} }
`;
    const { lines, passed } = await check({ upstream: url, noiseKey, headscaleApiKeyFile }, undefined, file);
    expect(lines.filter((line) => line.includes('notify:'))).toEqual([
      'ok    notify: target 1 (ntfy, https://ntfy.example/…): node.online, of some nodes',
      'ok    notify: target 2 (standard, http://hooks.example/…): takeover',
      'warn  notify: target 2 (standard, http://hooks.example/…): http is not encrypted: write https if the receiver speaks it',
      'warn  notify: target 2 (standard, http://hooks.example/…): not signed, so the receiver cannot know who sends: set secret-file',
      expect.stringMatching(
        /^fail {2}\[HSW_NOTIFY_SECRET_UNREADABLE\] notify: target 3 .*: holds no key for signatures; /,
      ),
    ]);
    expect(passed).toBe(false);
    expect(lines.join()).not.toMatch(/SECRET\b(?!_)|1234567890/);
  });

  test('a certificate shows its names and its expiry; a wrong key or a missing file fails', async () => {
    const { url } = await headscale();
    const tls = (name: string): string => new URL(`../support/tls/${name}`, import.meta.url).pathname;
    const listen = async (cert: string, key: string): Promise<string> =>
      `https://127.0.0.1:${await freePort()}?cert=${tls(cert)}&key=${tls(key)}`;
    const checkWith = async (cert: string, key: string) =>
      check({ upstream: url, listen: await listen(cert, key), trustedProxies: '127.0.0.1' });
    const good = await checkWith('issued-cert.pem', 'issued-key.pem');
    expect(good.lines).toContainEqual(
      expect.stringMatching(/^ok {4}certificate .*: for DNS:issued.example, until 21\d\d-/),
    );
    expect(good.passed).toBe(true);
    expect(good.lines.join()).not.toContain('RSA');
    const rsa = await checkWith('rsa-cert.pem', 'rsa-key.pem');
    expect(rsa.lines).toContainEqual(
      expect.stringMatching(/^ok {4}certificate .*; its key is RSA: with a P-256 key, new connections take much less/),
    );
    const selfSigned = await checkWith('cert.pem', 'key.pem');
    expect(selfSigned.lines).toContainEqual(
      expect.stringMatching(
        /^warn {2}\[HSW_CERTIFICATE_SELF_SIGNED\] certificate .* for DNS:localhost.* is self-signed/,
      ),
    );
    expect(selfSigned.passed).toBe(true);
    for (const key of ['renewed-key.pem', 'nowhere.pem']) {
      const bad = await checkWith('cert.pem', key);
      expect(bad.lines).toContainEqual(
        expect.stringMatching(
          /^fail {2}\[HSW_CERTIFICATE_UNREADABLE\] --listen: the key .*(does not belong to the certificate|no such file)/,
        ),
      );
      expect(bad.passed).toBe(false);
    }
  });

  describe('an --upstream whose scheme or certificate is wrong', () => {
    const tls = (name: string): Buffer => readFileSync(new URL(`../support/tls/${name}`, import.meta.url));
    const secure = async (): Promise<string> => {
      const server = createSecureServer({ cert: tls('cert.pem'), key: tls('key.pem') }, (socket) => {
        socket.on('error', () => {});
      });
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      closeAfterwards.push(server);
      return `127.0.0.1:${(server.address() as AddressInfo).port}`;
    };
    const closeAfterwards: Server[] = [];
    afterEach(() => {
      for (const server of closeAfterwards.splice(0)) server.close();
    });
    const lineFor = async (upstream: string): Promise<string | undefined> =>
      (await check({ upstream })).lines.find((line) => line.includes('Headscale at'));

    test('https where Headscale speaks HTTP: it says so, and what to write', async () => {
      const { host } = new URL((await headscale()).url);
      expect(await lineFor(`https://${host}`)).toBe(
        `fail  [HSW_UPSTREAM_UNREACHABLE] Headscale at https://${host}: what answers there does not speak TLS: write http://${host}, or point --upstream at Headscale's listen_addr`,
      );
    });

    test('http where something else answers: that it may speak TLS is one of the causes', async () => {
      const { host } = new URL((await harness.upstream(() => {})).url);
      expect(await lineFor(`http://${host}`)).toMatch(
        `something answers, but not Headscale: write https://${host} if Headscale listens with TLS, or point --upstream at`,
      );
    });

    test('a certificate that nobody known has signed: it says how to make it known', async () => {
      expect(await lineFor(`https://${await secure()}`)).toMatch(
        /HSW_UPSTREAM_UNREACHABLE\] .*self-signed certificate.*: set NODE_EXTRA_CA_CERTS to the file/,
      );
    });
  });

  test('a file for Redis that cannot be used fails, as it would fail serve', async () => {
    const { url } = await headscale();
    const redis = { redis: 'redis://127.0.0.1:1', redisPasswordFile: join(folder, 'nowhere') };
    const { passed, lines } = await check({ upstream: url, ...redis });
    expect(lines).toContainEqual(
      expect.stringMatching(/^fail {2}\[HSW_REDIS_FILE_UNREADABLE\] --redis-password-file .*: there is no such file/),
    );
    expect(passed).toBe(false);
    const { lines: without } = await check({ upstream: url, redis: redis.redis });
    expect(without).toContain('ok    Redis at redis://127.0.0.1:1: the settings can be used; it was not asked');
  });

  test('without keys it warns, says what to set, and passes', async () => {
    const { url } = await headscale();
    const { passed, lines } = await check({ upstream: url });
    expect(lines).toContainEqual(
      expect.stringMatching(/^warn {2}\[HSW_NOISE_KEY_MISSING\] Noise key: not set.*--noise-key/),
    );
    expect(lines).toContainEqual(expect.stringMatching(/^warn {2}API key: not set.*--headscale-api-key-file/));
    expect(passed).toBe(true);
    const healing = await check({ upstream: url, reconcile: 'heal' });
    expect(healing.lines).toContainEqual(expect.stringMatching(/^warn {2}API key: not set.*--reconcile does nothing/));
  });

  describe('which credential it uses and recommends', () => {
    const oauthFile = (): string => {
      const file = join(folder, 'oauth.secret');
      writeFileSync(file, 'hskey-client-one-two');
      return file;
    };
    const linesOf = async (version: string, flags: Record<string, string>, file?: string) => {
      const { url } = await headscale(undefined, version);
      const { lines } = await check({ upstream: url, ...flags }, undefined, file);
      return lines.filter((line) => /^\w+ +(\[\w+\] )?(API key|OAuth client|rule|--headscale)/.test(line));
    };
    const ACCEPTED = 'API key: accepted, 1 node';

    test('from 0.30 it recommends an OAuth client, and uses it if there is one', async () => {
      const headscaleOauthClientFile = oauthFile();
      expect(await linesOf('v0.30.0', {})).toEqual([
        'warn  OAuth client: not set, so nodes are only known by their machine keys: set --headscale-oauth-client-file for their names',
      ]);
      expect(await linesOf('v0.30.0', { headscaleApiKeyFile })).toEqual([
        `warn  ${ACCEPTED}; the key may also change and delete everything: with an OAuth client it may only read nodes: \`headscale oauth-clients create --scope devices:core:read\`, and --headscale-oauth-client-file`,
      ]);
      const accepted = ['ok    OAuth client: accepted, 1 node'];
      expect(await linesOf('v0.30.0', { headscaleOauthClientFile })).toEqual(accepted);
      expect(await linesOf('v0.30.0', { headscaleApiKeyFile, headscaleOauthClientFile })).toEqual(accepted);
    });

    test('before 0.30, and for a build that does not say its version, it uses the API key if there is one', async () => {
      const headscaleOauthClientFile = oauthFile();
      expect(await linesOf('v0.29.2', { headscaleApiKeyFile, headscaleOauthClientFile })).toEqual([
        `ok    ${ACCEPTED}`,
        'warn  OAuth client: read, but not used, because Headscale v0.29.2 has none; the API key is used',
      ]);
      expect(await linesOf('dev', { headscaleApiKeyFile, headscaleOauthClientFile })).toEqual([
        `ok    ${ACCEPTED}`,
        'warn  OAuth client: read, but not used, because Headscale does not say that it is 0.30 or later; the API key is used',
      ]);
      expect(await linesOf('dev', { headscaleOauthClientFile })).toEqual(['ok    OAuth client: accepted, 1 node']);
    });

    test('fails for a secret that cannot be read, and asks with the other credential', async () => {
      const headscaleOauthClientFile = join(folder, 'nowhere.secret');
      expect(await linesOf('v0.30.0', { headscaleOauthClientFile })).toEqual([
        expect.stringMatching(/^fail {2}\[HSW_OAUTH_CLIENT_UNREADABLE\] --headscale-oauth-client-file .*no such file/),
      ]);
      expect(await linesOf('v0.29.2', { headscaleApiKeyFile, headscaleOauthClientFile })).toEqual([
        expect.stringMatching(/^fail {2}\[HSW_OAUTH_CLIENT_UNREADABLE\] /),
        `ok    ${ACCEPTED}`,
      ]);
    });

    test('warns of a rule for a user who has no node, because an OAuth client sees e-mail addresses', async () => {
      const flags = { headscaleOauthClientFile: oauthFile() };
      expect(await linesOf('v0.30.0', flags, RULES)).toEqual([
        'ok    OAuth client: accepted, 1 node',
        "warn  rule 2 of the file: no node has the user 'alice'; nodes have alice@example.com",
      ]);
      expect(await linesOf('v0.29.2', { headscaleApiKeyFile }, RULES)).toEqual([`ok    ${ACCEPTED}`]);
    });
  });

  test('each mistake in the configuration is a line, and nothing else is checked', async () => {
    const { passed, lines } = await check({ hold: 'soon' }, undefined, 'gone-aftr: 3s\n');
    expect(lines).toEqual([
      expect.stringMatching(/^fail {2}\[HSW_CONFIG_INVALID\] --hold: 'soon'/),
      expect.stringMatching(/^fail {2}\[HSW_CONFIG_INVALID\] watchdog\.yaml:1:1: .*gone-after/),
    ]);
    expect(passed).toBe(false);
  });

  test('settings that cannot be used end it with 2, as they end serve; anything else that fails with 1', async () => {
    const out = { stdout: { write: () => true }, colours: false };
    const unusable = (): never => {
      throw new UsageError('HSW_CONFIG_INVALID', ['--hold: soon']);
    };
    expect(await runCheck(unusable, {}, out, () => [])).toBe(2);
    expect(
      await runCheck(
        () => loadConfig({ upstream: 'http://127.0.0.1:9' }),
        {},
        out,
        () => [],
      ),
    ).toBe(1);
  });

  test('if Headscale does not answer, it says what it tried and what to do, and goes on with the other checks', async () => {
    const { passed, lines } = await check({ upstream: 'http://127.0.0.1:9', noiseKey, headscaleApiKeyFile });
    expect(lines[1]).toMatch(
      /^fail {2}\[HSW_UPSTREAM_UNREACHABLE\] Headscale at http:\/\/127\.0\.0\.1:9: .*ECONNREFUSED.*--upstream/,
    );
    expect(lines[2]).toMatch(/^warn {2}Noise key: read, but not compared/);
    expect(lines[3]).toMatch(/^fail {2}\[HSW_NODES_LIST_FAILED\] API key: /);
    expect(lines).toHaveLength(8);
    expect(passed).toBe(false);
  });

  const here = ownAddresses().find((address) => address.includes('.') && !isLoopback(address));
  test.runIf(here !== undefined)('fails if Headscale is to be where the watchdog itself listens', async () => {
    const elsewhere = await check({ upstream: `http://${here}:9`, listen: '127.0.0.1:9' });
    expect(elsewhere.lines[1]).toMatch(/^fail {2}\[HSW_UPSTREAM_UNREACHABLE\]/);
    const { passed, lines } = await check({ upstream: `http://${here}:9`, listen: '0.0.0.0:9' });
    expect(lines[1]).toBe(
      `fail  [HSW_CONFIG_INVALID] --upstream http://${here}:9 leads to the watchdog's own --listen 0.0.0.0:9, so each request would go round in circles: name Headscale's listen_addr`,
    );
    expect(passed).toBe(false);
  });

  test('fails if something other than Headscale answers', async () => {
    const { url } = await harness.upstream(() => {});
    const { passed, lines } = await check({ upstream: url });
    expect(lines[1]).toMatch(/^fail {2}\[HSW_UPSTREAM_NOT_HEADSCALE\] Headscale at .*not Headscale/);
    expect(passed).toBe(false);
  });

  test("fails for a Noise key that is not Headscale's, an API key that Headscale refuses, and a file without a key", async () => {
    const { url } = await headscale(`mkey:${'0'.repeat(64)}`);
    const wrong = join(folder, 'wrong.key');
    writeFileSync(wrong, 'not-the-key');
    const refused = await check({ upstream: url, noiseKey, headscaleApiKeyFile: wrong });
    expect(refused.lines[2]).toMatch(/^fail {2}\[HSW_NOISE_KEY_MISMATCH\] Noise key: .*noise\.private_key_path/);
    expect(refused.lines[3]).toMatch(/^fail {2}\[HSW_NODES_LIST_FAILED\] API key: .*headscale apikeys create/);
    expect(refused.lines[3]).not.toContain('not-the-key');
    expect(refused.passed).toBe(false);
    const absent = await check({ upstream: url, headscaleApiKeyFile: join(folder, 'nowhere.key') });
    expect(absent.lines[3]).toMatch(/^fail {2}\[HSW_API_KEY_UNREADABLE\] --headscale-api-key-file .*no such file/);
    const none = await check({ upstream: url, noiseKey: wrong });
    expect(none.lines[2]).toMatch(/^fail {2}\[HSW_NOISE_KEY_UNREADABLE\] --noise-key .*does not hold a Noise key/);
  });

  test('a port that another program uses fails; a port that a running watchdog uses is ok', async () => {
    const { url } = await headscale();
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    harness.defer(() => new Promise((resolve) => other.close(resolve)));
    const { port } = other.address() as { port: number };
    const taken = await check({ upstream: url, listen: `127.0.0.1:${port}` });
    expect(taken.lines).toContainEqual(
      expect.stringMatching(/^fail {2}\[HSW_LISTEN_FAILED\] .*--listen .*the port is in use/),
    );
    expect(taken.passed).toBe(false);

    const running = await harness.watchdog(url);
    const admin = running.admin.replace('http://', '');
    const beside = await check({ upstream: url, listen: `127.0.0.1:${running.port}`, admin });
    expect(beside.lines.filter((line) => line.includes('by the watchdog that already runs here'))).toHaveLength(2);
    expect(beside.passed).toBe(true);
    const adminTokenFile = join(folder, 'admin.token');
    writeFileSync(adminTokenFile, 'a-token-of-enough-characters');
    const asked = await harness.watchdog(url, { adminTokenFile });
    const guarded = { admin: asked.admin.replace('http://', ''), listen: `127.0.0.1:${asked.port}`, adminTokenFile };
    const besideThat = await check({ upstream: url, ...guarded });
    expect(besideThat.lines).toContainEqual(expect.stringMatching(/^ok {4}admin token: read/));
    expect(besideThat.lines.filter((line) => line.includes('by the watchdog that already runs here'))).toHaveLength(2);
    const same = await check({ upstream: url, ...guarded, adminReadTokenFile: adminTokenFile });
    expect(same.lines).toContainEqual(expect.stringMatching(/^fail {2}.*holds the token of --admin-token-file/));
    writeFileSync(join(folder, 'read.token'), 'another-token-of-enough-characters');
    const two = await check({ upstream: url, ...guarded, adminReadTokenFile: join(folder, 'read.token') });
    expect(two.lines).toContainEqual(expect.stringMatching(/^ok {4}admin token that may only read: read/));
    const { adminTokenFile: _, ...unguarded } = guarded;
    const without = await check({ upstream: url, ...unguarded });
    expect(without.passed).toBe(true);
    expect(without.lines).toContain(`warn  --listen ${guarded.listen}: in use, perhaps by the watchdog that runs here`);
    expect(without.lines).toContainEqual(
      expect.stringMatching(/^warn {2}--admin .*: the watchdog that runs here asks for its token, so it was not asked/),
    );
    writeFileSync(adminTokenFile, 'another-token-of-enough-characters');
    const wrong = await check({ upstream: url, ...guarded });
    expect(wrong.lines).toContainEqual(
      expect.stringMatching(/^warn {2}--admin .*does not accept the token in .*admin\.token, so .*: give the file/),
    );
    writeFileSync(adminTokenFile, 'short');
    const short = await check({ upstream: url, ...guarded });
    expect(short.lines).toContainEqual(
      expect.stringMatching(/^fail {2}\[HSW_ADMIN_TOKEN_UNREADABLE\] .*too few to be safe/),
    );
    const foreign = await check({ upstream: url, listen: `127.0.0.1:${port}`, admin });
    expect(foreign.lines).toContainEqual(
      expect.stringMatching(/^fail {2}\[HSW_LISTEN_FAILED\] .*--listen .*the port is in use/),
    );
  });

  test('shows the problems with proxies that the running watchdog has found', async () => {
    const { url } = await headscale();
    const running = await harness.watchdog(url);
    const flags = { upstream: url, listen: `127.0.0.1:${running.port}`, admin: running.admin.replace('http://', '') };
    const well = await check(flags);
    expect(well.lines).toContainEqual(expect.stringMatching(/^ok {4}proxies in front: .*no problem/));
    await fetch(`${running.url}/ts2021`, { method: 'POST', headers: { connection: 'close' } });
    const { lines, passed } = await check(flags);
    expect(lines).toContainEqual(
      expect.stringMatching(
        /^warn {2}\[HSW_UPGRADE_HEADER_LOST\] proxies in front: .*\/ts2021 from 127\.0\.0\.1 has no Upgrade header.*nginx/,
      ),
    );
    expect(passed).toBe(true);
  });

  test("in a container, warns of the gateway from which the engine's proxy will connect", async () => {
    const { url } = await headscale();
    const gateways = ['172.18.0.1'];
    const { lines, passed } = await check({ upstream: url }, undefined, undefined, gateways);
    expect(lines.at(-1)).toMatch(
      /^warn {2}\[HSW_PROXY_NOT_TRUSTED\] proxies in front: 172\.18\.0\.1 is the gateway of this container/,
    );
    expect(passed).toBe(true);
    const trusting = await check({ upstream: url, trustedProxies: '172.18.0.0/16' }, undefined, undefined, gateways);
    expect(trusting.lines.join()).not.toContain('gateway');
  });

  test("warns if only this machine reaches it, and no proxy there is trusted: this machine's kernel would answer for the clients", async () => {
    const { url } = await headscale();
    const flags = { upstream: url, listen: `127.0.0.1:${await freePort()}` };
    const warning = expect.stringMatching(/^warn {2}\[HSW_PROXY_NOT_TRUSTED\] .*this machine only.*--trusted-proxies/);
    expect((await check({ ...flags, trustedProxies: 'none' })).lines).toContainEqual(warning);
    expect((await check(flags)).lines).not.toContainEqual(warning);
  });

  test('says where the evidence of the running watchdog comes from', async () => {
    const upstream = await harness.upstream((_request, socket) => {
      socket.on('error', () => {});
      socket.on('end', () => socket.end());
      socket.resume().write(SWITCHING);
    });
    const running = await harness.watchdog(upstream.url, { trustedProxies: '127.0.0.1' });
    const flags = {
      ...{ upstream: upstream.url, listen: `127.0.0.1:${running.port}` },
      admin: running.admin.replace('http://', ''),
    };
    const ofStreams = ({ lines }: Checked) => lines.filter((line) => line.includes('kernel evidence of the'));
    expect(ofStreams(await check(flags))).toEqual([]);
    const client = harness.client(running.port);
    client.write(upgradeHead('/ts2021', ''));
    expect(await readHead(client)).toBe(SWITCHING);
    expect(ofStreams(await check(flags))).toEqual([
      "warn  [HSW_PROXY_SOCKETS_HIDDEN] kernel evidence of the 1 open stream: 0 from the client's own connection, 0 from the proxy's, 1 without (address_hidden): see docs/proxies.md",
    ]);
  });

  test('ends with how many there are, and what that means', async () => {
    const { url } = await headscale();
    const well = await check({ upstream: url, noiseKey, headscaleApiKeyFile, trustedProxies: 'none' });
    expect(well.summary).toMatch(/^\d+ ok, \d warnings?, 0 failed: serve would work here/);
    const lacking = await check({ upstream: url, trustedProxies: 'none' });
    expect(lacking.summary).toMatch(/^\d+ ok, [2-9] warnings, 0 failed: serve would work here, and the warnings say/);
    const bad = await check({ upstream: 'http://127.0.0.1:9' });
    expect(bad.summary).toMatch(/^\d+ ok, \d warnings?, 1 failed: correct what failed, and check again$/);
    const wrong = await check({ silentAfter: 'soon', drain: 'soon' });
    expect([wrong.passed, wrong.summary]).toEqual([
      false,
      '0 ok, 0 warnings, 2 failed: correct what failed, and check again',
    ]);
  });

  test('uses colours where they are wanted: the level of each finding, and the summary', async () => {
    let text = '';
    const out = { stdout: { write: (line: string) => (text += line) }, colours: true };
    const readConfig = () =>
      loadConfig({ upstream: 'http://127.0.0.1:9', listen: '127.0.0.1:0', admin: '127.0.0.1:0' });
    await runCheck(readConfig, {}, out, () => []);
    expect(text).toContain('\x1b[32mok   \x1b[0m configuration: valid\n');
    expect(text).toContain('\x1b[31mfail \x1b[0m [HSW_UPSTREAM_UNREACHABLE]');
    expect(text).toContain('\x1b[33mwarn \x1b[0m [HSW_NOISE_KEY_MISSING]');
    expect(text.split('\n\n')[1]).toMatch(/^.\[31m\d+ ok, .*failed: .*\[0m\n$/);
  });

  test('--json prints one object: whether it passed, how many of each level, and each finding with what was checked', async () => {
    let text = '';
    const out = { stdout: { write: (line: string) => (text += line) }, colours: true };
    const readConfig = () =>
      loadConfig({ upstream: 'http://127.0.0.1:9', listen: '127.0.0.1:0', admin: '127.0.0.1:0' });
    expect(await runCheck(readConfig, { json: true }, out, () => [])).toBe(1);
    const report = JSON.parse(text);
    expect(Object.keys(report)).toEqual(['ok', 'counts', 'findings', 'node']);
    expect(report).toMatchObject({ ok: false, counts: { fail: 1 }, node: null });
    expect(report.findings).toHaveLength(report.counts.ok + report.counts.warn + report.counts.fail);
    expect(report.findings.slice(0, 3)).toEqual([
      { check: 'settings', level: 'ok', code: null, text: 'configuration: valid' },
      ...[
        {
          check: 'headscale',
          level: 'fail',
          code: 'HSW_UPSTREAM_UNREACHABLE',
          text: expect.stringContaining('ECONNREFUSED'),
        },
      ],
      {
        check: 'noise-key',
        level: 'warn',
        code: 'HSW_NOISE_KEY_MISSING',
        text: expect.stringMatching(/^Noise key: not/),
      },
    ]);
  });
});

const RULES =
  'nodes:\n  - name: "router-*"\n    hold: off\n  - user: alice\n    silent-after: 10s\n    probe-idle: 10s\n';

describe('runCheck --node', () => {
  test.each(['phone-1', 'PHONE-1', '3', MACHINE, NODE.nodeKey])(
    'finds the node by %s, and shows its settings',
    async (node) => {
      const { url } = await headscale();
      const { lines, passed } = await check({ upstream: url, headscaleApiKeyFile }, node, RULES);
      expect(lines.at(-1)).toBe(
        'ok    node phone-1 (id 3, user alice): silent-after 10s, probe-idle 10s (rule 2, watchdog.yaml:4); gone-after 2m, hold auto: off for Headscale v0.29.2, offline-after 2m, observe-only off (default)',
      );
      expect(passed).toBe(true);
    },
  );

  test('a node that Headscale does not list fails', async () => {
    const { url } = await headscale();
    const { lines, passed } = await check({ upstream: url, headscaleApiKeyFile }, 'fone-1');
    expect(lines.at(-1)).toMatch(/^fail {2}\[HSW_NODE_UNKNOWN\] node fone-1: .*has no node.*phone-1/);
    expect(passed).toBe(false);
  });

  test('without an API key, it accepts only a machine key', async () => {
    const { url } = await headscale();
    const rules = `nodes:\n  - machine-key: ${MACHINE}\n    observe-only: true\n`;
    const { lines } = await check({ upstream: url }, MACHINE, rules);
    expect(lines.at(-1)).toMatch(
      /^ok {4}node mkey:1+: silent-after 30s, .* \(default\); observe-only on, so no stream is held or severed \(rule 1, watchdog\.yaml:2\)$/,
    );
    const byName = await check({ upstream: url }, 'phone-1');
    expect(byName.lines.at(-1)).toMatch(/^fail {2}\[HSW_NODE_UNKNOWN\] node phone-1: .*a machine key/);
  });

  test('for a machine key that Headscale does not list, it shows the most careful of the rules that may apply', async () => {
    const { url } = await headscale();
    const wrong = join(folder, 'refused.key');
    writeFileSync(wrong, 'refused');
    const { lines } = await check({ upstream: url, headscaleApiKeyFile: wrong }, MACHINE, RULES);
    expect(lines.at(-1)).toMatch(
      /^warn {2}node mkey:1+: Headscale does not list it, so several rules may apply: silent-after 30s, .*probe-idle off.* \(the most careful of the rules that may apply\)$/,
    );
  });

  test('shows the settings in the running watchdog as well, and says if they are others', async () => {
    const { url } = await headscale();
    const file = { path: 'watchdog.yaml', text: RULES };
    const flags = { upstream: url, listen: '127.0.0.1:0', admin: '127.0.0.1:0', trustedProxies: 'none' };
    const config = loadConfig({ ...flags, headscaleApiKeyFile, goneAfter: '90s' }, file);
    const running = await harness.watchdogOf(config, undefined);
    await until(() => running.events.some(({ kind }) => kind === 'nodes_listed'), 'the nodes are listed');
    const here = {
      ...{ upstream: url, listen: `127.0.0.1:${running.port}`, admin: running.admin.replace('http://', '') },
      headscaleApiKeyFile,
    };
    const other = await check(here, 'phone-1', RULES);
    const shown = /: silent-after 10s, probe-idle 10s \(rule 2, watchdog\.yaml:4\); gone-after (\w+) \((.*?)\)/;
    const told = other.lines.filter((line) => line.includes(' node phone-1'));
    expect(told.map((line) => line.slice(0, 5))).toEqual(['ok   ', 'warn ']);
    expect(shown.exec(told[1] ?? '')?.slice(1)).toEqual(['90s', '--gone-after']);
    expect(told[1]).toMatch(
      /^warn {2}node phone-1 in the running watchdog: .*: other settings than these, because its flags/,
    );
    const same = await check({ ...here, goneAfter: '90s' }, 'phone-1', RULES);
    expect(same.lines.at(-1)).toMatch(/^ok {4}node phone-1 in the running watchdog: silent-after 10s/);
    const unknown = await check(here, 'phnoe-1', RULES);
    expect(unknown.lines.at(-1)).toBe(
      "warn  node phnoe-1 in the running watchdog: There is no node 'phnoe-1': GET /nodes lists those that are known.",
    );
  });
});
