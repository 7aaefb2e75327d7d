import { execFile } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { BlockList } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { parseEnv, promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse, parseAllDocuments } from 'yaml';
import { loadConfig } from '../../src/config/load.ts';

const run = promisify(execFile);
const PROJECT = join(import.meta.dirname, '..', '..');
const DEPLOY = join(PROJECT, 'deploy');
/** A resource of Kubernetes, as far as the tests read it. */
interface Made {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace: string };
  readonly spec: {
    readonly selector?: object;
    readonly podSelector?: object;
    readonly ports?: readonly object[];
    readonly template?: {
      readonly spec: { readonly initContainers?: readonly object[]; readonly volumes?: readonly { name: string }[] };
    };
  };
}

const read = (...path: readonly string[]): string => readFileSync(join(DEPLOY, ...path), 'utf8');

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'deploying-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('the settings files in deploy', () => {
  test.each([
    ['systemd/watchdog.yaml', '0.0.0.0', 8080, false],
    ['compose/watchdog.yaml', '127.0.0.1', 8081, false],
    ['compose/watchdog.tls.yaml', '0.0.0.0', 8443, true],
    ['kubernetes/watchdog.yaml', '0.0.0.0', 8443, true],
    ['kubernetes-replicas/settings/watchdog.yaml', '0.0.0.0', 8443, true],
  ])('deploy/%s has no mistake', (file, host, port, isTls) => {
    // systemd gives the key itself by a flag.
    const config = loadConfig({}, { path: 'watchdog.yaml', text: read(file) });
    const tls = isTls ? { certFile: expect.any(String), keyFile: expect.any(String) } : undefined;
    expect(config.listen).toMatchObject([{ host, port, tls }]);
    const [, schema = ''] = /^# yaml-language-server: \$schema=(\S+)\n/.exec(read(file)) ?? [];
    expect(resolve(DEPLOY, dirname(file), schema)).toBe(join(DEPLOY, 'watchdog.schema.json'));
  });
});

describe('deploy/systemd', () => {
  const files = (): readonly [string, string] => {
    const [service, socket] = [join(folder, 'headscale-watchdog.service'), join(folder, 'headscale-watchdog.socket')];
    // Node is not everywhere where the unit has it.
    writeFileSync(service, read('systemd', basename(service)).replace('/usr/bin/node', process.execPath));
    writeFileSync(socket, read('systemd', basename(socket)));
    return [service, socket];
  };

  test('systemd-analyze finds nothing wrong in the units', async () => {
    const { stdout, stderr } = await run('systemd-analyze', ['verify', ...files()]);
    expect(`${stdout}${stderr}`).not.toContain('headscale-watchdog');
  });

  test('systemd-analyze security rates the service at 1.7 or better', async () => {
    // Ends with 1 where the exposure is above the threshold, in tenths.
    const { stdout } = await run('systemd-analyze', ['security', '--offline=true', '--threshold=17', files()[0]]);
    expect(stdout).toMatch(/Overall exposure level for headscale-watchdog\.service: [01]\.\d OK/);
  });

  test('the service may use TCP, its own sockets for systemd and the log, and netlink to ask about connections', () => {
    const [, families] = /^RestrictAddressFamilies=(.*)$/m.exec(read('systemd', 'headscale-watchdog.service')) ?? [];
    expect(families?.split(' ').sort()).toEqual(['AF_INET', 'AF_INET6', 'AF_NETLINK', 'AF_UNIX']);
  });

  test('each listen of the settings has a line in the socket unit', () => {
    const ports = [...read('systemd', 'headscale-watchdog.socket').matchAll(/^ListenStream=.*:(\d+)$/gm)].map(
      ([, port]) => Number(port),
    );
    const { listen } = loadConfig({}, { path: 'watchdog.yaml', text: read('systemd', 'watchdog.yaml') });
    expect(ports).toEqual(listen.map(({ port }) => port));
  });

  test('the flags in ExecStart= are flags of serve', () => {
    const [, line = ''] = /^ExecStart=\S+ \S+ serve (.*)$/m.exec(read('systemd', 'headscale-watchdog.service')) ?? [];
    expect(line.match(/--[a-z-]+/g)).toEqual(['--config', '--noise-key']);
  });
});

describe('deploy/nixos', () => {
  const module = read('nixos', 'module.nix');

  test('the module has every restriction of the systemd unit', () => {
    const [, own = ''] =
      /\[Service\]\n([\s\S]*?)\n\[Install\]/.exec(read('systemd', 'headscale-watchdog.service')) ?? [];
    const lines = own
      .split('\n')
      .filter(
        (line) =>
          /^\w+=/.test(line) && !/^(Exec\w+|LoadCredential|SystemCallFilter|RestrictAddressFamilies)=/.test(line),
      );
    expect(lines.length).toBeGreaterThan(25);
    for (const line of lines) {
      const [name = '', value = ''] = line.split('=');
      const asNix = value === 'yes' ? 'true' : value === 'no' ? 'false' : value;
      expect(module).toMatch(new RegExp(`\\b${name} = "?${asNix}"?;`));
    }
    for (const [, filter = ''] of own.matchAll(/^SystemCallFilter=(.*)$/gm)) expect(module).toContain(`"${filter}"`);
    const [, families = ''] = /^RestrictAddressFamilies=(.*)$/m.exec(own) ?? [];
    expect(module).toContain(
      `RestrictAddressFamilies = [ ${families
        .split(' ')
        .map((each) => `"${each}"`)
        .join(' ')} ];`,
    );
  });

  test('the package has the version of package.json', () => {
    const { version } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8'));
    expect(read('nixos', 'package.nix')).toContain(`version = "${version}";`);
    expect(parse(read('helm', 'headscale-watchdog', 'Chart.yaml'))).toMatchObject({ version, appVersion: version });
  });
});

describe('deploy/helm', () => {
  const values = parse(read('helm', 'headscale-watchdog', 'values.yaml'));

  test('its default settings, and its configuration of Headscale, are those of deploy/kubernetes', () => {
    expect(values.watchdog.settings).toEqual(parse(read('kubernetes', 'watchdog.yaml')));
    expect(values.headscale.config).toEqual(parse(read('kubernetes', 'config.yaml')));
  });
});

describe('deploy/compose and deploy/kubernetes, read by their own programs', () => {
  let check: string;
  beforeAll(async () => {
    check = join(folder, 'check');
    await run('go', ['build', '-mod=readonly', '-buildvcs=false', '-o', check, './check'], {
      cwd: join(import.meta.dirname, 'go'),
    });
  }, 600_000);

  /** What Docker Compose makes of them, each over the ones before. */
  const compose = async (files: readonly string[], environment: NodeJS.ProcessEnv = {}) => {
    const paths = files.map((name) => join(DEPLOY, 'compose', name));
    const env = { ...process.env, ...environment };
    const { stdout } = await run(check, ['compose', ...paths], { env });
    const lines = stdout
      .trim()
      .split('\n')
      .map((line) => line.split(' '));
    const of = (kind: string): string[] =>
      lines.filter(([first]) => first === kind).map(([, ...rest]) => rest.join(' '));
    const shown = of('bind').map((line) => line.split(' ')[0] ?? '');
    expect(shown.length).toBeGreaterThan(5);
    // The certificate is the operator's: no checkout has it.
    for (const path of shown.filter((each) => each !== join(DEPLOY, 'compose', 'certs')))
      expect(existsSync(path), path).toBe(true);
    return { services: of('service').map((line) => line.split(' ')[0]), ports: of('port'), shown };
  };

  test('compose.yaml is valid, and every file that it mounts exists', async () => {
    const { services, ports } = await compose(['compose.yaml']);
    expect(services.sort()).toEqual([
      ...['alertmanager', 'caddy', 'grafana', 'headscale', 'owner', 'prometheus', 'watchdog'],
    ]);
    expect(ports).toEqual([
      ...['caddy :80 80', 'caddy :443 443', 'caddy 127.0.0.1:9191 9191', 'grafana 127.0.0.1:3000 3000'],
    ]);
  });

  test('the watchdog is in the network namespace of Caddy, and Caddy understands its file', async () => {
    const { services } = parse(read('compose', 'compose.yaml'));
    expect(services.watchdog.network_mode).toBe('service:caddy');
    // The name that Prometheus asks for is Caddy's.
    const [{ targets }] = parse(read('compose', 'targets.yaml'));
    expect(targets).toEqual(services.caddy.networks.default.aliases.map((name: string) => `${name}:9191`));
    const config = loadConfig({}, { path: 'watchdog.yaml', text: read('compose', 'watchdog.yaml') });
    expect(config.trustedProxies).toContain('127.0.0.0/8');
    const caddyfile = join(DEPLOY, 'compose', 'Caddyfile');
    expect(readFileSync(caddyfile, 'utf8')).toContain('reverse_proxy 127.0.0.1:8081');
    await run('caddy', ['validate', '--adapter', 'caddyfile', '--config', caddyfile]);
  });

  test('with compose.tls.yaml, there is no Caddy, and clients connect to the watchdog', async () => {
    const { services, ports } = await compose(['compose.yaml', 'compose.tls.yaml']);
    expect(services.sort()).toEqual(['alertmanager', 'grafana', 'headscale', 'owner', 'prometheus', 'watchdog']);
    expect(ports).toEqual([...['grafana 127.0.0.1:3000 3000', 'watchdog :443 8443', 'watchdog 127.0.0.1:9191 9191']]);
  });

  test('with compose.traefik.yaml, Traefik is in the place of Caddy, with the watchdog in its network namespace', async () => {
    const { services, ports } = await compose(['compose.yaml', 'compose.traefik.yaml']);
    expect(services.sort()).toEqual([
      ...['alertmanager', 'grafana', 'headscale', 'owner', 'prometheus', 'traefik', 'watchdog'],
    ]);
    expect(ports.filter((port) => !port.startsWith('grafana'))).toEqual([
      ...['traefik :80 80', 'traefik :443 443', 'traefik 127.0.0.1:9191 9191'],
    ]);
    // Its tags are Compose's own.
    const { services: changed } = parse(read('compose', 'compose.traefik.yaml'), { logLevel: 'error' });
    expect(changed.watchdog.network_mode).toBe('service:traefik');
    const { http } = parse(read('compose', 'traefik.yaml'));
    const { listen } = loadConfig({}, { path: 'watchdog.yaml', text: read('compose', 'watchdog.yaml') });
    expect(http.services.watchdog.loadBalancer.servers).toEqual([
      { url: `http://${listen[0]?.host}:${listen[0]?.port}` },
    ]);
    expect(http.routers.headscale.service).toBe('watchdog');
  });

  test('Headscale trusts every range from which Docker and Podman give addresses to containers', () => {
    const { trusted_proxies: trusted } = parse(read('compose', 'headscale.yaml')) as { trusted_proxies: string[] };
    const list = new BlockList();
    for (const each of trusted) {
      const [address = '', bits = ''] = each.split('/');
      list.addSubnet(address, Number(bits));
    }
    for (const address of [
      '172.17.0.2',
      '172.18.0.2',
      '172.31.0.2',
      '192.168.0.2',
      '192.168.240.2',
      '10.88.0.2',
      '10.89.0.2',
    ])
      expect(list.check(address), address).toBe(true);
  });

  test('with replicas.env there are two watchdogs, each on its own address, and Prometheus scrapes both', async () => {
    const { COMPOSE_FILE, ...environment } = parseEnv(read('compose', 'replicas.env'));
    const { services, ports, shown } = await compose(COMPOSE_FILE?.split(':') ?? [], environment);
    expect(services.sort()).toEqual([
      ...['alertmanager', 'grafana', 'headscale', 'owner', 'prometheus', 'redis', 'watchdog', 'watchdog-b'],
    ]);
    expect(ports.filter((port) => port.startsWith('watchdog'))).toEqual([
      ...['watchdog 192.0.2.1:443 8443', 'watchdog 127.0.0.1:9191 9191'],
      ...['watchdog-b 192.0.2.2:443 8443', 'watchdog-b 127.0.0.1:9192 9191'],
    ]);
    expect(shown.map((path) => basename(path)).filter((name) => name.startsWith('targets'))).toEqual([
      'targets.replicas.yaml',
    ]);
    expect(parse(read('compose', 'targets.replicas.yaml'))).toEqual([
      { targets: ['watchdog:9191', 'watchdog-b:9191'] },
    ]);
  });

  test('the check finds a mistake in compose.yaml', async () => {
    const wrong = join(folder, 'compose.yaml');
    writeFileSync(wrong, read('compose', 'compose.yaml').replace('healthcheck:', 'healthchek:'));
    await expect(run(check, ['compose', wrong])).rejects.toThrow(/healthchek/);
  });

  test('the container of the Dockerfile runs as an ordinary user', async () => {
    const { stdout } = await run(check, ['dockerfile', join(DEPLOY, 'compose', 'Dockerfile')]);
    expect(stdout.trim().split('\n').at(-1)).toMatch(/^stage from node:26-slim as node$/);
  });

  /** What kustomize makes of a folder. */
  const kustomize = async (name: string, deploy = DEPLOY): Promise<readonly Made[]> => {
    const { stdout } = await run(check, ['kubernetes', join(deploy, name)]);
    const made = parseAllDocuments(stdout).map((document) => document.toJS() as Made);
    for (const { metadata } of made) expect(metadata.namespace).toBe('headscale');
    return made;
  };

  test('kustomize builds everything, and each resource fits the Go type of its kind', async () => {
    expect((await kustomize('kubernetes')).map(({ kind }) => kind).sort()).toEqual([
      ...['ConfigMap', 'ConfigMap', 'NetworkPolicy', 'Service', 'Service', 'StatefulSet'],
    ]);
  });

  test('the ServiceMonitor is built once its line is no comment any more', async () => {
    const operated = join(folder, 'operated', 'kubernetes');
    cpSync(join(DEPLOY, 'kubernetes'), operated, { recursive: true });
    const line = '  # - service-monitor.yaml';
    expect(read('kubernetes', 'kustomization.yaml')).toContain(line);
    writeFileSync(
      join(operated, 'kustomization.yaml'),
      read('kubernetes', 'kustomization.yaml').replace(line, '  - service-monitor.yaml'),
    );
    expect((await kustomize('kubernetes', join(folder, 'operated'))).map(({ kind }) => kind)).toContain(
      'ServiceMonitor',
    );
  });

  test('every example has an https server URL, because with http://NAME:PORT clients stay away after a restart', () => {
    for (const file of [
      ['compose', 'headscale.yaml'],
      ['kubernetes', 'config.yaml'],
      ['kubernetes-replicas', 'config.yaml'],
    ]) {
      expect((parse(read(...file)) as { server_url: string }).server_url).toMatch(/^https:\/\/[^:]+$/);
    }
  });

  test('kubernetes-replicas: two watchdogs in their own pods, and every Service and policy selects them', async () => {
    const made = await kustomize('kubernetes-replicas');
    const one = (kind: string, name: string): Made =>
      made.find((each) => each.kind === kind && each.metadata.name === name) ?? expect.unreachable(`${kind} ${name}`);
    const watchdogs = { 'app.kubernetes.io/name': 'headscale-watchdog' };
    expect(one('Deployment', 'headscale-watchdog').spec).toMatchObject({
      replicas: 2,
      template: { metadata: { labels: watchdogs }, spec: { containers: [{ name: 'watchdog' }] } },
    });
    for (const name of ['headscale', 'headscale-watchdog'])
      expect(one('Service', name).spec.selector).toEqual(watchdogs);
    expect(one('NetworkPolicy', 'headscale').spec.podSelector).toEqual({ matchLabels: watchdogs });
    const { template } = one('StatefulSet', 'headscale').spec;
    expect(template?.spec.initContainers ?? []).toEqual([]);
    expect(template?.spec.volumes?.map(({ name }) => name).sort()).toEqual(['headscale', 'key']);
    const { upstream, redis } = loadConfig(
      {},
      { path: 'watchdog.yaml', text: read('kubernetes-replicas', 'settings', 'watchdog.yaml') },
    );
    expect(upstream.href).toBe('http://headscale-control:8082/');
    expect(one('Service', 'headscale-control').spec.ports).toMatchObject([{ port: 8082, targetPort: 'control' }]);
    expect(redis?.url.nodes).toEqual([{ host: 'headscale-redis', port: 6379 }]);
    expect(one('Service', 'headscale-redis').spec.ports).toMatchObject([{ port: 6379 }]);
  });

  test('the check finds a mistake in kubernetes-replicas', async () => {
    const wrong = join(folder, 'kubernetes');
    cpSync(join(DEPLOY, 'kubernetes'), wrong, { recursive: true });
    writeFileSync(
      join(wrong, 'headscale.yaml'),
      read('kubernetes', 'headscale.yaml').replace('livenessProbe:', 'livenesProbe:'),
    );
    await expect(run(check, ['kubernetes', wrong])).rejects.toThrow(/livenesProbe/);
  });
});

describe("the Dockerfile's steps", () => {
  test('run on this machine, give a program that starts, without install scripts', {
    timeout: 120_000,
  }, async () => {
    const app = join(folder, 'app');
    mkdirSync(app);
    const steps = read('compose', 'Dockerfile').split('FROM ')[1]?.split('\n') ?? [];
    for (const step of steps) {
      const [, what, rest = ''] = /^(COPY|RUN) (.*)$/.exec(step) ?? [];
      const words = rest.split(' ');
      if (what === 'COPY')
        for (const from of words.slice(0, -1))
          cpSync(join(PROJECT, from), join(app, basename(from)), { recursive: true });
      if (what === 'RUN') await run('sh', ['-c', rest.replaceAll('/app/', `${app}/`)], { cwd: app });
    }
    const made = join(app, 'out');
    const program = [join(made, 'dist', 'bundle', 'cli.js'), 'check', '--upstream', 'http://127.0.0.1:9'];
    const { stdout } = await run(process.execPath, program).catch((error: { stdout: string }) => error);
    expect(stdout).toMatch(/^ok +kernel evidence: /m);
    expect(existsSync(join(made, 'dist', 'bundle', 'page', 'index.html'))).toBe(true);
  });
});
