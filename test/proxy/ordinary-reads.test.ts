import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { largeBuffers } from '../../src/proxy/pooled-reads.ts';
import type { Logger } from '../../src/telemetry/log.ts';
import { Harness } from '../support/harness.ts';
import { scrape } from '../support/http.ts';
import { pass, right, type Side, type Terms } from '../support/tunnel-bytes.ts';

// A Node that has renamed one of the fields that pooled reads need.
vi.hoisted(() => {
  const real = Object.getOwnPropertySymbols;
  Object.getOwnPropertySymbols = (of) => real(of).filter(({ description }) => description !== 'kBufferGen');
});

const harness = new Harness();
beforeEach(() => void vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0'));
afterEach(async () => {
  await harness.closeAll();
  vi.unstubAllEnvs();
});

const SIDE: Side = { seed: 1, length: 3_000_000, writes: [100, 100_000], burst: 4, restsReading: 3, early: 512 };

test.each([
  [false, false],
  [true, true],
])('if reads cannot be pooled, bytes still arrive unchanged (TLS: %s, %s)', async (tlsListener, tlsUpstream) => {
  const terms: Terms = {
    ...{ tlsListener, tlsUpstream, proxyHeader: 'v2' },
    ...{ client: SIDE, upstream: { ...SIDE, seed: 2 } },
  };
  expect(await pass(harness, terms)).toEqual(right(terms));
  expect(largeBuffers().made).toBe(0);
});

test('if reads cannot be pooled, there is a warning at the start, and a metric shows it', async () => {
  const warned: unknown[] = [];
  const log = new Proxy({} as Logger, {
    get: (_of, level) => (level === 'warn' ? (...args: unknown[]) => warned.push(args.at(-1)) : () => {}),
  });
  const upstream = await harness.upstream(() => {});
  const { admin } = await harness.watchdog(upstream.url, {}, undefined, { log });
  expect(warned).toContainEqual(expect.stringMatching(/^reads are not pooled: /));
  expect((await scrape(admin)).get('headscale_watchdog_reads_pooled')).toBe(0);
});
