import type { Socket } from 'node:net';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { largeBuffers, MOST_LARGE, MOST_RESTS, releaseIdle } from '../../src/proxy/pooled-reads.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { Harness, SWITCHING, until } from '../support/harness.ts';
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
    const property = fc.asyncProperty(terms, fc.constantFrom(1, 5, 1000), async (each, releasesEveryMs) => {
      const releasing = setInterval(releaseIdle, releasesEveryMs);
      try {
        expect(await pass(harness, each)).toEqual(right(each));
        await harness.closeAll();
      } finally {
        clearInterval(releasing);
      }
    });
    await fc.assert(property, { numRuns: RUNS, seed: SEED, endOnFailure: true });
  });
});

describe('the memory of idle tunnels', () => {
  // Comes in one piece, so that the last that is read is much.
  const MAP = Buffer.alloc(20_000, 7);

  /** Tunnels. `getMaps` gets a map over each of them, and checks it; `round` lets a round of the watchdog's pass. */
  async function tunnels(count: number) {
    const upstream = await harness.upstream((_request, socket) => {
      socket.on('error', () => {}).write(SWITCHING);
      socket.on('data', () => socket.write(MAP));
    });
    const clock = new FakeClock();
    const { port } = await harness.watchdog(upstream.url, {}, undefined, { clock });
    const clients = await Promise.all(Array.from({ length: count }, () => harness.upgraded(port)));
    const getMap = async (client: Socket): Promise<void> => {
      let [received, right] = [0, true];
      const check = (chunk: Buffer): void => {
        right &&= chunk.equals(MAP.subarray(received, received + chunk.length));
        received += chunk.length;
      };
      client.on('data', check).write('a map, please');
      await until(() => received >= MAP.length, 'the map has come');
      client.off('data', check);
      expect([received, right]).toEqual([MAP.length, true]);
    };
    return { getMaps: () => Promise.all(clients.map(getMap)), round: () => clock.advance(4000) };
  }

  test('is bounded, however much came over each before, and given back when none comes', async () => {
    const { getMaps, round } = await tunnels(250);
    const before = arrayBuffers();
    for (const _burst of [1, 2]) {
      await getMaps();
      expect(largeBuffers()).toEqual({ made: MOST_LARGE, inUse: MOST_LARGE });
      expect(arrayBuffers() - before).toBeLessThan(MOST_LARGE * 128 * 1024 + 4_000_000);
      round();
      expect(largeBuffers().inUse).toBe(MOST_LARGE);
      round();
      expect(largeBuffers()).toEqual({ made: MOST_LARGE, inUse: 0 });
      round();
      expect(largeBuffers()).toEqual({ made: 0, inUse: 0 });
      expect(arrayBuffers() - before).toBeLessThan(4_000_000);
    }
  });

  test('is kept while more comes', async () => {
    const { getMaps, round } = await tunnels(3);
    for (const _burst of [1, 2, 3, 4, 5]) {
      await getMaps();
      round();
      expect(largeBuffers().inUse).toBe(3);
    }
  });

  test('is not given back without end by one socket: Node keeps a little of each buffer', async () => {
    const { getMaps, round } = await tunnels(1);
    for (let rests = 0; rests <= MOST_RESTS; rests++) {
      await getMaps();
      for (const _time of [1, 2]) round();
      expect(largeBuffers().inUse).toBe(rests < MOST_RESTS ? 0 : 1);
    }
  });
});

/** How many bytes all Buffers have that are still referred to. */
function arrayBuffers(): number {
  setFlagsFromString('--expose-gc');
  // The first collection may leave the memory of dead Buffers to a thread, which the second one waits for.
  for (const _time of [1, 2]) (runInNewContext('gc') as () => void)();
  return process.memoryUsage().arrayBuffers;
}
