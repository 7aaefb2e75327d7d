import { describe, expect, it } from 'vitest';
import { LONG } from '../support/build.ts';
import { Bystander } from '../support/bystander.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { delay } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const IDLE_MS = 15 * 60_000;
const LOOK_EVERY_MS = 5_000;
const SETTINGS: readonly (readonly string[])[] = [[], ['--probe-idle', '10s', '--gone-after', '25s']];

// They share a lab: what one's login sets off at the other is over in the first of the fifteen minutes.
describe.runIf(LONG)('healthy clients that are idle for fifteen minutes; Headscale 0.29.2', () => {
  const here = useLab();

  it('keep their streams, with the default settings and with --probe-idle', {
    timeout: IDLE_MS + 120_000,
  }, async () => {
    const headscale = await Headscale.start(here.lab);
    const cases = [];
    for (const [i, flags] of SETTINGS.entries()) {
      const watchdog = await Watchdog.start(here.lab, headscale, ...flags);
      const phone = await Bystander.logIn(here.lab, headscale, watchdog, `idle-${i}`);
      cases.push({ flags, watchdog, phone, longestSilenceMs: 0 });
    }
    const closedBefore = await Promise.all(cases.map(async ({ watchdog }) => closed(watchdog)));

    const until = performance.now() + IDLE_MS;
    while (performance.now() < until) {
      await delay(LOOK_EVERY_MS);
      for (const each of cases) {
        const { lastHeardAt } = await each.phone.expectUntouched();
        each.longestSilenceMs = Math.max(each.longestSilenceMs, Date.now() - Date.parse(lastHeardAt));
      }
    }

    printFigures(
      `idle and healthy for ${seconds(IDLE_MS)}, never touched`,
      cases.map((each) => [
        each.flags.join(' ') || 'default settings',
        `sent nothing for up to ${seconds(each.longestSilenceMs)}`,
      ]),
    );
    expect(await Promise.all(cases.map(async ({ watchdog }) => closed(watchdog)))).toEqual(closedBefore);
    for (const { watchdog } of cases) {
      expect(watchdog.warnings()).toEqual([]);
      expect(watchdog.errors()).toEqual([]);
    }
  });
});

async function closed(watchdog: Watchdog): Promise<number> {
  return (await watchdog.metrics()).sum('streams_closed_total');
}
