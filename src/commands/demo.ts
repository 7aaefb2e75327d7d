import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startWatchdog } from '../app/watchdog.ts';
import { loadConfig } from '../config/load.ts';
import { type DemoWatchdog, type DemoWatchdogSetup, runDemo } from '../demo/demo.ts';
import { createLogger } from '../telemetry/log.ts';
import { usesColours } from './terminal.ts';

const ANYWHERE = '127.0.0.1:0';

/**
 * Runs the demo on this terminal, with a watchdog in this process.
 *
 * @param keep whether to go on after the comparison. Without it, only a terminal keeps it going.
 * @param stopped resolves when the operator stops the demo.
 * @returns the exit code.
 */
export function demo(keep: boolean | undefined, stopped: Promise<unknown>): Promise<number> {
  const { stdout, env } = process;
  const isTty = stdout.isTTY === true;
  const stop = new AbortController();
  void stopped.then(() => stop.abort());
  return runDemo({
    ...{ stdout, colours: usesColours(env, isTty), goesOn: keep ?? isTty },
    ...{ signal: stop.signal, startWatchdog: startDemoWatchdog },
  });
}

/** A watchdog that listens on free ports of the loopback, and logs nothing: the demo shows what happens. */
async function startDemoWatchdog(setup: DemoWatchdogSetup): Promise<DemoWatchdog> {
  const { upstream, noiseKey, apiKey, silentAfterMs } = setup;
  const folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-demo-'));
  const headscaleApiKeyFile = join(folder, 'api-key');
  writeFileSync(headscaleApiKeyFile, apiKey, { mode: 0o600 });
  // The nodes themselves come from the loopback. A proxy there, which is trusted by default, would have others behind it.
  const defaults = loadConfig({ listen: ANYWHERE, admin: ANYWHERE, trustedProxies: 'none', headscaleApiKeyFile });
  const policy = { ...defaults.policy, silentAfterMs };
  const config = { ...defaults, upstream, policy };
  const log = await createLogger('silent', process.stdout);
  const watchdog = await startWatchdog(config, { noiseKey, log });
  const urlOf = (address: { port: number } | undefined): URL => new URL(`http://127.0.0.1:${address?.port}`);
  return {
    listenUrl: urlOf(watchdog.listenAddresses[0]),
    adminUrl: urlOf(watchdog.adminAddress),
    async close() {
      await watchdog.close();
      rmSync(folder, { recursive: true });
    },
  };
}
