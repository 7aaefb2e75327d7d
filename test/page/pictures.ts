import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { startControlServer } from '../../src/demo/control-server.ts';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import { SimulatedNode } from '../../src/demo/simulated-node.ts';
import { Harness } from '../support/harness.ts';
import { keyOfNode, launch, openPage } from './support/stage.ts';

/**
 * `npm run pictures` draws docs/page.png: the status page with the demo's control server and its simulated nodes.
 * It needs Chromium, as `npm run page` does.
 */

const PICTURE = join(import.meta.dirname, '..', '..', 'docs', 'page.png');
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
  await page.screenshot({ path: PICTURE });
  await context.close();
  const { size } = statSync(PICTURE);
  process.stdout.write(`${PICTURE}: ${Math.round(size / 1024)} KiB\n`);
  if (size > LARGEST_BYTES) throw new Error(`the picture is larger than ${LARGEST_BYTES} bytes`);
} finally {
  await browser.close();
  await harness.closeAll();
  rmSync(folder, { recursive: true });
}
