import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DebianMachine } from '../support/debian-machine.ts';
import {
  Cleanup,
  DERP_MAP,
  PROGRAMS,
  PROJECT,
  run,
  SERVER_ADDRESS,
  SERVER_NAME,
  ServerNetwork,
  Tailscaled,
  until,
} from '../support/machines.ts';

interface Shown {
  readonly id: number;
  readonly kind: string;
  readonly state: string;
  readonly machineKey: string | null;
  readonly remoteAddress: string;
  readonly evidence: { readonly source: string };
}

const SERVICE = 'headscale-watchdog.service';
const SETTINGS = '/etc/headscale-watchdog/watchdog.yaml';
const cleanup = new Cleanup();
let first = '';
/** The same program with a newer version number. */
let second = '';

/** An address without its port. */
const hostOf = (address: string): string => address.replace(/:\d+$/, '');

beforeAll(async () => {
  const out = join(cleanup.folder(), 'out');
  await run(['npm', 'run', '--silent', 'package', '--', out, 'amd64']);
  first = join(out, readdirSync(out).find((name) => name.endsWith('.deb')) ?? '');
  const tree = join(cleanup.folder(), 'newer');
  await run(['dpkg-deb', '--raw-extract', first, tree]);
  for (const file of ['DEBIAN/control', 'usr/lib/headscale-watchdog/package.json']) {
    const path = join(tree, file);
    writeFileSync(path, readFileSync(path, 'utf8').replace(/(version"?: "?)[\d.]+/i, '$199.0.0'));
  }
  second = join(out, 'newer.deb');
  await run(['dpkg-deb', '--root-owner-group', '-Zgzip', '-z1', '--build', tree, second]);
}, 600_000);
afterAll(() => cleanup.run(), 120_000);

describe.each(['bookworm', 'trixie'])('on Debian %s, under its own systemd', (suite) => {
  const here = new Cleanup();
  let machine: DebianMachine;
  let network: ServerNetwork;
  let client: Tailscaled;
  let authKey = '';

  beforeAll(async () => {
    network = await ServerNetwork.create(here);
    machine = await DebianMachine.boot(suite, network, here);
    for (const [from, to] of [
      [first, 'first.deb'],
      [second, 'second.deb'],
    ] as const)
      cpSync(from, join(machine.root, 'root', to));
    await installHeadscale();
  }, 600_000);
  afterAll(() => here.run(), 120_000);

  async function installHeadscale(): Promise<void> {
    const at = (path: string): string => join(machine.root, path);
    cpSync(join(PROGRAMS, 'headscale'), at('usr/local/bin/headscale'));
    for (const folder of ['etc/headscale', 'var/lib/headscale']) mkdirSync(at(folder), { recursive: true });
    chmodSync(at('var/lib/headscale'), 0o700);
    const settings = readFileSync(join(PROJECT, 'deploy', 'kubernetes', 'config.yaml'), 'utf8')
      .replace(/^server_url:.*$/m, `server_url: http://${SERVER_ADDRESS}:8080`)
      .replace(/ {2}urls:\n.*\n/, '  urls: []\n  paths: [/etc/headscale/derp.yaml]\n');
    writeFileSync(at('etc/headscale/config.yaml'), settings);
    writeFileSync(at('etc/headscale/derp.yaml'), DERP_MAP);
    writeFileSync(
      at('etc/systemd/system/headscale.service'),
      '[Service]\nExecStart=/usr/local/bin/headscale serve\nRestart=always\n[Install]\nWantedBy=multi-user.target\n',
    );
    await machine.run('systemctl', 'daemon-reload');
  }

  const watchdog = (...args: readonly string[]) => machine.run('headscale-watchdog', ...args);
  const streams = async (): Promise<readonly Shown[]> => {
    const { stdout } = await watchdog('streams', '--json');
    const { streams: all } = JSON.parse(stdout) as { streams: readonly Shown[] };
    return all.filter(({ kind, state }) => kind === 'control' && state === 'open');
  };
  const streamOf = ({ address }: Tailscaled): Promise<Shown> =>
    until('the stream of the client', async () =>
      (await streams()).find(({ remoteAddress }) => hostOf(remoteAddress) === address),
    );
  const ownStream = (): Promise<Shown> => streamOf(client);
  const edit = (change: (text: string) => string): void => {
    const path = join(machine.root, SETTINGS);
    const before = readFileSync(path, 'utf8');
    expect(change(before)).not.toBe(before);
    writeFileSync(path, change(before));
  };

  test('the package is installed and starts nothing: the settings come first', async () => {
    await machine.run('apt-get', 'install', '--yes', '/root/first.deb');
    for (const unit of [SERVICE, 'headscale-watchdog.socket']) {
      expect(await machine.property(unit, 'ActiveState')).toBe('inactive');
      expect(await machine.property(unit, 'UnitFileState')).toBe('disabled');
    }
    const { version } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8')) as { version: string };
    expect((await watchdog('--version')).stdout.trim()).toBe(version);
    const { stderr } = await machine.run('systemd-analyze', 'verify', SERVICE, 'headscale-watchdog.socket');
    expect(stderr).not.toContain('headscale-watchdog');
  });

  test('started before Headscale has its key, it starts by itself once the key is there', async () => {
    await machine.run('systemctl', 'enable', '--now', 'headscale-watchdog.socket');
    await machine.run('systemctl', 'enable', '--no-block', '--now', SERVICE);
    await until('it has tried several times', async () => Number(await machine.property(SERVICE, 'NRestarts')) >= 6);
    await machine.run('systemctl', 'enable', '--now', 'headscale');
    await until('the watchdog runs', async () => (await machine.property(SERVICE, 'ActiveState')) === 'active');
    const { stdout } = await watchdog(
      'check',
      '--config',
      SETTINGS,
      '--noise-key',
      '/var/lib/headscale/noise_private.key',
    ).catch((error: Error) => ({ stdout: error.message }));
    expect(stdout).toMatch(/^ok +kernel evidence: /m);
    expect(stdout).not.toMatch(/^(fail|error)/m);
  });

  test('a real client logs in through it, and is known by its key, which came as a credential', async () => {
    await machine.run('headscale', 'users', 'create', 'alice');
    const { stdout } = await machine.run(
      'headscale',
      'preauthkeys',
      'create',
      '--user',
      '1',
      '--reusable',
      '--output',
      'json',
    );
    authKey = (JSON.parse(stdout) as { key: string }).key;
    client = new Tailscaled(network, here);
    await client.start();
    await client.logIn(`http://${SERVER_ADDRESS}:8080`, authKey);
    const { machineKey, evidence } = await ownStream();
    expect(machineKey).toMatch(/^mkey:/);
    expect(evidence.source).toBe('direct');
    const pid = await machine.property(SERVICE, 'MainPID');
    const user = (await machine.run('stat', '--format=%u', `/proc/${pid}`)).stdout.trim();
    expect(Number(user)).toBeGreaterThan(60_000);
  });

  test('a client that vanished and is back elsewhere takes over', async () => {
    const old = await ownStream();
    await client.comeBackElsewhere();
    await until('the old stream has ended', async () => !(await streams()).some(({ id }) => id === old.id));
    expect(await machine.journal(SERVICE)).toContain('"event":"stream_severed"');
  });

  test('a reload applies the file and keeps the process and its streams; one with a mistake changes nothing', async () => {
    const [pid, stream] = [await machine.property(SERVICE, 'MainPID'), await ownStream()];
    edit((text) => text.replace('#silent-after: 30s', 'silent-after: 45s'));
    await machine.run('systemctl', 'reload', SERVICE);
    await until('it says so', async () => (await machine.journal(SERVICE)).includes('"event":"settings_reloaded"'));
    edit((text) => text.replace('silent-after: 45s', 'silent-after: soon'));
    await machine.run('systemctl', 'reload', SERVICE);
    await until('it says so', async () =>
      /line \d+.*silent-after|silent-after.*soon/.test(await machine.journal(SERVICE)),
    );
    edit((text) => text.replace('silent-after: soon', 'silent-after: 45s'));
    expect(await machine.property(SERVICE, 'MainPID')).toBe(pid);
    expect((await ownStream()).id).toBe(stream.id);
  });

  test('after a crash systemd starts it again, and meanwhile nobody is refused', async () => {
    const pid = await machine.property(SERVICE, 'MainPID');
    // Small systems have no /bin/kill.
    await machine.run('sh', '-c', `kill -9 ${pid}`);
    // The socket goes on listening: this waits for the new process instead of failing.
    const answer = await network.inside(
      'curl',
      '--silent',
      '--fail',
      '--max-time',
      '20',
      `http://${SERVER_ADDRESS}:8080/health`,
    );
    expect(answer.stdout).toContain('pass');
    expect(await machine.property(SERVICE, 'MainPID')).not.toBe(pid);
    await client.running();
    await ownStream();
  });

  test('systemd rates what it may do at 1.7 or better', async () => {
    const { stdout } = await machine.run('systemd-analyze', 'security', '--no-pager', '--threshold=17', SERVICE);
    expect(stdout).toMatch(/Overall exposure level for headscale-watchdog\.service: [01]\.\d OK/);
  });

  /** Issues a certificate as certbot does: numbered files that only root may read, behind links. A newer key may be read by whom the older may. */
  async function issue(authority: string, number: number): Promise<void> {
    const [live, archive] = ['live', 'archive'].map((each) => join(machine.root, 'etc/letsencrypt', each)) as [
      string,
      string,
    ];
    for (const folder of [live, archive]) {
      if (existsSync(folder)) continue;
      mkdirSync(join(folder, SERVER_NAME), { recursive: true });
      chmodSync(folder, 0o700);
    }
    const path = (name: string, version = number): string => join(archive, SERVER_NAME, `${name}${version}.pem`);
    const [key, request] = [path('privkey'), join(authority, 'request.pem')];
    const subject = ['-subj', `/CN=${SERVER_NAME}`, '-addext', `subjectAltName=DNS:${SERVER_NAME}`];
    const pair = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
    await run(['openssl', 'req', '-new', ...pair, '-keyout', key, ...subject, '-out', request]);
    const signed = ['-CA', join(authority, 'root.pem'), '-CAkey', join(authority, 'root.key'), '-days', '30'];
    await run([
      'openssl',
      'x509',
      '-req',
      '-in',
      request,
      '-copy_extensions',
      'copy',
      ...signed,
      '-out',
      path('fullchain'),
    ]);
    chmodSync(key, number === 1 ? 0o600 : 0o600 | (statSync(path('privkey', number - 1)).mode & 0o070));
    for (const name of ['privkey', 'fullchain']) {
      const link = join(live, SERVER_NAME, `${name}.pem`);
      rmSync(link, { force: true });
      symlinkSync(`../../archive/${SERVER_NAME}/${name}${number}.pem`, link);
    }
  }

  async function makeAuthority(): Promise<string> {
    const authority = here.folder();
    const pair = [
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-keyout',
      join(authority, 'root.key'),
    ];
    await run([
      'openssl',
      'req',
      '-x509',
      ...pair,
      '-subj',
      '/CN=root',
      '-days',
      '30',
      '-out',
      join(authority, 'root.pem'),
    ]);
    return authority;
  }

  test('with TLS as docs/tls.md says, a renewed certificate is served without a restart, and no stream ends', {
    timeout: 240_000,
  }, async () => {
    const authority = await makeAuthority();
    await issue(authority, 1);
    const script = `set -e
      groupadd --system headscale-certs
      setfacl -m g:headscale-certs:x /etc/letsencrypt/live /etc/letsencrypt/archive
      setfacl -R -m g:headscale-certs:rX -m d:g:headscale-certs:rX /etc/letsencrypt/archive/${SERVER_NAME}`;
    await machine.run('sh', '-c', script);
    const override = (unit: string, text: string): void => {
      const folder = join(machine.root, `etc/systemd/system/${unit}.d`);
      mkdirSync(folder);
      writeFileSync(join(folder, 'override.conf'), text);
    };
    override(SERVICE, '[Service]\nSupplementaryGroups=headscale-certs\n');
    override('headscale-watchdog.socket', '[Socket]\nListenStream=0.0.0.0:443\n');
    const certificate = `/etc/letsencrypt/live/${SERVER_NAME}`;
    edit((text) =>
      text.replace(
        /^listen: .*$/m,
        `listen:
  - 0.0.0.0:8080
  - { address: 0.0.0.0:443, cert: ${certificate}/fullchain.pem, key: ${certificate}/privkey.pem }`,
      ),
    );
    await machine.run('systemctl', 'daemon-reload');
    // While the service runs, systemd refuses to start its socket. A client that knocks in between is why both are stopped at once.
    await machine.run('systemctl', 'stop', SERVICE, 'headscale-watchdog.socket');
    await machine.run('systemctl', 'start', 'headscale-watchdog.socket', SERVICE);
    const overTls = new Tailscaled(network, here, join(authority, 'root.pem'));
    await overTls.start();
    await overTls.logIn(`https://${SERVER_NAME}`, authKey);
    const served = async (): Promise<string> => {
      const show = `openssl s_client -connect ${SERVER_ADDRESS}:443 </dev/null | openssl x509 -noout -serial`;
      return (await network.inside('sh', '-c', show)).stdout;
    };
    const [before, pid, stream] = [await served(), await mainPid(), await streamOf(overTls)];
    expect(before).toMatch(/^serial=/);
    await issue(authority, 2);
    await until('the new certificate is served', async () => (await served()) !== before);
    expect(await mainPid()).toBe(pid);
    expect((await streamOf(overTls)).id).toBe(stream.id);
    await overTls.vanish();
  });

  const mainPid = () => machine.property(SERVICE, 'MainPID');

  test('an upgrade that cannot take over, because of a mistake in the settings, leaves the old one running, and says so', {
    timeout: 240_000,
  }, async () => {
    const [pid, stream] = [await mainPid(), await ownStream()];
    edit((text) => text.replace('silent-after: 45s', 'silent-after: soon'));
    const { stdout, stderr } = await machine.run('apt-get', 'install', '--yes', '/root/second.deb');
    expect(`${stdout}${stderr}`).toMatch(/the old one is still running\. See why: journalctl -u headscale-watchdog/);
    expect(await machine.journal(SERVICE)).toContain('"event":"handover_failed"');
    expect(await mainPid()).toBe(pid);
    expect((await ownStream()).id).toBe(stream.id);
    edit((text) => text.replace('silent-after: soon', 'silent-after: 45s'));
  });

  test('an upgrade keeps the settings, and the new version goes on with the streams of the old one', async () => {
    const [pid, stream] = [await mainPid(), await ownStream()];
    const restarts = await machine.property(SERVICE, 'NRestarts');
    const settings = readFileSync(join(machine.root, SETTINGS), 'utf8');
    await machine.run('apt-get', 'install', '--yes', '--reinstall', '/root/second.deb');
    expect(readFileSync(join(machine.root, SETTINGS), 'utf8')).toBe(settings);
    expect((await watchdog('--version')).stdout.trim()).toBe('99.0.0');
    expect(await mainPid()).not.toBe(pid);
    expect(await machine.journal(SERVICE)).toContain('"version":"99.0.0"');
    expect((await ownStream()).id).toBe(stream.id);
    expect(await client.state()).toBe('Running');
    expect(await machine.property(SERVICE, 'ActiveState')).toBe('active');
    expect(await machine.property(SERVICE, 'NRestarts')).toBe(restarts);
    await until('the old process has ended', () => machine.run('test', '!', '-e', `/proc/${pid}`));
  });

  test('removing it stops it and keeps the settings; purging leaves nothing', async () => {
    await machine.run('apt-get', 'remove', '--yes', 'headscale-watchdog');
    expect((await machine.run('sh', '-c', 'ss -Hltn sport = :8080')).stdout).toBe('');
    // The main process is one that has taken over. systemd has not started it, and waits for it all the same.
    expect(await machine.journal(SERVICE)).not.toMatch(/with signal SIGKILL|remains running/);
    expect(readFileSync(join(machine.root, SETTINGS), 'utf8')).toContain('silent-after: 45s');
    await machine.run('apt-get', 'purge', '--yes', 'headscale-watchdog');
    const left = execFileSync('find', [machine.root, '-xdev', '-name', '*headscale-watchdog*'], { encoding: 'utf8' });
    expect(left).toBe('');
    expect((await machine.run('systemctl', '--failed', '--no-legend')).stdout).not.toContain('watchdog');
  });
});
