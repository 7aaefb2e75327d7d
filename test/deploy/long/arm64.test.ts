import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  Cleanup,
  debianRoot,
  emulateArm64,
  PROJECT,
  QEMU_ARM64,
  run,
  SERVER_ADDRESS,
  ServerNetwork,
  Tailscaled,
  until,
} from '../support/machines.ts';
import { start } from '../support/program.ts';

/** What our package depends on, and what the script that starts the program calls. */
const PACKAGES = ['libc6', 'libstdc++6', 'libgcc-s1', 'libatomic1', 'dash', 'coreutils'];
const PROGRAM = '/usr/bin/headscale-watchdog';
const ADMIN = '127.0.0.1:9191';
const cleanup = new Cleanup();
/** Debian 12 for arm64, in which the package is unpacked, and the archive in its `opt`. */
let root = '';

const lacks = existsSync(QEMU_ARM64) ? '' : ` (left out: ${QEMU_ARM64} of Debian's qemu-user-static is not here)`;

describe.skipIf(lacks !== '')(`the package for arm64, with QEMU${lacks}`, () => {
  beforeAll(async () => {
    const out = join(cleanup.folder(), 'out');
    await run(['npm', 'run', '--silent', 'package', '--', out, 'arm64']);
    const one = (end: string): string => join(out, readdirSync(out).find((name) => name.endsWith(end)) ?? end);
    root = join(cleanup.folder(), 'root');
    await debianRoot('bookworm', root, PACKAGES, 'arm64');
    await run(['dpkg-deb', '--extract', one('_arm64.deb'), root]);
    mkdirSync(join(root, 'opt'), { recursive: true });
    await run(['tar', '--extract', '--directory', join(root, 'opt'), '--file', one('-linux-arm64.tar.gz')]);
    await emulateArm64(cleanup);
  }, 600_000);
  afterAll(() => cleanup.run(), 120_000);

  test('the package and the archive for arm64 start where there is only what the package depends on', async () => {
    const { version } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8')) as { version: string };
    const [unpacked = ''] = readdirSync(join(root, 'opt'));
    for (const program of [PROGRAM, join('/opt', unpacked, 'bin', 'headscale-watchdog')])
      expect((await run(['chroot', root, program, '--version'])).stdout.trim()).toBe(version);
    expect((await run(['chroot', root, 'uname', '-m'])).stdout.trim()).toBe('aarch64');
  });

  test('koffi inside is the one for arm64: functions of C can be called', async () => {
    const home = '/usr/lib/headscale-watchdog';
    const call = "require('koffi').load(null).func('int getpid()')() === process.pid && process.arch";
    const node = ['chroot', root, 'env', `--chdir=${home}`, `${home}/bin/node`, '--print', call];
    expect((await run(node)).stdout.trim()).toBe('arm64');
  });

  // QEMU hides what Linux knows of a connection.
  test('it is ready, and a real client that vanished and is back takes over by silence', {
    timeout: 240_000,
  }, async () => {
    const network = await ServerNetwork.create(cleanup);
    const begin = (...command: readonly string[]) => {
      const [enter = '', ...rest] = network.enter(...command);
      const program = start(enter, ...rest);
      cleanup.defer(() => program.end());
      return program;
    };
    const server = '127.0.0.1:8082';
    const key = '/etc/noise_private.key';
    begin(
      ...[process.execPath, '--import', 'tsx', join(PROJECT, 'src', 'demo', 'control-server-main.ts')],
      ...['--listen', server, '--noise-key', join(root, key), '--second-stream', 'refuse'],
    );
    const ask = async (path: string) => (await network.inside('curl', '--silent', '--fail', `http://${path}`)).stdout;
    await until('the control server answers', () => ask(`${server}/key?v=142`));
    const watchdog = begin(
      ...['chroot', root, PROGRAM, 'serve', '--upstream', `http://${server}`, '--noise-key', key],
      ...['--listen', '0.0.0.0:8080', '--admin', ADMIN, '--drain', 'off', '--silent-after', '3s'],
    );
    await until('it is ready', () => {
      watchdog.expectAlive();
      return ask(`${ADMIN}/readyz`);
    });
    const client = new Tailscaled(network, cleanup);
    await client.start();
    await client.logIn(`http://${SERVER_ADDRESS}:8080`, 'ignored');
    const { streams } = JSON.parse(await ask(`${ADMIN}/streams`)) as { streams: readonly { machineKey: string }[] };
    expect(streams).toMatchObject([{ machineKey: expect.stringMatching(/^mkey:/) }]);
    await client.comeBackElsewhere();
    await until('the old stream was severed', async () => watchdog.output.includes('"event":"stream_severed"'));
  });
});
