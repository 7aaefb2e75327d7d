import { describe, expect, it } from 'vitest';
import { Door } from '../support/door.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { onHost } from '../support/network.ts';
import { Phone } from '../support/phone.ts';
import { notifying, OFFLINE_AFTER_MS, Receiver, SETTLES_MS, TOLD_WITHIN_MS } from '../support/receiver.ts';
import { delay, until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

/** Nothing is heard of it for 15 s, and then comes the next look. */
const NOTICED_WITHIN_MS = 25_000;

describe('one of two watchdogs dies, Headscale 0.29.2', () => {
  const here = useLab();

  it('the other one tells which of its nodes do not come back, once', { timeout: 300_000 }, async () => {
    const { lab } = here;
    const headscale = await Headscale.start(lab);
    const ntfy = new Receiver(lab, 'ntfy');
    const port = String(lab.port());
    lab.start('redis', onHost(lab.server, 'redis-server', '--port', port, '--bind', '127.0.0.1', '--save', ''));
    const flags = [...(await notifying(lab, headscale, { ntfy })), '--redis', `redis://127.0.0.1:${port}`];
    const left = await Watchdog.start(lab, headscale, ...flags, '--replica-name', 'left');
    const right = await Watchdog.start(lab, headscale, ...flags, '--replica-name', 'right');
    const door = await Door.open(lab);
    await door.leadTo(left);
    const [away, moves, resident] = ['away', 'moves', 'resident'].map((name) => new Phone(lab, name)) as [
      Phone,
      Phone,
      Phone,
    ];
    for (const phone of [away, moves]) await phone.logIn(door.url, await headscale.authKey());
    await resident.logIn(right.url, await headscale.authKey());
    await delay(OFFLINE_AFTER_MS + SETTLES_MS + TOLD_WITHIN_MS);
    expect(ntfy.shown).toEqual([]);

    await door.leadTo(right);
    const died = Date.now();
    await Promise.all([left.kill(), away.shutDown()]);
    const gone = await until('it is noticed', { timeoutMs: NOTICED_WITHIN_MS }, () => right.logged('replica_gone')[0]);
    expect(gone.replica).toMatch(/^left#/);
    await until('a message', { timeoutMs: OFFLINE_AFTER_MS + SETTLES_MS + TOLD_WITHIN_MS }, () => ntfy.shown[0]);
    const toldMs = Date.parse(ntfy.shown[0]?.at ?? '') - died;
    expect(ntfy.texts).toEqual([expect.stringMatching(/^Node offline: away \| away is offline: /)]);
    expect(await right.onlyStreamFrom(moves.host.address)).toMatchObject({ state: 'open' });

    await away.start();
    await away.running(20_000);
    await until('online', { timeoutMs: TOLD_WITHIN_MS }, () => ntfy.shown[1]);
    await delay(TOLD_WITHIN_MS);
    expect(ntfy.texts.slice(1)).toEqual(['Node online: away | away is online again.']);
    expect(right.logged('internal_error')).toEqual([]);
    printFigures('one of two watchdogs dies', [
      ['died → noticed by the other', seconds(Date.parse(String(gone.time)) - died)],
      ['died → its node that stays away is told', seconds(toldMs)],
    ]);
  });
});
