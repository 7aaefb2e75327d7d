import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

/** Vitest's global set-up: what is spawned is what was built, as it runs on a server. */
export function setup(): void {
  execFileSync('npm', ['run', 'build'], { cwd: join(import.meta.dirname, '..', '..'), stdio: 'pipe' });
}
