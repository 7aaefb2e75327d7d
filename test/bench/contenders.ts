import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';

export const PROJECT = join(import.meta.dirname, '..', '..');

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
}

const FIRST_PORT = 19_100;

/** One process of one thread each, upgrades passed on. */
export function contenders({ folder, upstreamPort, noiseKeyFile }: Places): readonly Contender[] {
  const upstream = `127.0.0.1:${upstreamPort}`;
  const file = (name: string, text: string): string => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return path;
  };
  mkdirSync(folder, { recursive: true });
  const [watchdog, bare, nginx, haproxy, caddy] = [0, 1, 2, 3, 4].map((i) => FIRST_PORT + i) as [
    number,
    number,
    number,
    number,
    number,
  ];
  const serve = ['serve', '--upstream', `http://${upstream}`, '--noise-key', noiseKeyFile, '--log-level', 'silent'];
  return [
    {
      name: 'watchdog',
      port: watchdog,
      command: [
        process.execPath,
        join(PROJECT, 'dist', 'cli.js'),
        ...serve,
        '--listen',
        `127.0.0.1:${watchdog}`,
        '--admin',
        '127.0.0.1:19105',
      ],
    },
    {
      name: 'bare Node pipe',
      port: bare,
      command: [
        process.execPath,
        '--import',
        'tsx',
        join(import.meta.dirname, 'bare-pipe.ts'),
        String(bare),
        String(upstreamPort),
      ],
    },
    {
      name: 'nginx',
      port: nginx,
      command: ['nginx', '-c', file('nginx.conf', nginxConfiguration(folder, nginx, upstream)), '-g', 'daemon off;'],
    },
    {
      name: 'HAProxy',
      port: haproxy,
      command: ['haproxy', '-db', '-f', file('haproxy.cfg', haproxyConfiguration(haproxy, upstream))],
    },
    {
      name: 'Caddy',
      port: caddy,
      command: [
        'caddy',
        'run',
        '--adapter',
        'caddyfile',
        '--config',
        file('Caddyfile', caddyConfiguration(caddy, upstream)),
      ],
      env: { GOMAXPROCS: '1', HOME: folder, XDG_DATA_HOME: folder, XDG_CONFIG_HOME: folder },
    },
  ];
}

function nginxConfiguration(folder: string, port: number, upstream: string): string {
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${folder}/${name};`,
  );
  return `master_process off; worker_processes 1; pid ${folder}/nginx.pid; error_log stderr crit;
events { worker_connections 19000; }
http {
  access_log off; ${paths.join(' ')}
  server {
    listen 127.0.0.1:${port} backlog=4096;
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

function haproxyConfiguration(port: number, upstream: string): string {
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
  bind 127.0.0.1:${port} backlog 4096
  maxconn 9000
  server upstream ${upstream}
`;
}

function caddyConfiguration(port: number, upstream: string): string {
  return `{
  admin off
  auto_https off
}
http://:${port} {
  bind 127.0.0.1
  reverse_proxy ${upstream}
}
`;
}

/** A process that runs until it is stopped. */
export interface Running {
  residentBytes(): number;
  stop(): Promise<void>;
}

/** Starts it, and resolves when it accepts connections. @throws when it does not. */
export async function start({ name, port, command, env }: Contender): Promise<Running> {
  const [program = '', ...args] = command;
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
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return {
    residentBytes: () => residentBytes(child.pid ?? 0),
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
