import { type AddressInfo, connect, createServer, Socket } from 'node:net';
import koffi from 'koffi';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Instant, plus } from '../../src/lib/clock.ts';
import { isDead } from '../../src/liveness/evidence.ts';
import { type Kernel, loadKernel } from '../../src/liveness/kernel.ts';
import { Harness, until } from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

describe.runIf(process.platform === 'linux')('loadKernel, on Linux', () => {
  let kernel: Kernel;
  let accepted: Socket;
  let client: Socket;
  beforeEach(async () => {
    const loaded = await loadKernel();
    if (!loaded.ok) throw new Error(loaded.why);
    ({ kernel } = loaded);
    const server = createServer({ allowHalfOpen: true });
    const connected = new Promise<Socket>((resolve) => server.once('connection', resolve));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    client = connect((server.address() as AddressInfo).port, '127.0.0.1');
    accepted = await connected;
    harness.defer(() => new Promise((resolve) => server.close(resolve)));
    harness.defer(() => accepted.destroy());
    harness.defer(() => client.destroy());
  });

  /** Linux counts in ticks of up to 10 ms, and was asked a moment before the time is looked at. */
  const heardSince = (since: number): boolean =>
    (kernel.evidenceOf(accepted)?.receivedAgoMs ?? Number.POSITIVE_INFINITY) < performance.now() - since + 50;

  test('finds the file descriptor of a socket in this version of Node, and makes no call without one', () => {
    expect((accepted as unknown as { _handle: { fd: number } })._handle.fd).toBeGreaterThan(2);
    expect(kernel.evidenceOf(accepted)).toBeDefined();
    const without = new Socket();
    expect(kernel.evidenceOf(without)).toBeUndefined();
    kernel.probe(without);
    kernel.setUserTimeout(without, 1000);
  });

  test('reports how long the client has been quiet', async () => {
    client.write('x');
    await new Promise((resolve) => setTimeout(resolve, 120));
    expect(kernel.evidenceOf(accepted)?.receivedAgoMs).toBeGreaterThanOrEqual(100);
    const wroteAt = performance.now();
    client.write('x');
    await until(() => heardSince(wroteAt), 'the new byte counts');
  });

  test('a client that does not read still acknowledges data, because its kernel does', async () => {
    client.pause();
    accepted.write(Buffer.alloc(1000));
    await until(() => kernel.evidenceOf(accepted)?.unackedSegments === 0, 'acknowledged');
    expect(kernel.evidenceOf(accepted)).toMatchObject({ retransmits: 0, unansweredProbes: 0 });
  });

  test('a client with a full receive window has unsent bytes, and is never called dead, however often it is probed', async () => {
    client.pause();
    const isFull = (): boolean => {
      accepted.write(Buffer.alloc(64 * 1024));
      const { unackedSegments, unsentBytes = 0 } = kernel.evidenceOf(accepted) ?? {};
      return unackedSegments === 0 && unsentBytes > 0;
    };
    await until(isFull, 'its window is full');
    const now = 1_000_000 as Instant;
    for (let i = 0; i < 20; i++) {
      kernel.probe(accepted);
      await new Promise((resolve) => setTimeout(resolve, 150));
      const evidence = kernel.evidenceOf(accepted);
      expect(evidence && isDead(evidence, plus(now, -60_000), now, false)).toBe(false);
    }
    expect(kernel.evidenceOf(accepted)?.unsentBytes).toBeGreaterThan(0);
  });

  test('a live kernel answers a probe on a quiet connection at once', async () => {
    await new Promise((resolve) => setTimeout(resolve, 1100));
    expect(kernel.evidenceOf(accepted)?.receivedAgoMs).toBeGreaterThanOrEqual(1000);
    const probedAt = performance.now();
    kernel.probe(accepted);
    await until(() => heardSince(probedAt), 'answered');
    expect(kernel.evidenceOf(accepted)?.unansweredProbes).toBe(0);
  });

  test('round-trip times are plausible for the loopback', () => {
    const evidence = kernel.evidenceOf(accepted);
    expect(evidence?.rttMs).toBeGreaterThan(0);
    expect(evidence?.rttMs).toBeLessThan(50);
  });

  test('a closed connection gives no evidence, and asking about it does no harm', async () => {
    accepted.destroy();
    await until(() => accepted.closed, 'closed');
    expect(kernel.evidenceOf(accepted)).toBeUndefined();
    kernel.probe(accepted);
    kernel.applyTimeouts(accepted, { userTimeoutMs: 1000, idleMs: 75_000, everyMs: 15_000, probes: 9 });
  });
});

const libc = process.platform === 'linux' ? koffi.load(null) : undefined;

// musl keeps little that is free, and has no call to give it back.
describe.runIf(isGlibc())('trimMemory, with glibc', () => {
  test('gives memory back that is free, but that glibc keeps because something behind it is in use', async () => {
    const loaded = await loadKernel();
    if (!loaded.ok) throw new Error(loaded.why);
    const malloc = libc?.func('void *calloc(size_t, size_t)') as (count: number, size: number) => unknown;
    const free = libc?.func('void free(void *)') as (block: unknown) => void;
    const MANY = 30_000;
    const blocks = Array.from({ length: MANY }, () => malloc(1, 1024));
    for (const block of blocks.slice(0, -1)) free(block);
    const before = process.memoryUsage.rss();
    loaded.kernel.trimMemory();
    expect(before - process.memoryUsage.rss()).toBeGreaterThan((MANY * 1024) / 2);
    free(blocks.at(-1));
  });
});

function isGlibc(): boolean {
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } };
  return header.glibcVersionRuntime !== undefined;
}

describe('loadKernel', () => {
  test('says why there is no kernel evidence on other systems', async () => {
    expect(await loadKernel('darwin')).toEqual({ ok: false, why: 'needs Linux, this is darwin' });
  });
});
