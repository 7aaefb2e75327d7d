import { describe, expect, it } from 'vitest';
import { LONG } from '../support/build.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { type Lab, useLab } from '../support/lab.ts';
import { tcpConnections } from '../support/network.ts';
import { Phone } from '../support/phone.ts';
import { delay, until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const NAT_FORGETS_AFTER_S = 40;
/** Long enough that a NAT has forgotten what nothing kept open. */
const OWNER_COMES_AFTER_MS = 65_000;
/** As when nothing stands in its way; a client whose NAT has forgotten it never learns that it was admitted. */
const RUNS_WITHIN_MS = 30_000;

/** gone-after, a look of Linux' every 15 s, and the time that this test takes to look. */
const DROPPED_WITHIN_MS = 120_000 + 15_000 + 5_000;
const BARE_DROPS_WITHIN_MS = 240_000;
const IDLE_MS = 5 * 60_000;

/** The two ways in: through a watchdog, and to Headscale itself, for comparison. */
async function setUp(lab: Lab) {
  const headscale = await Headscale.start(lab);
  const watchdog = await Watchdog.start(lab, headscale);
  const ways = [
    { name: 'watchdog', url: watchdog.url },
    { name: 'bare', url: headscale.url },
  ] as const;
  return { headscale, watchdog, ways };
}

/** How many TCP connections the server has from this address, IPv4 or mapped. */
async function connectionsFrom(lab: Lab, address: string): Promise<number> {
  const from = new RegExp(`^(\\[::ffff:)?${address}\\]?:`);
  return (await tcpConnections(lab.server)).filter(({ peer }) => from.test(peer)).length;
}

describe.concurrent(`a login that waits for its user behind a NAT that forgets after ${NAT_FORGETS_AFTER_S} s; Headscale 0.29.2`, () => {
  const here = useLab();

  it('gets its answer when the user confirms it, as without a watchdog', { timeout: 240_000 }, async () => {
    const { lab } = here;
    const { headscale, watchdog, ways } = await setUp(lab);
    const waiting = await Promise.all(
      ways.map(async ({ name, url }) => {
        const phone = new Phone(lab, `waits-${name}`);
        await phone.start();
        await lab.network.addNat(phone.host, NAT_FORGETS_AFTER_S);
        const authUrl = await phone.askToLogIn(url);
        // Else its own would keep its NAT open.
        phone.switchKeepaliveOff();
        return { name, phone, authUrl };
      }),
    );
    await delay(OWNER_COMES_AFTER_MS);
    const figures = await Promise.all(
      waiting.map(async ({ name, phone, authUrl }) => {
        await headscale.admit(authUrl);
        const admittedAt = performance.now();
        await phone.running(RUNS_WITHIN_MS);
        return [name, seconds(performance.now() - admittedAt)] as const;
      }),
    );
    printFigures(`behind a NAT that forgets after ${NAT_FORGETS_AFTER_S} s, admitted → Running`, figures);
    expect(watchdog.errors()).toEqual([]);
  });
});

describe.runIf(LONG).concurrent('a client that waits for its user to log in vanishes; Headscale 0.29.2', () => {
  const here = useLab();

  it('is dropped no later than by Headscale itself', {
    timeout: 360_000,
  }, async () => {
    const { lab } = here;
    const { ways } = await setUp(lab);
    const tookMs = await Promise.all(
      ways.map(async ({ name, url }) => {
        const phone = new Phone(lab, `vanishes-${name}`);
        await phone.start();
        await phone.askToLogIn(url);
        await delay(5_000);
        const { address } = phone.host;
        expect(await connectionsFrom(lab, address), `${name} before it vanishes`).toBeGreaterThan(0);
        const vanishedAt = await phone.vanish();
        const timeoutMs = name === 'bare' ? BARE_DROPS_WITHIN_MS : DROPPED_WITHIN_MS;
        await until(`${name}: dropped`, { timeoutMs, everyMs: 500 }, async () => {
          return (await connectionsFrom(lab, address)) === 0 ? true : undefined;
        });
        return performance.now() - vanishedAt;
      }),
    );
    const [withWatchdog = Number.NaN, bare = Number.NaN] = tookMs;
    printFigures('a login that waits vanishes → its connection is dropped', [
      ['watchdog', seconds(withWatchdog)],
      ['bare', seconds(bare)],
    ]);
    expect(withWatchdog).toBeLessThan(bare);
  });
});

describe.runIf(LONG).concurrent('a healthy, idle phone; Headscale 0.29.2', () => {
  const here = useLab();

  it('receives only the packets that Headscale sends', {
    timeout: IDLE_MS + 120_000,
  }, async () => {
    const { lab } = here;
    const { headscale, watchdog, ways } = await setUp(lab);
    const authKey = await headscale.authKey();
    const phones = [];
    for (const { name, url } of ways) {
      const phone = new Phone(lab, `idle-${name}`);
      await phone.logIn(url, authKey);
      phones.push({ name, phone, port: Number(new URL(url).port) });
    }
    // What a login sets off is over by then.
    await delay(60_000);
    for (const { phone, port } of phones) {
      phone.switchKeepaliveOff();
      await lab.network.countProbes(phone.host, port);
    }
    await delay(IDLE_MS);
    const counted = await Promise.all(phones.map(({ phone }) => lab.network.probes(phone.host)));
    printFigures(
      `probes to an idle phone in ${IDLE_MS / 60_000} minutes`,
      phones.map(({ name }, i) => [name, String(counted[i])]),
    );
    const [withWatchdog, bare] = counted;
    expect(withWatchdog).toBe(0);
    // Headscale itself probes every 15 s: the counter counts.
    expect(bare).toBeGreaterThan(0);
    expect(await watchdog.streamsFrom(phones[0]?.phone.host.address ?? '')).toMatchObject([{ state: 'open' }]);
  });
});
