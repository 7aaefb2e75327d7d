import { execFile } from 'node:child_process';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

/**
 * A run is one call of `npm run e2e`. All it makes outside this repository, namespaces and temporary
 * folders, bears its name, so that one function can remove it, whoever is still alive to call it.
 */
const PREFIX = 'hwe2e';
const RUN_NAME = /^hwe2e-(\d+)-(\d+)(?:-|$)/;
const VARIABLE = 'WATCHDOG_E2E_RUN';
const NETNS_DIRECTORY = '/run/netns';

const execute = promisify(execFile);

/** Names the run after this process, for itself and for the processes it will fork. */
export function beginRun(): string {
  const name = `${PREFIX}-${process.pid}-${startOf(process.pid)}`;
  process.env[VARIABLE] = name;
  return name;
}

/** @throws outside `npm run e2e`, where nothing would clean up. */
export function currentRun(): string {
  const name = process.env[VARIABLE];
  if (name === undefined) throw new Error('These tests need their global setup: start them with npm run e2e');
  return name;
}

/** Removes what runs left behind whose process is no more. */
export async function sweepStale(): Promise<readonly string[]> {
  const stale = new Set<string>();
  for (const name of [...namesIn(NETNS_DIRECTORY), ...namesIn(tmpdir())]) {
    const match = RUN_NAME.exec(name);
    if (match === null) continue;
    if (startOf(Number(match[1])) !== match[2]) stale.add(`${PREFIX}-${match[1]}-${match[2]}`);
  }
  for (const run of stale) await sweep(run);
  return [...stale];
}

/** Ends every process in a namespace whose name begins with `prefix`; removes those namespaces and folders. */
export async function sweep(prefix: string): Promise<void> {
  const ours = (name: string): boolean => name === prefix || name.startsWith(`${prefix}-`);
  for (const namespace of namesIn(NETNS_DIRECTORY).filter(ours)) await removeNamespace(namespace);
  for (const folder of namesIn(tmpdir()).filter(ours)) {
    rmSync(join(tmpdir(), folder), { recursive: true, force: true, maxRetries: 3 });
  }
}

/** Deletes a namespace after all that runs in it. */
export async function removeNamespace(namespace: string): Promise<void> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const pids = await pidsIn(namespace);
    if (pids.length === 0) break;
    for (const pid of pids) killIfAlive(pid);
    await delay(20);
  }
  await execute('ip', ['netns', 'delete', namespace]);
}

async function pidsIn(namespace: string): Promise<number[]> {
  const { stdout } = await execute('ip', ['netns', 'pids', namespace]);
  return stdout.split('\n').filter(Boolean).map(Number);
}

function killIfAlive(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It ended in between.
  }
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

/** When a process started, in clock ticks since boot: with its id, a name that is not used again. */
function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field, a name in parentheses, may contain spaces; what is wanted is the 22nd.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}
