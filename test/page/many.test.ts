import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { launch, openPage, stage } from './support/stage.ts';

const STREAMS = 5000;
const FRAMES = 120;

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

function streamOf(index: number): object {
  const hex = (index + 1).toString(16).padStart(64, '0');
  const date = new Date(Date.now() - index * 1000).toISOString();
  return {
    ...{ id: index + 1, kind: 'control', machineKey: `mkey:${hex}`, remoteAddress: `192.0.2.${index % 250}:${index}` },
    node: { id: String(index), name: `node-${index + 1}`, user: 'someone', nodeKey: `nodekey:${hex}` },
    ...{ openedAt: date, lastHeardAt: date, bytesReceived: index * 1000, bytesSent: index * 100, state: 'open' },
    ...{ wouldSever: null, kernel: { rttMs: (index * 7) % 300 }, contests: [] },
  };
}

/** Scrolls by three rows a frame, and takes the time from each frame to the next. */
const SCROLL = `new Promise((resolve) => {
  const place = document.querySelector('.scroll');
  const times = [];
  let last = performance.now();
  const step = (now) => {
    times.push(now - last);
    last = now;
    place.scrollTop += 120;
    if (times.length <= ${FRAMES}) requestAnimationFrame(step);
    else resolve(times.slice(1));
  };
  requestAnimationFrame(step);
})`;

test(`with ${STREAMS} streams only few rows are created, and scrolling stays smooth`, async () => {
  const { watchdog, harness } = await stage();
  const { page, mishaps, context } = await openPage(browser, 'about:blank');
  const streams = Array.from({ length: STREAMS }, (_, index) => streamOf(index));
  await page.route('**/streams', (route) => route.fulfill({ json: { total: STREAMS, streams } }));
  mishaps.length = 0;
  await page.goto(watchdog.admin);
  await page.locator('#count', { hasText: String(STREAMS) }).waitFor();
  const times = ((await page.evaluate(SCROLL)) as number[]).sort((a, b) => a - b);
  const at = (share: number): number => times[Math.floor(times.length * share)] ?? Number.NaN;
  const [median, p95] = [at(0.5), at(0.95)];
  process.stdout.write(
    `frame to frame over ${FRAMES} frames: median ${median.toFixed(1)} ms, p95 ${p95.toFixed(1)} ms\n`,
  );
  expect(await page.locator('.body .row').count()).toBeLessThan(60);
  expect(await page.evaluate("document.querySelector('.scroll').scrollTop")).toBeGreaterThan(FRAMES * 100);
  // 60 a second are 16.7 ms; twice that on a machine that is busy with other things.
  expect(median).toBeLessThan(34);
  expect(p95).toBeLessThan(67);
  const search = page.getByRole('searchbox');
  await search.fill('node-4321');
  await page.getByText(`1 of ${STREAMS}`).waitFor();
  expect(await page.locator('.body .row').count()).toBe(1);
  await context.close();
  await harness.closeAll();
});
