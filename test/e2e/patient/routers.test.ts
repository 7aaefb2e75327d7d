import { describe, expect, it } from 'vitest';
import { LONG } from '../support/build.ts';
import { printFigures } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import type { HeadscaleVersion } from '../support/headscale-configuration.ts';
import { type Lab, useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { delay, until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const ROUTE = '10.99.0.0/24';
/** The shortest that Headscale takes is a little more than 65 s. */
const EPHEMERAL_AFTER_MS = 66_000;
const GONE_AFTER_MS = 30_000;
/** Headscale says something to each client at least that often. */
const HEADSCALE_SPEAKS_WITHIN_MS = 59_000;
/** From the end of a node's stream to Headscale's calling it offline. */
const HEADSCALE_WAITS_MS = 12_000;
/** Without a watchdog it can take a quarter of an hour, and this is long enough to show the difference. */
const GIVE_UP_MS = 240_000;
const CALM_MS = 3_000;

type InFront = 'nothing' | 'the watchdog';

/** In milliseconds from the vanishing; undefined: not within the time that the test waits. */
interface Outcome {
  readonly otherHasRouteMs: number | undefined;
  readonly ephemeralDeletedMs: number | undefined;
}

const shown = (ms: number | undefined): string =>
  ms === undefined ? `not within ${GIVE_UP_MS / 1000} s` : `${(ms / 1000).toFixed(1)} s`;

const CASES: readonly (readonly [HeadscaleVersion, InFront])[] = [
  ['0.28.0', 'the watchdog'],
  ['0.29.2', 'the watchdog'],
  ...(LONG
    ? ([
        ['0.28.0', 'nothing'],
        ['0.29.2', 'nothing'],
      ] as const)
    : []),
];

describe.concurrent('a subnet router of a pair vanishes, and an ephemeral node', () => {
  // Each in a lab of its own: what Headscale tells others of one that is gone would show that another is.
  const labs = CASES.map(() => useLab());

  async function measure(lab: Lab, version: HeadscaleVersion, inFront: InFront): Promise<Outcome> {
    const headscale = await Headscale.start(lab, { version, ephemeralAfterMs: EPHEMERAL_AFTER_MS });
    const watchdog =
      inFront === 'nothing' ? undefined : await Watchdog.start(lab, headscale, '--gone-after', `${GONE_AFTER_MS}ms`);
    const url = watchdog?.url ?? headscale.url;
    const routers = ['first', 'second'].map((name) => new Phone(lab, name));
    for (const router of routers) {
      await router.logIn(url, await headscale.authKey(), `--advertise-routes=${ROUTE}`);
      await headscale.approveRoutes(await headscale.node(router.name), ROUTE);
    }
    const ephemeral = new Phone(lab, 'ephemeral');
    await ephemeral.logIn(url, await headscale.authKey(undefined, 'ephemeral'));
    await delay(CALM_MS);
    expect((await headscale.node('first')).subnetRoutes).toEqual([ROUTE]);
    expect((await headscale.node('second')).subnetRoutes).toEqual([]);

    const [routerAt, ephemeralAt] = await Promise.all([routers[0]?.vanish(), ephemeral.vanish()]);
    const patience = { timeoutMs: GIVE_UP_MS, everyMs: 250 };
    const waitedFor = async (at: number | undefined, what: string, happened: () => Promise<boolean>) => {
      const found = until(what, patience, async () => ((await happened()) ? performance.now() - (at ?? 0) : undefined));
      return found.catch(() => undefined);
    };
    const [otherHasRouteMs, ephemeralDeletedMs] = await Promise.all([
      waitedFor(routerAt, 'the other has the route', async () =>
        (await headscale.node('second')).subnetRoutes.includes(ROUTE),
      ),
      waitedFor(ephemeralAt, 'the ephemeral node is deleted', async () =>
        (await headscale.nodes()).every(({ name }) => name !== 'ephemeral'),
      ),
    ]);
    printFigures(`vanished, Headscale ${version}, in front: ${inFront}`, [
      ['a subnet router → the other has the route', shown(otherHasRouteMs)],
      [`an ephemeral node → deleted (${EPHEMERAL_AFTER_MS / 1000} s)`, shown(ephemeralDeletedMs)],
    ]);
    return { otherHasRouteMs, ephemeralDeletedMs };
  }

  it.for(CASES.map((each, i) => [...each, i] as const))(
    'Headscale %s, in front: %s',
    { timeout: GIVE_UP_MS + 120_000 },
    async ([version, inFront, i]) => {
      const lab = labs[i]?.lab as Lab;
      const { otherHasRouteMs, ephemeralDeletedMs } = await measure(lab, version, inFront);
      const mostMs = HEADSCALE_SPEAKS_WITHIN_MS + GONE_AFTER_MS + HEADSCALE_WAITS_MS;
      if (inFront === 'the watchdog') {
        expect(otherHasRouteMs).toBeLessThanOrEqual(mostMs);
        expect(ephemeralDeletedMs).toBeLessThanOrEqual(mostMs + EPHEMERAL_AFTER_MS + CALM_MS);
        return;
      }
      expect(ephemeralDeletedMs).toBeUndefined();
      // From 0.29 on, Headscale asks the routers of a pair itself whether they are there.
      if (version === '0.28.0') expect(otherHasRouteMs).toBeUndefined();
      else expect(otherHasRouteMs).toBeLessThanOrEqual(GONE_AFTER_MS);
    },
  );
});
