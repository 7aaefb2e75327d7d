import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Contender, type Running, start, watchdog } from './contenders.ts';
import type { Load } from './load.ts';
import { pause, processorShare, withIdle } from './rows.ts';
import { table } from './table.ts';

const STREAMS = 4000;
const [WATCHDOG_PORT, ADMIN_PORT, NGINX_PORT] = [19_110, 19_111, 19_112];
/** nginx connects from here, so that its clients, on 127.0.0.1, are not taken for proxies. */
const NGINX = '127.0.0.2';
/** Twelve surveys. */
const IDLE_FOR_MS = 48_000;
const SETTLE_MS = 5000;
const UPGRADE_CLIENTS = '16';

const EVIDENCE = {
  'by port': 'proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Real-Port $remote_port;',
  'by address': 'proxy_set_header X-Forwarded-For $remote_addr;',
  // As if a further proxy stood in front of nginx.
  none: `proxy_set_header X-Forwarded-For "$remote_addr, ${NGINX}";`,
} as const;
type Way = keyof typeof EVIDENCE;

interface Terms {
  readonly load: Load;
  readonly rounds: number;
  readonly seconds: string;
  readonly upstreamPort: number;
  readonly folder: string;
}

/*
 * What it costs to look at the connections between a proxy and its clients: with the client's port, without, and not at all.
 */

/** Beside idle streams: processor time, and the round trip. */
export async function streamsBehindProxyTables(terms: Terms): Promise<string> {
  const [idle, p99] = [new Map<Way, number[]>(), new Map<Way, number[]>()];
  await inTurn('streams behind nginx', terms, async (way, running) => {
    await withIdle(terms.load, false, NGINX_PORT, STREAMS, async () => {
      await pause(SETTLE_MS);
      await checkEvidence(way);
      note(idle, way, await processorShare(running, IDLE_FOR_MS));
      const { p99us = Number.NaN } = await terms.load.measure(false, NGINX_PORT, 'latency', '10');
      note(p99, way, p99us);
    });
  });
  return [
    table(`processor, ${STREAMS} idle streams behind nginx`, '% of a core', 'less', idle, 'none'),
    table(`round trip p99 beside ${STREAMS} streams behind nginx`, 'µs', 'less', p99, 'none'),
  ].join('\n');
}

/** The processor time of an upgrade, once Node has compiled most of the code. */
export async function upgradeBehindProxyTable(terms: Terms): Promise<string> {
  const found = new Map<Way, number[]>();
  await inTurn('an upgrade behind nginx', terms, async (way, running) => {
    const { load, seconds } = terms;
    await load.measure(false, NGINX_PORT, 'upgrades', '2', UPGRADE_CLIENTS);
    const before = running.processorMs();
    const { perS = Number.NaN } = await load.measure(false, NGINX_PORT, 'upgrades', seconds, UPGRADE_CLIENTS);
    note(found, way, (1000 * (running.processorMs() - before)) / (perS * Number(seconds)));
  });
  return table('an upgrade behind nginx', 'µs of processor', 'less', found, 'none');
}

function note(figures: Map<Way, number[]>, way: Way, figure: number): void {
  figures.set(way, [...(figures.get(way) ?? []), figure]);
}

async function inTurn(
  name: string,
  terms: Terms,
  measure: (way: Way, running: Running) => Promise<void>,
): Promise<void> {
  for (let round = 1; round <= terms.rounds; round++) {
    for (const way of Object.keys(EVIDENCE) as Way[]) {
      process.stderr.write(`bench: ${name}, ${way}, round ${round} of ${terms.rounds}\n`);
      await withBoth(way, terms, (running) => measure(way, running));
    }
  }
}

async function withBoth(
  way: Way,
  { load, upstreamPort, folder }: Terms,
  measure: (running: Running) => Promise<void>,
): Promise<void> {
  const command = watchdog({ upstreamPort, noiseKeyFile: load.noiseKeyFile });
  command[command.indexOf('--trusted-proxies') + 1] = NGINX;
  const running = await start({
    name: 'watchdog',
    port: WATCHDOG_PORT,
    command: [...command, '--listen', `127.0.0.1:${WATCHDOG_PORT}`, '--admin', `127.0.0.1:${ADMIN_PORT}`],
  });
  try {
    const nginx = await start(nginxWith(EVIDENCE[way], join(folder, way.replace(' ', '-'))));
    try {
      await measure(running);
    } finally {
      await nginx.stop();
    }
  } finally {
    await running.stop();
  }
}

function nginxWith(headers: string, folder: string): Contender {
  mkdirSync(folder, { recursive: true });
  for (const each of [folder, join(folder, '..')]) chmodSync(each, 0o777);
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((n) => `${n}_temp_path ${folder}/${n};`);
  const file = join(folder, 'nginx.conf');
  writeFileSync(
    file,
    `master_process off; worker_processes 1; pid ${folder}/nginx.pid; error_log stderr crit;
events { worker_connections 19000; }
http {
  access_log off; ${paths.join(' ')}
  server {
    listen 127.0.0.1:${NGINX_PORT} backlog=4096;
    location / {
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
      ${headers}
      proxy_bind ${NGINX};
      proxy_buffering off;
      proxy_read_timeout 1h;
      proxy_pass http://127.0.0.1:${WATCHDOG_PORT};
    }
  }
}
`,
  );
  // A user of its own, so that its connections are told from those of the load, which come from the same address.
  const asNobody = ['setpriv', '--reuid', 'nobody', '--clear-groups'];
  return { name: 'nginx', port: NGINX_PORT, command: [...asNobody, 'nginx', '-c', file, '-g', 'daemon off;'] };
}

/** @throws when the streams do not have the evidence that is to be measured. */
async function checkEvidence(way: Way): Promise<void> {
  const answer = await fetch(`http://127.0.0.1:${ADMIN_PORT}/streams?limit=10`);
  const { streams } = (await answer.json()) as { streams: { evidence: { source: string; by: string | null } }[] };
  const { source = '', by = null } = streams[0]?.evidence ?? {};
  const is = by === null ? source : `by ${by}`;
  if (is !== way) throw new Error(`the evidence is ${is}, not ${way}`);
}
