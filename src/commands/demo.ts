import { startWatchdog } from '../app/watchdog.ts';
import { loadConfig } from '../config/load.ts';
import { type DemoWatchdog, type DemoWatchdogSetup, runDemo } from '../demo/demo.ts';
import { createLogger } from '../telemetry/log.ts';

const ANYWHERE = '127.0.0.1:0';

/**
 * Runs the demo on this terminal, with a watchdog in this process.
 *
 * @param stopped resolves when the operator stops the demo.
 * @returns the exit code.
 */
export function demo(stopped: Promise<unknown>): Promise<number> {
  const { stdout } = process;
  const stop = new AbortController();
  void stopped.then(() => stop.abort());
  return runDemo({ stdout, isTty: stdout.isTTY === true, signal: stop.signal, startWatchdog: startDemoWatchdog });
}

/** A watchdog that listens on free ports of the loopback, and logs nothing: the demo shows what happens. */
async function startDemoWatchdog({ upstream, noiseKey, silentAfterMs }: DemoWatchdogSetup): Promise<DemoWatchdog> {
  // The nodes themselves come from the loopback. A proxy there, which is trusted by default, would have others behind it.
  const defaults = loadConfig({ listen: ANYWHERE, admin: ANYWHERE, trustedProxies: 'none' });
  const policy = { ...defaults.policy, silentAfterMs };
  const config = { ...defaults, upstream, policy };
  const log = await createLogger('silent', process.stdout);
  const watchdog = await startWatchdog(config, { noiseKey, log });
  const urlOf = (address: { port: number } | undefined): URL => new URL(`http://127.0.0.1:${address?.port}`);
  return {
    listenUrl: urlOf(watchdog.listenAddresses[0]),
    adminUrl: urlOf(watchdog.adminAddress),
    close: watchdog.close,
  };
}
