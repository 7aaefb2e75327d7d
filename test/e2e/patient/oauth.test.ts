import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { readNodeList } from '../../../src/headscale/node-list.ts';
import type { NodeInfo } from '../../../src/identity/node-info.ts';
import { programs } from '../support/build.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale, USER } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { until } from '../support/wait.ts';
import { command, Watchdog } from '../support/watchdog.ts';

const SCOPE = 'devices:core:read';
const TOKEN_PATH = '/api/v2/oauth/token';
const DEVICES_PATH = '/api/v2/tailnet/-/devices';
/** A node that is just logging in is asked for again after five seconds. */
const KNOWN_WITHIN_MS = 12_000;
/** Key files are looked at once in five seconds. */
const READ_AGAIN_WITHIN_MS = 12_000;
/** Headscale shows a node as online for ten seconds after its stream has ended. */
const OFFLINE_WITHIN_MS = 30_000;

/** What both APIs tell of a node. Only v2 tells more, and v1 says when an online node was last seen. */
function common({ machineKey, nodeKey, id, name, user, addresses, tags, online, expiry, isEphemeral }: NodeInfo) {
  return { machineKey, nodeKey, id, name, user, addresses, tags, online, expiry, isEphemeral };
}

describe.skipIf(!existsSync(programs.headscale['0.30-dev']))(
  '--headscale-oauth-client-file; Headscale 0.30-dev',
  () => {
    const here = useLab();
    let headscale: Headscale;
    beforeAll(async () => {
      headscale = await Headscale.start(here.lab, { version: '0.30-dev' });
    });

    const fileWith = (name: string, secret: string): string => {
      const path = join(here.lab.folder('oauth'), name);
      writeFileSync(path, `${secret}\n`, { mode: 0o600 });
      return path;
    };
    const listed = async (path: string, bearer: string, list: 'nodes' | 'devices'): Promise<readonly NodeInfo[]> => {
      const { status, body } = await headscale.ask('GET', path, bearer);
      const read = readNodeList(body, list);
      if (status !== 200 || !read.ok) throw new Error(`${path}: ${status} ${body}`);
      return read.nodes;
    };

    it('check accepts a client that may read nodes, and says of each other what to do', async () => {
      const ports = [here.lab.port(), here.lab.port()].map((port) => `127.0.0.1:${port}`);
      const where = ['--listen', ports[0] ?? '', '--admin', ports[1] ?? ''];
      const flags = ['--upstream', headscale.url, '--noise-key', headscale.noiseKeyFile, ...where];
      const checked = (file: string) => command(here.lab, 'check', ...flags, '--headscale-oauth-client-file', file);
      const { key } = await headscale.oauthClient(SCOPE);
      const other = await headscale.oauthClient('auth_keys:read');
      const right = await checked(fileWith('right', key));
      const scopeless = await checked(fileWith('scopeless', other.key));
      const wrong = await checked(
        fileWith(
          'wrong',
          key.replace(/.$/, (last) => (last === '0' ? '1' : '0')),
        ),
      );

      expect(right.stdout).toMatch(/^ok .*OAuth client: accepted, \d+ nodes?$/m);
      expect([right.code, scopeless.code, wrong.code]).toEqual([0, 1, 1]);
      expect(scopeless.stdout).toMatch(
        /^fail .*400, the OAuth client may not read nodes, .*--scope devices:core:read/m,
      );
      expect(wrong.stdout).toMatch(/^fail .*401, Headscale refuses the OAuth client; create one with/m);
      for (const { said } of [right, scopeless, wrong]) expect(said).not.toContain('hskey-');
    });

    it('nodes have names; a client that is deleted is told, and the secret of another is read from the file', async () => {
      const { id, key } = await headscale.oauthClient(SCOPE);
      const file = fileWith('secret', key);
      const watchdog = await Watchdog.start(here.lab, headscale, '--headscale-oauth-client-file', file);
      const phone = new Phone(here.lab, 'phone');
      await phone.logIn(watchdog.url, await headscale.authKey());
      const started = performance.now();
      const nameOf = async (one: Phone) => (await watchdog.onlyStreamFrom(one.host.address)).node ?? undefined;
      const node = await until('its name', { timeoutMs: KNOWN_WITHIN_MS }, () => nameOf(phone));
      const knownMs = performance.now() - started;
      expect(node).toMatchObject({ name: 'phone', user: USER });

      await headscale.deleteOauthClient(id);
      const second = new Phone(here.lab, 'second');
      await second.logIn(watchdog.url, await headscale.authKey());
      const failed = await until(
        'a refusal',
        { timeoutMs: KNOWN_WITHIN_MS },
        () => watchdog.logged('nodes_list_failed')[0],
      );
      expect(failed.detail).toMatch(
        /POST .*\/api\/v2\/oauth\/token\): 401, Headscale refuses the OAuth client; create/,
      );
      expect(await nameOf(phone)).toEqual(node);

      writeFileSync(file, `${(await headscale.oauthClient(SCOPE)).key}\n`, { mode: 0o600 });
      const replaced = performance.now();
      await until('the second name', { timeoutMs: READ_AGAIN_WITHIN_MS }, () => nameOf(second));
      printFigures('an OAuth client, Headscale 0.30-dev', [
        ['Running → known', seconds(knownMs)],
        ['another secret in the file → known', seconds(performance.now() - replaced)],
      ]);
      expect(JSON.stringify(watchdog.lines())).not.toContain('hskey-');
      await phone.shutDown();
      await second.shutDown();
    });

    it("the watchdog's token can read nodes, as the API key sees them, and nothing else", async () => {
      const { key } = await headscale.oauthClient('all');
      const form = { grant_type: 'client_credentials', client_secret: key, scope: SCOPE };
      const issued = await headscale.ask('POST', TOKEN_PATH, '', form);
      const { access_token: token, scope, expires_in: expiresIn } = JSON.parse(issued.body) as Record<string, unknown>;
      expect([issued.status, scope, expiresIn]).toEqual([200, SCOPE, 3600]);

      const [online, offline] = [new Phone(here.lab, 'online'), new Phone(here.lab, 'offline')];
      for (const each of [online, offline]) await each.logIn(headscale.url, await headscale.authKey());
      await offline.shutDown();
      const devices = () => listed(DEVICES_PATH, String(token), 'devices');
      const stateOf = async (name: string) => (await devices()).find((node) => node.name === name);
      await until('one is offline', { timeoutMs: OFFLINE_WITHIN_MS }, async () =>
        (await stateOf('offline'))?.online === false ? true : undefined,
      );
      const [v1, v2] = [await listed('/api/v1/node', await headscale.apiKey(), 'nodes'), await devices()];
      // v2 lists them in any order.
      const byId = (nodes: readonly NodeInfo[]) => nodes.map(common).sort((a, b) => Number(a.id) - Number(b.id));
      expect(byId(v2)).toEqual(byId(v1));
      expect(await stateOf('online')).toMatchObject({
        online: true,
        os: 'linux',
        clientVersion: expect.stringMatching(/^1\./),
      });
      expect(await stateOf('offline')).toMatchObject({ online: false, lastSeen: expect.any(Date) });

      const device = `/api/v2/device/${v1[0]?.id}`;
      const tried = [
        await headscale.ask('GET', '/api/v1/node', String(token)),
        await headscale.ask('DELETE', device, String(token)),
        await headscale.ask('POST', `${device}/authorized`, String(token)),
      ];
      expect(tried.map(({ status }) => status)).toEqual([401, 403, 403]);
      await online.shutDown();
    });
  },
);
