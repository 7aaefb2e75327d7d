import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { Harness, until } from '../support/harness.ts';
import { startPrometheus } from './support/prometheus.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const TOKEN = 'the-admin-token-of-a-test';

function fileWith(token: string): string {
  const folder = harness.folder();
  const file = join(folder, 'token');
  writeFileSync(file, `${token}\n`);
  return file;
}

/** What `up` says of a watchdog with --admin-token-file once Prometheus, with this as its token, has scraped it. */
async function upWith(token: string): Promise<number | undefined> {
  const { url } = await harness.upstream(() => {});
  const { admin } = await harness.watchdog(url, { adminTokenFile: fileWith(TOKEN) });
  const prometheus = await startPrometheus(harness, 'prometheus-token.yml', {
    'headscale.internal:9191': admin.replace('http://', ''),
    '/etc/prometheus/headscale-watchdog.token': fileWith(token),
  });
  let up: number | undefined;
  const isScraped = async () => {
    up = (await prometheus.query('up{job="headscale-watchdog"}'))[0]?.values[0];
    return up !== undefined;
  };
  await until(isScraped, 'the admin server has been scraped', 10_000);
  return up;
}

describe('prometheus-token.yml', () => {
  test('sends the token', async () => {
    expect(await upWith(TOKEN)).toBe(1);
  });

  test('with another token the target is down', async () => {
    expect(await upWith('another')).toBe(0);
  });
});
