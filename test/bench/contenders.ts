import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { buildSync } from 'esbuild';
import { type Arch, bundle } from '../../package/bundle.ts';

export const PROJECT = join(import.meta.dirname, '..', '..');

/** What the packages and the image hold is measured, not the checkout: it starts sooner, and takes less memory. */
const BUILT = join(PROJECT, 'node_modules', '.cache', 'bench');
const BARE_PIPE = join(BUILT, 'bare-pipe.mjs');

/** Builds the watchdog and the bare pipe. */
export async function buildContenders(): Promise<void> {
  await bundle(BUILT, process.arch as Arch);
  buildSync({ entryPoints: [join(import.meta.dirname, 'bare-pipe.ts')], outfile: BARE_PIPE, format: 'esm' });
}

/** What stands between load and upstream. */
export interface Contender {
  readonly name: string;
  readonly port: number;
  readonly command: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
}

export interface Places {
  readonly folder: string;
  readonly upstreamPort: number;
  readonly noiseKeyFile: string;
  /** TLS ends at the contender. */
  readonly tls: boolean;
}

export const ADMIN_PORT = 19_105;

const FIRST_PORT = 19_100;

/** One process of one thread each, upgrades passed on. */
export function contenders({ folder, upstreamPort, noiseKeyFile, tls }: Places): readonly Contender[] {
  const upstream = `127.0.0.1:${upstreamPort}`;
  mkdirSync(folder, { recursive: true });
  const file = (name: string, text: string): string => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return path;
  };
  const pem = tls ? certificateIn(folder) : undefined;
  const listen = pem ? `https://127.0.0.1:${FIRST_PORT}?cert=${pem.cert}&key=${pem.key}` : `127.0.0.1:${FIRST_PORT}`;
  const barePipe: Contender = {
    name: 'bare Node pipe',
    port: FIRST_PORT + 1,
    command: [
      ...[process.execPath, BARE_PIPE, String(FIRST_PORT + 1), String(upstreamPort)],
      ...(pem ? [pem.cert, pem.key] : []),
    ],
  };
  const haproxyFile = file('haproxy.cfg', haproxyConfiguration(FIRST_PORT + 3, upstream, pem));
  return [
    {
      name: 'watchdog',
      port: FIRST_PORT,
      command: [...watchdog({ upstreamPort, noiseKeyFile }), '--listen', listen, '--admin', `127.0.0.1:${ADMIN_PORT}`],
    },
    barePipe,
    {
      name: 'nginx',
      port: FIRST_PORT + 2,
      command: [
        ...['nginx', '-c', file('nginx.conf', nginxConfiguration(folder, FIRST_PORT + 2, upstream, pem))],
        ...['-g', 'daemon off;'],
      ],
    },
    { name: 'HAProxy', port: FIRST_PORT + 3, command: ['haproxy', '-db', '-f', haproxyFile] },
    {
      name: 'Caddy',
      port: FIRST_PORT + 4,
      command: [
        ...['caddy', 'run', '--adapter', 'caddyfile', '--config'],
        file('Caddyfile', caddyConfiguration(FIRST_PORT + 4, upstream, pem)),
      ],
      env: { GOMAXPROCS: '1', HOME: folder, XDG_DATA_HOME: folder, XDG_CONFIG_HOME: folder },
    },
  ];
}

/** Its command, but for where it listens. */
export function watchdog({ upstreamPort, noiseKeyFile }: Pick<Places, 'upstreamPort' | 'noiseKeyFile'>): string[] {
  return [
    ...[
      process.execPath,
      join(BUILT, 'dist', 'bundle', 'cli.js'),
      'serve',
      '--upstream',
      `http://127.0.0.1:${upstreamPort}`,
    ],
    ...['--noise-key', noiseKeyFile, '--log-level', 'silent', '--hold', '1500ms', '--trusted-proxies', 'none'],
    // More comes at once here than from any network of nodes.
    ...['--upstream-rate', 'off', '--max-handshakes', '100000', '--max-handshakes-per-address', '100000'],
  ];
}

interface Pem {
  readonly cert: string;
  readonly key: string;
  /** Both, as HAProxy wants them. */
  readonly both: string;
}

/** A certificate of the kind that Let's Encrypt's are: of a P-256 key. */
function certificateIn(folder: string): Pem {
  const [cert, key, both] = ['cert.pem', 'key.pem', 'both.pem'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  execFileSync(
    'openssl',
    [
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'],
      ...['-subj', '/CN=bench.test', '-keyout', key, '-out', cert],
    ],
    { stdio: 'ignore' },
  );
  writeFileSync(both, readFileSync(cert, 'utf8') + readFileSync(key, 'utf8'), { mode: 0o600 });
  return { cert, key, both };
}

function nginxConfiguration(folder: string, port: number, upstream: string, pem: Pem | undefined): string {
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${folder}/${name};`,
  );
  return `master_process off; worker_processes 1; pid ${folder}/nginx.pid; error_log stderr crit;
events { worker_connections 19000; }
http {
  access_log off; ${paths.join(' ')}
  server {
    listen 127.0.0.1:${port} backlog=4096${pem ? ' ssl' : ''};
    ${pem ? `ssl_certificate ${pem.cert}; ssl_certificate_key ${pem.key}; ssl_protocols TLSv1.3;` : ''}
    location / {
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
      proxy_buffering off;
      proxy_read_timeout 1h;
      proxy_pass http://${upstream};
    }
  }
}
`;
}

function haproxyConfiguration(port: number, upstream: string, pem: Pem | undefined): string {
  return `global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
listen clients
  bind 127.0.0.1:${port} backlog 4096${pem ? ` ssl crt ${pem.both} ssl-min-ver TLSv1.3` : ''}
  maxconn 9000
  server upstream ${upstream}
`;
}

function caddyConfiguration(port: number, upstream: string, pem: Pem | undefined): string {
  return `{
  admin off
  auto_https off
}
${pem ? 'https' : 'http'}://:${port} {
  bind 127.0.0.1
  ${pem ? `tls ${pem.cert} ${pem.key}` : ''}
  reverse_proxy ${upstream}
}
`;
}

/** A process that runs until it is stopped. */
export interface Running {
  /** From the start of the process until a connection was accepted. */
  readonly startedInMs: number;
  residentBytes(): number;
  /** Of the processor, by user and system. */
  processorMs(): number;
  stop(): Promise<void>;
}

/** Starts it, and resolves when it accepts connections. @throws when it does not. */
export async function start({ name, port, command, env }: Contender): Promise<Running> {
  const [program = '', ...args] = command;
  const startedAt = performance.now();
  const child = spawn(program, args, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (said = (said + chunk).slice(-4000)));
  const closed = once(child, 'close');
  const deadline = performance.now() + 10_000;
  while (!(await accepts(port))) {
    const isGone = child.exitCode !== null || child.signalCode !== null;
    if (isGone || performance.now() > deadline) {
      child.kill('SIGKILL');
      throw new Error(`${name} does not accept connections on port ${port}:\n${said}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  const startedInMs = performance.now() - startedAt;
  return {
    startedInMs,
    residentBytes: () => residentBytes(child.pid ?? 0),
    processorMs: () => processorMs(child.pid ?? 0),
    async stop() {
      child.kill('SIGKILL');
      await closed;
    },
  };
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}

function residentBytes(pid: number): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;
}

/** proc_pid_stat(5); a tick is 10 ms on every Linux that Node runs on. */
export function processorMs(pid: number): number {
  // The name before may hold anything, spaces too.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ');
  return 10 * (Number(fields[11]) + Number(fields[12]));
}
