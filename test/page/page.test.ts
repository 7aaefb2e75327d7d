import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { until } from '../support/harness.ts';
import { freePort } from '../support/process.ts';
import {
  accessibilityFaults,
  HANGS_MS,
  keyOfNode,
  launch,
  openPage,
  requestsForEvents,
  type Stage,
  shoot,
  stage,
} from './support/stage.ts';

let browser: Browser;
const stages: Stage[] = [];
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());
afterEach(async () => {
  for (const context of browser.contexts()) await context.close();
  for (const each of stages.splice(0)) await each.harness.closeAll();
});

async function on(flags: Record<string, unknown> = {}): Promise<Stage> {
  const made = await stage(flags);
  stages.push(made);
  return made;
}

const KERNEL = {
  ...{ unackedSegments: 0, unsentBytes: 0, ackedBytes: 100, retransmits: 0, unansweredProbes: 0 },
  ...{ receivedAgoMs: 3000, rttMs: 12, rttvarMs: 3 },
};
const NOTHING = { by: null, user: null, reason: null };
/** Where the evidence of a stream may come from, what the table shows of it, and what the node's page says. */
const EVIDENCE = [
  [
    { evidence: { ...NOTHING, source: 'direct' }, kernel: KERNEL },
    '12 ms',
    "the client's own connection, round trip 12 ms, last sign of life 3 s ago",
  ],
  [
    {
      evidence: { ...NOTHING, source: 'proxy', by: 'port', user: 'caddy' },
      kernel: { ...KERNEL, unansweredProbes: 2 },
    },
    '12 ms via proxy',
    "the client's connection to the proxy (user caddy, found by port), round trip 12 ms, last sign of life 3 s ago, 2 probes not answered",
  ],
  [
    {
      evidence: { ...NOTHING, source: 'proxy', by: 'address', user: 'www-data' },
      kernel: { ...KERNEL, rttMs: 1234, unackedSegments: 2, retransmits: 1 },
    },
    '1234 ms via proxy',
    "all connections from the client's address to the proxy (user www-data, found by address), round trip 1234 ms, last sign of life 3 s ago, 1 retransmission not acknowledged",
  ],
  [
    {
      evidence: { ...NOTHING, source: 'proxy', by: 'port', user: 'caddy' },
      kernel: { ...KERNEL, rttMs: 0, ended: true },
    },
    '– via proxy',
    "the client's connection to the proxy (user caddy, found by port), the client has left it",
  ],
  [
    { evidence: { ...NOTHING, source: 'proxy', by: 'port', user: 'caddy' }, kernel: null },
    '– via proxy',
    "the client's connection to the proxy (user caddy, found by port), nothing seen yet",
  ],
  [
    { evidence: { ...NOTHING, source: 'none', reason: 'proxy_elsewhere' }, kernel: null },
    '– no evidence',
    'none: the proxy runs on another machine or in another network namespace',
  ],
] as const;

describe('the status page', () => {
  test.each([390, 1024, 1440])(
    'shows where the evidence of each stream comes from, without cutting it, %i px wide',
    async (width) => {
      const { watchdog } = await on();
      const date = new Date().toISOString();
      const streams = EVIDENCE.map(([shown], index) => ({
        ...{
          id: index + 1,
          replica: null,
          kind: 'control',
          machineKey: `mkey:${String(index).repeat(64)}`,
          node: null,
        },
        ...{ remoteAddress: '203.0.113.200:50000', openedAt: date, lastHeardAt: date, upstreamLastHeardAt: date },
        ...{ bytesReceived: 123_456, bytesSent: 987_654, state: 'open', heldUntil: null, closeReason: null },
        ...{ wouldSever: null, contests: [], ...shown },
      }));
      const { page, mishaps } = await openPage(browser, watchdog.admin);
      await page.setViewportSize({ width, height: 900 });
      await page.route('**/streams', (route) => route.fulfill({ json: { total: streams.length, streams } }));
      await page.reload();
      await page
        .locator('.body .row')
        .nth(EVIDENCE.length - 1)
        .waitFor();
      for (const [index, [, cell, sentence]] of EVIDENCE.entries()) {
        const place = page.locator(`.body .row[data-id="${index + 1}"] > :nth-child(6)`);
        expect((await place.innerText()).replace(/\s+/g, ' ').trim()).toBe(cell);
        expect(await place.getAttribute('title')).toBe(`Evidence: ${sentence}`);
      }
      const cut =
        "[...document.querySelectorAll('.body .row > :nth-child(6), .body .row > :nth-child(6) *')]" +
        '.filter((one) => one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0 || one.getBoundingClientRect().height > 39)' +
        '.map((one) => one.textContent)';
      expect(await page.evaluate(cut)).toEqual([]);
      await shoot(page, `evidence-${width}`);
      expect(await accessibilityFaults(page)).toEqual([]);
      for (const [index, [, , sentence]] of EVIDENCE.entries()) {
        await page.evaluate(`location.hash = 'node=mkey:${String(index).repeat(64)}'`);
        await page.locator('#node dd', { hasText: sentence }).waitFor();
      }
      // Nothing stands out of the page to the right.
      expect(await page.evaluate('document.documentElement.scrollWidth - innerWidth')).toBeLessThanOrEqual(0);
      await shoot(page, `evidence-node-${width}`);
      expect(mishaps).toEqual([]);
    },
  );

  test('a node behind a proxy that hides its clients: no evidence, and why', async () => {
    const { watchdog, node } = await on({ trustedProxies: '127.0.0.1' });
    const phone = await node('phone-2');
    const { page } = await openPage(browser, watchdog.admin);
    await page.locator('.body .row', { hasText: 'no evidence' }).waitFor();
    await page.goto(`${watchdog.admin}/#node=${keyOfNode(phone)}`);
    await page.locator('#node dd', { hasText: 'none: the proxy does not say who its client is' }).waitFor();
  });

  test.each(['light', 'dark'] as const)('shows a takeover as it happens, %s', async (colorScheme) => {
    const { watchdog, node } = await on();
    const router = await node('router-1');
    await node('phone-2');
    const { page, mishaps } = await openPage(browser, watchdog.admin, { colorScheme });
    await page.getByText('live', { exact: true }).waitFor();
    await page.locator('.body .row').nth(1).waitFor();
    expect(await page.locator('.body .row').count()).toBe(2);
    expect(await page.locator('#feed', { hasText: 'severed' }).count()).toBe(0);
    const asked = requestsForEvents(page);
    router.freeze();
    router.comeBack();
    await router.accepted();
    const told = page.locator('#feed li', { hasText: 'was severed: its client had sent nothing for' });
    await told.waitFor();
    expect(asked).toEqual([]);
    await page.locator('.tile', { hasText: 'Takeovers' }).getByText('1', { exact: true }).waitFor();
    await shoot(page, `streams-${colorScheme}`);
    expect(await accessibilityFaults(page)).toEqual([]);
    await told.getByRole('link').click();
    const why = page.getByRole('region', { name: 'Why' });
    await why.getByText(/^Why stream 1 was severed \d+ s ago$/).waitFor();
    await page.locator('#node dd', { hasText: "the client's own connection, round trip" }).waitFor();
    expect(await why.textContent()).toMatch(/old stream 1 from 127\.0\.0\.1:\d+ was severed.*back on stream 3/);
    await page.locator('.timeline .severed').first().waitFor();
    expect(await page.locator('.timeline .lane').count()).toBe(2);
    await shoot(page, `node-${colorScheme}`);
    expect(await accessibilityFaults(page)).toEqual([]);
    expect(mishaps).toEqual([]);
    await router.dropFrozen();
  });

  test('an operator severs a stream with the keyboard alone, after a confirmation', async () => {
    const { watchdog, node } = await on();
    const phone = await node('phone-2');
    const { page, mishaps } = await openPage(browser, watchdog.admin);
    const button = page.getByRole('button', { name: /^Sever stream 1 of / });
    await button.focus();
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: /^Sever stream 1 of .*\?$/ }).waitFor();
    await shoot(page, 'confirm');
    expect(await accessibilityFaults(page)).toEqual([]);
    // Cancel has the focus: Enter by mistake severs nothing.
    await page.keyboard.press('Enter');
    expect(await page.evaluate('document.activeElement.textContent')).toBe('Sever…');
    expect(watchdog.events.some(({ kind }) => kind === 'stream_closed')).toBe(false);
    await page.keyboard.press('Enter');
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await page.getByText(/^Severed stream 1 of .*\.$/).waitFor();
    await until(
      () => watchdog.events.some((e) => e.kind === 'stream_closed' && e.reason === 'severed_by_operator'),
      'it is severed',
    );
    // It is alive, so it comes back by itself.
    await page.locator('.body .row', { hasText: /^2/ }).waitFor();
    expect(phone.state).toBe('accepted');
    expect(mishaps).toEqual([]);
  });

  test('searches and filters, and also finds a node without a stream', async () => {
    const { watchdog, node } = await on();
    const [gone, here] = [await node('gone-1'), await node('here-2')];
    const { page, mishaps } = await openPage(browser, watchdog.admin);
    await page.locator('.body .row').nth(1).waitFor();
    await page.getByLabel('State').selectOption('held');
    await page.getByText('No matching streams.').waitFor();
    await page.getByLabel('State').selectOption('open');
    const search = page.getByRole('searchbox');
    await search.fill(keyOfNode(here).slice(0, 20));
    await page.getByText('1 of 2').waitFor();
    await gone.stop();
    await search.fill(keyOfNode(gone).slice(5, 30));
    await page.getByText('No open stream:').waitFor();
    await page.locator('#absent a').click();
    await page.getByText('No stream was severed').waitFor();
    await page.locator('#node .feed p', { hasText: 'ended: the client closed it' }).waitFor();
    expect(mishaps).toEqual([]);
  });

  test('asks once for a token, and says if it is wrong', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-page-'));
    writeFileSync(join(folder, 'token'), 'a-token-of-enough-characters\n');
    const { watchdog, node, harness } = await on({ adminTokenFile: join(folder, 'token') });
    harness.defer(() => rmSync(folder, { recursive: true }));
    await node('phone-2');
    const { page } = await openPage(browser, watchdog.admin);
    await page.getByLabel('Token').fill('wrong');
    await page.keyboard.press('Enter');
    await page.getByText('This is not the admin token').waitFor();
    await shoot(page, 'login');
    expect(await accessibilityFaults(page)).toEqual([]);
    await page.getByLabel('Token').fill('a-token-of-enough-characters');
    await page.keyboard.press('Enter');
    await page.locator('.body .row').first().waitFor();
    await page.getByText('live', { exact: true }).waitFor();
    expect(await page.evaluate('document.cookie')).toBe('');
    await page.reload();
    await page.locator('.body .row').first().waitFor();
    await page.getByRole('button', { name: 'Log out' }).click();
    await page.getByLabel('Token').waitFor();
  });

  test('without WebSocket it polls, and says so if the watchdog does not answer', async () => {
    const { watchdog, node } = await on();
    const context = await browser.newContext();
    const page = await context.newPage();
    page.setDefaultTimeout(HANGS_MS);
    await page.routeWebSocket('**/*', (socket) => socket.close());
    await page.goto(watchdog.admin);
    await page.getByText('refreshing every 5 s').waitFor();
    const asked = requestsForEvents(page);
    const phone = await node('phone-2');
    await page.locator('.body .row').first().waitFor();
    await until(() => asked.length > 0, 'the page asks for events');
    await phone.stop();
    await watchdog.watchdog.close();
    await page.getByText('the watchdog does not answer', { exact: true }).waitFor();
  });

  test('after a restart of the watchdog, new events appear live', async () => {
    const port = await freePort();
    const first = await on({ admin: `127.0.0.1:${port}` });
    for (let i = 0; i < 3; i++) await first.node(`node-${i}`);
    const { page } = await openPage(browser, first.watchdog.admin);
    await page.locator('.body .row').nth(2).waitFor();
    stages.pop();
    await first.harness.closeAll();
    await page.getByText('the watchdog does not answer', { exact: true }).waitFor();
    const second = await on({ admin: `127.0.0.1:${port}` });
    await page.getByText('live', { exact: true }).waitFor();
    await page.getByText('Open streams').locator('..').getByText('0', { exact: true }).waitFor();
    await page.getByLabel('Show').selectOption('all');
    const asked = requestsForEvents(page);
    await second.node('new-1');
    await page.locator('#feed p', { hasText: "'s stream 1 was opened" }).waitFor();
    expect(asked).toEqual([]);
  });
});
