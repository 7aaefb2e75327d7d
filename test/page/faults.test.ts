import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Overview } from '../../src/admin/views.ts';
import { startControlServer } from '../../src/demo/control-server.ts';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import { SimulatedNode } from '../../src/demo/simulated-node.ts';
import { Harness, until } from '../support/harness.ts';
import { initiations } from '../support/initiations.ts';
import { freePort, run } from '../support/process.ts';
import { accessibilityFaults, cutTexts, HANGS_MS, launch, openPage, shoot } from './support/stage.ts';

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

/** A watchdog in a process of its own, a node at it, and its page. */
async function stage(colorScheme: 'light' | 'dark') {
  const [recorded] = initiations;
  const folder = harness.folder();
  const keyFile = join(folder, 'noise_private.key');
  writeFileSync(keyFile, recorded.serverPrivateKey, { mode: 0o600 });
  const upstream = await harness.upstream(
    () => {},
    (_request, response) => void response.end(JSON.stringify({ publicKey: recorded.serverPublicKey })),
  );
  const [port, admin] = [await freePort(), await freePort()];
  const flags = ['--upstream', upstream.url, '--noise-key', keyFile, '--admin', `127.0.0.1:${admin}`];
  const url = `http://127.0.0.1:${admin}`;
  const start = async () => {
    const serve = run(harness, 'serve', ...flags, '--listen', `127.0.0.1:${port}`, '--drain', 'off');
    const answers = (): Promise<boolean> =>
      fetch(`${url}/healthz`).then(
        () => true,
        () => {
          expect(serve.child.exitCode, serve.stderr).toBeNull();
          return false;
        },
      );
    await until(answers, 'the watchdog answers', HANGS_MS);
    return serve.child;
  };
  const child = await start();
  const { page } = await openPage(browser, url, { colorScheme });
  await page.getByText('live', { exact: true }).waitFor();
  await page.locator('.value.good', { hasText: 'up' }).waitFor();
  await page.locator('.value.good', { hasText: 'matches' }).waitFor();
  return { page, child, start };
}

const GONE = 'The watchdog does not answer. This page shows the state at';

/** What a person would see: what it says, and whether anything is shown in a colour that says that all is well. */
async function look(page: Page) {
  return (await page.evaluate(`({
    link: document.getElementById('link-text').textContent,
    notice: document.getElementById('lost').hidden ? '' : document.getElementById('lost').textContent,
    icon: document.getElementById('icon').getAttribute('href'),
    title: document.title,
    well: [...document.querySelectorAll('.value.good, .link .dot')]
      .filter((each) => {
        const [r, g, b] = getComputedStyle(each)[each.matches('.dot') ? 'backgroundColor' : 'color'].match(/\\d+/g).map(Number);
        return g > r + 30 && g > b + 20;
      }).length,
  })`)) as { link: string; notice: string; icon: string; title: string; well: number };
}

describe.each(['light', 'dark'] as const)('the watchdog has died, %s', (colorScheme) => {
  test('the page says so, shows nothing in green, and recovers by itself', async () => {
    const { page, child, start } = await stage(colorScheme);
    expect((await look(page)).well).toBe(3);
    child.kill('SIGKILL');
    await page.getByText(GONE).waitFor();
    // Longer than the page waits before it tries the feed, or everything, again.
    // The theme makes no difference to what is tried.
    for (let i = 0; i < (colorScheme === 'light' ? 12 : 1); i++) {
      expect(await look(page)).toEqual({
        link: 'the watchdog does not answer',
        notice: expect.stringMatching(
          /^The watchdog does not answer\. This page shows the state at \d\d:\d\d:\d\d, .* since \d\d:\d\d:\d\d: check that it runs/,
        ),
        title: 'No answer – headscale-watchdog',
        icon: 'page/icon-bad.svg',
        well: 0,
      });
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
    await shoot(page, `dead-${colorScheme}`);
    expect(await accessibilityFaults(page)).toEqual([]);
    await start();
    await page.getByText('live', { exact: true }).waitFor();
    await until(async () => (await look(page)).well === 3, 'all is well again', HANGS_MS);
    expect(await look(page)).toMatchObject({ notice: '', title: 'headscale-watchdog', icon: 'page/icon.svg' });
    expect(await page.locator('.stale').count()).toBe(0);
  });
});

test('the watchdog hangs: the page says so, and recovers by itself', async () => {
  const { page, child } = await stage('light');
  child.kill('SIGSTOP');
  await page.getByText(GONE).waitFor();
  expect(await look(page)).toMatchObject({ title: 'No answer – headscale-watchdog', well: 0 });
  child.kill('SIGCONT');
  await page.getByText('live', { exact: true }).waitFor();
  await until(async () => (await look(page)).well === 3, 'all is well again', HANGS_MS);
});

test.each(['light', 'dark'] as const)(
  'problems stand at the top, and nothing of them is green, %s',
  async (colorScheme) => {
    const [noiseKey, another] = [generateNoiseKey(), generateNoiseKey()];
    const control = await startControlServer({ secondStream: 'refuse', noiseKey });
    harness.defer(() => control.close());
    const flags = { redis: 'redis://127.0.0.1:9', maxBodySize: '64KiB', trustedProxies: '10.0.0.1', observeOnly: true };
    const watchdog = await harness.watchdog(control.url.origin, flags, another);
    const headers = { connection: 'close', 'x-forwarded-for': '203.0.113.7' };
    await fetch(`${watchdog.url}/key`, { method: 'POST', body: 'x'.repeat(100_000), headers }).catch(() => undefined);
    const node = new SimulatedNode({ name: 'phone-1', serverUrl: new URL(watchdog.url) });
    harness.defer(() => node.stop());
    node.start();
    const { page, mishaps } = await openPage(browser, watchdog.admin, { colorScheme });
    const feed = (level: string, text: string) => page.locator(`#feed li .tag.${level}`, { hasText: text }).first();
    await feed('bad', 'Noise key differs').waitFor();
    await feed('bad', 'redis down').waitFor();
    await feed('warn', 'limit: body').waitFor();
    await feed('warn', 'proxy not trusted').waitFor();
    await page.locator('.value.bad', { hasText: 'differs' }).waitFor();
    await page.locator('.tile', { hasText: 'Redis' }).locator('.value.bad', { hasText: 'away' }).waitFor();
    await page.getByRole('button', { name: 'and 2 more' }).click();
    for (const [level, what, advice] of [
      ['error', "The Noise key is not Headscale's", "Point --noise-key at the running Headscale's noise_private.key."],
      ['error', 'Redis is away', 'Check that Redis runs'],
      ['warn', 'larger than', 'raise the limit'],
      ['warn', 'is not trusted', 'set --trusted-proxies 10.0.0.1,127.0.0.1'],
      ['info', 'Observe-only mode', 'remove --observe-only'],
    ] as const) {
      const item = page.locator(`#problems li.${level}`, { hasText: what });
      await item.waitFor();
      expect(await item.innerText()).toMatch(/since \d\d:\d\d:\d\d/);
      expect(await item.innerText()).toContain(advice);
    }
    expect(await page.locator('.value.good').allTextContents()).toEqual(['up']);
    expect(await look(page)).toMatchObject({
      title: expect.stringMatching(/^(Wrong Noise key|Redis is away) – headscale-watchdog$/),
      icon: 'page/icon-bad.svg',
    });
    await shoot(page, `problems-${colorScheme}`);
    expect(await accessibilityFaults(page)).toEqual([]);
    expect(mishaps).toEqual([]);
  },
);

test('without a Noise key, and when Headscale goes away, the page says so, in the tab too, until it is back', async () => {
  const control = await startControlServer({ secondStream: 'accept', noiseKey: generateNoiseKey() });
  const watchdog = await harness.watchdog(control.url.origin);
  const { page } = await openPage(browser, watchdog.admin);
  await page.locator('#problems li.warn', { hasText: 'There is no Noise key' }).waitFor();
  await until(async () => (await page.title()) === 'No Noise key – headscale-watchdog', 'the tab says so', HANGS_MS);
  await control.close();
  await page.locator('#problems li.error', { hasText: 'Headscale cannot be reached' }).waitFor();
  expect(await look(page)).toMatchObject({
    title: 'Headscale is down – headscale-watchdog',
    icon: 'page/icon-bad.svg',
  });
  await page.locator('.tile', { hasText: 'Headscale' }).locator('.value.bad', { hasText: 'down' }).waitFor();
});

test.each([390, 1440])(
  'the worst problems are in sight, the others one click away, each with its beginning and what to do, %i px wide',
  async (width) => {
    const noiseKey = generateNoiseKey();
    const control = await startControlServer({ secondStream: 'accept', noiseKey });
    harness.defer(() => control.close());
    const watchdog = await harness.watchdog(control.url.origin, {}, noiseKey);
    const { page } = await openPage(browser, watchdog.admin);
    await page.setViewportSize({ width, height: 900 });
    const since = new Date(Date.now() - 3 * 86_400_000).toISOString();
    const problems = [
      ...['upstream_down', 'noise_key_mismatch', 'redis_down'].map((kind) => ({ kind, level: 'error' })),
      ...['machine_keys_duplicated', 'certificate_expiring', 'limit_reached', 'evidence_missing'].map((kind) => ({
        kind,
        level: 'warn',
      })),
      { kind: 'observe_only', level: 'info' },
    ].map(({ kind, level }) => ({
      ...{
        kind,
        level,
        code: null,
        since,
        sentence: `What is wrong: ${kind} at http://a-long-name.example.com:12345.`,
      },
      advice: 'Do something about it.',
    }));
    const detail = 'connect ECONNREFUSED 2001:db8:1234:5678:9abc:def0:1234:5678:65535';
    await page.route('**/overview', async (route) => {
      const answer = (await (await route.fetch()).json()) as Overview;
      const upstream = { ...answer.upstream, up: false, detail };
      await route.fulfill({ json: { ...answer, problems, upstream, noiseKeyMatches: true } });
    });
    await page.reload();
    const items = page.locator('#problems .problem-item');
    await items.nth(2).waitFor();
    const more = page.getByRole('button', { name: 'and 5 more' });
    const inSight = (): Promise<boolean[]> =>
      items.evaluateAll((all) =>
        all.map((each) => (each as unknown as { checkVisibility(): boolean }).checkVisibility()),
      );
    expect(await inSight()).toEqual(problems.map((_, index) => index < 3));
    // There is room for the nodes on a phone, too.
    expect((await page.locator('#problems').boundingBox())?.height).toBeLessThan(200);
    expect(await page.evaluate('document.documentElement.scrollWidth - innerWidth')).toBe(0);
    await shoot(page, `problems-folded-${width}`);
    // The keyboard is enough.
    await more.focus();
    await page.keyboard.press('Enter');
    expect(await inSight()).toEqual(problems.map(() => true));
    expect(await page.evaluate('document.activeElement.textContent')).toBe('Show fewer');
    for (const [index, { kind }] of problems.entries()) {
      const item = items.nth(index);
      const fold = item.getByRole('button', { name: 'What to do' });
      // Where there is room, nothing else is folded.
      expect(await fold.isVisible()).toBe(width === 390);
      if (width === 390) {
        expect(await item.innerText()).not.toContain('Do something about it.');
        expect((await item.boundingBox())?.height).toBeLessThan(45);
        await fold.press('Enter');
        expect(await fold.getAttribute('aria-expanded')).toBe('true');
      }
      expect(await item.innerText()).toContain(kind);
      expect(await item.innerText()).toContain('Do something about it.');
      // Three days ago: the time alone would mislead.
      expect(await item.innerText()).toMatch(/since .*\d.*, \d\d:\d\d:\d\d/);
    }
    expect(await look(page)).toMatchObject({
      title: 'Headscale is down – headscale-watchdog',
      icon: 'page/icon-bad.svg',
      // Headscale is down, so nobody can know whether the key still matches.
      well: 1,
    });
    const tile = (name: string) => page.locator('.tile', { hasText: name });
    expect(await tile('Noise key').innerText()).toMatch(/matched\s+as of .*\d, \d\d:\d\d:\d\d/);
    expect(await tile('Headscale').first().innerText()).toContain('connection refused');
    expect(await tile('Headscale').first().getAttribute('title')).toBe(detail);
    expect(await cutTexts(page)).toEqual([]);
    expect(await page.evaluate('document.documentElement.scrollWidth - innerWidth')).toBe(0);
    await shoot(page, `problems-${width}`);
    expect(await accessibilityFaults(page)).toEqual([]);
    // What is open stays open when the page refreshes.
    if (width === 390) {
      const answered = page.waitForResponse('**/overview');
      await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))");
      await answered;
      expect(await page.locator('#problems .open').count()).toBe(problems.length);
    }
  },
);
