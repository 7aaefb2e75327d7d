import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Certificate } from './certificate.ts';
import type { Lab } from './lab.ts';
import { onHost } from './network.ts';
import { ended } from './reach.ts';
import { until } from './wait.ts';

/** Where a proxy is to listen, and where the watchdog does. Both are `address:port`. */
export interface Between {
  readonly listen: string;
  readonly watchdog: string;
  readonly certificate: Certificate;
}

export interface ProxyProgram {
  readonly name: string;
  readonly command: (file: string) => readonly [string, readonly string[]];
  readonly configuration: (between: Between, folder: string) => string;
}

/** As Headscale's documentation has it, but for addresses, paths, and `http2 on`, which Debian's nginx has not. */
export const nginx: ProxyProgram = {
  name: 'nginx',
  command: (file) => ['nginx', ['-c', file, '-g', 'daemon off;']],
  configuration: ({ listen, watchdog, certificate }, folder) => `
pid ${folder}/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path ${folder}/body;
  proxy_temp_path ${folder}/proxy;
  fastcgi_temp_path ${folder}/fastcgi;
  uwsgi_temp_path ${folder}/uwsgi;
  scgi_temp_path ${folder}/scgi;

  upstream headscale {
    zone upstreams 64K;
    server ${watchdog} max_fails=1 fail_timeout=5s;
    keepalive 2;
  }
  map $http_upgrade $connection_upgrade {
    default keep-alive;
    '' close;
  }
  server {
    listen ${listen} ssl http2;
    ssl_certificate ${certificate.certFile};
    ssl_certificate_key ${certificate.keyFile};
    location / {
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header Host $host;
      proxy_set_header True-Client-IP $remote_addr;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_buffering off;
      proxy_pass http://headscale;
    }
  }
}
`,
};

/** As Headscale's documentation has it, but for addresses and the certificate. */
export const caddy: ProxyProgram = {
  name: 'Caddy',
  command: (file) => ['caddy', ['run', '--config', file, '--adapter', 'caddyfile']],
  configuration: ({ listen, watchdog, certificate }) => `
{
  admin off
  auto_https off
}
https://${listen} {
  tls ${certificate.certFile} ${certificate.keyFile}
  reverse_proxy ${watchdog} {
    header_up True-Client-IP {remote_host}
    header_up X-Real-IP {remote_host}
  }
}
`,
};

export const haproxyHttp: ProxyProgram = {
  name: 'HAProxy, mode http',
  command: (file) => ['haproxy', ['-db', '-f', file]],
  configuration: ({ listen, watchdog, certificate }) => `
defaults
  mode http
  option forwardfor
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
listen clients
  bind ${listen} ssl crt ${certificate.bundleFile}
  http-request set-header X-Forwarded-Proto https
  server watchdog ${watchdog}
`,
};

/** @param send `send-proxy` or `send-proxy-v2`. */
export function haproxyTcp(send: string): ProxyProgram {
  return {
    name: `HAProxy, mode tcp, ${send}`,
    command: haproxyHttp.command,
    configuration: ({ listen, watchdog }) => `
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen clients
  bind ${listen}
  server watchdog ${watchdog} ${send}
`,
  };
}

/** Starts one on the lab's server; it answers when this resolves. */
export async function startProxy(
  lab: Lab,
  { name, command, configuration }: ProxyProgram,
  between: Between,
): Promise<void> {
  const folder = lab.folder(`proxy-${between.listen.split(':')[1]}`);
  const file = join(folder, 'configuration');
  writeFileSync(file, configuration(between, folder));
  const [program, args] = command(file);
  const child = lab.start(name, onHost(lab.server, program, ...args), {
    HOME: folder,
    XDG_DATA_HOME: folder,
    XDG_CONFIG_HOME: folder,
  });
  await until(
    name,
    { timeoutMs: 10_000, giveUp: () => ended(child) },
    async () => (await accepts(lab, between.listen)) || undefined,
  );
}

/** Whether somebody accepts connections there. */
function accepts(lab: Lab, target: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = lab.reach.connect(target);
    // The window ends a connection that it cannot pass on.
    const timer = setTimeout(() => done(true), 200);
    const done = (yes: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(yes);
    };
    socket
      .on('error', () => done(false))
      .on('end', () => done(false))
      .on('close', () => done(false));
    socket.resume();
  });
}
