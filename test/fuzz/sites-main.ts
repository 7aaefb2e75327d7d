/**
 * The watchdogs of the fuzzer, in a process of their own that says what it uses: one that listens to everybody, and one behind
 * a trusted proxy that speaks the PROXY protocol. Answers each message with a `Look`, taken after a full collection of garbage
 * (`--expose-gc`).
 *
 *     sites-main UPSTREAM
 */
import { readdirSync } from 'node:fs';
import { ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { queryObjects } from 'node:v8';
import { startWatchdog } from '../../src/app/watchdog.ts';
import { loadConfig } from '../../src/config/load.ts';
import { createLogger } from '../../src/telemetry/log.ts';
import { initiations, noiseKeyOf } from '../support/initiations.ts';

export interface Ports {
  readonly direct: number;
  readonly proxied: number;
}

export interface Look {
  readonly heapMb: number;
  readonly residentMb: number;
  readonly descriptors: number;
  /** In the heap, in whatever state. */
  readonly sockets: number;
  readonly answers: number;
  readonly errors: readonly string[];
}

/** Full after a fifth of the cases, so that what grows from there is something else. */
const HISTORY = 500;

const [upstream = ''] = process.argv.slice(2);
const errors: string[] = [];
for (const kind of ['unhandledRejection', 'uncaughtException'] as const) {
  process.on(kind, (error) => errors.push(`${kind}: ${error}`));
}

async function portOf(config: ReturnType<typeof loadConfig>): Promise<number> {
  const log = await createLogger('silent', process.stdout);
  const watchdog = await startWatchdog(config, { log, noiseKey: noiseKeyOf(initiations[0]) });
  watchdog.onEvent((event) => {
    if (event.kind === 'internal_error') errors.push(`${event.during}: ${event.error}`);
  });
  return watchdog.listenAddresses[0]?.port ?? 0;
}

const proxied = `listen: [{ address: 127.0.0.1:0, proxy-protocol: true }]
trusted-proxies: 127.0.0.0/8
upstream: ${upstream}
admin: 127.0.0.1:0
max-history: ${HISTORY}
`;
const ports: Ports = {
  direct: await portOf(
    loadConfig({
      ...{ upstream, listen: '127.0.0.1:0', admin: '127.0.0.1:0' },
      ...{ maxHistory: String(HISTORY), trustedProxies: 'none' },
    }),
  ),
  proxied: await portOf(loadConfig({}, { path: 'fuzz', text: proxied })),
};
process.on('message', () => {
  globalThis.gc?.();
  const { heapUsed, rss } = process.memoryUsage();
  const descriptors = readdirSync('/proc/self/fd').length;
  const [sockets, answers] = [Socket, ServerResponse].map((kind) => queryObjects(kind, { format: 'count' })) as [
    number,
    number,
  ];
  process.send?.({
    ...{ heapMb: heapUsed / 1e6, residentMb: rss / 1e6, descriptors, sockets, answers, errors },
  } satisfies Look);
});
process.send?.(ports);
