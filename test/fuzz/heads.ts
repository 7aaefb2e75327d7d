import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import fc from 'fast-check';
import { systemClock } from '../../src/clock.ts';
import { loadConfig } from '../../src/config/load.ts';
import { startControlServer } from '../../src/demo/control-server.ts';
import { SimulatedNode } from '../../src/demo/simulated-node.ts';
import { createLogger } from '../../src/telemetry/log.ts';
import { startWatchdog, type Watchdog } from '../../src/watchdog.ts';
import { until } from '../support/harness.ts';
import { initiations, noiseKeyOf } from '../support/initiations.ts';
import { type Client, client } from './heads-arbitrary.ts';
import type { Target } from './target.ts';
import { startTap } from './upstream-tap.ts';

const AT_ONCE = 16;
/** Far more than an answer takes, also beside other work. */
const ENDS_WITHIN_MS = 8000;
/** Who is not answered by then has sent a part of a request. */
const ANSWERED_WITHIN_MS = 20;
/**
 * How much more heap may be in use at the end than after a fifth of the cases: what a collection leaves differs; handshakes are
 * remembered, to know replays; and the control server and the clients are in this process, too. A connection, a request
 * or a stream that were kept would each be kilobytes.
 */
const MOST_GROWTH_BYTES = 8e6;
const MOST_GROWTH_BYTES_PER_HEAD = 500;

interface Site {
  readonly watchdog: Watchdog;
  readonly errors: string[];
}

/** A listener for everybody, and one behind a trusted proxy that speaks the PROXY protocol. */
async function siteOf(upstream: string, trusted: boolean): Promise<Site> {
  const flags = {
    upstream,
    listen: '127.0.0.1:0',
    admin: '127.0.0.1:0',
    trustedProxies: trusted ? ['127.0.0.0/8'] : undefined,
  };
  const text = `listen: [{ address: 127.0.0.1:0, proxy-protocol: true }]\ntrusted-proxies: 127.0.0.0/8\nupstream: ${upstream}\nadmin: 127.0.0.1:0\n`;
  const config = trusted ? loadConfig({}, { path: 'fuzz', text }) : loadConfig(flags);
  const log = createLogger('silent', process.stdout);
  const watchdog = await startWatchdog(config, { log, noiseKey: noiseKeyOf(initiations[0]) });
  const errors: string[] = [];
  watchdog.onEvent((event) => {
    if (event.kind === 'internal error') errors.push(`${event.during}: ${event.error}`);
  });
  return { watchdog, errors };
}

/** Sends all of it, leaves, and sees the connection end. */
async function visit(port: number, { pieces, leaves }: Client): Promise<void> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
  socket.on('error', () => {}).resume();
  const answered = new Promise<void>((resolve) => socket.once('data', () => resolve()).once('close', () => resolve()));
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  for (const piece of pieces) {
    if (socket.writable) socket.write(piece);
    await new Promise((resolve) => setImmediate(resolve));
  }
  if (leaves === 'answered') await Promise.race([answered, pause(ANSWERED_WITHIN_MS)]);
  leave(socket, leaves);
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`still open ${ENDS_WITHIN_MS} ms after its client's end`)),
      ENDS_WITHIN_MS,
    );
  });
  await Promise.race([closed, late]).finally(() => {
    clearTimeout(timer);
    socket.destroy();
  });
}

function leave(socket: Socket, how: Client['leaves']): void {
  if (how !== 'reset') socket.end();
  else if (!socket.connecting) socket.resetAndDestroy();
  else socket.once('connect', () => socket.resetAndDestroy());
}

function heapBytes(): number {
  globalThis.gc?.();
  return process.memoryUsage().heapUsed;
}

const descriptors = (): number => readdirSync('/proc/self/fd').length;

const portOf = ({ watchdog }: Site): number => watchdog.listenAddresses[0]?.port ?? 0;

/** A node that has its stream, and must keep it. */
async function bystanderAt(port: number, lost: string[]): Promise<SimulatedNode> {
  const serverUrl = new URL(`http://127.0.0.1:${port}`);
  const onLost = (_: unknown, why: string): void => void lost.push(why);
  const bystander = new SimulatedNode({ name: 'bystander', serverUrl, clock: systemClock, onLost });
  bystander.start();
  await bystander.accepted();
  return bystander;
}

async function fuzzHeads(cases: number, seed: number): Promise<number> {
  const control = await startControlServer({ secondStream: 'accept', noiseKey: noiseKeyOf(initiations[0]) });
  const tap = await startTap(control.url);
  const [direct, proxied] = [await siteOf(tap.url, false), await siteOf(tap.url, true)];
  const lost: string[] = [];
  const bystander = await bystanderAt(portOf(direct), lost);
  const openBefore = descriptors();
  let heads = 0;
  const round = fc.asyncProperty(fc.array(client, { minLength: AT_ONCE, maxLength: AT_ONCE }), async (clients) => {
    await Promise.all(clients.map((each) => visit(portOf(each.byProxyProtocol ? proxied : direct), each)));
    heads += clients.length;
    assert.deepEqual([...direct.errors, ...proxied.errors], [], 'internal errors');
    assert.deepEqual(tap.complaints, [], 'what Headscale saw');
    assert.deepEqual(lost, [], 'the bystander lost its stream');
  });
  // A smaller round would fail for the same complaint, which stays, and tells the bytes itself.
  const endOnFailure = true;
  const rounds = Math.ceil(cases / AT_ONCE);
  try {
    await fc.assert(round, { numRuns: Math.ceil(rounds / 5), seed, endOnFailure });
    const early = heapBytes();
    await fc.assert(round, { numRuns: rounds - Math.ceil(rounds / 5), seed: seed + 1, endOnFailure });
    await until(() => descriptors() <= openBefore, `${openBefore} descriptors, as before`, ENDS_WITHIN_MS);
    const late = heapBytes();
    const [mbEarly, mbLate] = [early, late].map((heap) => (heap / 1e6).toFixed(1));
    process.stdout.write(
      `  ${tap.requests} requests reached Headscale; heap ${mbEarly} MB after a fifth, ${mbLate} MB at the end\n`,
    );
    const most = MOST_GROWTH_BYTES + MOST_GROWTH_BYTES_PER_HEAD * heads;
    assert.ok(late - early < most, `the heap grew from ${mbEarly} to ${mbLate} MB`);
    assert.equal(bystander.state, 'accepted');
    return heads;
  } finally {
    await bystander.stop();
    for (const { watchdog } of [direct, proxied]) await watchdog.close();
    await Promise.all([control.close(), tap.close()]);
  }
}

/** A running watchdog before the demo's control server: every connection ends, nothing is smuggled, nobody else loses a stream. */
export const requestHeads: Target = { name: 'request heads', share: 0.2, run: fuzzHeads };
