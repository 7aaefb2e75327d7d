import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import type { NoiseKey } from '../../src/identity/noise.ts';
import { readHead, until, upgradeHead } from '../support/harness.ts';
import { freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';
import { freePort } from '../support/process.ts';
import {
  answerWith,
  DIRECT,
  hexOf,
  KERNEL,
  KINDS_OF_NODES,
  NO_EVIDENCE,
  streamSample,
  VIA_PROXY,
} from './support/samples.ts';
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
  underPath,
} from './support/stage.ts';

const [recorded] = initiations;
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

async function on(flags?: Record<string, unknown>, noiseKey?: NoiseKey): Promise<Stage> {
  const made = await stage(flags, noiseKey);
  stages.push(made);
  return made;
}

/** Where the evidence of a stream may come from, what the table shows of it, and what the node's page says. */
const EVIDENCE = [
  [
    { evidence: DIRECT, kernel: KERNEL },
    '12 ms kernel',
    "the client's own connection, round trip 12 ms, last sign of life 3 s ago",
  ],
  [
    {
      evidence: VIA_PROXY,
      kernel: { ...KERNEL, unansweredProbes: 2 },
    },
    '12 ms via proxy',
    "the client's connection to the proxy (user caddy, found by port), round trip 12 ms, last sign of life 3 s ago, 2 probes not answered",
  ],
  [
    {
      evidence: { ...VIA_PROXY, by: 'address', user: 'www-data' },
      kernel: { ...KERNEL, rttMs: 1234, unackedSegments: 2, retransmits: 1 },
    },
    '1234 ms via proxy',
    "all connections from the client's address to the proxy (user www-data, found by address), round trip 1234 ms, last sign of life 3 s ago, 1 retransmission not acknowledged",
  ],
  [
    {
      evidence: VIA_PROXY,
      kernel: { ...KERNEL, rttMs: 0, ended: true },
    },
    '– via proxy',
    "the client's connection to the proxy (user caddy, found by port), the client has left it",
  ],
  [
    { evidence: VIA_PROXY, kernel: null },
    '– via proxy',
    "the client's connection to the proxy (user caddy, found by port), nothing seen yet",
  ],
  [
    { evidence: NO_EVIDENCE, kernel: null },
    '– no evidence',
    'none: the proxy runs on another machine or in another network namespace',
  ],
] as const;

describe('the status page', () => {
  test('shows where the evidence of each stream comes from', async () => {
    const { watchdog } = await on();
    const streams = EVIDENCE.map(([shown], index) => streamSample(index, { ...shown, node: null }));
    const { page, mishaps } = await openPage(browser, watchdog.admin);
    await answerWith(page, { streams });
    await page.goto(`${watchdog.admin}/#streams`);
    await page.reload();
    const rows = page.locator('#streams-table .body .row');
    await rows.nth(EVIDENCE.length - 1).waitFor();
    for (const [index, [, cell, sentence]] of EVIDENCE.entries()) {
      const place = page.locator(`#streams-table .body .row[data-id="${index + 1}"] .rtt`);
      expect((await place.innerText()).replace(/\s+/g, ' ').trim()).toBe(cell);
      expect(await place.getAttribute('title')).toBe(`Evidence: ${sentence}`);
    }
    for (const [index, [, , sentence]] of EVIDENCE.entries()) {
      await page.evaluate(`location.hash = 'node=mkey:${hexOf(index)}'`);
      await page.locator('#node dd', { hasText: sentence }).waitFor();
    }
    // Nobody else knows these keys.
    expect(mishaps.filter((each) => !each.includes('404'))).toEqual([]);
  });

  test('a node behind a proxy that hides its clients: no evidence, and why', async () => {
    const { watchdog, node } = await on({ trustedProxies: '127.0.0.1' });
    const phone = await node('phone-2');
    const { page } = await openPage(browser, watchdog.admin);
    await page.locator('#nodes-table .body .row', { hasText: 'no evidence' }).waitFor();
    await page.goto(`${watchdog.admin}/#node=${keyOfNode(phone)}`);
    await page.locator('#node dd', { hasText: 'none: the proxy does not say who its client is' }).waitFor();
  });

  test('shows a takeover as it happens, as one line that opens into its steps', async () => {
    const { watchdog, node } = await on();
    const router = await node('router-1');
    await node('phone-2');
    const { page, mishaps } = await openPage(browser, watchdog.admin);
    await page.getByText('live', { exact: true }).waitFor();
    await page.locator('#nodes-table .body .row').nth(1).waitFor();
    expect(await page.locator('#feed', { hasText: 'severed' }).count()).toBe(0);
    const asked = requestsForEvents(page);
    router.freeze();
    router.comeBack();
    await router.accepted();
    const told = page.locator('#feed > li', { hasText: 'was severed: its client had sent nothing for' });
    await told.locator('.tag.good', { hasText: 'takeover: silent' }).waitFor();
    expect(asked).toEqual([]);
    // The contest, its end and the end of the old stream are in the same line.
    expect(await page.locator('#feed > li', { hasText: /contest|stream 1/ }).count()).toBe(1);
    await told.locator('summary').focus();
    await page.keyboard.press('Enter');
    await until(async () => (await told.locator('.steps > li').count()) >= 6, 'all steps are shown', HANGS_MS);
    const steps = await told.locator('.steps > li .tag').allTextContents();
    expect(steps).toEqual(
      expect.arrayContaining(['opened', 'contested', 'takeover: silent', 'contest over', 'closed']),
    );
    await page.locator('.tile', { hasText: 'Takeovers' }).getByText('1', { exact: true }).waitFor();
    await told.getByRole('link').click();
    const why = page.getByRole('region', { name: 'Why' });
    await why.getByText(/^Why its last stream \(1\) ended \d+ s ago$/).waitFor();
    await page.locator('#node dd', { hasText: "the client's own connection, round trip" }).waitFor();
    expect(await why.textContent()).toMatch(/old stream 1 from 127\.0\.0\.1:\d+ was severed.*back on stream 3/);
    await page.locator('#node dd', { hasText: 'no rule matches: silent-after 1 s, gone-after 2 min' }).waitFor();
    await page.locator('.timeline .severed').first().waitFor();
    expect(await page.locator('.timeline .lane').count()).toBe(2);
    expect(mishaps).toEqual([]);
    await router.dropFrozen();
  });

  test('the feed asks for the kinds that it shows, so that many openings push out no takeover', async () => {
    const { harness, watchdog, node } = await on({}, noiseKeyOf(recorded));
    const router = await node('router-1');
    router.freeze();
    router.comeBack();
    await router.accepted();
    await until(() => watchdog.events.some(({ kind }) => kind === 'stream_severed'), 'a takeover', HANGS_MS);
    await router.dropFrozen();
    // As after a restart: more openings than the feed asks for events.
    const openOne = async () => {
      const client = harness.client(watchdog.port);
      const handshake = freshHandshake(recorded, generateNoiseKey());
      client.write(upgradeHead('/ts2021', `X-Tailscale-Handshake: ${handshake}\r\n`));
      expect(await readHead(client)).toMatch(/^HTTP\/1\.1 101 /);
    };
    for (let i = 0; i < 7; i++) await Promise.all(Array.from({ length: 50 }, openOne));
    const { page } = await openPage(browser, watchdog.admin);
    await page.locator('#feed > li', { hasText: 'takeover: silent' }).waitFor();
    await page.locator('.tile', { hasText: 'Takeovers' }).click();
    await until(async () => (await page.locator('#feed > li').count()) === 1, 'only the takeover is shown', HANGS_MS);
    expect(await page.locator('#feed-show').inputValue()).toBe('takeovers');
    await page.locator('#feed-show').selectOption('all');
    // Among everything, it is not among the newest any more.
    await page.locator('#feed > li').nth(100).waitFor();
    expect(await page.locator('#feed > li', { hasText: 'takeover: silent' }).count()).toBe(0);
  });

  test('colours and days of the feed', async () => {
    const { watchdog } = await on();
    const { page } = await openPage(browser, watchdog.admin);
    const event = (seq: number, hoursAgo: number, more: object) => ({
      ...{
        seq,
        time: new Date(Date.now() - hoursAgo * 3_600_000).toISOString(),
        level: 'info',
        code: null,
        machineKey: null,
      },
      ...{ node: null, stream: null, streamKind: null, otherStream: null, remoteAddress: null, reason: null },
      ...{ silentMs: null, kernel: null, sentence: `Sentence ${seq}.`, ...more },
    });
    const events = [
      event(1, 72, { kind: 'upstream_down', level: 'error' }),
      event(2, 48, { kind: 'limit_reached', level: 'warn', reason: 'body' }),
      event(3, 48, { kind: 'upstream_up' }),
      event(4, 0, { kind: 'nodes_listed' }),
    ];
    await page.route('**/events?*', (route) => route.fulfill({ json: { lastSeq: 4, next: 'x-4', events } }));
    await page.reload();
    await page.locator('#feed > li', { hasText: 'Sentence 4' }).waitFor();
    const lines = await page
      .locator('#feed > li')
      .evaluateAll((all) => all.map((each) => (each.querySelector('.tag')?.className ?? each.className).trim()));
    expect(lines).toEqual(['tag', 'day', 'tag good', 'tag warn', 'day', 'tag bad']);
  });

  test('an operator severs a stream with the keyboard alone, after a confirmation', async () => {
    const { watchdog, node } = await on();
    const phone = await node('phone-2');
    const { page, mishaps } = await openPage(browser, watchdog.admin);
    await page.getByRole('link', { name: 'Streams', exact: true }).focus();
    await page.keyboard.press('Enter');
    const button = page.getByRole('button', { name: /^Sever stream 1 of / });
    await button.focus();
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: /^Sever stream 1 of .*\?$/ }).waitFor();
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
    await page.locator('#streams-table .body .row[data-id="2"]').waitFor();
    // The row is there while the stream is still connecting.
    await phone.accepted();
    expect(phone.state).toBe('accepted');
    expect(mishaps).toEqual([]);
  });

  test('a stream that is closing cannot be severed, and says so', async () => {
    const { watchdog } = await on();
    const { page } = await openPage(browser, watchdog.admin);
    await answerWith(page, { streams: [streamSample(0, { state: 'closing', closeReason: 'client_closed' })] });
    await page.goto(`${watchdog.admin}/#streams`);
    await page.reload();
    const button = page.getByRole('button', { name: 'Sever stream 1 of node-1' });
    await button.waitFor();
    expect(await button.getAttribute('aria-disabled')).toBe('true');
    expect(await button.getAttribute('title')).toBe('This stream is closing already.');
    await button.click({ force: true });
    expect(await page.locator('dialog[open]').count()).toBe(0);
  });

  test('the first view is nodes: a node that has left is there, with its page and the reason', async () => {
    const { watchdog, node } = await on();
    const [gone, here] = [await node('gone-1'), await node('here-2')];
    const { page, mishaps } = await openPage(browser, watchdog.admin);
    await page.getByText('2 of 2 connected').waitFor();
    const search = page.getByRole('searchbox', { name: 'Search nodes' });
    await search.fill(keyOfNode(here).slice(0, 20));
    await page.getByText('2 of 2 connected, 1 shown').waitFor();
    await gone.stop();
    await page.getByText('1 of 2 connected, 1 shown').waitFor();
    await search.fill('');
    await page.getByRole('button', { name: 'Offline 1' }).click();
    await page.locator('#nodes-table .body .row .main.tag.off', { hasText: 'offline' }).waitFor();
    expect(await page.locator('#nodes-table .body .row').count()).toBe(1);
    await page.locator('#nodes-table .body .row a').click();
    await page.getByRole('region', { name: 'Why' }).getByText('ended: the client closed it').waitFor();
    // The watchdog has just started, so nothing is certain yet.
    await page.getByText('Nothing is known of the last 24 hours.').waitFor();
    await page.goBack();
    // The filter is part of the address.
    expect(await page.getByRole('button', { name: 'Offline 1' }).getAttribute('aria-pressed')).toBe('true');
    expect(mishaps).toEqual([]);
  });

  test('every filter, the search, the sort and the tiles', async () => {
    const { watchdog } = await on();
    const { page } = await openPage(browser, watchdog.admin);
    await answerWith(page, { nodes: KINDS_OF_NODES });
    await page.reload();
    await page.getByText('6 of 10 connected').waitFor();
    const names = () => page.locator('#nodes-table .body .row .name a').allTextContents();
    const placed = async () =>
      (
        await page
          .locator('#nodes-table .body .row')
          .evaluateAll((rows) =>
            rows.map(
              (row) => [Number(row.getAttribute('aria-rowindex')), row.querySelector('a')?.textContent] as const,
            ),
          )
      )
        .sort(([a], [b]) => a - b)
        .map(([, name]) => name);
    const expected = {
      Offline: ['backup-1', 'ben-phone'],
      Disagreeing: ['backup-1', 'backup-2', 'removed'],
      Expired: ['printer'],
      Duplicate: ['clone'],
      Contested: ['router-1'],
      Unknown: ['mkey:00000000…'],
    };
    for (const [filter, found] of Object.entries(expected)) {
      await page.getByRole('button', { name: `${filter} ${found.length}` }).click();
      await expect.poll(async () => (await names()).sort(), { message: filter }).toEqual(found);
    }
    await page.getByRole('button', { name: 'All 12' }).click();
    // This watchdog has not seen it yet, but Headscale has.
    const sign = page.locator('#nodes-table .body .row', { hasText: 'printer' }).locator('.sign');
    expect((await sign.innerText()).replace(/\s+/g, ' ')).toBe('1 d 3 h ago by Headscale');
    const search = page.getByRole('searchbox', { name: 'Search nodes' });
    for (const [text, name] of [
      ['ANNA lap', 'anna-laptop'],
      ['office', 'printer'],
      ['2001:db8:1234', 'a-node-with-a-very-long-name-that-nobody-would-want-to-type'],
      [`nodekey:${hexOf(2)}`, 'ben-phone'],
      ['tag:router', 'router-1'],
    ] as const) {
      await search.fill(text);
      await expect.poll(names, { message: text }).toEqual([name]);
    }
    await search.fill('');
    const byUser = page.getByRole('columnheader', { name: 'User' });
    await byUser.getByRole('button').click();
    expect(await byUser.getAttribute('aria-sort')).toBe('ascending');
    expect((await placed())[0]).toBe('anna-laptop');
    await page.getByRole('columnheader', { name: 'State' }).getByRole('button').click();
    expect((await placed()).slice(0, 2).sort()).toEqual(['clone', 'router-1']);
    // The arrow keys go from row to row.
    await page.locator('#nodes-table .body .row[aria-rowindex="2"] a').focus();
    await page.keyboard.press('ArrowDown');
    const focusedRow = "document.activeElement.closest('.row').getAttribute('aria-rowindex')";
    expect(await page.evaluate(focusedRow)).toBe('3');
    await page.locator('.tile', { hasText: 'Nodes connected' }).click();
    expect(await page.getByRole('button', { name: 'Disagreeing 3' }).getAttribute('aria-pressed')).toBe('true');
    for (const [tile, hash] of [
      ['Open streams', '#streams'],
      ['Gone in 1 h', '#events&show=ended'],
      ['Headscale', '#events&show=headscale'],
    ] as const) {
      await page.locator('.tile', { hasText: tile }).first().click();
      expect([tile, await page.evaluate('location.hash')]).toEqual([tile, hash]);
    }
  });

  test('the presence of the last day and of 30 days', async () => {
    const { watchdog } = await on();
    const { page } = await openPage(browser, watchdog.admin);
    const now = Date.now();
    const at = (hoursAgo: number): string => new Date(now - hoursAgo * 3_600_000).toISOString();
    const day = { onlineMs: 43_200_000, offlineMs: 43_200_000, unknownMs: 0 };
    const days = Array.from({ length: 30 }, (_, i) => ({ date: `2026-11-${String(i + 1).padStart(2, '0')}`, ...day }));
    const periods = [
      { state: 'online', since: at(720), until: at(20) },
      { state: 'offline', since: at(20), until: at(18) },
      { state: 'online', since: at(18), until: at(3) },
      { state: 'offline', since: at(3), until: at(2) },
      { state: 'online', since: at(2), until: at(0) },
    ];
    const json = {
      ...{ since: at(720), until: at(0), timezone: 'UTC', knownSince: at(720), machineKey: `mkey:${hexOf(0)}` },
      ...{ id: '1', name: 'node-1', availability: 0.5, ...day, days, periods },
    };
    await page.route('**/availability?*', (route) => route.fulfill({ json }));
    await answerWith(page, { nodes: KINDS_OF_NODES });
    await page.goto(`${watchdog.admin}/#node=mkey:${hexOf(0)}`);
    await page.reload();
    await page.getByText('Online for 21 h 0 min of 1 d 0 h (87.5 %), away 2 times, for 2 h 0 min at most.').waitFor();
    await page.getByText('Online 50 % of the known time of the last 30 days.').waitFor();
    expect(await page.locator('#node g rect.online').count()).toBe(30);
    await shoot(page, 'presence');
    for (const width of [390, 1024]) {
      await page.setViewportSize({ width, height: 900 });
      await until(
        async () => (await page.evaluate('document.documentElement.scrollWidth - innerWidth')) === 0,
        'the pictures fit again',
        HANGS_MS,
      );
    }
  });

  test('a key can be copied, and the foot says what this watchdog is', async () => {
    const { watchdog, node } = await on();
    const phone = await node('phone-2');
    const { page, context } = await openPage(browser, `${watchdog.admin}/#node=${keyOfNode(phone)}`);
    await context.grantPermissions(['clipboard-read', 'clipboard-write']);
    await page.getByRole('button', { name: 'Copy the machine key' }).click();
    await page.getByText(/^Copied mkey:/).waitFor();
    expect(await page.evaluate('navigator.clipboard.readText()')).toBe(keyOfNode(phone));
    const foot = await page.locator('footer').innerText();
    for (const part of ['0.2.0', `127.0.0.1:${new URL(watchdog.url).port}`, 'since', 'not used', 'none'])
      expect(foot).toContain(part);
    expect(foot).toMatch(/Descriptors\s+\d+ of \d+/);
  });

  test('under a path of a proxy everything works: the page, its files, its answers and the feed', async () => {
    const { watchdog, node } = await on();
    const { url, close } = await underPath('/watchdog/', watchdog.admin);
    stages.at(-1)?.harness.defer(close);
    const { page, mishaps } = await openPage(browser, `${url}/watchdog/`);
    await page.getByText('live', { exact: true }).waitFor();
    const phone = await node('phone-2');
    await page.locator('#nodes-table .body .row').first().waitFor();
    await page.goto(`${url}/watchdog/#node=${keyOfNode(phone)}`);
    await page.getByRole('button', { name: /^Sever stream 1 of / }).click();
    await page.getByRole('button', { name: 'Sever it' }).click();
    await page.getByText(/^Severed stream 1 of .*\.$/).waitFor();
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
    await page.locator('form p', { hasText: 'on the machine where the watchdog runs' }).waitFor();
    await shoot(page, 'login');
    expect(await accessibilityFaults(page)).toEqual([]);
    await page.getByLabel('Token').fill('a-token-of-enough-characters');
    await page.keyboard.press('Enter');
    await page.locator('#nodes-table .body .row').first().waitFor();
    await page.getByText('live', { exact: true }).waitFor();
    expect(await page.evaluate('document.cookie')).toBe('');
    await page.reload();
    await page.locator('#nodes-table .body .row').first().waitFor();
    await page.getByRole('button', { name: 'Log out' }).click();
    await page.getByLabel('Token').waitFor();
  });

  test('with the token that may only read, it shows everything and offers no severing', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-page-'));
    writeFileSync(join(folder, 'token'), 'a-token-of-enough-characters\n');
    writeFileSync(join(folder, 'read-token'), 'another-token-of-enough-characters\n');
    const tokens = { adminTokenFile: join(folder, 'token'), adminReadTokenFile: join(folder, 'read-token') };
    const { watchdog, node, harness } = await on(tokens);
    harness.defer(() => rmSync(folder, { recursive: true }));
    await node('phone-2');
    const { page } = await openPage(browser, `${watchdog.admin}#streams`);
    for (const [token, severs] of [
      ['another-token-of-enough-characters', 0],
      ['a-token-of-enough-characters', 1],
    ] as const) {
      await page.getByLabel('Token').fill(token);
      await page.keyboard.press('Enter');
      await page.getByText('live', { exact: true }).waitFor();
      await page.locator('#streams-table .body .row').first().waitFor();
      expect(await page.getByRole('button', { name: /^Sever stream / }).count()).toBe(severs);
      await page.getByRole('button', { name: 'Log out' }).click();
    }
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
    await page.locator('#nodes-table .body .row').first().waitFor();
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
    await page.locator('#nodes-table .body .row').nth(2).waitFor();
    stages.pop();
    await first.harness.closeAll();
    await page.getByText('the watchdog does not answer', { exact: true }).waitFor();
    const second = await on({ admin: `127.0.0.1:${port}` });
    await page.getByText('live', { exact: true }).waitFor();
    await page.getByText('Open streams').locator('..').getByText('0', { exact: true }).waitFor();
    await page.locator('#feed-show').selectOption('all');
    const asked = requestsForEvents(page);
    await second.node('new-1');
    await page.locator('#feed p', { hasText: "'s stream 1 was opened" }).waitFor();
    expect(asked).toEqual([]);
  });
});
