import { execFileSync } from 'node:child_process';
import { cpSync, lstatSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { PROJECT } from './contenders.ts';

/** What is installed with `npm ci --omit=dev`, and what is built; in megabytes of content. */
export function installedMegabytes(folder: string): string {
  const place = join(folder, 'installed');
  mkdirSync(place);
  for (const name of ['package.json', 'package-lock.json', 'dist']) {
    cpSync(join(PROJECT, name), join(place, name), { recursive: true });
  }
  const options = ['ci', '--omit=dev', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  execFileSync('npm', options, { cwd: place, stdio: 'inherit' });
  return (bytesIn(place) / 1e6).toFixed(1);
}

function bytesIn(path: string): number {
  const found = lstatSync(path);
  if (!found.isDirectory()) return found.size;
  return readdirSync(path).reduce((sum, name) => sum + bytesIn(join(path, name)), 0);
}
