import { once } from 'node:events';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { type Browser, chromium, type Page } from 'playwright-core';
import { type ControlServer, startControlServer } from '../../../src/demo/control-server.ts';
import { generateNoiseKey } from '../../../src/demo/noise-handshake.ts';
import { SimulatedNode } from '../../../src/demo/simulated-node.ts';
import { formatMachineKey } from '../../../src/identity/keys.ts';
import type { NoiseKey } from '../../../src/identity/noise.ts';
import { Harness, type TestWatchdog } from '../../support/harness.ts';

/** Debian's Chromium, one for all tests of a file. */
export function launch(): Promise<Browser> {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      ...['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync'],
      ...['--disable-background-networking', '--disable-component-update'],
    ],
  });
}

export interface Stage {
  readonly harness: Harness;
  readonly control: ControlServer;
  readonly watchdog: TestWatchdog;
  node(name: string): Promise<SimulatedNode>;
}

/** The demo's stand-in for Headscale, and a watchdog before it. */
export async function stage(
  flags: Record<string, unknown> = {},
  noiseKey: NoiseKey = generateNoiseKey(),
): Promise<Stage> {
  const harness = new Harness();
  const control = await startControlServer({ secondStream: 'refuse', noiseKey });
  harness.defer(() => control.close());
  const given = { silentAfter: '1s', ...flags };
  const watchdog = await harness.watchdog(control.url.origin, given, noiseKey);
  return {
    ...{ harness, control, watchdog },
    async node(name) {
      const node = new SimulatedNode({ name, serverUrl: new URL(watchdog.url) });
      harness.defer(() => node.stop());
      node.start();
      await node.accepted();
      return node;
    },
  };
}

/** For what hangs: a busy machine may be slow. */
export const HANGS_MS = 100_000;

/** A page whose every mishap is written down: errors, refused requests, requests to other hosts. */
export async function openPage(
  browser: Browser,
  url: string,
  more: { colorScheme?: 'light' | 'dark'; ignoreHTTPSErrors?: boolean } = {},
) {
  const context = await browser.newContext({ viewport: { width: 1400, height: 900 }, ...more });
  const page: Page = await context.newPage();
  page.setDefaultTimeout(HANGS_MS);
  const mishaps: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') mishaps.push(message.text());
  });
  page.on('pageerror', (error) => mishaps.push(String(error)));
  page.on('request', (request) => {
    if (new URL(request.url()).host !== new URL(url).host) mishaps.push(`asked ${request.url()}`);
  });
  await page.goto(url);
  return { page, mishaps, context };
}

/** The page's requests for events from now on. While its feed is live, there are none. */
export function requestsForEvents(page: Page): readonly string[] {
  const asked: string[] = [];
  page.on('request', (request) => {
    const { pathname, searchParams } = new URL(request.url());
    if (pathname === '/events' && searchParams.has('after')) asked.push(request.url());
  });
  return asked;
}

/** Takes a screenshot, for eyes, if PAGE_SHOTS names a folder. */
export async function shoot(page: Page, name: string): Promise<void> {
  const folder = process.env.PAGE_SHOTS;
  if (folder === undefined) return;
  mkdirSync(folder, { recursive: true });
  await page.screenshot({ path: join(folder, `${name}.png`) });
}

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** What axe-core finds that is serious or critical. */
export async function accessibilityFaults(page: Page): Promise<readonly string[]> {
  // The page's own policy lets no script in that is not a file of its server's; the debugger may.
  await page.evaluate(axe);
  type Found = { violations: { id: string; impact: string; nodes: { html: string }[] }[] };
  const found = (await page.evaluate('axe.run()')) as Found;
  return found.violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 120)).join(' | ')}`);
}

/** A proxy that serves the admin server under a path of its own, as people do with nginx. */
export async function underPath(path: string, admin: string) {
  const server = createServer((client) => {
    client.on('error', () => client.destroy());
    client.once('data', (head) => {
      const onward = connect(Number(new URL(admin).port), '127.0.0.1');
      onward.on('error', () => client.destroy());
      client.on('close', () => onward.destroy());
      // One request a connection, so that only its first line has to be changed.
      const text = head.toString('latin1').replace(` ${path}`, ' /');
      onward.write(
        text.includes('pgrade: websocket') ? text : text.replace(/^Connection: .*$/im, 'Connection: close'),
        'latin1',
      );
      client.pipe(onward).pipe(client);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close: () => void server.close() };
}

/** What a reader would miss: cut texts without a tooltip, and figures, states and addresses that are cut at all. */
export function cutTexts(page: Page): Promise<readonly string[]> {
  return page.evaluate(CUT) as Promise<readonly string[]>;
}

const CUT = `[...document.querySelectorAll('main *, header *, footer *')].flatMap((each) => {
  const box = each.getBoundingClientRect();
  const isText = [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== '');
  if (!isText || box.width < 2 || each.closest('.hidden, svg, select, option')) return [];
  const clips = (one) => getComputedStyle(one).overflowX !== 'visible';
  const isWide = each.scrollWidth > each.clientWidth + 1 && each.clientWidth > 0;
  const row = each.closest('.row');
  const edge = row?.getBoundingClientRect();
  const leaves = edge && (box.bottom > edge.bottom + 0.5 || box.top < edge.top - 0.5 || box.right > edge.right + 0.5);
  const cell = each.closest('.row > *');
  // The name of a replica is a name.
  const isFigure = cell?.matches('.number, .state, .address') && !each.matches('.id small, .state small');
  const reaches = cell && !isWide && box.right > cell.getBoundingClientRect().right + 1;
  const isExcused = each.closest('[title]') && !isFigure && clips(each);
  return leaves || reaches || (isWide && !isExcused) ? [each.className + ': ' + each.textContent.slice(0, 60)] : [];
})`;

export const keyOfNode = (node: SimulatedNode): string => formatMachineKey(node.machineKey);
