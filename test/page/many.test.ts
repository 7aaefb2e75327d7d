import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { answerWith, nodeSample, streamSample } from './support/samples.ts';
import { launch, openPage, stage } from './support/stage.ts';

const STREAMS = 5000;
const FRAMES = 120;
const FRAMES_AT_ONCE = 6;
/** With 60 frames a second. */
const FRAME_MS = 1000 / 60;
/** More than this at once, and a person notices that the page does not answer. It is what browsers call a long task. */
const LONG_TASK_MS = 50;

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

/** Scrolls by three rows a frame. */
const SCROLL = `new Promise((resolve) => {
  const place = document.querySelector('#streams-table .scroll');
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
  const streams = Array.from({ length: STREAMS }, (_, index) => streamSample(index));
  await answerWith(page, { streams });
  mishaps.length = 0;
  await page.goto(`${watchdog.admin}/#streams`);
  await page.locator('#streams-count', { hasText: String(STREAMS) }).waitFor();
  const work = await workPerFrame(page);
  const [mean, most] = [work.reduce((sum, each) => sum + each, 0) / work.length, Math.max(...work)];
  process.stdout.write(
    `processor time for each of ${FRAMES} frames: ${mean.toFixed(1)} ms, at most ${most.toFixed(1)} ms\n`,
  );
  expect(await page.locator('#streams-table .body .row').count()).toBeLessThan(60);
  expect(await page.evaluate("document.querySelector('#streams-table .scroll').scrollTop")).toBeGreaterThan(
    FRAMES * 100,
  );
  // Some machines are half as fast as others, so the limits are not those of a smooth page: the figures above show that.
  expect(mean).toBeLessThan(2 * FRAME_MS);
  expect(most).toBeLessThan(LONG_TASK_MS);
  const search = page.getByRole('searchbox', { name: 'Search streams' });
  await search.fill('node-4321');
  await page.getByText(`1 of ${STREAMS}`).waitFor();
  expect(await page.locator('#streams-table .body .row').count()).toBe(1);
  await context.close();
  await harness.closeAll();
});

const NODES = 1000;

test(`with ${NODES} nodes, an update and a letter in the search keep nobody waiting`, async () => {
  const { watchdog, harness } = await stage();
  const { page, context, mishaps } = await openPage(browser, 'about:blank');
  const nodes = Array.from({ length: NODES }, (_, index) => nodeSample(index));
  await answerWith(page, { nodes, streams: nodes.map((_, index) => streamSample(index)) });
  mishaps.length = 0;
  await page.goto(watchdog.admin);
  await page.getByText(`${NODES} of ${NODES} connected`).waitFor();
  const session = await page.context().newCDPSession(page);
  await session.send('Performance.enable', { timeDomain: 'threadTicks' });
  const worked = async (): Promise<number> => {
    const { metrics } = await session.send('Performance.getMetrics');
    return (metrics.find(({ name }) => name === 'TaskDuration')?.value ?? Number.NaN) * 1000;
  };
  // An update: answers come, and everything is sorted, filtered, counted and drawn again.
  const updates: number[] = [];
  for (let i = 0; i < 12; i++) {
    const before = await worked();
    const answered = page.waitForResponse('**/nodes');
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))");
    await answered;
    await page.evaluate(
      'new Promise((resolve) => setTimeout(() => requestAnimationFrame(() => setTimeout(resolve)), 150))',
    );
    updates.push((await worked()) - before);
  }
  const search = page.getByRole('searchbox', { name: 'Search nodes' });
  const letters: number[] = [];
  for (const letter of 'node-77') {
    const before = await worked();
    await search.press(letter);
    await page.evaluate('new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)))');
    letters.push((await worked()) - before);
  }
  const middle = (all: readonly number[]): number => all.toSorted((a, b) => a - b)[all.length >> 1] ?? Number.NaN;
  process.stdout.write(
    `processor time with ${NODES} nodes: an update ${middle(updates).toFixed(1)} ms (at most ${Math.max(...updates).toFixed(1)}), a letter in the search ${middle(letters).toFixed(1)} ms (at most ${Math.max(...letters).toFixed(1)})\n`,
  );
  await page.getByText(`${NODES} of ${NODES} connected, 11 shown`).waitFor();
  expect(await page.locator('#nodes-table .body .row').count()).toBe(11);
  expect(middle(updates)).toBeLessThan(2 * LONG_TASK_MS);
  expect(middle(letters)).toBeLessThan(2 * LONG_TASK_MS);
  await context.close();
  await harness.closeAll();
});
