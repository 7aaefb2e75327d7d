import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import fc from 'fast-check';
import { startControlServer } from '../../src/demo/control-server.ts';
import { SimulatedNode } from '../../src/demo/simulated-node.ts';
import { systemClock } from '../../src/lib/clock.ts';
import { until } from '../support/harness.ts';
import { initiations, noiseKeyOf } from '../support/initiations.ts';
import { type Client, client } from './heads-arbitrary.ts';
import type { Look, Ports } from './sites-main.ts';
import type { Target } from './target.ts';
import { startTap } from './upstream-tap.ts';

const AT_ONCE = 16;
/** Far more than an answer takes, also beside other work. */
const ENDS_WITHIN_MS = 8000;
/** Who is not answered by then has sent a part of a request. */
const ANSWERED_WITHIN_MS = 20;
/** What a collection leaves differs. A connection, a request or a stream that was kept would each be kilobytes. */
const MOST_GROWTH_MB = 8;
/** Of sockets and answers that are about to be forgotten. */
const FEW = 4;

/** The watchdogs, in their own process. */
class Sites {
  readonly #child: ChildProcess;
  readonly ports: Ports;

  private constructor(child: ChildProcess, ports: Ports) {
    this.#child = child;
    this.ports = ports;
  }

  static async start(upstream: string): Promise<Sites> {
    const main = join(import.meta.dirname, 'sites-main.ts');
    const child = spawn(
      process.execPath,
      ['--expose-gc', '--disable-warning=ExperimentalWarning', '--import', 'tsx', main, upstream],
      {
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      },
    );
    const ended = once(child, 'exit').then(() => Promise.reject(new Error('the watchdogs did not start')));
    const [ports] = (await Promise.race([once(child, 'message'), ended])) as [Ports];
    return new Sites(child, ports);
  }

  get hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  async look(): Promise<Look> {
    const answer = once(this.#child, 'message', { signal: AbortSignal.timeout(60_000) });
    this.#child.send('look');
    return (await answer)[0] as Look;
  }

  async stop(): Promise<void> {
    if (this.hasEnded) return;
    const closed = once(this.#child, 'close');
    this.#child.kill('SIGKILL');
    await closed;
  }
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
  const sites = await Sites.start(tap.url);
  const { direct, proxied } = sites.ports;
  const lost: string[] = [];
  const bystander = await bystanderAt(direct, lost);
  const before = await sites.look();
  let heads = 0;
  const round = fc.asyncProperty(fc.array(client, { minLength: AT_ONCE, maxLength: AT_ONCE }), async (clients) => {
    await Promise.all(clients.map((each) => visit(each.byProxyProtocol ? proxied : direct, each)));
    heads += clients.length;
    assert.ok(!sites.hasEnded, 'the watchdogs run');
    assert.deepEqual(tap.complaints, [], 'what Headscale saw');
    assert.deepEqual(lost, [], 'the bystander lost its stream');
  });
  // A smaller round would fail for the same complaint, which stays, and tells the bytes itself.
  const endOnFailure = true;
  const rounds = Math.ceil(cases / AT_ONCE);
  try {
    await fc.assert(round, { numRuns: Math.ceil(rounds / 5), seed, endOnFailure });
    const early = await sites.look();
    await fc.assert(round, { numRuns: rounds - Math.ceil(rounds / 5), seed: seed + 1, endOnFailure });
    await until(
      async () => (await sites.look()).descriptors <= before.descriptors,
      `${before.descriptors} descriptors, as before`,
      ENDS_WITHIN_MS,
    );
    const late = await sites.look();
    const told = ({ heapMb, residentMb, sockets, answers }: Look): string =>
      `heap ${heapMb.toFixed(1)} MB, resident ${residentMb.toFixed(1)} MB, ${sockets} sockets, ${answers} answers`;
    process.stdout.write(
      `  ${tap.requests} requests reached Headscale; ${told(before)} before, ${told(early)} after a fifth, ${told(late)} at the end\n`,
    );
    assert.deepEqual(late.errors, [], 'internal errors');
    assert.ok(late.sockets <= before.sockets + FEW && late.answers <= FEW, `kept: ${told(before)}, ${told(late)}`);
    assert.ok(late.heapMb - early.heapMb < MOST_GROWTH_MB, `the heap grew: ${told(early)}, then ${told(late)}`);
    assert.equal(bystander.state, 'accepted');
    return heads;
  } finally {
    await bystander.stop();
    await sites.stop();
    await Promise.all([control.close(), tap.close()]);
  }
}

/** A running watchdog before the demo's control server: every connection ends, nothing is smuggled, nobody else loses a stream. */
export const requestHeads: Target = { name: 'request heads', share: 0.2, run: fuzzHeads };
