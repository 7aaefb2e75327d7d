import { beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../support/build.ts';
import { Bystander } from '../support/bystander.ts';
import { contest, expectFewWrongDead } from '../support/contestants.ts';
import { ControlServer } from '../support/control-server.ts';
import { printFigures, seconds } from '../support/figures.ts';
import {
  CADDY_WITH_PORT,
  expectEvidenceFrom,
  NOT_PROBING,
  PLAIN_CADDY,
  PROBING,
  startBehind,
} from '../support/fronts.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { delay, until } from '../support/wait.ts';

// Only rule 1 is to speak.
const RULE_1_ONLY = ['--silent-after', '10m'];
const CONTESTS = { nodes: 300, rounds: 1 };
const QUIET_MS = 2_000;
/** Caddy has probed three times by then, and Headscale has yet to say something. */
const LONG_QUIET_MS = 49_000;
const LOSSES = [
  { lostPercent: 0, wrongAtMost: 0, quietMs: QUIET_MS },
  { lostPercent: 10, wrongAtMost: 1, quietMs: QUIET_MS },
  ...(LONG ? [{ lostPercent: 10, wrongAtMost: 1, quietMs: LONG_QUIET_MS }] : []),
];

describe.concurrent(`${CONTESTS.nodes} contests between a live old stream and a newcomer of the same phone, behind Caddy`, () => {
  const here = useLab();
  let server: ControlServer;
  beforeAll(async () => {
    server = await ControlServer.start(here.lab, 'accept');
  });

  // Without its port, 300 streams from one address would have nothing said about them.
  it.each(LOSSES)(
    'after $quietMs ms of quiet, with $lostPercent % of packets lost in both directions, at most $wrongAtMost are called dead',
    { timeout: 240_000 },
    async ({ quietMs, ...loss }) => {
      const { watchdog, url } = await startBehind(here.lab, CADDY_WITH_PORT, server, ...RULE_1_ONLY);
      await expectFewWrongDead(here.lab, watchdog, url, { ...CONTESTS, quietMs }, loss);
    },
  );
});

const GONE_AFTER = ['--gone-after', '30s'];
/** Long past gone-after, and Caddy has probed the dead one several times. */
const WATCHED_MS = 70_000;

describe.concurrent('nodes behind one NAT, behind Caddy, without ports', () => {
  const here = useLab();

  it('a dead one has no effect on the live ones, and is severed for its own newcomer', {
    timeout: 240_000,
  }, async () => {
    const { lab } = here;
    const server = await ControlServer.start(lab, 'accept');
    const { watchdog, url } = await startBehind(lab, PLAIN_CADDY, server, ...GONE_AFTER);
    const router = await lab.network.addRouter('router');
    const [lives, dies] = [new Phone(lab, 'lives'), new Phone(lab, 'dies')];
    const ids: number[] = [];
    for (const phone of [lives, dies]) {
      phone.moveTo(await lab.network.addHost(phone.name, router));
      const before = new Set((await watchdog.streams()).map(({ id }) => id));
      await phone.logIn(url, 'any');
      const own = (await watchdog.streamsFrom(router.address)).filter(({ id }) => !before.has(id));
      expect(own).toHaveLength(1);
      ids.push(...own.map(({ id }) => id));
    }
    const [living = -1, dead = -1] = ids;
    const streams = await watchdog.streamsFrom(router.address);
    for (const stream of streams) expectEvidenceFrom(PLAIN_CADDY, stream);
    await dies.vanish();
    const contestants = await lab.network.addHost('contestants', router);
    await delay(WATCHED_MS);
    const { report, end } = await contest(lab, contestants, url, { nodes: 20, rounds: 1 });
    await end();
    const severedBefore = watchdog.severings();
    await dies.start();
    const backMs = await dies.running(10_000);
    const severing = await until('severing', { timeoutMs: 10_000 }, () => watchdog.severings()[0]);

    printFigures('behind one NAT, behind Caddy, without ports', [
      ['severed before the dead one came back', `${severedBefore.length}, in ${seconds(WATCHED_MS)}`],
      ['contests of live ones beside it', `${report.contests}, after ${report.bothAlive} of them both streams alive`],
      ['the dead one is back: start → Running', seconds(backMs)],
      ['its old stream was severed as', severing.reason],
    ]);
    expect(severedBefore).toEqual([]);
    expect(report).toEqual({ contests: 20, bothAlive: 20 });
    expect(watchdog.severings().map(({ stream }) => stream)).toEqual([dead]);
    expect((await watchdog.streams()).find(({ id }) => id === living)).toMatchObject({ state: 'open' });
    expect(watchdog.errors()).toEqual([]);
  });
});

const IDLE_MS = LONG ? 15 * 60_000 : 210_000;
const LOOK_EVERY_MS = 5_000;

describe.concurrent('clients that are idle and healthy behind a proxy, --gone-after 30s; Headscale 0.29.2', () => {
  const here = useLab();

  it(`keep their streams for ${IDLE_MS / 1_000} s behind each`, { timeout: IDLE_MS + 180_000 }, async () => {
    const { lab } = here;
    const headscale = await Headscale.start(lab);
    const cases = await Promise.all(
      [...PROBING, ...NOT_PROBING].map(async (front, i) => {
        const { watchdog, url } = await startBehind(lab, front, headscale, ...GONE_AFTER);
        const phone = await Bystander.logIn(lab, headscale, watchdog, `idle-${i}`, url);
        return { front, watchdog, phone, longestSilenceMs: 0, mostUnanswered: 0 };
      }),
    );
    const closed = () =>
      Promise.all(cases.map(async ({ watchdog }) => (await watchdog.metrics()).sum('streams_closed_total')));
    const closedBefore = await closed();

    const end = performance.now() + IDLE_MS;
    while (performance.now() < end) {
      await delay(LOOK_EVERY_MS);
      for (const each of cases) {
        const stream = await each.phone.expectUntouched();
        expectEvidenceFrom(each.front, stream);
        each.longestSilenceMs = Math.max(each.longestSilenceMs, Date.now() - Date.parse(stream.lastHeardAt));
        each.mostUnanswered = Math.max(each.mostUnanswered, stream.kernel?.unansweredProbes ?? 0);
      }
    }

    printFigures(
      `idle and healthy behind a proxy for ${seconds(IDLE_MS)}, never touched`,
      cases.map(({ front, longestSilenceMs, mostUnanswered }) => [
        front.name,
        `sent nothing for up to ${seconds(longestSilenceMs)}, ${mostUnanswered} probes unanswered at once`,
      ]),
    );
    expect(await closed()).toEqual(closedBefore);
    for (const { watchdog } of cases) {
      expect(watchdog.severings()).toEqual([]);
      expect(watchdog.errors()).toEqual([]);
    }
  });
});
