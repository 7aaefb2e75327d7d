/**
 * The watchdog of a soak, in a process of its own that says what it uses. Answers each message with a sample, taken after a
 * full collection of garbage (`--expose-gc`).
 *
 *     watchdog-main UPSTREAM LISTEN NOISE-KEY-FILE SILENT-AFTER
 */
import { readdirSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { startWatchdog } from '../../src/app/watchdog.ts';
import { loadConfig } from '../../src/config/load.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { createLogger } from '../../src/telemetry/log.ts';
import { scrape } from '../support/http.ts';

export interface Sample {
  readonly residentMb: number;
  readonly heapMb: number;
  /** Outside of V8's heap, as far as Node accounts for it. */
  readonly externalMb: number;
  readonly descriptors: number;
  /** libuv's: sockets, servers, timers. */
  readonly handles: number;
  /** The registry's. */
  readonly streams: number;
  /** Opened and not ended. */
  readonly contests: number;
  /** How often each has happened so far. */
  readonly events: Readonly<Record<string, number>>;
  readonly errors: readonly string[];
}

const [upstream = '', listen = '', noiseKey = '', silentAfter = ''] = process.argv.slice(2);
// As `serve` does.
setFlagsFromString('--semi-space-growth-factor=1');
// Its nodes do not come again when they are told to wait.
const flags = { upstream, listen, admin: '127.0.0.1:0', noiseKey, silentAfter, upstreamRate: 'off' };
const config = loadConfig({ ...flags, trustedProxies: 'none' });
const watchdog = await startWatchdog(config, { log: await createLogger('silent', process.stdout) });
const events: Record<string, number> = {};
const errors: string[] = [];

function note(what: string): void {
  events[what] = (events[what] ?? 0) + 1;
}

function heard(event: WatchdogEvent): void {
  note(event.kind);
  if (event.kind === 'stream_severed') note(`severed: ${event.reason}`);
  if (event.kind === 'stream_closed') note(`closed: ${event.reason}`);
  if (event.kind === 'internal_error') errors.push(`${event.during}: ${event.error}`);
}

watchdog.onEvent(heard);
for (const kind of ['unhandledRejection', 'uncaughtException'] as const) {
  process.on(kind, (error) => errors.push(`${kind}: ${error}`));
}

async function sample(): Promise<Sample> {
  const metrics = await scrape(`http://127.0.0.1:${watchdog.adminAddress.port}`);
  const sumOf = (name: string): number =>
    [...metrics].reduce((sum, [key, value]) => (key.split('{')[0] === name ? sum + value : sum), 0);
  globalThis.gc?.();
  const { rss, heapUsed, external } = process.memoryUsage();
  const mb = (bytes: number): number => bytes / 1e6;
  return {
    ...{ residentMb: mb(rss), heapMb: mb(heapUsed), externalMb: mb(external) },
    descriptors: readdirSync('/proc/self/fd').length,
    handles: process.getActiveResourcesInfo().length,
    streams: sumOf('headscale_watchdog_streams'),
    contests: (events.contest_opened ?? 0) - (events.contest_ended ?? 0),
    ...{ events, errors },
  };
}

process.on('message', async () => process.send?.(await sample()));
process.send?.({ port: watchdog.listenAddresses[0]?.port });
