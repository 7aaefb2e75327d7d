import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { PROJECT } from './build.ts';
import type { Certificate } from './certificate.ts';
import { run } from './child.ts';
import type { Lab } from './lab.ts';
import { type Host, onHost } from './network.ts';
import { ended } from './reach.ts';
import { until } from './wait.ts';

/** Where a proxy is to listen, and where the watchdog does. Both are `address:port`. */
export interface Between {
  readonly listen: string;
  readonly watchdog: string;
  readonly certificate: Certificate;
  /** Where the proxy runs; by default on the lab's server. */
  readonly host?: Host;
}

export interface ProxyProgram {
  readonly name: string;
  readonly command: (file: string) => readonly [string, readonly string[]];
  readonly configuration: (between: Between, folder: string) => string;
  /** As whom it runs; by default as root, as everything here does. */
  readonly user?: string;
}

/** As Headscale's documentation has it, but for addresses, paths, and `http2 on`, which Debian's nginx has not. */
export const nginx: ProxyProgram = {
  name: "nginx, as Headscale's documentation has it",
  command: (file) => ['nginx', ['-c', file, '-g', 'daemon off;']],
  configuration: ({ listen, watchdog, certificate }, folder) =>
    inNginx(
      folder,
      `
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
`,
    ),
};

/** What nginx needs around its servers: it writes nothing but below `folder`, and no worker outlives it. */
function inNginx(folder: string, servers: string): string {
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${folder}/${name};`,
  );
  return `master_process off;\npid ${folder}/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n${paths.join('\n')}\n${servers}\n}\n`;
}

/** As Headscale's documentation has it, but for addresses and the certificate. */
export const caddy: ProxyProgram = {
  name: "Caddy, as Headscale's documentation has it",
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

/** The block of docs/proxies.md in this language, the first or a later one. */
function documented(language: string, which = 0): string {
  const page = readFileSync(join(PROJECT, 'docs', 'proxies.md'), 'utf8');
  const block = [...page.matchAll(new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``, 'g'))][which]?.[1];
  if (block === undefined) throw new Error(`docs/proxies.md has no block ${which} in ${language}`);
  return block;
}

/** Puts what is real here in the place of a page's examples. @throws where one is not there: another page would be run. */
function withReal(text: string, ...pairs: readonly (readonly [example: string, real: string])[]): string {
  let real = text;
  for (const [example, here] of pairs) {
    if (!real.includes(example)) throw new Error(`docs/proxies.md has no ${example} there any more`);
    real = real.replaceAll(example, here);
  }
  return real;
}

export const documentedNginx: ProxyProgram = {
  name: 'nginx, as docs/proxies.md has it',
  command: nginx.command,
  configuration: ({ listen, watchdog, certificate }, folder) =>
    inNginx(
      folder,
      withReal(
        documented('nginx'),
        ['127.0.0.1:8081', watchdog],
        ['listen 443 ssl', `listen ${listen} ssl`],
        ['/etc/letsencrypt/live/hs.example.com/fullchain.pem', certificate.certFile],
        ['/etc/letsencrypt/live/hs.example.com/privkey.pem', certificate.keyFile],
      ),
    ),
};

/** But for the certificate, which Caddy would ask the Internet for. */
export const documentedCaddy: ProxyProgram = {
  name: 'Caddy, as docs/proxies.md has it',
  command: caddy.command,
  configuration: ({ listen, watchdog, certificate }) =>
    `{\n  admin off\n  auto_https off\n}\n${withReal(
      documented('caddyfile'),
      ['hs.example.com {', `https://${listen} {\n  tls ${certificate.certFile} ${certificate.keyFile}`],
      ['127.0.0.1:8081', watchdog],
    )}`,
};

/** Without TLS. @param more a directive of its `reverse_proxy`. */
export function plainCaddy(name: string, more = '', user?: string): ProxyProgram {
  return {
    name,
    command: caddy.command,
    configuration: ({ listen, watchdog }) =>
      `{\n  admin off\n  auto_https off\n}\nhttp://${listen} {\n  reverse_proxy ${watchdog} {\n    ${more}\n  }\n}\n`,
    ...(user === undefined ? {} : { user }),
  };
}

/** As docs/proxies.md has it, but without TLS. @param listenMore parameters of `listen`. */
export function plainNginx(name: string, listenMore = ''): ProxyProgram {
  return {
    name,
    command: nginx.command,
    configuration: ({ listen, watchdog }, folder) =>
      inNginx(
        folder,
        withReal(
          documented('nginx'),
          ['127.0.0.1:8081', watchdog],
          ['listen 443 ssl', `listen ${listen} ${listenMore}`],
        ).replace(/^ *ssl_certificate.*\n/gm, ''),
      ),
  };
}

const APACHE_MODULES = ['mpm_event', 'authz_core', 'proxy', 'proxy_http'];

/** As Debian has it; its own processes run as www-data. */
export const apache: ProxyProgram = {
  name: 'Apache',
  command: (file) => ['apache2', ['-DFOREGROUND', '-f', file]],
  configuration: ({ listen, watchdog }, folder) => `
ServerRoot ${folder}
DefaultRuntimeDir ${folder}
PidFile ${folder}/pid
ErrorLog "|/bin/cat"
ServerName server
User www-data
Group www-data
${APACHE_MODULES.map((name) => `LoadModule ${name}_module /usr/lib/apache2/modules/mod_${name}.so`).join('\n')}
Listen ${listen}
ProxyPreserveHost On
ProxyTimeout 3600
ProxyPass / http://${watchdog}/ upgrade=ANY
`,
};

const haproxyCommand: ProxyProgram['command'] = (file) => ['haproxy', ['-db', '-f', file]];
const HAPROXY_DEFAULTS = 'defaults\n  timeout connect 5s\n\n';

export const haproxyHttp: ProxyProgram = {
  name: 'HAProxy, mode http',
  command: haproxyCommand,
  configuration: ({ listen, watchdog, certificate }) =>
    `${HAPROXY_DEFAULTS}${withReal(
      documented('haproxy'),
      ['bind :443', `bind ${listen}`],
      ['/etc/haproxy/hs.example.com.pem', certificate.bundleFile],
      ['127.0.0.1:8081', watchdog],
    )}`,
};

/** Has HAProxy probe its idle clients as Caddy does; it gives up itself after a minute. */
export const CLIENT_PROBES = 'option clitcpka\n  clitcpka-idle 15s\n  clitcpka-intvl 15s\n  clitcpka-cnt 3';

/**
 * As docs/proxies.md has it, but without TLS.
 *
 * @param tells how it says who its client is.
 * @param more lines of its frontend.
 */
export function plainHaproxyHttp(name: string, tells = 'option forwardfor', more = ''): ProxyProgram {
  return {
    name,
    command: haproxyCommand,
    configuration: ({ listen, watchdog }) =>
      `${HAPROXY_DEFAULTS}${withReal(
        documented('haproxy'),
        ['bind :443 ssl crt /etc/haproxy/hs.example.com.pem', `bind ${listen}`],
        ['option forwardfor', `${tells}\n  ${more}`],
        ['http-request set-header X-Forwarded-Proto https', ''],
        ['127.0.0.1:8081', watchdog],
      )}`,
  };
}

/**
 * @param send `send-proxy` or `send-proxy-v2`.
 * @param more lines of its frontend.
 */
export function haproxyTcp(send: string, more = ''): ProxyProgram {
  return {
    name: `HAProxy, mode tcp, ${send}`,
    command: haproxyCommand,
    configuration: ({ listen, watchdog }) =>
      `${HAPROXY_DEFAULTS}${withReal(
        documented('haproxy', 1),
        ['bind :443', `bind ${listen}\n  ${more}`],
        ['127.0.0.1:8443', watchdog],
        ['send-proxy-v2', send],
      )}`,
  };
}

/** Starts one, on the lab's server by default; it answers when this resolves. */
export async function startProxy(
  lab: Lab,
  { name, command, configuration, user }: ProxyProgram,
  between: Between,
): Promise<void> {
  const folder = lab.folder(`proxy-${between.listen.split(':')[1]}`);
  const file = join(folder, 'configuration');
  writeFileSync(file, configuration(between, folder));
  const [program, args] = command(file);
  const as = user === undefined ? [] : ['setpriv', `--reuid=${user}`, `--regid=${user}`, '--clear-groups'];
  if (user !== undefined) {
    await run('chown', '-R', `${user}:`, folder);
    chmodSync(dirname(folder), 0o711);
  }
  const [first = program, ...rest] = [...as, program, ...args];
  const child = lab.start(name, onHost(between.host ?? lab.server, first, ...rest), {
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
