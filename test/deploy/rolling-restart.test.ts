import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { SimulatedNode } from '../../src/demo/simulated-node.ts';
import { until } from '../support/harness.ts';
import { freePort } from '../support/process.ts';
import { RedisServer } from '../support/redis.ts';

const PROJECT = join(import.meta.dirname, '..', '..');
const NODES = Number(process.env.ROLLING_NODES ?? 1000);
/** On an idle machine of two cores it is about a second. More than this is a hang. */
const LONGEST_WAIT_MS = 60_000;

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

function start(program: string, args: readonly string[]): ChildProcess {
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  closers.push(() => end(child, 'SIGKILL'));
  return child;
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, 'close');
  child.kill(signal);
  await closed;
}

const answers = (url: string): Promise<boolean> =>
  fetch(url).then(
    ({ ok }) => ok,
    () => false,
  );

/** Two of them: restarted one after the other. */
class Replica {
  readonly port: number;
  readonly admin: number;
  readonly #args: readonly string[];
  #child: ChildProcess | undefined;

  constructor(port: number, admin: number, flags: readonly string[]) {
    this.port = port;
    this.admin = admin;
    const listen = `http://127.0.0.1:${port}?proxy-protocol=true`;
    const where = ['--listen', listen, '--trusted-proxies', '127.0.0.1', '--admin', `127.0.0.1:${admin}`];
    this.#args = [join(PROJECT, 'dist', 'cli.js'), 'serve', ...where, ...flags];
  }

  async start(): Promise<void> {
    this.#child = start(process.execPath, this.#args);
    await until(() => answers(`http://127.0.0.1:${this.admin}/readyz`), 'it is ready', 30_000);
  }

  async stop(): Promise<void> {
    if (this.#child !== undefined) await end(this.#child, 'SIGTERM');
  }
}

function haproxyConfiguration(port: number, replicas: readonly Replica[]): string {
  const servers = replicas.map(
    ({ port: own, admin }, i) =>
      `  server watchdog-${i} 127.0.0.1:${own} send-proxy-v2 check port ${admin} inter 200 fall 1 rise 1`,
  );
  return `global
  nbthread 1
  maxconn 9000
defaults
  mode tcp
  timeout connect 2s
  # A replica that is slow to answer on a busy machine is not down.
  timeout check 5s
  timeout client 1h
  timeout server 1h
  retries 3
  option redispatch 1
listen clients
  bind 127.0.0.1:${port}
  balance leastconn
  option httpchk GET /readyz
${servers.join('\n')}
`;
}

test(`two replicas behind HAProxy with ${NODES} nodes are restarted one after the other: no node waits long or is refused`, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'rolling-'));
  closers.push(() => rmSync(folder, { recursive: true }));
  const redis = await RedisServer.start();
  closers.push(() => redis.close());
  const [serverPort, port] = [await freePort(), await freePort()];
  const keyFile = join(folder, 'noise_private.key');
  const listen = ['--listen', `127.0.0.1:${serverPort}`, '--noise-key', keyFile, '--second-stream', 'refuse'];
  start(process.execPath, ['--import', 'tsx', join(PROJECT, 'src', 'demo', 'control-server-main.ts'), ...listen]);
  await until(() => answers(`http://127.0.0.1:${serverPort}/key?v=142`), 'the control server answers', 30_000);

  // A thousand nodes log in at once only here.
  const rate = ['--upstream-rate', '400', '--upstream-burst', '400'];
  const flags = ['--upstream', `http://127.0.0.1:${serverPort}`, '--noise-key', keyFile, '--redis', redis.url, ...rate];
  const make = async (name: string): Promise<Replica> =>
    new Replica(await freePort(), await freePort(), [
      ...flags,
      '--replica-name',
      name,
      '--drain',
      '10s',
      '--log-level',
      'silent',
    ]);
  const replicas = [await make('left'), await make('right')];
  await Promise.all(replicas.map((replica) => replica.start()));
  writeFileSync(join(folder, 'haproxy.cfg'), haproxyConfiguration(port, replicas));
  start('haproxy', ['-db', '-f', join(folder, 'haproxy.cfg')]);
  await until(() => answers(`http://127.0.0.1:${port}/key?v=142`), 'HAProxy answers', 10_000);

  let refused = 0;
  const lostAt = new Map<SimulatedNode, number>();
  const waits: number[] = [];
  const nodes = Array.from(
    { length: NODES },
    (_, i) =>
      new SimulatedNode({
        name: `node-${i}`,
        serverUrl: new URL(`http://127.0.0.1:${port}`),
        onRefused: () => refused++,
        onLost: (node) => lostAt.set(node, lostAt.get(node) ?? performance.now()),
        onAccepted: (node) => {
          const since = lostAt.get(node);
          if (since !== undefined) waits.push(performance.now() - since);
          lostAt.delete(node);
        },
      }),
  );
  closers.push(() => Promise.all(nodes.map((node) => node.stop())));
  for (const node of nodes) node.start();
  const allAreIn = (): boolean => nodes.every(({ state }) => state === 'accepted');
  await until(allAreIn, 'all nodes are in', 90_000);
  [refused, waits.length] = [0, 0];

  for (const replica of replicas) {
    await replica.stop();
    await replica.start();
    await until(allAreIn, 'all nodes are back', 30_000);
  }

  waits.sort((a, b) => a - b);
  const at = (share: number): string => `${((waits[Math.floor(share * (waits.length - 1))] ?? 0) / 1000).toFixed(2)} s`;
  console.log(
    `rolling restart, ${NODES} nodes: ${waits.length} came back, after ${at(0.5)} (p50), ${at(0.99)} (p99), ${at(1)} (slowest); ${refused} refused`,
  );
  expect(waits.length).toBeGreaterThanOrEqual(NODES);
  expect(refused).toBe(0);
  expect(Math.max(...waits)).toBeLessThan(LONGEST_WAIT_MS);
}, 300_000);
