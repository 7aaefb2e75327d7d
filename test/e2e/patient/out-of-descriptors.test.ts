import { describe, expect, it } from 'vitest';
import { Bystander } from '../support/bystander.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { delay } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

/** Less than a client takes to give up its login. */
const OUT_FOR_MS = 8_000;

describe('Headscale 0.29.2 has no descriptors left for a while', () => {
  const here = useLab();

  it('nodes with a stream keep it, and new ones are accepted as soon as Headscale has descriptors again', async () => {
    const { lab } = here;
    const headscale = await Headscale.start(lab);
    const watchdog = await Watchdog.start(lab, headscale);
    const bystander = await Bystander.logIn(lab, headscale, watchdog, 'bystander');
    const authKey = await headscale.authKey();

    await headscale.mayOpen('nothing');
    const newcomer = new Phone(lab, 'newcomer');
    const loggedIn = newcomer.logIn(watchdog.url, authKey);
    await delay(OUT_FOR_MS);
    await bystander.expectUntouched();
    expect((await newcomer.status())?.BackendState).not.toBe('Running');

    await headscale.mayOpen('all');
    await loggedIn;
    await bystander.expectUntouched();
    expect(watchdog.severings()).toEqual([]);
    expect((await watchdog.metrics()).streamsUnaccountedFor).toBe(0);
    // It accepts connections and answers none for so long: that may be told.
    expect(watchdog.errors().filter(({ event }) => event !== 'upstream_silent')).toEqual([]);
  });
});
