import { describe, expect, it } from 'vitest';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { delay, until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const GONE_AFTER_MS = 30_000;
const CUT_OFF_MS = 20_000;
/** After gone-after, counted from the data it did not get, nothing more can come of it. */
const WATCHED_MS = GONE_AFTER_MS + 5_000;

describe('a phone is cut off for 20 s, is sent something meanwhile, and comes back; --gone-after 30s', () => {
  const here = useLab();

  it('keeps its stream, receives what it has missed, and sends again', async () => {
    const { lab } = here;
    const headscale = await Headscale.start(lab);
    const watchdog = await Watchdog.start(lab, headscale, '--gone-after', `${GONE_AFTER_MS}ms`);
    const phone = new Phone(lab, 'phone');
    await phone.logIn(watchdog.url, await headscale.authKey());
    await delay(2_000);
    const onlyStream = () => watchdog.onlyStreamFrom(phone.host.address);
    const { id } = await onlyStream();

    await lab.network.lose(phone.host, 100);
    const cutAt = performance.now();
    await headscale.rename(await headscale.node(phone.name), 'renamed-while-away');
    await delay(CUT_OFF_MS - (performance.now() - cutAt));
    const unackedSegments = (await onlyStream()).kernel?.unackedSegments;
    await lab.network.lose(phone.host, 0);
    const backAt = performance.now();
    const missed = async () => ((await onlyStream()).kernel?.unackedSegments === 0 ? performance.now() : undefined);
    const acknowledgedMs = (await until('what it has missed', { timeoutMs: GONE_AFTER_MS }, missed)) - backAt;
    await phone.say('back-again');
    const heard = () => headscale.node('back-again');
    // What it wanted to say while it was away comes first, and its kernel tries that again only now and then.
    await until('its word in Headscale', { timeoutMs: GONE_AFTER_MS, everyMs: 300 }, heard);
    await delay(WATCHED_MS - (performance.now() - cutAt));

    printFigures('cut off for 20 s, --gone-after 30s', [
      ['not acknowledged at the end of it', `${unackedSegments} segments`],
      ['back → has got what it missed', seconds(acknowledgedMs)],
    ]);
    expect(unackedSegments).toBeGreaterThan(0);
    expect(await onlyStream()).toMatchObject({ id, state: 'open' });
    expect(watchdog.severings()).toEqual([]);
    expect((await watchdog.metrics()).sum('streams_closed_total', 'reason="gone"')).toBe(0);
    expect(watchdog.errors()).toEqual([]);
  });
});
