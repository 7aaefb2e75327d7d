import { type Browser, chromium, type Page } from 'playwright-core';
import { type ControlServer, startControlServer } from '../../../src/demo/control-server.ts';
import { generateNoiseKey } from '../../../src/demo/noise-handshake.ts';
import { SimulatedNode } from '../../../src/demo/simulated-node.ts';
import { formatMachineKey } from '../../../src/identity/keys.ts';
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
export async function stage(flags: Record<string, unknown> = {}): Promise<Stage> {
  const harness = new Harness();
  const noiseKey = generateNoiseKey();
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

/** A page whose every mishap is written down: errors, refused requests, requests to other hosts. */
export async function openPage(browser: Browser, url: string, more: { colorScheme?: 'light' | 'dark' } = {}) {
  const context = await browser.newContext({ viewport: { width: 1400, height: 900 }, ...more });
  const page: Page = await context.newPage();
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

export const keyOfNode = (node: SimulatedNode): string => formatMachineKey(node.machineKey);
