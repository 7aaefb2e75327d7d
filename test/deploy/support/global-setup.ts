import { execFileSync } from 'node:child_process';

/** What is deployed is what was built. */
export function setup(): void {
  execFileSync('npm', ['run', 'build'], { cwd: new URL('../../..', import.meta.url), stdio: 'pipe' });
}
