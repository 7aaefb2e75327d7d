import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { largeBuffers, MOST_LARGE } from '../../src/proxy/pooled-reads.ts';
import { Harness, SWITCHING } from '../support/harness.ts';
import { pass, right, type Side, type Terms } from '../support/tunnel-bytes.ts';

const RUNS = Number(process.env.BYTES_RUNS ?? 12);
const SEED = Number(process.env.BYTES_SEED ?? Math.floor(Math.random() * 2 ** 31));

const harness = new Harness();
beforeEach(() => void vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0'));
afterEach(async () => {
  await harness.closeAll();
  vi.unstubAllEnvs();
  expect(largeBuffers().inUse, 'large buffers that nobody gave back').toBe(0);
});

const side = fc.record<Side>({
  seed: fc.nat(),
  length: fc.integer({ min: 20_000, max: 3_000_000 }),
  writes: fc.array(
    fc.oneof(
      fc.integer({ min: 1, max: 2000 }),
      fc.integer({ min: 8000, max: 20_000 }),
      fc.integer({ min: 1, max: 300_000 }),
    ),
    { minLength: 1, maxLength: 5 },
  ),
  burst: fc.integer({ min: 1, max: 20 }),
  restsReading: fc.constantFrom(0, 0, 1, 10),
  early: fc.constantFrom(0, 1, 512, 15_000),
});

const BULK: Side = { seed: 1, length: 5_000_000, writes: [100_000], burst: 4, restsReading: 0, early: 0 };

describe('the bytes of a tunnel', () => {
  for (const [name, tlsListener, tlsUpstream] of [
    ['no TLS', false, false],
    ['TLS towards the client', true, false],
    ['TLS towards Headscale', false, true],
    ['TLS on both sides', true, true],
  ] as const) {
    test.each([0, 5])(
      `arrive unchanged in both directions: bulk, ${name}, readers that pause for %d turns`,
      async (rests) => {
        const terms: Terms = {
          ...{ tlsListener, tlsUpstream, proxyHeader: 'none' },
          client: { ...BULK, restsReading: rests },
          upstream: { ...BULK, seed: 2, restsReading: rests },
        };
        expect(await pass(harness, terms)).toEqual(right(terms));
      },
    );
  }

  test('arrive unchanged with any sizes, pauses and bursts, also before the 101, and behind any PROXY header', async () => {
    const terms = fc.record<Terms>({
      tlsListener: fc.boolean(),
      tlsUpstream: fc.boolean(),
      proxyHeader: fc.constantFrom('none', 'v1', 'v2'),
      client: side,
      upstream: side,
    });
    const property = fc.asyncProperty(terms, async (each) => {
      expect(await pass(harness, each)).toEqual(right(each));
      await harness.closeAll();
    });
    await fc.assert(property, { numRuns: RUNS, seed: SEED, endOnFailure: true });
  });
});

describe('the memory of idle tunnels', () => {
  test('is bounded, however much each one has carried before', async () => {
    const TUNNELS = 250;
    // Comes in one piece, so that the last that is read is much.
    const MAP = Buffer.alloc(20_000, 7);
    const upstream = await harness.upstream((_request, socket) => {
      socket.on('error', () => {}).write(SWITCHING);
      socket.on('data', () => socket.write(MAP));
    });
    const { port } = await harness.watchdog(upstream.url);
    const before = arrayBuffers();
    await Promise.all(
      Array.from({ length: TUNNELS }, async () => {
        const socket = await harness.upgraded(port);
        let received = 0;
        await new Promise<void>((resolve) => {
          socket.on('data', ({ length }) => {
            received += length;
            if (received === MAP.length) resolve();
          });
          socket.write('a map, please');
        });
      }),
    );
    const { made, inUse } = largeBuffers();
    expect(inUse).toBe(MOST_LARGE);
    expect(made).toBe(MOST_LARGE);
    expect(arrayBuffers() - before).toBeLessThan(MOST_LARGE * 128 * 1024 + 4_000_000);
  });
});

/** How many bytes all Buffers have that are still referred to. */
function arrayBuffers(): number {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
  return process.memoryUsage().arrayBuffers;
}
