import { beforeAll, describe, expect, it } from 'vitest';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { Recorder } from '../support/recorder.ts';
import { replay } from '../support/replay.ts';
import { delay, until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const SILENT_AFTER_MS = 2_000;
const WATCHED_MS = 10_000;
const CLOSED_WITHIN_MS = 2_000;

describe("a real tailscaled's handshake is sent again by somebody else, --silent-after 2s; Headscale 0.29.2", () => {
  const here = useLab();
  let recorder: Recorder;
  let watchdog: Watchdog;
  let phone: Phone;
  beforeAll(async () => {
    const headscale = await Headscale.start(here.lab, { gatherWritesMs: 10 });
    recorder = await Recorder.before(here.lab, headscale);
    watchdog = await Watchdog.start(here.lab, recorder, '--silent-after', `${SILENT_AFTER_MS / 1000}s`);
    phone = new Phone(here.lab, 'phone');
    await phone.logIn(watchdog.url, await headscale.authKey());
  });

  /** The phone's only stream, once it has said nothing for longer than the threshold. */
  async function silentStream() {
    return await until('silence', { timeoutMs: 30_000 }, async () => {
      const stream = await watchdog.onlyStreamFrom(phone.host.address);
      return Date.now() - Date.parse(stream.lastHeardAt) > SILENT_AFTER_MS + 500 ? stream : undefined;
    });
  }

  it('if the watchdog remembers it, it is counted as replayed and passed on, and there is no contest', async () => {
    const [handshake] = recorder.handshakes();
    if (handshake === undefined) throw new Error('the phone logged in without a handshake');
    const old = await silentStream();
    const replayer = await replay(here.lab, watchdog, handshake);
    replayer.sendGarbage();
    expect(await replayer.endedWithin(CLOSED_WITHIN_MS)).toBe(true);
    replayer.leave();

    const metrics = await watchdog.metrics();
    expect(metrics.sum('handshakes_total', 'result="replayed"')).toBe(1);
    expect(watchdog.logged('contest_opened')).toEqual([]);
    expect((await watchdog.onlyStreamFrom(phone.host.address)).id).toBe(old.id);
  });

  it('if the watchdog has restarted and does not remember it, there is a contest, but no stream is severed', async () => {
    const [handshake] = recorder.handshakes();
    if (handshake === undefined) throw new Error('the phone logged in without a handshake');
    await watchdog.restart();
    const old = await silentStream();
    const replayer = await replay(here.lab, watchdog, handshake);
    const started = performance.now();
    replayer.sendGarbage();
    expect(await replayer.endedWithin(CLOSED_WITHIN_MS)).toBe(true);
    const closedMs = performance.now() - started;
    replayer.leave();
    await delay(WATCHED_MS);

    printFigures('a replayed handshake that the watchdog does not know', [
      ['garbage → closed by Headscale', seconds(closedMs)],
      ["the node's stream", `not severed in ${seconds(WATCHED_MS)}`],
    ]);
    expect(watchdog.logged('contest_opened')).toHaveLength(1);
    expect(watchdog.severings()).toEqual([]);
    expect((await watchdog.onlyStreamFrom(phone.host.address)).id).toBe(old.id);
    expect(watchdog.errors()).toEqual([]);
  });
});
