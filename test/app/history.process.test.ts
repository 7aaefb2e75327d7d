import { appendFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { NodeAvailability } from '../../src/admin/availability-views.ts';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import { formatNoiseKey } from '../../src/identity/noise.ts';
import { acceptStream, Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { freshHandshake, initiations } from '../support/initiations.ts';
import { freePort, run } from '../support/process.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());
const [recorded] = initiations;

test('what happened outlives a kill, a torn last line and a stop, and the commands show it', async () => {
  const folder = harness.folder();
  const machine = generateNoiseKey();
  const node = {
    ...{ id: '7', name: 'router-1', givenName: 'router-1', user: { name: 'alice' } },
    ...{ machineKey: formatNoiseKey(machine), nodeKey: `nodekey:${'7'.repeat(64)}` },
  };
  const upstream = await harness.upstream(acceptStream, ({ url }, response) => {
    if (url === '/api/v1/node') response.end(JSON.stringify({ nodes: [node] }));
    else response.writeHead(404).end();
  });
  const [port, admin] = [await freePort(), `127.0.0.1:${await freePort()}`];
  const history = join(folder, 'history.jsonl');
  writeFileSync(join(folder, 'key'), 'the-key\n');
  writeFileSync(join(folder, 'noise'), `${recorded.serverPrivateKey}\n`);
  const start = async () => {
    const serving = run(
      ...([harness, 'serve', '--upstream', upstream.url, '--listen', `127.0.0.1:${port}`, '--admin', admin] as const),
      ...['--headscale-api-key-file', join(folder, 'key'), '--history-file', history, '--drain', 'off'],
      ...['--noise-key', join(folder, 'noise'), '--trusted-proxies', 'none', '--log-level', 'info'],
    );
    await until(() => serving.stdout.includes('which are now shown by name'), 'the nodes are listed');
    const client = harness.client(port);
    client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${freshHandshake(recorded, machine)}\r\n`));
    expect(await readHead(client)).toBe(SWITCHING);
    return serving;
  };
  const command = async (...args: string[]) => {
    const ran = run(harness, ...args, '--admin', admin);
    return { ...(await ran.ended), stdout: ran.stdout, stderr: ran.stderr };
  };

  const first = await start();
  await until(() => readFileSync(history, 'utf8').includes('"kind":"stream_opened"'), 'the stream is in the file');
  first.child.kill('SIGKILL');
  await first.ended;
  expect(statSync(history).mode & 0o777).toBe(0o600);
  appendFileSync(history, '{"v":1,"at":17642');

  const second = await start();
  expect(second.stdout).toContain('1 line could not be read');
  const { stdout } = await command('events', '--since', '1h', '--node', 'router-1');
  expect(stdout.match(/router-1's stream \d+ was opened/g)).toHaveLength(2);
  expect(new Set(stdout.match(/stream \d+/g)).size).toBe(2);
  second.child.kill('SIGTERM');
  await second.ended;

  await start();
  const shown = async () => {
    const { stdout: text } = await command('availability', 'router-1', '--since', '1h', '--json');
    return JSON.parse(text) as NodeAvailability;
  };
  await until(async () => (await shown()).periods.at(-1)?.state === 'online', 'it is online again');
  const { periods, offlineMs, onlineMs } = await shown();
  // If the first run was killed before it had said a second time that it runs, nobody knows how long the node was online.
  expect(periods.map(({ state }) => state).join(' ')).toMatch(/^unknown (online unknown )?online unknown online$/);
  expect(offlineMs).toBe(0);
  expect(onlineMs).toBeGreaterThan(0);
  const table = await command('availability');
  expect([table.code, table.stdout]).toEqual([0, expect.stringMatching(/\nrouter-1 +100\.000 %/)]);
  expect(table.stderr).toMatch(/^Nothing is known before \d{4}-/);
  const csv = await command('availability', '--since', '2h', '--csv');
  expect(csv.stdout).toMatch(/^node,machine_key,day,online_seconds,offline_seconds,unknown_seconds\r\nrouter-1,mkey:/);
});
