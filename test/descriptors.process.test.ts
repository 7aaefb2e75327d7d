import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, expect, test } from 'vitest';
import { acceptStream, Harness, readAll, until } from './support/harness.ts';
import { CLI } from './support/process.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

test('a process with few descriptors refuses further connections, says so once, and keeps every stream', async () => {
  const upstream = await harness.upstream(acceptStream);
  const serve = `serve --upstream ${upstream.url} --listen 127.0.0.1:0 --admin 127.0.0.1:0`;
  const command = `ulimit -n 288 && exec ${process.execPath} ${CLI} ${serve}`;
  const child = spawn('sh', ['-c', command], { stdio: ['ignore', 'pipe', 'inherit'] });
  harness.defer(() => child.kill('SIGKILL'));
  let log = '';
  child.stdout.on('data', (chunk) => (log += chunk));
  await until(() => log.includes('"listening"'), 'it listens');
  const port = Number(/"listen":"127\.0\.0\.1:(\d+)"/.exec(log)?.[1]);
  const open = await Promise.all(Array.from({ length: 80 }, () => harness.upgraded(port)));
  for (let i = 0; i < 200; i++) expect((await readAll(harness.client(port))).toString()).toBe('');
  expect(open.every((client) => !client.destroyed)).toBe(true);
  expect(log.match(/Too many connections/g)).toHaveLength(1);
  const closed = once(child, 'close');
  child.kill('SIGKILL');
  await closed;
});
