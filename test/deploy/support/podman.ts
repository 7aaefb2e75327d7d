import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Cleanup, debianRoot, PROGRAMS, PROJECT, type Ran, run, type ServerNetwork } from './machines.ts';

/** What the containers' programs need of Debian. */
const BASE = ['ca-certificates', 'caddy', 'iproute2', 'libatomic1', 'libstdc++6', 'passwd'];

/** What Node for arm64 needs of it. */
const ARM64_BASE = ['libc6', 'libstdc++6', 'libgcc-s1', 'libatomic1', 'dash', 'coreutils'];
const NODE_IMAGE = 'docker.io/library/node:26-slim';
const DOCKERFILE = 'deploy/compose/Dockerfile';

/**
 * Podman with storage of its own. Containers run in the network of a test, images are built in the machine's. There are no
 * registries, so the images that others publish are made here, under their names, from Debian's packages and built programs.
 */
export class Podman {
  readonly #env: NodeJS.ProcessEnv;
  readonly #folder: string;
  readonly #network: ServerNetwork;

  constructor(network: ServerNetwork, cleanup: Cleanup) {
    this.#network = network;
    this.#folder = cleanup.folder();
    const at = (name: string): string => join(this.#folder, name);
    this.#env = {
      CONTAINERS_CONF: at('containers.conf'),
      CONTAINERS_STORAGE_CONF: at('storage.conf'),
      BUILDAH_ISOLATION: 'chroot',
      BUILDAH_LAYERS: 'false',
    };
    writeFileSync(
      at('containers.conf'),
      `[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[network]
network_backend = "netavark"
network_config_dir = "${at('networks')}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
static_dir = "${at('static')}"
tmp_dir = "${at('tmp')}"
volume_path = "${at('volumes')}"
[engine.runtimes]
runc = ["/usr/sbin/runc", "/usr/bin/runc"]
`,
    );
    writeFileSync(
      at('storage.conf'),
      `[storage]\ndriver = "vfs"\ngraphroot = "${at('storage')}"\nrunroot = "${at('run')}"\n`,
    );
    cleanup.defer(async () => {
      await this.removeAll();
      await this.run('network', 'prune', '--force').catch(() => undefined);
    });
  }

  /** Removes all containers, with the pods that they are in. */
  async removeAll(): Promise<void> {
    const { stdout } = await this.run('ps', '--all', '--format', '{{.Pid}}');
    // Podman does not always remove a container whose network another one shares at the first attempt.
    for (let attempt = 0; attempt < 3; attempt++) {
      await this.run('pod', 'rm', '--all', '--force').catch(() => undefined);
      await this.run('rm', '--all', '--force', '--time=0').catch(() => undefined);
    }
    for (const pid of stdout
      .split('\n')
      .map(Number)
      .filter((each) => each > 0))
      endIfThere(pid);
  }

  run(...args: readonly string[]): Promise<Ran> {
    return run(this.#network.enter('podman', ...args), this.#env);
  }

  /** Runs podman-compose in a folder with compose files. */
  compose(folder: string, program: string, ...args: readonly string[]): Promise<Ran> {
    return run(this.#network.enter(program, '--in-pod=0', '--no-ansi', ...args), this.#env, folder);
  }

  /** Makes the images of others that the examples use. */
  async makeImages(node: string): Promise<void> {
    const base = join(this.#folder, 'base.tar');
    await debianRoot('bookworm', base, BASE);
    await run(['podman', 'import', '--quiet', base, 'base'], this.#env);
    const npm = execFileSync('npm', ['root', '--global'], { encoding: 'utf8' }).trim();
    const npmCli = '../lib/node_modules/npm/bin/npm-cli.js';
    await this.#image(NODE_IMAGE, { node, npm: join(npm, 'npm') }, [
      'COPY node /usr/local/bin/node',
      'COPY npm /usr/local/lib/node_modules/npm',
      `RUN ln -s ${npmCli} /usr/local/bin/npm && useradd --uid 1000 --create-home node`,
    ]);
    await this.#image('docker.io/library/caddy:2', {}, [
      'ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data',
      'CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]',
    ]);
    await this.#image('docker.io/headscale/headscale:0.29.2', { headscale: join(PROGRAMS, 'headscale') }, [
      'COPY headscale /usr/local/bin/headscale',
      'ENTRYPOINT ["headscale"]',
    ]);
    await this.#image('docker.io/prom/prometheus:v3.5.0', { prometheus: '/usr/bin/prometheus' }, [
      'COPY prometheus /bin/prometheus',
      'ENTRYPOINT ["/bin/prometheus"]',
      'CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]',
    ]);
  }

  async #image(name: string, files: Readonly<Record<string, string>>, steps: readonly string[]): Promise<void> {
    const context = join(this.#folder, 'context', name.replaceAll('/', '-'));
    mkdirSync(context, { recursive: true });
    for (const [to, from] of Object.entries(files)) cpSync(from, join(context, to), { recursive: true });
    writeFileSync(join(context, 'Containerfile'), ['FROM base', ...steps, ''].join('\n'));
    await run(['podman', 'build', '--quiet', '--tag', name, context], this.#env);
  }

  /** Builds the watchdog's own image, as the documentation says, from sources as `git clone` makes them with `umask 077`. */
  async buildOwn(): Promise<void> {
    await this.#build('headscale-watchdog', readFileSync(join(PROJECT, DOCKERFILE), 'utf8'));
  }

  /**
   * Builds the image for arm64 on this processor. From then on, the image with Node is one for arm64.
   *
   * @param node the program, for arm64.
   */
  async buildForArm64(node: string): Promise<void> {
    const base = join(this.#folder, 'base-arm64.tar');
    await debianRoot('bookworm', base, ARM64_BASE, 'arm64');
    await run(['podman', 'import', '--quiet', '--arch=arm64', base, 'base-arm64'], this.#env);
    const context = join(this.#folder, 'context', 'arm64');
    mkdirSync(context, { recursive: true });
    cpSync(node, join(context, 'node'));
    writeFileSync(join(context, 'passwd'), 'root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/:/bin/sh\n');
    const steps = ['FROM base-arm64', 'COPY node /usr/local/bin/node', 'COPY passwd /etc/passwd', ''];
    writeFileSync(join(context, 'Containerfile'), steps.join('\n'));
    await run(['podman', 'tag', NODE_IMAGE, 'node-amd64'], this.#env);
    await run(['podman', 'build', '--quiet', '--platform=linux/arm64', '--tag', NODE_IMAGE, context], this.#env);
    // Podman 4.3 does not know BUILDPLATFORM, and gives a stage without a platform that of the stage before.
    const dockerfile = readFileSync(join(PROJECT, DOCKERFILE), 'utf8');
    const own = dockerfile
      .replace('--platform=$BUILDPLATFORM node:26-slim', '--platform=linux/amd64 node-amd64')
      .replace(/^FROM node:26-slim$/m, 'FROM --platform=linux/arm64 node:26-slim');
    await this.#build('headscale-watchdog-arm64', own, '--platform=linux/arm64');
  }

  async #build(name: string, dockerfile: string, ...args: readonly string[]): Promise<void> {
    const source = join(this.#folder, 'source');
    for (const each of [
      'package.json',
      'package-lock.json',
      '.npmrc',
      '.dockerignore',
      'tsconfig.json',
      'package',
      'src',
    ])
      cpSync(join(PROJECT, each), join(source, each), { recursive: true });
    writeFileSync(join(source, 'Dockerfile'), dockerfile);
    await run(['chmod', '--recursive', 'go=', source]);
    const config = (key: string): string => execFileSync('npm', ['config', 'get', key], { encoding: 'utf8' }).trim();
    // What this machine's npm needs to reach its registry.
    const shown = [
      [config('userconfig'), '/root/.npmrc'],
      [config('globalconfig'), '/usr/local/etc/npmrc'],
      ['/etc/ssl/certs', '/etc/ssl/certs'],
    ].filter(([from = '']) => existsSync(from));
    await run(
      [
        ...['podman', 'build', '--quiet', '--network=host', '--format=docker', '--ulimit=nofile=20000:20000'],
        ...shown.map(([from, to]) => `--volume=${from}:${to}:ro`),
        ...[...args, '--tag', name, '.'],
      ],
      this.#env,
      source,
    );
  }
}

function endIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended.
  }
}
