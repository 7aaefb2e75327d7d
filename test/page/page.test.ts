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
    ['12 ms', 'kernel'],
    "the client's own connection, round trip 12 ms, last sign 3 s ago",
  ],
  [
    {
      evidence: VIA_PROXY,
      kernel: { ...KERNEL, unansweredProbes: 2 },
    },
    ['12 ms', 'via proxy'],
    "the client's connection to the proxy (user caddy, found by port), round trip 12 ms, last sign 3 s ago, 2 probes not answered",
  ],
  [
    {
      evidence: { ...VIA_PROXY, by: 'address', user: 'www-data' },
      kernel: { ...KERNEL, rttMs: 1234, unackedSegments: 2, retransmits: 1 },
    },
    ['1234 ms', 'via proxy'],
    "all connections from the client's address to the proxy (user www-data, found by address), round trip 1234 ms, last sign 3 s ago, 1 retransmission not acknowledged",
  ],
  [
    {
      evidence: VIA_PROXY,
      kernel: { ...KERNEL, rttMs: 0, ended: true },
    },
    ['–', 'via proxy'],
    "the client's connection to the proxy (user caddy, found by port), the client has left it",
  ],
  [
    { evidence: VIA_PROXY, kernel: null },
    ['–', 'via proxy'],
    "the client's connection to the proxy (user caddy, found by port), nothing seen yet",
  ],
  [
    { evidence: NO_EVIDENCE, kernel: null },
    ['–', 'no evidence'],
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
    for (const [index, [, [roundTrip, source], sentence]] of EVIDENCE.entries()) {
      const row = page.locator(`#streams-table .body .row[data-id="${index + 1}"]`);
      expect(await row.locator('.rtt').innerText()).toBe(roundTrip);
      expect(await row.locator('.rtt').getAttribute('title')).toBe(`Evidence: ${sentence}`);
      expect(await row.locator('.sign small').innerText()).toBe(source);
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
    await page.locator('#feed > li:not(.new)', { hasText: 'takeover: silent' }).waitFor();
    // What is not new does not light up when somebody comes back to it.
    await page.getByRole('link', { name: 'Events', exact: true }).click();
    await page.getByRole('link', { name: 'Nodes', exact: true }).click();
    expect(await page.evaluate('document.getAnimations().length')).toBe(0);
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
    const ofNode: string[] = [];
    page.on('request', (request) => {
      const { pathname, searchParams } = new URL(request.url());
      if (pathname === '/events' && searchParams.get('limit') === '5000')
        ofNode.push(searchParams.get('after') ?? 'all');
    });
    await told.getByRole('link').click();
    const why = page.getByRole('region', { name: 'Why' });
    await why.getByText(/^Why its last stream \(1\) ended \d+ s ago$/).waitFor();
    await page.locator('#node dd', { hasText: "the client's own connection, round trip" }).waitFor();
    expect(await why.textContent()).toMatch(/old stream 1 from 127\.0\.0\.1:\d+ was severed.*back on stream 3/);
    await page.locator('#node dd', { hasText: 'no rule matches: silent-after 1 s, gone-after 2 min' }).waitFor();
    await page.locator('.timeline .severed').first().waitFor();
    expect(await page.locator('.timeline .lane').count()).toBe(2);
    // All events are asked for once, and from then on only newer ones, which come.
    // A refresh may be under way when somebody comes to the node, and on a slow machine another behind it.
    await page.waitForTimeout(2000);
    const before = ofNode.length;
    const steps2 = page.locator('#node .feed > li', { hasText: 'takeover: silent' }).locator('details');
    await steps2.locator('summary').click();
    await router.dropFrozen();
    router.freeze();
    router.comeBack();
    await router.accepted();
    await why.getByText(/^Why its last stream \(3\) ended \d+ s ago$/).waitFor();
    expect(await page.locator('.timeline .lane').count()).toBe(3);
    expect(ofNode.slice(before)).not.toContain('all');
    expect(ofNode.length).toBeGreaterThan(before);
    // The steps that somebody has opened stay open.
    expect(await page.locator('#node .feed details[open]').count()).toBe(1);
    expect(mishaps).toEqual([]);
    await router.dropFrozen();
  });

  test('the timeline marks everything that the watchdog ended, and what it would have ended', async () => {
    const { watchdog } = await on();
    const { page } = await openPage(browser, watchdog.admin);
    const now = Date.now();
    const at = (minutesAgo: number): string => new Date(now - minutesAgo * 60_000).toISOString();
    const event = (seq: number, minutesAgo: number, kind: string, stream: number, reason: string | null) => ({
      ...{ seq, time: at(minutesAgo), level: 'info', code: null, kind, machineKey: `mkey:${hexOf(0)}`, node: null },
      ...{ stream, streamKind: 'control', otherStream: null, remoteAddress: null, reason, silentMs: null },
      ...{ kernel: null, sentence: `Sentence ${seq}.` },
    });
    const marks = {
      severed: ['severed_dead', 'severed_silent', 'client_left', 'severed_by_operator', 'gone', 'not_reading'],
      more: ['upstream_silent', 'surplus', 'shown_offline', 'node_deleted'],
      closed: ['client_closed', 'upstream_closed', 'shutdown'],
    };
    const reasons = [...marks.severed, ...marks.more, ...marks.closed];
    const events = reasons.flatMap((reason, i) => [
      event(2 * i + 1, 20 - i, 'stream_opened', i + 1, null),
      event(2 * i + 2, 19 - i, 'stream_closed', i + 1, reason),
    ]);
    events.push(event(98, 3, 'stream_opened', 99, null), event(99, 2, 'would_sever', 99, 'silent'));
    const json = { lastSeq: 99, next: 'x-99', since: null, knownSince: at(60), fromFile: false, events };
    await page.route('**/events?*', (route) =>
      route.fulfill({ json: route.request().url().includes('after=') ? { ...json, events: [] } : json }),
    );
    await answerWith(page, { nodes: KINDS_OF_NODES, streams: [streamSample(0)] });
    await page.goto(`${watchdog.admin}/#node=mkey:${hexOf(0)}`);
    await page.reload();
    const picture = page.locator('.timeline[role="img"]').last();
    await picture.locator('.severed').first().waitFor();
    const endings = marks.severed.length + marks.more.length;
    expect(await picture.locator('.severed.ended').count()).toBe(endings);
    expect(await picture.locator('.severed.would').count()).toBe(1);
    expect(await picture.locator('.closed').count()).toBe(marks.closed.length);
    await page.getByText(`The watchdog ended ${endings} streams of it in this time.`).waitFor();
    await page.locator('.legend', { hasText: 'would be, if not observe-only' }).waitFor();
    // Twenty minutes: no half-empty axis, and round times.
    expect(await picture.getAttribute('aria-label')).toContain('in the last 20 min');
    const labels = await picture.locator('text').allTextContents();
    const ticks = labels.filter((text) => /^\d\d:\d\d$/.test(text));
    expect(ticks.length).toBeGreaterThanOrEqual(9);
    expect(ticks.every((text) => Number(text.slice(3)) % 2 === 0)).toBe(true);
    await shoot(page, 'timeline');
    // A person would choose these steps, and as many of them as there is room for.
    const stepOf = async (minutes: number, width: number): Promise<number | undefined> => {
      const found = (await page.evaluate(`import('./page/axis.js').then(({ ticksBetween }) =>
        ticksBetween(${now - minutes * 60_000}, ${now}, ${width}).map(({ at }) => at))`)) as number[];
      // The last one is now.
      const [first = 0, second = 0] = found;
      const step = (second - first) / 1000;
      expect(found.slice(0, -1).every((each) => (each / 1000) % Math.min(step, 1800) === 0)).toBe(true);
      return step;
    };
    for (const [minutes, width, seconds] of [
      ...([
        [1, 300, 15],
        [3, 300, 60],
        [7, 300, 120],
        [15, 1000, 120],
        [31, 300, 600],
        [31, 1000, 300],
      ] as const),
      ...([
        [65, 1000, 300],
        [200, 300, 3600],
        [1440, 300, 21_600],
        [1440, 1300, 7200],
      ] as const),
    ])
      expect([minutes, width, await stepOf(minutes, width)]).toEqual([minutes, width, seconds]);
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
    // The watchdog has just started: what it knows, and from when it knows more.
    await page
      .getByText(
        /^It is not connected\. The watchdog has watched since \d\d:\d\d:\d\d: if the node is not back by \d\d:\d\d:\d\d, it counts as away\.$/,
      )
      .waitFor();
    await page.goto(`${watchdog.admin}/#node=${keyOfNode(here)}`);
    await page.getByText(/^It has been connected since \d\d:\d\d:\d\d\. This counts once/).waitFor();
    await page.goBack();
    await page.getByRole('region', { name: 'Why' }).getByText('ended: the client closed it').waitFor();
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
    await page.getByText('7 of 11 connected').waitFor();
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
      Duplicate: ['clone', 'perhaps-a-clone'],
      Contested: ['router-1'],
      Unknown: ['mkey:00000000…'],
    };
    for (const [filter, found] of Object.entries(expected)) {
      await page.getByRole('button', { name: `${filter} ${found.length}` }).click();
      await expect.poll(async () => (await names()).sort(), { message: filter }).toEqual(found);
    }
    await page.getByRole('button', { name: 'All 13' }).click();
    // This watchdog has not seen it yet, but Headscale has.
    const sign = page.locator('#nodes-table .body .row', { hasText: 'printer' }).locator('.sign');
    expect((await sign.innerText()).replace(/\s+/g, ' ')).toBe('1 d 3 h ago by Headscale');
    const suspect = page.locator('#nodes-table .body .row', { hasText: 'perhaps-a-clone' }).locator('.state');
    expect((await suspect.innerText()).replace(/\s+/g, ' ')).toBe('connected two machines?');
    // The pages of these nodes say the same.
    for (const [index, text] of [
      [5, '1 d 3 h ago, by Headscale'],
      [12, 'perhaps, since '],
    ] as const) {
      await page.evaluate(`location.hash = 'node=mkey:${hexOf(index)}'`);
      await page.locator('#node dd', { hasText: text }).waitFor();
    }
    await page.locator('#node h2 .tag.warn', { hasText: 'two machines?' }).waitFor();
    await page.evaluate("location.hash = 'nodes'");
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
    expect((await placed()).slice(0, 2).sort()).toEqual(['clone', 'perhaps-a-clone']);
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
      // Until later than now, so that it makes no difference how long the page takes.
      { state: 'online', since: at(2), until: at(-1) },
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
    await page.getByText('A restart of the watchdog clears this. To keep 30 days', { exact: false }).waitFor();
    const list = page.locator('#node details', { hasText: 'Day by day' });
    await list.locator('summary').press('Enter');
    expect((await list.locator('tbody tr').first().innerText()).split(/\t/).slice(1)).toEqual([
      '12 h 0 min',
      '12 h 0 min',
      '50 %',
    ]);
    expect(await list.locator('tbody tr').count()).toBe(30);
    // It stays open when the page refreshes.
    const answered = page.waitForResponse('**/overview');
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))");
    await answered;
    await page.evaluate('new Promise((resolve) => setTimeout(resolve, 300))');
    expect(await list.locator('tbody tr').first().isVisible()).toBe(true);
    expect(await accessibilityFaults(page)).toEqual([]);
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
    // It opens while the page still waits for the answer with the events before.
    const answer = { isHere: false, isLate: true };
    await page.route(/\/events\?/, async (route) => {
      const response = await route.fetch();
      answer.isHere = true;
      await until(() => !answer.isLate, 'the node is there');
      await route.fulfill({ response });
    });
    await page.locator('#feed-show').selectOption('all');
    await until(() => answer.isHere, 'the watchdog has answered');
    const asked = requestsForEvents(page);
    await second.node('new-1');
    await page.locator('#nodes-table .body .row').first().waitFor();
    await new Promise((resolve) => setTimeout(resolve, 500));
    answer.isLate = false;
    await page.locator('#feed p', { hasText: "'s stream 1 was opened" }).waitFor();
    expect(asked).toEqual([]);
  });
});
