import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { startControlServer } from '../../src/demo/control-server.ts';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import { SimulatedNode } from '../../src/demo/simulated-node.ts';
import { Harness } from '../support/harness.ts';
import { keyOfNode, launch, openPage } from './support/stage.ts';

/**
 * `npm run pictures` draws what README and docs show, with the demo's control server and its simulated nodes: docs/page.png, the
 * status page; docs/takeover.png, a takeover with its steps; docs/terminal.png, what commands print. It needs Chromium, as
 * `npm run page` does.
 */

const ROOT = join(import.meta.dirname, '..', '..');
const LARGEST_BYTES = 150 * 1024;
/** Node names and their users. */
const FLEET = [
  ['anna-laptop', 'anna'],
  ['anna-phone', 'anna'],
  ['ben-phone', 'ben'],
  ['backup-1', 'servers'],
  ['printer', 'office'],
  ['router-1', 'servers'],
  ['ben-tablet', 'ben'],
  ['camera', 'office'],
] as const;
/** The others are offline. */
const CONNECTED = 6;

/** The control server, with Headscale's list of nodes beside it: the demo's server has no API, and nodes without names make a poor picture. */
async function withNodeList(upstream: URL, nodes: () => readonly object[]): Promise<Server> {
  const server = createServer((client) => {
    client.on('error', () => client.destroy());
    client.once('data', (head) => {
      if (head.toString('latin1').startsWith('GET /api/v1/node')) {
        const body = JSON.stringify({ nodes: nodes() });
        client.end(
          `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
        );
        return;
      }
      const onward = connect(Number(upstream.port), upstream.hostname);
      onward.on('error', () => client.destroy());
      client.on('close', () => onward.destroy());
      onward.write(head);
      client.pipe(onward).pipe(client);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

function pathOf(picture: string): string {
  return join(ROOT, 'docs', `${picture}.png`);
}

/** The page of a node that was away: why its last stream ended, and what led to it. */
async function drawTakeover(admin: string): Promise<void> {
  const { page, context } = await openPage(browser, admin);
  await page.setViewportSize({ width: 860, height: 900 });
  await page.getByRole('link', { name: 'router-1' }).first().click();
  const steps = page.locator('#node details:has(ol.steps)').first();
  await steps.locator('summary').click();
  await steps.locator('li').nth(2).waitFor();
  await steps.locator('xpath=ancestor::*[h3][1]').screenshot({ path: pathOf('takeover') });
  await context.close();
}

const SHOWN_COMMANDS = ['status', 'nodes', 'events --limit 14'];

/** What commands print on a terminal with colours. */
async function drawTerminal(admin: string): Promise<void> {
  const env = { ...process.env, FORCE_COLOR: '1', TZ: 'UTC', HEADSCALE_WATCHDOG_ADMIN: admin.replace('http://', '') };
  const parts: string[] = [];
  for (const command of SHOWN_COMMANDS) {
    const { stdout, stderr } = await promisify(execFile)(
      process.execPath,
      ['--import', 'tsx', join(ROOT, 'src', 'cli.ts'), ...command.split(' ')],
      { env, cwd: ROOT },
    );
    parts.push(`<b>$ headscale-watchdog ${command}</b>\n${asHtml(stdout + stderr)}`);
  }
  const page = await browser.newPage({ viewport: { width: 1180, height: 200 } });
  await page.setContent(`<style>
    body { margin: 0; background: #14171a; color: #e6e8ea; }
    pre { margin: 0; padding: 16px 20px; font: 13px/1.45 'DejaVu Sans Mono', monospace; white-space: pre-wrap; width: max-content; max-width: 1140px; }
    b { color: #fff; } .c31 { color: #ff8a80; } .c32 { color: #7ddc92; } .c33 { color: #f4c453; } .c2 { color: #98a1aa; }
  </style><pre>${parts.join('\n')}</pre>`);
  await page.locator('pre').screenshot({ path: pathOf('terminal') });
  await page.close();
}

const COLOUR = new RegExp(`${String.fromCharCode(27)}\\[(\\d+)m`, 'g');

/** Text with the colours of `coloured()` as HTML. */
function asHtml(text: string): string {
  const escaped = text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return escaped.replaceAll(COLOUR, (_all, code: string) => (code === '0' ? '</span>' : `<span class="c${code}">`));
}

const harness = new Harness();
const folder = mkdtempSync(join(tmpdir(), 'pictures-'));
const browser = await launch();
try {
  const noiseKey = generateNoiseKey();
  const control = await startControlServer({ secondStream: 'refuse', noiseKey });
  harness.defer(() => control.close());
  const fleet: SimulatedNode[] = [];
  const front = await withNodeList(control.url, () =>
    FLEET.map(([name, user], index) => {
      const hex = String(index).padStart(64, '0');
      const node = fleet[index];
      return {
        ...{ id: String(index + 1), machineKey: node === undefined ? `mkey:${hex}` : keyOfNode(node) },
        ...{ nodeKey: `nodekey:${hex}`, name, givenName: name, user: { id: '1', name: user } },
        ...{ ipAddresses: [`100.64.0.${index + 1}`], online: node !== undefined },
        ...{ expiry: new Date(Date.now() + (index + 20) * 86_400_000).toISOString() },
        ...{ lastSeen: new Date(Date.now() - 7_200_000).toISOString() },
      };
    }),
  );
  harness.defer(() => front.close());
  const upstream = `http://127.0.0.1:${(front.address() as AddressInfo).port}`;
  const apiKeyFile = join(folder, 'api.key');
  writeFileSync(apiKeyFile, 'any-key-will-do-here\n', { mode: 0o600 });
  const flags = { silentAfter: '1s', headscaleApiKeyFile: apiKeyFile };
  const watchdog = await harness.watchdog(upstream, flags, noiseKey);
  for (const [name] of FLEET.slice(0, CONNECTED)) {
    const node = new SimulatedNode({ name, serverUrl: new URL(watchdog.url) });
    harness.defer(() => node.stop());
    fleet.push(node);
    node.start();
    await node.accepted();
  }
  const { page, context } = await openPage(browser, watchdog.admin);
  await page.setViewportSize({ width: 1400, height: 584 });
  await page.getByText('router-1').first().waitFor();
  // The kernel's round-trip times are asked for now and then.
  await pause(4000);
  for (const name of ['anna-phone', 'router-1']) {
    const node = fleet.find((each) => each.name === name);
    node?.freeze();
    node?.comeBack();
    await node?.accepted();
  }
  await page.locator('#feed li').nth(1).waitFor();
  await pause(3000);
  await page.screenshot({ path: pathOf('page') });
  await context.close();
  await drawTakeover(watchdog.admin);
  await drawTerminal(watchdog.admin);
  for (const name of ['page', 'takeover', 'terminal']) {
    const { size } = statSync(pathOf(name));
    process.stdout.write(`${pathOf(name)}: ${Math.round(size / 1024)} KiB\n`);
    if (size > LARGEST_BYTES) throw new Error(`the picture is larger than ${LARGEST_BYTES} bytes`);
  }
} finally {
  await browser.close();
  await harness.closeAll();
  rmSync(folder, { recursive: true });
}
