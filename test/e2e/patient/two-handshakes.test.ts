import { beforeAll, describe, expect, it } from 'vitest';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { Recorder } from '../support/recorder.ts';
import { logInWithTwo, type TwoHandshakes } from '../support/stranger.ts';
import { delay, until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const SILENT_AFTER_MS = 2_000;
/** A newcomer that has settled would take over a second after its first record. */
const WATCHED_MS = 3_500;

describe("a stranger shows its own handshake and a phone's that it captured, --silent-after 2s; Headscale 0.29.2", () => {
  const here = useLab();
  let headscale: Headscale;
  let watchdog: Watchdog;
  let phone: Phone;
  let captured: string;
  beforeAll(async () => {
    headscale = await Headscale.start(here.lab, { gatherWritesMs: 10 });
    const recorder = await Recorder.before(here.lab, headscale);
    watchdog = await Watchdog.start(here.lab, recorder, '--silent-after', `${SILENT_AFTER_MS / 1000}s`);
    phone = new Phone(here.lab, 'phone');
    await phone.logIn(watchdog.url, await headscale.authKey());
    const [handshake] = recorder.handshakes();
    if (handshake === undefined) throw new Error('the phone logged in without a handshake');
    captured = handshake;
    // From here on the watchdog has not seen it, as if it had been captured on its way.
    await watchdog.restart();
    await phone.running(30_000);
  });

  it.each<readonly [string, TwoHandshakes]>([
    ['WebSocket first, its own in the query', { upgrades: ['websocket', 'tailscale-control-protocol'], own: 'query' }],
    ['WebSocket last, its own in the header', { upgrades: ['tailscale-control-protocol', 'websocket'], own: 'header' }],
    ['WebSocket alone, its own in the query', { upgrades: ['websocket'], own: 'query' }],
    ['no WebSocket, its own in the header', { upgrades: ['tailscale-control-protocol'], own: 'header' }],
  ])('%s: Headscale and the watchdog take it for itself, and the idle phone keeps its stream', async (what, two) => {
    const { lab } = here;
    const idle = await until('silence', { timeoutMs: 30_000 }, async () => {
      const [stream] = await watchdog.streamsFrom(phone.host.address);
      if (stream === undefined) return undefined;
      return Date.now() - Date.parse(stream.lastHeardAt) > SILENT_AFTER_MS + 500 ? stream : undefined;
    });
    const name = `stranger-${what.replace(/\W+/g, '-').toLowerCase()}`.slice(0, 60);
    const authKey = await headscale.authKey();
    const stranger = await logInWithTwo(lab, watchdog, name, two, { captured, authKey });
    const { machineKey } = await watchdog.onlyStreamFrom(lab.server.address);
    await delay(WATCHED_MS);

    expect(stranger.connection.isOpen).toBe(true);
    expect(machineKey).toBe(stranger.machineKey);
    expect((await headscale.node(name)).machineKey).toBe(stranger.machineKey);
    expect(watchdog.logged('contest_opened')).toEqual([]);
    expect(watchdog.severings()).toEqual([]);
    expect((await watchdog.onlyStreamFrom(phone.host.address)).id).toBe(idle.id);
    expect(watchdog.errors()).toEqual([]);
    stranger.connection.close();
    await until('its end', { timeoutMs: 5_000 }, async () => {
      return (await watchdog.streamsFrom(lab.server.address)).length === 0 || undefined;
    });
  });
});
