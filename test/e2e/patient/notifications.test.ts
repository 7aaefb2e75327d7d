import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { PROJECT } from '../support/build.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { onHost } from '../support/network.ts';
import { Phone } from '../support/phone.ts';
import { notifying, OFFLINE_AFTER_MS, Receiver, SETTLES_MS, TOKENS, TOLD_WITHIN_MS } from '../support/receiver.ts';
import { delay, until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const MANY = 60;

describe.concurrent('notifications, Headscale 0.29.2', () => {
  const [first, second] = [useLab(), useLab()];

  it('reach ntfy and Gotify: offline, online, and all of it in order after the receiver was away', async () => {
    const { lab } = first;
    const headscale = await Headscale.start(lab);
    const receivers = { ntfy: new Receiver(lab, 'ntfy'), gotify: new Receiver(lab, 'gotify') };
    const watchdog = await Watchdog.start(lab, headscale, ...(await notifying(lab, headscale, receivers)));
    const { ntfy, gotify } = receivers;
    const phone = new Phone(lab, 'router-1');
    await phone.logIn(watchdog.url, await headscale.authKey());
    // From here on the watchdog has settled, and it knows the node's name.
    await delay(OFFLINE_AFTER_MS + SETTLES_MS);
    expect([ntfy.shown, gotify.shown]).toEqual([[], []]);

    await phone.shutDown();
    const left = Date.now();
    await until('offline', { timeoutMs: OFFLINE_AFTER_MS + TOLD_WITHIN_MS }, () => gotify.shown[0] && ntfy.shown[0]);
    const offlineMs = Date.parse(ntfy.shown[0]?.at ?? '') - left;
    expect(offlineMs).toBeGreaterThanOrEqual(OFFLINE_AFTER_MS);
    await phone.start();
    await phone.running(20_000);
    const back = Date.now();
    await until('online', { timeoutMs: TOLD_WITHIN_MS }, () => gotify.shown[1] && ntfy.shown[1]);
    const onlineMs = Date.parse(ntfy.shown[1]?.at ?? '') - back;
    expect(ntfy.shown).toMatchObject([
      { title: 'Node offline: router-1', priority: 4, tags: ['red_circle'] },
      { title: 'Node online: router-1', priority: 3, tags: ['green_circle'], message: 'router-1 is online again.' },
    ]);
    expect(ntfy.shown[0]?.message).toMatch(/^router-1 is offline: it has had no connection for 1\d(\.\d)? s\.$/);
    expect(gotify.texts).toEqual(ntfy.texts);
    expect(gotify.shown.map(({ priority }) => priority)).toEqual([8, 6]);

    await ntfy.leave();
    await phone.shutDown();
    await until('offline', { timeoutMs: OFFLINE_AFTER_MS + TOLD_WITHIN_MS }, () => gotify.shown[2]);
    await phone.start();
    await until('online', { timeoutMs: TOLD_WITHIN_MS + 20_000 }, () => gotify.shown[3]);
    expect((await watchdog.metrics()).sum('notifications_waiting')).toBe(2);
    ntfy.comeBack();
    await until('all of it', { timeoutMs: 90_000 }, () => (ntfy.shown.length >= 4 ? true : undefined));
    await delay(3_000);
    expect(ntfy.texts).toEqual(gotify.texts);
    expect((await watchdog.metrics()).sum('notifications_waiting')).toBe(0);
    expect(JSON.stringify(watchdog.lines())).not.toMatch(new RegExp(Object.values(TOKENS).join('|')));
    printFigures('notifications, --offline-after 10s', [
      ['tailscaled ended → offline at the receiver', seconds(offlineMs)],
      ['Running → online at the receiver', seconds(onlineMs)],
    ]);
  }, 240_000);

  it(`of ${MANY} nodes: a restart is no message if all come back, and one message if they do not`, async () => {
    const { lab } = second;
    const headscale = await Headscale.start(lab);
    const ntfy = new Receiver(lab, 'ntfy');
    const watchdog = await Watchdog.start(lab, headscale, ...(await notifying(lab, headscale, { ntfy })));
    const program = join(PROJECT, 'test', 'e2e', 'support', 'many-nodes-main.ts');
    const given = ['--import', 'tsx', program, watchdog.url, String(MANY), await headscale.authKey()];
    const nodes = lab.start('many nodes', onHost(await lab.network.addHost('nodes'), process.execPath, ...given));
    const haveStreams = (count: number) =>
      until(`${count} streams`, { timeoutMs: 60_000, everyMs: 250 }, async () =>
        (await watchdog.streams()).filter(({ state }) => state === 'open').length === count ? true : undefined,
      );
    const settled = () => delay(OFFLINE_AFTER_MS + SETTLES_MS + OFFLINE_AFTER_MS);
    const told = async (count: number) => {
      await until('a message', { timeoutMs: OFFLINE_AFTER_MS + SETTLES_MS + TOLD_WITHIN_MS }, () =>
        ntfy.shown.length >= count ? true : undefined,
      );
      // Nothing else follows.
      await delay(OFFLINE_AFTER_MS);
      return ntfy.texts.slice(count - 1);
    };
    const names = `${Array(20).fill('node-\\d+').join(', ')} and ${MANY - 20} more`;
    const offline = expect.stringMatching(
      new RegExp(`^Node offline: ${MANY} nodes \\| ${MANY} nodes are offline: ${names}\\.$`),
    );
    await haveStreams(MANY);

    // Both are restarted, and everybody comes back.
    await headscale.restart();
    await watchdog.restart();
    await haveStreams(MANY);
    await settled();
    expect(ntfy.texts).toEqual([]);

    // Headscale is restarted, and nobody comes back.
    await headscale.stop();
    nodes.signal('SIGUSR2');
    await headscale.restart();
    await haveStreams(0);
    expect(await told(1)).toEqual([offline]);
    nodes.signal('SIGUSR2');
    await haveStreams(MANY);
    expect(await told(2)).toEqual([expect.stringMatching(/^Node online: 60 nodes \| 60 nodes are online again: /)]);

    // The watchdog is restarted, and nobody comes back.
    await watchdog.stop();
    nodes.signal('SIGUSR2');
    await watchdog.restart();
    expect(await told(3)).toEqual([offline]);
    expect(watchdog.errors()).toEqual([]);
  }, 420_000);
});
