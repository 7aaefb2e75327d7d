import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type Program, start } from '../deploy/support/program.ts';
import { until } from '../support/harness.ts';
import { freePort } from '../support/process.ts';
import { launch, openPage, type Stage, stage } from './support/stage.ts';

const TOKEN = 'a-token-of-enough-characters';
const PROJECT = join(import.meta.dirname, '..', '..');
const DOCS = readFileSync(join(PROJECT, 'docs', 'api.md'), 'utf8');
const CERTIFICATE = join(PROJECT, 'test', 'support', 'tls');

let browser: Browser;
const stages: Stage[] = [];
const programs: Program[] = [];
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());
afterEach(async () => {
  for (const context of browser.contexts()) await context.close();
  for (const program of programs.splice(0)) await program.end();
  for (const each of stages.splice(0)) await each.harness.closeAll();
});

/** The example in docs/api.md, for this watchdog. */
function example(language: string, admin: string): string {
  const [, text = ''] = new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``).exec(DOCS) ?? [];
  expect(text).toContain('127.0.0.1:9191');
  return text.replaceAll('127.0.0.1:9191', new URL(admin).host);
}

interface Proxy {
  /** Where browsers find the page. */
  readonly url: string;
}

/** nginx with TLS, as most have it. */
async function nginx({ harness, watchdog }: Stage): Promise<Proxy> {
  const folder = harness.folder();
  const port = await freePort();
  for (const each of ['body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']) mkdirSync(join(folder, each));
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (each) => `${each}_temp_path ${join(folder, each.replace('client_', ''))};`,
  );
  writeFileSync(
    join(folder, 'nginx.conf'),
    `daemon off; pid ${folder}/pid; error_log stderr; events {}
    http {
      access_log off; ${temporary.join(' ')}
      server {
        listen 127.0.0.1:${port} ssl;
        ssl_certificate ${CERTIFICATE}/cert.pem; ssl_certificate_key ${CERTIFICATE}/key.pem;
        ${example('nginx', watchdog.admin)}
      }
    }`,
  );
  programs.push(start('nginx', '-c', join(folder, 'nginx.conf'), '-p', folder));
  return { url: `https://localhost:${port}/watchdog/` };
}

async function caddy({ harness, watchdog }: Stage): Promise<Proxy> {
  const folder = harness.folder();
  const port = await freePort();
  const site = example('caddyfile', watchdog.admin).replace('hs.example.com', `http://localhost:${port}`);
  writeFileSync(join(folder, 'Caddyfile'), `{\n  admin off\n}\n${site}`);
  programs.push(
    start('env', `HOME=${folder}`, 'caddy', 'run', '--config', join(folder, 'Caddyfile'), '--adapter', 'caddyfile'),
  );
  return { url: `http://localhost:${port}/watchdog/` };
}

describe.each([
  ['nginx with TLS', nginx],
  ['Caddy', caddy],
])('behind %s, under a path of its own, as the docs say', (_what, startProxy) => {
  test('the page logs in, follows events live and severs; a page of another site does not', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-proxied-'));
    writeFileSync(join(folder, 'token'), TOKEN);
    const made = await stage({ adminTokenFile: join(folder, 'token'), trustedProxies: '127.0.0.1' });
    made.harness.defer(() => rmSync(folder, { recursive: true }));
    stages.push(made);
    await made.node('phone-2');
    const { url } = await startProxy(made);
    await until(async () => (await answers(url)) === 200, 'the proxy answers');
    const { page, mishaps, context } = await openPage(browser, url, { ignoreHTTPSErrors: true });
    await page.getByLabel('Token').fill(TOKEN);
    await page.keyboard.press('Enter');
    await page.getByLabel('Token').waitFor({ state: 'hidden' });
    expect(mishaps.filter((text) => !text.includes('401'))).toEqual([]);
    const [cookie] = await context.cookies(url);
    expect(cookie).toMatchObject({ httpOnly: true, sameSite: 'Strict', secure: url.startsWith('https:') });

    const opens = await page.evaluate(`new Promise((resolve) => {
      const socket = new WebSocket(new URL('events/live', location.href.replace('http', 'ws')));
      socket.onopen = () => resolve(true);
      socket.onerror = () => resolve(false);
    })`);
    expect(opens).toBe(true);

    // The same browser, logged in, on a page of another port, to which the browser sends the same cookies.
    const site = await made.harness.upstream(
      () => {},
      (_request, response) => response.setHeader('content-type', 'text/html').end('<p>another site</p>'),
    );
    const other = await context.newPage();
    await other.goto(site.url.replace('127.0.0.1', 'localhost'));
    const sever = `(base) => fetch(base + 'streams/1/sever', { method: 'POST', credentials: 'include', mode: 'no-cors' })`;
    // The browser hands the answer to no other site, so the fetch fails there.
    await other.evaluate(`(${sever})(${JSON.stringify(url)}).catch(() => {})`);
    expect(await page.evaluate(`fetch('streams').then((answer) => answer.json()).then(({ total }) => total)`)).toBe(1);

    const status = `(${sever})('').then(({ status }) => status)`;
    expect(await page.evaluate(status)).toBe(200);
  });
});

async function answers(url: string): Promise<number> {
  const page = await browser.newPage({ ignoreHTTPSErrors: true });
  try {
    return (await page.goto(url))?.status() ?? 0;
  } catch {
    return 0;
  } finally {
    await page.close();
  }
}
