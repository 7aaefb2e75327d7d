import { beforeAll, describe, it } from 'vitest';
import { expectFewWrongDead } from './support/contestants.ts';
import { ControlServer } from './support/control-server.ts';
import { useLab } from './support/lab.ts';
import { Watchdog } from './support/watchdog.ts';

const CONTESTS = { nodes: 300, rounds: 1 };

describe(`${CONTESTS.nodes * CONTESTS.rounds} contests between a live old stream and a newcomer of the same phone`, () => {
  const here = useLab();
  let server: ControlServer;
  beforeAll(async () => {
    server = await ControlServer.start(here.lab, 'accept');
  });

  it.each([
    { lostPercent: 0, wrongAtMost: 0 },
    { lostPercent: 10, wrongAtMost: 1 },
  ])(
    'with $lostPercent % of packets lost in both directions, at most $wrongAtMost live streams are called dead',
    async (loss) => {
      // Only rule 1 is to speak.
      const watchdog = await Watchdog.start(here.lab, server, '--silent-after', '10m');
      await expectFewWrongDead(here.lab, watchdog, watchdog.url, CONTESTS, loss);
    },
  );
});
