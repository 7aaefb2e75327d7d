import type { Browser } from 'playwright-core';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { startControlServer } from '../../src/demo/control-server.ts';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import { SimulatedNode } from '../../src/demo/simulated-node.ts';
import { Harness, type TestWatchdog, until } from '../support/harness.ts';
import { RedisServer } from '../support/redis.ts';
import { launch, openPage } from './support/stage.ts';

let browser: Browser;
const harness = new Harness();
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());
afterEach(async () => {
  for (const context of browser.contexts()) await context.close();
  await harness.closeAll();
});

test("the page of one watchdog shows the other's streams with their replica, and severs one there", async () => {
  const redis = await RedisServer.start();
  harness.defer(() => redis.close());
  const noiseKey = generateNoiseKey();
  const control = await startControlServer({ secondStream: 'refuse', noiseKey });
  harness.defer(() => control.close());
  const one = (replicaName: string): Promise<TestWatchdog> =>
    harness.watchdog(control.url.origin, { redis: redis.url, replicaName }, noiseKey);
  const [a, b] = [await one('a'), await one('b')];
  const hasJoined = ({ events }: TestWatchdog): boolean => events.some(({ kind }) => kind === 'redis_up');
  await until(() => hasJoined(a) && hasJoined(b), 'both have joined');
  const node = async (name: string, at: TestWatchdog): Promise<SimulatedNode> => {
    const made = new SimulatedNode({ name, serverUrl: new URL(at.url) });
    harness.defer(() => made.stop());
    made.start();
    await made.accepted();
    return made;
  };
  await node('at-a', a);
  const atB = await node('at-b', b);

  const { page, mishaps } = await openPage(browser, `${a.admin}/#streams`);
  // Each learns of the other when that one says that it is there: every five seconds.
  const rowOf = (replica: string) => page.locator(`#streams-table .body .row[data-id^="${replica}#"][data-id$="/1"]`);
  await rowOf('a').waitFor();
  await rowOf('b').waitFor();
  await rowOf('b')
    .getByRole('button', { name: /^Sever stream 1 of / })
    .click();
  await page.getByRole('button', { name: 'Sever it' }).click();
  await page.getByText(/^Asked b#.* to sever stream 1 of .*\.$/).waitFor();
  await until(
    () => b.events.some((event) => event.kind === 'stream_closed' && event.reason === 'severed_by_operator'),
    'B severs it',
  );
  expect(a.events.some(({ kind }) => kind === 'stream_closed')).toBe(false);
  // It is alive, so it comes back by itself.
  await page.locator('#streams-table .body .row[data-id^="b#"][data-id$="/2"]').waitFor();
  expect(atB.state).toBe('accepted');
  expect(mishaps).toEqual([]);
});
