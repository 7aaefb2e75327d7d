import type { Browser } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { answerWith, KINDS_OF_NODES, KINDS_OF_STREAMS, nodeSample } from './support/samples.ts';
import {
  accessibilityFaults,
  cutTexts,
  keyOfNode,
  launch,
  openPage,
  type Stage,
  shoot,
  stage,
} from './support/stage.ts';

let browser: Browser;
let on: Stage;
beforeAll(async () => {
  browser = await launch();
  on = await stage();
  const router = await on.node('router-1');
  await on.node('phone-2');
  router.freeze();
  router.comeBack();
  await router.accepted();
  key = keyOfNode(router);
});
afterEach(async () => {
  for (const context of browser.contexts()) await context.close();
});
afterAll(async () => {
  await browser.close();
  await on.harness.closeAll();
});
let key = '';

const NODES = [...KINDS_OF_NODES, ...Array.from({ length: 48 }, (_, index) => nodeSample(index + 20))];

describe.each([390, 1024, 1440])('%i px wide', (width) => {
  test.each(['light', 'dark'] as const)('every view is whole, legible and accessible, %s', async (colorScheme) => {
    const { page, mishaps } = await openPage(browser, on.watchdog.admin, { colorScheme });
    await page.setViewportSize({ width, height: width < 500 ? 844 : 900 });
    await answerWith(page, { nodes: NODES, streams: KINDS_OF_STREAMS });
    await page.reload();
    // What differs between the themes is the contrast, which axe measures.
    const look = async (name: string): Promise<void> => {
      await shoot(page, `${name}-${width}-${colorScheme}`);
      if (colorScheme === 'light') {
        expect([name, await cutTexts(page)]).toEqual([name, []]);
        expect([name, await page.evaluate('document.documentElement.scrollWidth - innerWidth')]).toEqual([name, 0]);
        if (name.includes('-')) return;
      } else if (name !== 'nodes' && name !== 'node') return;
      expect([name, await accessibilityFaults(page)]).toEqual([name, []]);
    };
    await page.locator('#nodes-table .body .row', { hasText: 'anna-laptop' }).waitFor();
    await look('nodes');
    // The other end of the sort, with what has no name.
    await page.evaluate(`document.querySelector('#nodes-table .sorter select').value = '-name';
      document.querySelector('#nodes-table .sorter select').dispatchEvent(new Event('change'))`);
    await page.locator('#nodes-table .body .row', { hasText: 'unknown' }).waitFor();
    await look('nodes-last');
    await page.getByRole('link', { name: 'Streams', exact: true }).click();
    await page.locator('#streams-table .body .row', { hasText: '987.7 MB' }).waitFor();
    await look('streams');
    await page.getByRole('link', { name: 'Events', exact: true }).click();
    await page.locator('#feed li', { hasText: 'takeover' }).waitFor();
    await look('events');
    await page.evaluate(`location.hash = 'node=${key}'`);
    await page.locator('.timeline .severed').first().waitFor();
    await look('node');
    const sizes = (await page.evaluate(`[...document.querySelectorAll('#node svg.timeline text')].map((each) =>
      Number.parseFloat(getComputedStyle(each).fontSize) * each.getScreenCTM().a)`)) as number[];
    expect(sizes.length).toBeGreaterThan(2);
    expect(Math.min(...sizes)).toBeGreaterThanOrEqual(11);
    await page.evaluate(`location.hash = 'node=${NODES[1]?.machineKey}'`);
    await page.getByRole('heading', { name: /^a-node-with/ }).waitFor();
    await look('node-long');
    expect(mishaps.filter((each) => !each.includes('404'))).toEqual([]);
  });

  test('a dialog keeps its distance from the edges', async () => {
    const { page } = await openPage(browser, `${on.watchdog.admin}/#streams`);
    await page.setViewportSize({ width, height: 844 });
    await page
      .getByRole('button', { name: /^Sever stream 2 of/ })
      .first()
      .click();
    const box = await page.locator('dialog').boundingBox();
    expect(box?.x).toBeGreaterThanOrEqual(16);
    expect((box?.x ?? 0) + (box?.width ?? 0)).toBeLessThanOrEqual(width - 16);
    await shoot(page, `dialog-${width}`);
    expect(await accessibilityFaults(page)).toEqual([]);
  });
});

test('where the table scrolls sideways, the name stays in sight, and every column can be reached', async () => {
  const { page } = await openPage(browser, on.watchdog.admin);
  await page.setViewportSize({ width: 800, height: 900 });
  await answerWith(page, { nodes: NODES });
  await page.reload();
  const row = page.locator('#nodes-table .body .row', { hasText: 'anna-laptop' });
  await row.waitFor();
  const before = await row.locator('.name').boundingBox();
  await page.evaluate("document.querySelector('#nodes-table .scroll').scrollLeft = 1000");
  expect((await row.locator('.name').boundingBox())?.x).toBe(before?.x);
  const [last, table] = [await row.locator('.expiry').boundingBox(), await page.locator('#nodes-table').boundingBox()];
  expect((last?.x ?? 0) + (last?.width ?? 0)).toBeLessThanOrEqual((table?.x ?? 0) + (table?.width ?? 0));
  await shoot(page, 'sideways');
});

test.each([1379, 1380])(
  '%i px wide, where the events come beside the table, it needs no scrolling sideways',
  async (width) => {
    const { page } = await openPage(browser, on.watchdog.admin);
    await page.setViewportSize({ width, height: 900 });
    await page.locator('#nodes-table .body .row').first().waitFor();
    expect(await page.locator('#feed').isVisible()).toBe(width === 1380);
    const beyond =
      "document.querySelector('#nodes-table .scroll').scrollWidth - document.querySelector('#nodes-table .scroll').clientWidth";
    expect(await page.evaluate(beyond)).toBe(0);
  },
);

test('a chosen theme stays, whatever the system prefers', async () => {
  const { page, mishaps } = await openPage(browser, on.watchdog.admin, { colorScheme: 'light' });
  const back = () => page.evaluate('getComputedStyle(document.body).backgroundColor');
  const light = await back();
  await page.getByLabel('Theme').selectOption('dark');
  const dark = await back();
  expect(dark).not.toBe(light);
  await page.reload();
  expect(await back()).toBe(dark);
  expect(await page.getByLabel('Theme').inputValue()).toBe('dark');
  await page.getByLabel('Theme').selectOption('');
  expect(await back()).toBe(light);
  await page.emulateMedia({ colorScheme: 'dark' });
  expect(await back()).toBe(dark);
  expect(mishaps).toEqual([]);
});
