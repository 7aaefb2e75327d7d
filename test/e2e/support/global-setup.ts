import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { buildPrograms, checkRequirements, PROJECT } from './build.ts';
import { beginRun, sweepStale } from './run.ts';

/** @returns what cleans up; the same happens when this process ends in any other way. */
export default async function setup(): Promise<() => Promise<void>> {
  checkRequirements();
  for (const run of await sweepStale()) process.stderr.write(`e2e: removed what ${run} had left behind\n`);
  await buildPrograms();
  return startJanitor(beginRun());
}

function startJanitor(run: string): () => Promise<void> {
  const janitor = spawn(process.execPath, ['--import', 'tsx', join(import.meta.dirname, 'janitor.ts'), run], {
    cwd: PROJECT,
    detached: true,
    stdio: ['pipe', 'ignore', 'inherit'],
  });
  return () =>
    new Promise((resolve, reject) => {
      if (janitor.exitCode !== null || janitor.signalCode !== null)
        return reject(new Error('nobody is left to clean up'));
      janitor.once('exit', (code, signal) => {
        if (code === 0) resolve();
        else reject(new Error(`cleaning up ended with ${code ?? signal}`));
      });
      janitor.stdin.end();
    });
}
