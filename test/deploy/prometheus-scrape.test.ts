import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { Harness, until } from '../support/harness.ts';
import { startPrometheus } from './support/prometheus.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const TOKEN = 'the-admin-token-of-a-test';

/** Answers only who brings the token, as an admin server with --admin-token-file does. @returns its `HOST:PORT`. */
async function adminWithToken(): Promise<string> {
  const { port } = await harness.upstream(
    () => {},
    ({ url, headers }, response) => {
      const isKnown = url === '/metrics' && headers.authorization === `Bearer ${TOKEN}`;
      response.writeHead(isKnown ? 200 : 401, { 'content-type': 'text/plain; version=0.0.4' });
      response.end(isKnown ? 'headscale_watchdog_upstream_up 1\n' : '');
    },
  );
  return `127.0.0.1:${port}`;
}

/** What `up` says of the job once Prometheus has scraped it, with this in its file of the token. */
async function upWith(token: string): Promise<number | undefined> {
  const folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-token-'));
  harness.defer(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'token');
  writeFileSync(file, `${token}\n`);
  const prometheus = await startPrometheus(harness, 'prometheus-token.yml', {
    'headscale.internal:9191': await adminWithToken(),
    '/etc/prometheus/headscale-watchdog.token': file,
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
  test('brings the token', async () => {
    expect(await upWith(TOKEN)).toBe(1);
  });

  test('with another token the target is down', async () => {
    expect(await upWith('another')).toBe(0);
  });
});
