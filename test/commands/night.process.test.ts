import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readConfigFile } from '../../src/config/file.ts';
import { loadConfig } from '../../src/config/load.ts';
import type { Config } from '../../src/config/types.ts';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import type { NoiseKey } from '../../src/identity/noise.ts';
import { formatNoiseKey } from '../../src/identity/noise.ts';
import type { Instant } from '../../src/lib/clock.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { acceptStream, Harness, type OnUpgrade, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { freshHandshake, initiations } from '../support/initiations.ts';
import { freePort, runWith } from '../support/process.ts';

const PROJECT = join(import.meta.dirname, '..', '..');

/** The table in docs/operating.md: the command of each question. */
const commands = new Map(
  [
    ...readFileSync(join(PROJECT, 'docs', 'operating.md'), 'utf8').matchAll(
      /^\| ([A-Z][^|]*\?) \| `headscale-watchdog ([^`]+)` \|/gm,
    ),
  ].map(([, question = '', command = '']) => [question, command.split(' ')]),
);

const harness = new Harness();
afterAll(() => harness.closeAll());

const [recorded] = initiations;
const RECORD = Buffer.from([4, 0, 2, 1, 2]);

/** Virtual time that ends at the present, because the commands say how long ago something was. */
class ClockOfToday extends FakeClock {
  override dateOf(instant: Instant): Date {
    return new Date(Date.now() - (this.now() - instant));
  }
}

interface Night {
  readonly folder: string;
  readonly env: NodeJS.ProcessEnv;
  readonly twinKey: string;
}

let night: Night;
beforeAll(async () => {
  night = await fall();
});

/** What happens before somebody is called: see the sentence above the table. */
async function fall(): Promise<Night> {
  const names = ['phone-1', 'router-1', 'twin', 'tablet'] as const;
  const machines = Object.fromEntries(names.map((name) => [name, generateNoiseKey()])) as Record<
    (typeof names)[number],
    NoiseKey
  >;
  const nodes = names.map((name, i) => ({
    ...{ id: String(i + 1), name, givenName: name, machineKey: formatNoiseKey(machines[name]) },
    nodeKey: `nodekey:${String(i + 1).repeat(64)}`,
  }));
  const told = await harness.upstream(acceptStream, (_request, response) => void response.end());
  // Headscale answers whatever a client sends.
  const answers: OnUpgrade = (_request, socket) => {
    socket.on('error', () => {}).on('end', () => socket.end());
    socket.on('data', () => socket.write(RECORD));
    socket.write(SWITCHING);
  };
  const upstream = await harness.upstream(answers, ({ url }, response) => {
    if (url === '/api/v1/node') response.end(JSON.stringify({ nodes }));
    else if (url?.startsWith('/key')) response.end(JSON.stringify({ publicKey: recorded.serverPublicKey }));
    else if (url === '/version') response.end('{"version":"v0.29.2"}');
    else response.writeHead(404).end();
  });
  const folder = harness.folder();
  const tls = (name: string): string => join(PROJECT, 'test', 'support', 'tls', name);
  writeFileSync(join(folder, 'api.key'), 'the-key');
  writeFileSync(join(folder, 'noise.key'), recorded.serverPrivateKey);
  const [plain, secure, admin] = [await freePort(), await freePort(), await freePort()];
  const lines = (goneAfter: string): string =>
    [
      ...[
        `upstream: ${upstream.url}`,
        `noise-key: ${join(folder, 'noise.key')}`,
        `headscale-api-key-file: ${join(folder, 'api.key')}`,
      ],
      ...[`listen: [127.0.0.1:${plain}, 'https://127.0.0.1:${secure}?cert=${tls('cert.pem')}&key=${tls('key.pem')}']`],
      ...[`admin: 127.0.0.1:${admin}`, 'trusted-proxies: 127.0.0.1', 'hold: off', `gone-after: ${goneAfter}`],
      ...[`notify: { url: '${told.url}/hook', format: text }`, ''],
    ].join('\n');
  const file = join(folder, 'watchdog.yaml');
  writeFileSync(file, lines('2m'));
  const reread = (): Config => loadConfig({}, readConfigFile(file));
  const clock = new ClockOfToday();
  const { watchdog, events } = await harness.watchdogOf(reread(), undefined, { clock, reread });
  const happens = (kind: string, times = 1): Promise<void> =>
    until(() => events.filter((event) => event.kind === kind).length >= times, `${kind} has happened`);
  await happens('nodes_listed');
  const opens = async (name: keyof typeof machines, address: string) => {
    const client = harness.client(plain);
    const handshake = `X-Tailscale-Handshake: ${freshHandshake(recorded, machines[name])}\r\n`;
    client.write(upgradeHead('/ts2021', `${handshake}X-Forwarded-For: ${address}\r\n`));
    expect(await readHead(client)).toBe(SWITCHING);
    client.write(RECORD);
    const opened = events.filter((event) => event.kind === 'stream_opened').at(-1);
    if (opened?.kind !== 'stream_opened') throw new Error('no stream was opened');
    await until(() => opened.stream.firstRecordAt !== undefined, 'its record has come');
    return { client, stream: opened.stream };
  };
  const router = await opens('router-1', '192.0.2.3');
  router.client.destroy();
  await happens('stream_closed');
  // Linux knows no proxy with a client at this address and port.
  await opens('phone-1', '192.0.2.1:4711');
  clock.advance(40_000);
  const phone = await opens('phone-1', '192.0.2.2:4711');
  clock.advance(5000);
  await happens('stream_severed');
  const twins = [await opens('twin', '192.0.2.11'), await opens('twin', '192.0.2.12')];
  const speaking = [phone, ...twins];
  const speak = async (): Promise<void> => {
    for (const { client } of speaking) client.write(RECORD);
    await until(() => speaking.every(({ stream }) => stream.heardAt === clock.now()), 'all are heard');
  };
  for (let spokenMs = 0; spokenMs < 120_000; spokenMs += 5000) {
    await speak();
    clock.advance(5000);
  }
  await happens('machine_key_duplicated');
  // The notification goes over a real connection, which virtual time must not overtake.
  while (!events.some(({ kind }) => kind === 'notification_sent')) {
    await speak();
    clock.advance(1000);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  writeFileSync(file, lines('90s'));
  expect(watchdog.reload()).toMatchObject({ ok: true });
  await speak();
  return { folder, env: { HEADSCALE_WATCHDOG_ADMIN: `127.0.0.1:${admin}` }, twinKey: nodes[2]?.machineKey ?? '' };
}

async function ask(question: string): Promise<{ readonly code: number | null; readonly text: string }> {
  const args = commands.get(question);
  if (args === undefined) throw new Error(`docs/operating.md does not answer: ${question}`);
  const done = runWith(harness, { env: night.env, cwd: night.folder }, ...args);
  const { code } = await done.ended;
  // The watchdog of this night has started just now, and has seen a takeover.
  expect(
    done.stderr.replace(
      /^(Events are known since|\d+ steps? of (takeovers|a takeover)|One step of a takeover) .*\n/gm,
      '',
    ),
  ).toBe('');
  return { code, text: done.stdout };
}

describe('the ten questions of docs/operating.md', () => {
  test('are ten', () => expect(commands.size).toBe(10));

  test('Is it me, or Headscale?', async () => {
    const { code, text } = await ask('Is it me, or Headscale?');
    expect(code).toBe(0);
    expect(text).toMatch(/^Headscale +up, at http:\/\/127\.0\.0\.1:\d+, v0\.29\.2$/m);
    expect(text).toMatch(/^Nodes +2 of 4 connected; 2 offline \(listed .* ago\)$/m);
  });

  test('Who is away?', async () => {
    const { code, text } = await ask('Who is away?');
    expect(code).toBe(0);
    expect(
      text
        .split('\n')
        .slice(1)
        .map((line) => line.split(' ')[0]),
    ).toEqual(['tablet', 'router-1', '']);
  });

  test('Why was this one cut?', async () => {
    const { code, text } = await ask('Why was this one cut?');
    expect(code).toBe(0);
    expect(text.trimEnd().split('\n').at(-1)).toMatch(
      /^How its last stream ended, .*: phone-1's old stream \d from 192\.0\.2\.1:4711 was severed: its client had sent nothing for \d+ s, longer than silent-after.*, and the node is back on stream/,
    );
  });

  test('Is that phone asleep or gone?', async () => {
    const { text } = await ask('Is that phone asleep or gone?');
    expect(text).toMatch(
      /^Linux shows nothing of its client \(\w+\), so only what it sends shows that it is there\.$/m,
    );
  });

  test('Is evidence available?', async () => {
    const { text } = await ask('Is evidence available?');
    expect(text).toMatch(/^Evidence +of clients: (yes|no); of clients of a proxy on this machine: (yes|no)$/m);
    expect(text).toMatch(
      /^(warn|info) +\[HSW_PROXY_SOCKETS_HIDDEN\] No evidence about 3 streams: the proxy has no connection with the client /m,
    );
  });

  test('Which node is a duplicate?', async () => {
    const { text } = await ask('Which node is a duplicate?');
    expect(text).toContain(
      `[HSW_MACHINE_KEY_DUPLICATED] Two machines use one machine key, so neither works well.\n      It is the key of twin, ${night.twinKey}.\n`,
    );
  });

  test('What would happen if I started it with this file?', async () => {
    const { code, text } = await ask('What would happen if I started it with this file?');
    expect(code).toBe(0);
    expect(text.trimEnd().split('\n').at(-1)).toMatch(/ 0 failed: serve would work here/);
  });

  test('Who was notified?', async () => {
    const { code, text } = await ask('Who was notified?');
    expect(code).toBe(0);
    expect(text).toMatch(/The notification "Node [a-z]+: .+" was delivered to target 1/);
    expect(text).not.toContain('/hook');
  });

  test('Is the certificate fine?', async () => {
    const { text } = await ask('Is the certificate fine?');
    expect(text).toMatch(/^Certificate +until 21\d\d-\d\d-\d\d, for another \d+ d/m);
    expect(text).toMatch(/^warn +\[HSW_CERTIFICATE_SELF_SIGNED\] A certificate is self-signed, .*cert\.pem\./m);
  });

  test('What changed since yesterday?', async () => {
    const { code, text } = await ask('What changed since yesterday?');
    expect(code).toBe(0);
    expect(text).toMatch(/Settings reloaded: gone-after: 2m → 90s/);
    expect(text).toMatch(/phone-1's old stream \d .* was severed/);
  });
});

test('status: an error is said with what to do, and the exit code is 1', async () => {
  const running = await harness.watchdog('http://127.0.0.1:9');
  await until(() => running.events.some(({ kind }) => kind === 'upstream_down'), 'Headscale is down');
  const env = { HEADSCALE_WATCHDOG_ADMIN: running.admin.replace('http://', '') };
  const done = runWith(harness, { env }, 'status');
  expect((await done.ended).code).toBe(1);
  expect(done.stdout).toMatch(/^Headscale +down, at http:\/\/127\.0\.0\.1:9$/m);
  expect(done.stdout).toMatch(
    /^error \[HSW_UPSTREAM_UNREACHABLE\] Headscale cannot be reached .*\n {6}Since \d{4}-.* ago\. Check that Headscale runs/m,
  );
  const watching = runWith(harness, { env }, 'status', '--watch', '--json');
  await until(() => watching.stdout.split('\n').length > 2, 'it was shown twice');
  watching.child.kill('SIGINT');
  expect(await watching.ended).toEqual({ code: 0, signal: null });
});
