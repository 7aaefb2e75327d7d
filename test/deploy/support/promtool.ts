import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const DEPLOY = new URL('../../../deploy/', import.meta.url).pathname;

export interface Said {
  readonly ok: boolean;
  readonly output: string;
}

/** Runs Prometheus's own checker, from the Debian package `prometheus`. */
export function promtool(args: readonly string[], stdin = ''): Promise<Said> {
  return new Promise((resolve, reject) => {
    const child = execFile('promtool', args, { timeout: 30_000 }, (error, stdout, stderr) => {
      if (error !== null && typeof error.code !== 'number') reject(error);
      else resolve({ ok: error === null, output: `${stdout}${stderr}` });
    });
    child.stdin?.end(stdin);
  });
}

/** A folder for as long as `use` takes. */
export async function inFolder<T>(use: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-prometheus-'));
  try {
    return await use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
