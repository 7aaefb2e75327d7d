import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { build, type Plugin } from 'esbuild';

/** A processor as Debian and containers name it, and as npm's packages do. */
export const ARCHES = { amd64: 'x64', arm64: 'arm64' } as const;
export type DebianArch = keyof typeof ARCHES;
export type Arch = (typeof ARCHES)[DebianArch];

export const PROJECT = join(import.meta.dirname, '..');

interface Lock {
  readonly packages: { readonly [path: string]: { readonly version: string; readonly integrity: string } };
}

/**
 * Makes the program as packages and the image contain it: the code in a few files instead of 150, the page, koffi for this
 * processor, and the licences. Beside `package.json`, `dist/bundle/cli.js` is what Node runs.
 */
export async function bundle(folder: string, arch: Arch): Promise<void> {
  rmSync(folder, { recursive: true, force: true });
  const code = join(folder, 'dist', 'bundle');
  const { metafile } = await build({
    ...{ entryPoints: [join(PROJECT, 'src', 'cli.ts')], outdir: code, absWorkingDir: PROJECT },
    ...{ bundle: true, platform: 'node', format: 'esm', target: 'node20.19', metafile: true, logLevel: 'warning' },
    // What only some commands or settings need stays in files of its own.
    splitting: true,
    // It finds its binary beside itself.
    external: ['koffi'],
    plugins: [namedExports],
    minifySyntax: true,
    minifyWhitespace: true,
    legalComments: 'none',
    // Libraries in CommonJS call it for Node's own modules.
    banner: {
      js: "import{createRequire as $createRequire}from'node:module';const require=$createRequire(import.meta.url);",
    },
  });
  // Node is named by whoever starts it.
  const cli = join(code, 'cli.js');
  writeFileSync(cli, readFileSync(cli, 'utf8').replace(/^#!.*\n/, ''));
  chmodSync(cli, 0o644);
  cpSync(join(PROJECT, 'src', 'admin', 'page'), join(code, 'page'), {
    recursive: true,
    filter: (file) => !file.endsWith('.ts'),
  });
  copyFileSync(join(PROJECT, 'src', 'admin', 'openapi.json'), join(code, 'openapi.json'));
  const { name, version, description, license } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8'));
  const about = { name, version, description, license, type: 'module' };
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(about, undefined, 2)}\n`);
  copyKoffi(folder, arch);
  const libraries = Object.keys(metafile.inputs).flatMap(
    (file) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file) ?? [],
  );
  writeLicences(folder, [...new Set([...libraries, 'node_modules/koffi'])].sort());
  letEverybodyRead(folder);
}

/** Copies have the rights of the sources, which only their owner may read after a `git clone` with `umask 077`. */
export function letEverybodyRead(folder: string): void {
  chmodSync(folder, 0o755);
  for (const each of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    const path = join(each.parentPath, each.name);
    const isProgram = each.isDirectory() || (statSync(path).mode & 0o100) !== 0;
    chmodSync(path, isProgram ? 0o755 : 0o644);
  }
}

/**
 * `await import('undici')` has named exports in Node, which finds the names in CommonJS. esbuild does not: without this, there
 * would only be `default`.
 */
const namedExports: Plugin = {
  name: 'named exports of CommonJS libraries',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^[a-z@]/ }, ({ kind, path, namespace }) =>
      kind === 'dynamic-import' && namespace === 'file' && path !== 'koffi' && !path.startsWith('node:')
        ? { path, namespace: 'named' }
        : undefined,
    );
    onLoad({ filter: /.*/, namespace: 'named' }, async ({ path }) => {
      const names = Object.keys((await import(path)) as object).filter((name) =>
        /^(?!default$)[A-Za-z_$][\w$]*$/.test(name),
      );
      const contents = `export { ${names.join(', ')} } from '${path}';\nexport { default } from '${path}';`;
      return { contents, resolveDir: PROJECT };
    });
  },
};

/** koffi's loader, and its binary for glibc on this processor. Its sources and the binaries of others are 3 MB more. */
function copyKoffi(folder: string, arch: Arch): void {
  const loader = join(PROJECT, 'node_modules', 'koffi');
  const copy = join(folder, 'node_modules', 'koffi');
  const isLoader = (file: string): boolean =>
    /^(package\.json|LICENSE\.txt|index\.c?js|src\/koffi\/(index|indirect|src\/static)\.c?js)$/.test(file);
  for (const file of readdirSync(loader, { recursive: true, encoding: 'utf8' }).filter(isLoader)) {
    mkdirSync(dirname(join(copy, file)), { recursive: true });
    cpSync(join(loader, file), join(copy, file));
  }
  const binary = `@koromix/koffi-linux-${arch}`;
  const lock = JSON.parse(readFileSync(join(PROJECT, 'package-lock.json'), 'utf8')) as Lock;
  const locked = lock.packages[`node_modules/${binary}`];
  if (locked === undefined) throw new Error(`package-lock.json has no ${binary}`);
  const installed = join(PROJECT, 'node_modules', binary);
  const into = join(folder, 'node_modules', binary);
  const keep = ['package.json', 'index.js', `linux_${arch}`];
  const copyFrom = (from: string): void => {
    for (const each of keep) cpSync(join(from, each), join(into, each), { recursive: true });
  };
  if (existsSync(installed)) copyFrom(installed);
  else withPackage(binary, locked.version, locked.integrity, copyFrom);
}

/**
 * Fetches a package of npm, without running anything of it.
 *
 * @param use gets the folder with its files, which is deleted afterwards.
 * @throws Error when the package is not the expected one.
 */
export function withPackage<T>(name: string, version: string, integrity: string, use: (folder: string) => T): T {
  const work = mkdtempSync(join(tmpdir(), 'npm-package-'));
  try {
    execFileSync('npm', ['pack', '--silent', '--pack-destination', work, `${name}@${version}`], { stdio: 'pipe' });
    const file = readdirSync(work).find((each) => each.endsWith('.tgz'));
    if (file === undefined) throw new Error(`npm pack ${name}@${version} made no file`);
    const found = `sha512-${createHash('sha512')
      .update(readFileSync(join(work, file)))
      .digest('base64')}`;
    if (found !== integrity)
      throw new Error(`${name}@${version} is not the expected package: ${found} instead of ${integrity}`);
    execFileSync('tar', ['--extract', '--no-same-owner', '--directory', work, '--file', join(work, file)]);
    return use(join(work, 'package'));
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** `LICENSES`: what each library that the bundle contains says about copying it. */
function writeLicences(folder: string, libraries: readonly string[]): void {
  const texts = libraries.map((library) => {
    const from = join(PROJECT, library);
    const { name, version, license } = JSON.parse(readFileSync(join(from, 'package.json'), 'utf8'));
    const file = readdirSync(from).find((each) => /^licen[cs]e(\.(md|txt))?$/i.test(each));
    const text = file === undefined ? `License: ${license}` : readFileSync(join(from, file), 'utf8').trim();
    return `${name} ${version}\n\n${text}\n`;
  });
  writeFileSync(join(folder, 'LICENSES'), texts.join(`\n${'-'.repeat(80)}\n\n`));
}

if (basename(process.argv[1] ?? '') === 'bundle.ts') {
  const [folder = 'out/app', given = process.arch] = process.argv.slice(2);
  const arch = Object.entries(ARCHES).find((names) => names.includes(given))?.[1];
  if (arch === undefined) throw new Error(`usage: bundle.ts [FOLDER [amd64|arm64]], not ${given}`);
  await bundle(folder, arch);
}
