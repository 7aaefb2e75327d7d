/**
 * Cleans up after a run, however it ends: standard input closes when the run's process is gone, also after
 * Ctrl-C or SIGKILL. Started in a session of its own, so that Ctrl-C does not reach it.
 */
import { sweep } from './run.ts';

const run = process.argv[2];
if (run === undefined) throw new Error('usage: janitor.ts RUN');
process.stdin.resume();
process.stdin.once('close', () => {
  sweep(run).then(
    () => process.exit(0),
    () => process.exit(1),
  );
});
