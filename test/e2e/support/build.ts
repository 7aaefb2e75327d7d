import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';

export const PROJECT = join(import.meta.dirname, '..', '..', '..');
const BIN = join(PROJECT, 'test', 'e2e', '.bin');

/** `E2E_LONG=1`: also the tests that take a quarter of an hour. */
export const LONG = process.env.E2E_LONG === '1';

/** What the tests run. */
export const programs = {
  tailscaled: join(BIN, 'tailscaled'),
  tailscale: join(BIN, 'tailscale'),
  headscale: {
    /**
     * Headscale's main, which cannot be had as a Go module: since before it had OAuth clients, a test file there has a `>` in its name. Build
     * it from its repository; without it the tests with it are skipped.
     */
    '0.30-dev': process.env.HEADSCALE_DEV ?? join(BIN, 'headscale-dev'),
    '0.29.2': join(BIN, 'headscale'),
    '0.28.0': join(BIN, 'headscale-0.28'),
    '0.23.0': join(BIN, 'headscale-0.23'),
  },
  stunServer: join(BIN, 'stun-server'),
  webClient: join(BIN, 'web-client'),
  watchdog: join(PROJECT, 'dist', 'cli.js'),
  controlServer: join(PROJECT, 'dist', 'demo', 'control-server-main.js'),
} as const;

/** @throws with all that is missing, and what to do about it. */
export function checkRequirements(): void {
  const missing: string[] = [];
  if (process.platform !== 'linux') missing.push('Linux: the tests use network namespaces');
  else if (process.getuid?.() !== 0) missing.push('root: only root may make network namespaces');
  if (!answers('ip', ['-V'])) missing.push('ip: apt-get install iproute2');
  if (!answers('ss', ['-V'])) missing.push('ss: apt-get install iproute2');
  if (!answers('nft', ['--version'])) missing.push('nft: apt-get install nftables');
  if (!answers('haproxy', ['-v'])) missing.push('haproxy: apt-get install haproxy');
  if (!answers('nginx', ['-v'])) missing.push('nginx: apt-get install nginx-light');
  if (!answers('caddy', ['version'])) missing.push('caddy: apt-get install caddy');
  if (!answers('apache2', ['-v'])) missing.push('apache2: apt-get install apache2');
  if (!answers('setpriv', ['--version'])) missing.push('setpriv: apt-get install util-linux');
  if (!answers('pebble', ['-help'])) missing.push('pebble, an ACME server: apt-get install pebble');
  if (!answers('lego', ['--version'])) missing.push('lego, an ACME client: apt-get install lego');
  if (!answers('certbot', ['--version'])) missing.push('certbot, another: apt-get install certbot');
  if (!answers('openssl', ['version'])) missing.push('openssl, for certificates: apt-get install openssl');
  if (!answers('go', ['version'])) missing.push('go, 1.26.6 or later: it builds tailscaled and Headscale');
  if (missing.length > 0) throw new Error(`npm run e2e cannot run here. Missing:\n  ${missing.join('\n  ')}`);
}

function answers(command: string, args: readonly string[]): boolean {
  try {
    execFileSync(command, args, { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** Builds what is not up to date. Go's and TypeScript's own caches decide; the first time takes minutes. */
export async function buildPrograms(): Promise<void> {
  mkdirSync(BIN, { recursive: true });
  const go = join(PROJECT, 'test', 'e2e', 'go');
  const flags = ['build', '-mod=readonly', '-buildvcs=false', '-o'];
  await step('tailscaled, tailscale, stun-server, web-client', 'go', join(go, 'tailscale'), [
    ...flags,
    `${BIN}/`,
    'tailscale.com/cmd/tailscaled',
    'tailscale.com/cmd/tailscale',
    './stun-server',
    './web-client',
  ]);
  for (const [version, folder] of [
    ['0.29.2', 'headscale'],
    ['0.28.0', 'headscale-0.28.0'],
    ['0.23.0', 'headscale-0.23'],
  ] as const) {
    const wanted = [...flags, programs.headscale[version], 'github.com/juanfont/headscale/cmd/headscale'];
    await step(`headscale ${version}`, 'go', join(go, folder), wanted);
  }
  await step('headscale-watchdog', 'npm', PROJECT, ['run', '--silent', 'build']);
}

async function step(what: string, command: string, cwd: string, args: readonly string[]): Promise<void> {
  const started = performance.now();
  process.stderr.write(`e2e: building ${what} …\n`);
  await new Promise<void>((resolve, reject) => {
    const child = spawn(command, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
    const output: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => output.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => output.push(chunk));
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (code === 0) resolve();
      else reject(new Error(`building ${what} ended with ${code ?? signal}:\n${Buffer.concat(output)}`));
    });
  });
  process.stderr.write(`e2e: built ${what} in ${((performance.now() - started) / 1000).toFixed(1)} s\n`);
}
