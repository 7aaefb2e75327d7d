import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { NodeView } from '../../../src/admin/views.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale, type ListedNode, USER } from '../support/headscale.ts';
import type { HeadscaleVersion } from '../support/headscale-configuration.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { until } from '../support/wait.ts';
import { command, Watchdog } from '../support/watchdog.ts';

const WRONG_KEY = 'AbCdEfG.0123456789abcdefghijklmnopqrstuv';
/** A node that is just logging in is asked for again after five seconds. */
const KNOWN_WITHIN_MS = 12_000;
/** Key files are looked at once in five seconds. */
const READ_AGAIN_WITHIN_MS = 12_000;
const VERSIONS: readonly HeadscaleVersion[] = ['0.29.2', '0.23.0'];

describe.each(VERSIONS)('--headscale-api-key-file; Headscale %s', (version) => {
  const here = useLab();
  let headscale: Headscale;
  let keyFile: string;
  let wrongKeyFile: string;
  beforeAll(async () => {
    headscale = await Headscale.start(here.lab, { version });
    keyFile = await headscale.apiKeyFile();
    wrongKeyFile = join(here.lab.folder('wrong'), 'api.key');
    writeFileSync(wrongKeyFile, `${WRONG_KEY}\n`, { mode: 0o600 });
  });

  it('with a wrong API key there is an error in the log, and traffic flows', async () => {
    const watchdog = await Watchdog.start(here.lab, headscale, '--headscale-api-key-file', wrongKeyFile);
    const refused = await until("the key's refusal", { timeoutMs: 10_000 }, () => watchdog.errors()[0]);
    const phone = new Phone(here.lab, 'nameless');
    await phone.logIn(watchdog.url, await headscale.authKey());

    printFigures(`a wrong API key, Headscale ${version}`, [['the log', String(refused.msg)]]);
    expect(refused.event).toBe('nodes_list_failed');
    expect(refused.detail).toContain('headscale apikeys create');
    expect(JSON.stringify(watchdog.lines())).not.toContain(WRONG_KEY);
    expect(await watchdog.onlyStreamFrom(phone.host.address)).toMatchObject({ state: 'open', node: null });
    // Told once more when Headscale was found to be up, and then no more.
    for (const { msg, detail } of watchdog.errors())
      expect({ msg, detail }).toEqual({ msg: refused.msg, detail: refused.detail });
    expect(watchdog.errors().length).toBeLessThanOrEqual(2);
  });

  it('check exits with 0 with the right API key, and with 1 with a wrong one', async () => {
    const ports = [here.lab.port(), here.lab.port()].map((port) => `127.0.0.1:${port}`);
    const where = ['--listen', ports[0] ?? '', '--admin', ports[1] ?? ''];
    const flags = ['--upstream', headscale.url, '--noise-key', headscale.noiseKeyFile, ...where];
    const right = await command(here.lab, 'check', ...flags, '--headscale-api-key-file', keyFile);
    const wrong = await command(here.lab, 'check', ...flags, '--headscale-api-key-file', wrongKeyFile);

    expect(right.said).not.toMatch(/^fail/m);
    expect(right.stdout).toMatch(/^ok .*API key: accepted, \d+ nodes?$/m);
    expect(right.code).toBe(0);
    expect(wrong.stdout.match(/^fail .*/gm)).toEqual([expect.stringContaining('API key')]);
    expect(wrong.said).not.toContain(WRONG_KEY);
    expect(wrong.code).toBe(1);
  });

  // 0.23.0 leaves the node with its first user.
  it.skipIf(version === '0.23.0')('a node that logs in as another user is soon shown with that user', async () => {
    const watchdog = await Watchdog.start(here.lab, headscale, '--headscale-api-key-file', keyFile);
    const phone = new Phone(here.lab, 'shared');
    await phone.logIn(watchdog.url, await headscale.authKey());
    const userOf = async () => (await watchdog.streamsFrom(phone.host.address)).at(-1)?.node?.user;
    await until('its name', { timeoutMs: KNOWN_WITHIN_MS }, async () => ((await userOf()) === USER ? true : undefined));
    await headscale.addUser('another');
    const authKey = await headscale.authKey('another');
    const who = [`--login-server=${watchdog.url}`, `--auth-key=${authKey}`, '--hostname=shared', '--force-reauth'];
    await phone.command('up', ...who, '--timeout=25s', '--accept-dns=false');
    await phone.running(10_000);
    const started = performance.now();
    const isAnother = async () => ((await userOf()) === 'another' ? true : undefined);
    // Headscale shows a node of before as online for some seconds more.
    await until('its new user', { timeoutMs: 60_000 }, isAnother);
    printFigures(`another user on the same machine, Headscale ${version}`, [
      ['Running → known as the other user', seconds(performance.now() - started)],
    ]);
  });

  it('/streams, the log and the metrics show the names of nodes, even while Headscale is away', async () => {
    const watchdog = await Watchdog.start(here.lab, headscale, '--headscale-api-key-file', keyFile);
    const phone = new Phone(here.lab, 'phone');
    await phone.logIn(watchdog.url, await headscale.authKey());
    const started = performance.now();
    const listed = await headscale.node('phone');
    const named = async () => (await watchdog.onlyStreamFrom(phone.host.address)).node ?? undefined;
    const node = await until('its name', { timeoutMs: KNOWN_WITHIN_MS }, named);
    const knownMs = performance.now() - started;
    expect(node).toEqual(viewOf(listed));
    expect(await infoOf(watchdog, listed)).toBe(1);

    await headscale.stop();
    // A key file that has changed is a reason to ask now.
    writeFileSync(keyFile, 'AbCdEfG.another-key-that-nobody-can-be-asked-about\n', { mode: 0o600 });
    const notListed = () => watchdog.logged('nodes_list_failed')[0];
    const failed = await until('a question that fails', { timeoutMs: READ_AGAIN_WITHIN_MS }, notListed);

    printFigures(`nodes by name, Headscale ${version}`, [
      ['Running → known', seconds(knownMs)],
      ['Headscale away', String(failed.detail)],
    ]);
    expect(await infoOf(watchdog, listed)).toBe(1);
    const closed = watchdog.logged('stream_closed').filter(({ machineKey }) => machineKey === listed.machineKey);
    expect(closed.at(-1)).toMatchObject({ node: viewOf(listed) });
    expect(watchdog.logged('internal_error')).toEqual([]);
  });
});

function viewOf({ id, givenName, nodeKey }: ListedNode): NodeView {
  return { id, name: givenName, user: USER, nodeKey };
}

async function infoOf(watchdog: Watchdog, { machineKey, nodeKey, id, givenName }: ListedNode): Promise<number> {
  const labels = `machine_key="${machineKey}",node_key="${nodeKey}",node_id="${id}",name="${givenName}",user="${USER}"`;
  return (await watchdog.metrics()).sum('node_info', labels);
}
