import { beforeAll, describe, expect, it } from 'vitest';
import { ControlServer } from './support/control-server.ts';
import { printFigures, seconds } from './support/figures.ts';
import { expectEvidenceFrom, type Front, NOT_PROBING, PROBING, startBehind } from './support/fronts.ts';
import { useLab } from './support/lab.ts';
import { Phone } from './support/phone.ts';
import { delay } from './support/wait.ts';

const AWAY_S = [3, 20, 40, 70] as const;
const AUTH_KEY = 'any';
/** What a login sets off is over by then. */
const CALM_AFTER_MS = 3_000;
/** From one proxy to the next, so that not all phones come back at one moment. */
const APART_MS = 700;
const GIVE_UP_MS = 60_000;

/** What is expected of a phone that was away for so long. */
interface Expected {
  readonly runningWithinMs: number;
  /** Undefined: any number. */
  readonly refusals?: number;
}

const atOnce: Expected = { runningWithinMs: 1_200, refusals: 0 };
/** Too soon for two unanswered probes: what the refused newcomer makes Headscale say goes unacknowledged. */
const soon: Expected = { runningWithinMs: 5_000 };
/** As long as rule 2 takes: silent-after, and the client's wait until its next try. */
const sometime: Expected = { runningWithinMs: 45_000 };

interface Case {
  readonly name: string;
  readonly front: Front;
  readonly expected: Readonly<Record<(typeof AWAY_S)[number], Expected>>;
}

const CASES: readonly Case[] = [
  ...PROBING.map((front) => ({ name: front.name, front, expected: { 3: soon, 20: soon, 40: atOnce, 70: atOnce } })),
  // After 70 s Headscale's own keepalive has gone unacknowledged.
  ...NOT_PROBING.map((front) => {
    return { name: front.name, front, expected: { 3: sometime, 20: sometime, 40: sometime, 70: atOnce } };
  }),
];

// None of these phones hears of another, so only what concerns itself makes the control server speak to its dead stream.
describe.concurrent('phones vanish without a FIN behind a proxy, and come back; a second stream is refused', () => {
  const here = useLab();
  let server: ControlServer;
  beforeAll(async () => {
    server = await ControlServer.start(here.lab, 'refuse');
  });

  it.for(CASES)(
    '$name: back after 3, 20, 40 and 70 s',
    { timeout: 240_000 },
    async ({ name, front, expected }, { task }) => {
      const number = CASES.findIndex((each) => each.name === name);
      const { lab } = here;
      // A second try has phones of its own. Those of the first know another address, and were refused already.
      const trial = `${number}${'-again'.repeat(task.result?.retryCount ?? 0)}`;
      const { watchdog, url } = await startBehind(lab, front, server);
      const phones = AWAY_S.map((away) => ({ away, phone: new Phone(lab, `${trial}-away-${away}s`) }));
      for (const { phone } of phones) await phone.logIn(url, AUTH_KEY);
      await delay(CALM_AFTER_MS + number * APART_MS);
      const streams = await Promise.all(phones.map(({ phone }) => watchdog.onlyStreamFrom(phone.host.address)));
      const back = await Promise.all(
        phones.map(async ({ away, phone }) => {
          const vanishedAt = await phone.vanish();
          await delay(vanishedAt + away * 1_000 - performance.now());
          await phone.start();
          const runningMs = await phone.running(GIVE_UP_MS);
          return { away, phone, runningMs, refusals: server.refusals(phone.name) };
        }),
      );

      const severings = new Map(watchdog.severings().map((each) => [each.stream, each]));
      printFigures(`behind ${name}, a second stream is refused: start → Running`, [
        ...back.map(({ away, runningMs, refusals }, i) => {
          const { reason = 'not severed' } = severings.get(streams[i]?.id ?? -1) ?? {};
          return [`back after ${away} s`, `${seconds(runningMs)}, ${refusals} refusals (${reason})`] as const;
        }),
      ]);
      for (const stream of streams) expectEvidenceFrom(front, stream);
      for (const { away, phone, runningMs, refusals } of back) {
        const { runningWithinMs, refusals: allowed = refusals } = expected[away];
        expect(runningMs, `back after ${away} s`).toBeLessThanOrEqual(runningWithinMs);
        expect(refusals, `refusals after ${away} s`).toBe(allowed);
        expect(await watchdog.streamsFrom(phone.host.address)).toMatchObject([{ state: 'open', contests: [] }]);
        await phone.shutDown();
      }
      expect(watchdog.errors()).toEqual([]);
    },
  );
});
