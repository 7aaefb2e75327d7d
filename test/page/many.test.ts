import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { launch, openPage, stage } from './support/stage.ts';

const STREAMS = 5000;
const FRAMES = 120;
const FRAMES_AT_ONCE = 6;
/** With 60 frames a second. */
const FRAME_MS = 1000 / 60;

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
    evidence: { source: 'direct', by: null, user: null, reason: null },
    ...{ wouldSever: null, kernel: { rttMs: (index * 7) % 300 }, contests: [] },
  };
}

/** Scrolls by three rows a frame. */
const SCROLL = `new Promise((resolve) => {
  const place = document.querySelector('.scroll');
  let left = ${FRAMES_AT_ONCE};
  const step = () => {
    place.scrollTop += 120;
    left -= 1;
    requestAnimationFrame(left > 0 ? step : resolve);
  };
  requestAnimationFrame(step);
})`;

/**
 * How long the page's own thread works for each frame while it scrolls, in milliseconds: the mean of a few frames, again
 * and again. It is the thread's processor time, which is the same on a busy machine. A frame to the next takes longer there.
 */
async function workPerFrame(page: Page): Promise<readonly number[]> {
  const session = await page.context().newCDPSession(page);
  await session.send('Performance.enable', { timeDomain: 'threadTicks' });
  const worked = async (): Promise<number> => {
    const { metrics } = await session.send('Performance.getMetrics');
    return (metrics.find(({ name }) => name === 'TaskDuration')?.value ?? Number.NaN) * 1000;
  };
  const work: number[] = [];
  let before = await worked();
  for (let frames = 0; frames < FRAMES; frames += FRAMES_AT_ONCE) {
    await page.evaluate(SCROLL);
    const now = await worked();
    work.push((now - before) / FRAMES_AT_ONCE);
    before = now;
  }
  return work;
}

test(`with ${STREAMS} streams only few rows are created, and scrolling stays smooth`, async () => {
  const { watchdog, harness } = await stage();
  const { page, mishaps, context } = await openPage(browser, 'about:blank');
  const streams = Array.from({ length: STREAMS }, (_, index) => streamOf(index));
  await page.route('**/streams', (route) => route.fulfill({ json: { total: STREAMS, streams } }));
  mishaps.length = 0;
  await page.goto(watchdog.admin);
  await page.locator('#count', { hasText: String(STREAMS) }).waitFor();
  const work = await workPerFrame(page);
  const [mean, most] = [work.reduce((sum, each) => sum + each, 0) / work.length, Math.max(...work)];
  process.stdout.write(
    `processor time for each of ${FRAMES} frames: ${mean.toFixed(1)} ms, at most ${most.toFixed(1)} ms\n`,
  );
  expect(await page.locator('.body .row').count()).toBeLessThan(60);
  expect(await page.evaluate("document.querySelector('.scroll').scrollTop")).toBeGreaterThan(FRAMES * 100);
  expect(mean).toBeLessThan(FRAME_MS / 2);
  expect(most).toBeLessThan(FRAME_MS);
  const search = page.getByRole('searchbox');
  await search.fill('node-4321');
  await page.getByText(`1 of ${STREAMS}`).waitFor();
  expect(await page.locator('.body .row').count()).toBe(1);
  await context.close();
  await harness.closeAll();
});
