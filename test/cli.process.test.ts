import { closeSync, cpSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { acceptStream, Harness, readAll, readHead, SWITCHING, until, upgradeHead } from './support/harness.ts';
import { initiations } from './support/initiations.ts';
import { failure, freePort, run, runWith } from './support/process.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const [recorded] = initiations;
let folder: string;
let keyFile: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-cli-'));
  keyFile = join(folder, 'noise_private.key');
  writeFileSync(keyFile, recorded.serverPrivateKey, { mode: 0o600 });
});
afterAll(() => rmSync(folder, { recursive: true }));

const ANY_PORTS = ['--listen', '127.0.0.1:0', '--admin', '127.0.0.1:0'];

describe('headscale-watchdog serve', () => {
  test('without --config, SIGHUP ends it as SIGTERM does: with a drain, which a second SIGHUP does not cut short', async () => {
    const upstream = await harness.upstream(acceptStream);
    const [port, admin] = await Promise.all([freePort(), freePort()]);
    const where = ['--listen', `127.0.0.1:${port}`, '--admin', `127.0.0.1:${admin}`];
    const serve = run(harness, 'serve', '--upstream', upstream.url, ...where, '--drain', '3s');
    await until(() => serve.stdout.includes('listening'), 'it has started');
    const clients = [harness.client(port), harness.client(port)];
    for (const client of clients) {
      client.write(upgradeHead('/ts2021'));
      expect(await readHead(client)).toBe(SWITCHING);
    }
    serve.child.kill('SIGHUP');
    await until(() => serve.stdout.includes('drain_started'), 'it drains');
    serve.child.kill('SIGHUP');
    expect(await serve.ended).toEqual({ code: 0, signal: null });
    const lines = serve.stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines.filter(({ msg }) => /^(stopping|ending now)$/.test(msg))).toMatchObject([{ signal: 'SIGHUP' }]);
    const [begin, end] = ['drain_started', 'drain_ended'].map(
      (kind) => lines.find(({ event }) => event === kind)?.time,
    );
    // Two streams over three seconds: one ends at once, the other one and a half seconds later.
    expect(Date.parse(end) - Date.parse(begin)).toBeGreaterThan(1000);
  });

  test('a variable that names no flag is a warning in the log, without its value', async () => {
    const env = { HEADSCALE_WATCHDOG_ADMIN_TOKEN: 'SECRET', HEADSCALE_WATCHDOG_UPSTREAM: 'http://127.0.0.1:9' };
    const serve = runWith(harness, { env }, 'serve', ...ANY_PORTS);
    await until(() => serve.stdout.includes('listening'), 'it has started');
    const lines = serve.stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines).toContainEqual(
      expect.objectContaining({ level: 40, code: 'HSW_VARIABLE_UNKNOWN', msg: expect.stringContaining('_TOKEN_FILE') }),
    );
    expect(lines).toContainEqual(expect.objectContaining({ msg: 'listening', upstream: 'http://127.0.0.1:9' }));
    expect(serve.stdout + serve.stderr).not.toContain('SECRET');
  });

  test('logs what it listens on, never logs a secret, and exits with 0 on SIGTERM', async () => {
    const upstream = await harness.upstream(
      () => {},
      (_request, response) => void response.end(JSON.stringify({ publicKey: recorded.serverPublicKey })),
    );
    const args = ['--upstream', upstream.url, '--noise-key', keyFile, '--log-level', 'debug'];
    const serve = run(harness, 'serve', ...args, ...ANY_PORTS);
    await until(() => serve.stdout.includes("The Noise key is Headscale's"), 'it has started and asked Headscale');
    const lines = serve.stdout.trimEnd().split('\n');
    const listening = lines
      .map((line) => JSON.parse(line) as Record<string, unknown>)
      .find(({ msg }) => msg === 'listening');
    expect(listening).toMatchObject({
      level: 30,
      listen: expect.stringMatching(/^127\.0\.0\.1:\d+$/),
      upstream: upstream.url,
    });
    serve.child.kill('SIGTERM');
    expect(await serve.ended).toEqual({ code: 0, signal: null });
    expect(serve.stdout).not.toContain(recorded.serverPrivateKey.slice(8));
    expect(serve.stderr).toBe('');
  });

  test('without --noise-key it starts, and one line says what is off', async () => {
    const serve = run(harness, 'serve', '--upstream', 'http://127.0.0.1:9', ...ANY_PORTS);
    await until(() => serve.stdout.includes('listening'), 'it has started');
    expect(serve.stdout.split('\n').filter((line) => line.includes('no --noise-key'))).toHaveLength(1);
  });

  test('a Noise key that is not there yet: one line says so, and it is used once it is there', async () => {
    const later = join(folder, 'later.key');
    const serve = run(harness, 'serve', '--upstream', 'http://127.0.0.1:9', '--noise-key', later, ...ANY_PORTS);
    await until(() => serve.stdout.includes('listening'), 'it has started');
    cpSync(keyFile, later);
    await until(() => serve.stdout.includes('"event":"key_file_reloaded"'), 'it uses the key');
    expect(serve.stdout.split('\n').filter((line) => line.includes('HSW_NOISE_KEY_MISSING'))).toHaveLength(1);
  });

  test.runIf(process.platform === 'linux')('a full disk under the log ends no stream', async () => {
    const upstream = await harness.upstream((_request, socket) => void socket.end(SWITCHING));
    const full = openSync('/dev/full', 'w');
    harness.defer(() => closeSync(full));
    const [port, admin] = await Promise.all([freePort(), freePort()]);
    const listen = ['--listen', `127.0.0.1:${port}`, '--admin', `127.0.0.1:${admin}`, '--log-level', 'debug'];
    const serve = runWith(harness, { stdout: full }, 'serve', '--upstream', upstream.url, ...listen);
    const healthy = async () => (await fetch(`http://127.0.0.1:${admin}/healthz`)).ok;
    await until(() => healthy().catch(() => false), 'it has started');
    const client = harness.client(port);
    client.write(upgradeHead('/ts2021'));
    expect(await readHead(client)).toBe(SWITCHING);
    serve.child.kill('SIGTERM');
    expect(await serve.ended).toEqual({ code: 0, signal: null });
  });

  test('an https:// upstream must have a certificate for its own name, whatever Host header the client sends', async () => {
    const tls = (name: string): Buffer => readFileSync(new URL(`support/tls/${name}`, import.meta.url));
    const upstream = createHttpsServer({ key: tls('key.pem'), cert: tls('cert.pem') }, (request, response) => {
      response.end(JSON.stringify({ publicKey: recorded.serverPublicKey, host: request.headers.host }));
    });
    upstream.on('upgrade', (_request, socket) => void socket.end(SWITCHING));
    await new Promise<void>((resolve) => upstream.listen(0, '127.0.0.1', resolve));
    harness.defer(() => new Promise((resolve) => upstream.close(resolve)));
    const url = `https://localhost:${(upstream.address() as AddressInfo).port}`;
    const port = await freePort();
    const env = { NODE_EXTRA_CA_CERTS: new URL('support/tls/cert.pem', import.meta.url).pathname };
    const where = ['--listen', `127.0.0.1:${port}`, '--admin', '127.0.0.1:0'];
    const serve = runWith(harness, { env }, 'serve', '--upstream', url, '--noise-key', keyFile, ...where);
    await until(() => serve.stdout.includes("The Noise key is Headscale's"), 'it has asked Headscale');
    const [plain, upgrade] = [harness.client(port), harness.client(port)];
    plain.write('GET /key HTTP/1.1\r\nHost: vpn.example.com\r\nConnection: close\r\n\r\n');
    expect((await readAll(plain)).toString()).toMatch(/^HTTP\/1\.1 200 [\s\S]*"host":"vpn\.example\.com"/);
    upgrade.write(upgradeHead('/ts2021'));
    expect(await readHead(upgrade)).toBe(SWITCHING);
    expect(serve.stderr).toBe('');
  });

  test('a port in use: one line, exit 1', async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    harness.defer(() => new Promise((resolve) => other.close(resolve)));
    const address = `127.0.0.1:${(other.address() as { port: number }).port}`;
    const { code, lines } = await failure(harness, 'serve', '--listen', address, '--admin', '127.0.0.1:0');
    expect(code).toBe(1);
    expect(lines).toEqual([
      `error [HSW_LISTEN_FAILED]: cannot listen on --listen ${address}: the port is in use; stop what uses it or choose another port`,
    ]);
  });

  test.each([
    ['a folder', () => folder, 'is a folder'],
    [
      'a file without a key',
      () => new URL('../tsconfig.build.json', import.meta.url).pathname,
      'does not hold a Noise key',
    ],
    ['a file too large for one', () => new URL(import.meta.url).pathname, 'larger than 4 KiB'],
  ])('an unreadable key (%s): one line, exit 1', async (_what, path, why) => {
    const { code, lines } = await failure(harness, 'serve', '--noise-key', path(), ...ANY_PORTS);
    expect(code).toBe(1);
    expect(lines).toEqual([expect.stringContaining(`error [HSW_NOISE_KEY_UNREADABLE]: --noise-key ${path()}: `)]);
    expect(lines[0]).toContain(why);
  });

  test.each(['serve', 'check', 'notify --test', 'reload', 'status', 'events'])(
    'a settings file that is not there: %s says so and exits with 2',
    async (command) => {
      const missing = join(folder, 'nowhere.yaml');
      const started = run(harness, ...command.split(' '), '--config', missing);
      expect((await started.ended).code).toBe(2);
      expect(started.stdout + started.stderr).toMatch(
        /\[HSW_CONFIG_UNREADABLE\].*nowhere\.yaml: there is no such file/,
      );
    },
  );

  test('wrong values: one line for each, exit 2', async () => {
    const { code, lines } = await failure(harness, 'serve', '--upstream', 'nonsense', '--hold', 'soon');
    expect(code).toBe(2);
    expect(lines).toEqual([
      expect.stringContaining("error [HSW_CONFIG_INVALID]: --upstream: 'nonsense'"),
      expect.stringContaining("error [HSW_CONFIG_INVALID]: --hold: 'soon'"),
    ]);
  });

  test('an unknown flag, a surplus argument, or no command: exit 2', async () => {
    const wrong = [['serve', '--silent', '3s'], ['serve', 'now'], [], ['serve', '--upstraem', 'http://h']];
    const results = await Promise.all(wrong.map((args) => failure(harness, ...args)));
    expect(results.map(({ code }) => code)).toEqual([2, 2, 2, 2]);
    expect(results[0]?.lines).toEqual([
      "error [HSW_USAGE_INVALID]: unknown option '--silent': see headscale-watchdog help serve",
    ]);
    expect(results[3]?.lines).toEqual([expect.stringContaining('Did you mean --upstream?')]);
  });
});
