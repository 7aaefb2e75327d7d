import pino from 'pino';
import { afterEach, describe, expect, test } from 'vitest';
import { RefusedUpgrades } from '../../src/proxy/refusals.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { logEvents } from '../../src/telemetry/log.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { closeReason, Harness, readHead, upgradeHead } from '../support/harness.ts';
import { scrape } from '../support/http.ts';
import { ALICE, Bench } from '../takeover/takeover-bench.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

/** What the log says of an event, at `info` and above. */
function logged(events: readonly WatchdogEvent[]): readonly { readonly level: number; readonly msg: string }[] {
  const lines: { level: number; msg: string }[] = [];
  const log = pino({ level: 'info', base: null }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  for (const event of events) logEvents(log, () => undefined)(event);
  return lines;
}

const WARN = 40;

describe('a control stream that Headscale refuses', () => {
  test.each([
    [301, 'other', 'redirect'],
    [400, '400', 'X-Tailscale-Handshake'],
    [403, '403', 'without a login'],
    [404, '404', "Headscale's listen_addr"],
    [405, '405', 'Headscale 0.24 to 0.28, or 0.29.2'],
    [418, 'other', "Headscale's log"],
    [429, 'other', 'rate'],
    [500, '500', 'must pass on Upgrade'],
    [503, '503', 'does not reach Headscale'],
  ])(
    'with %i: the log says what to do, the refusal is counted, and the client gets the answer',
    async (status, label, cure) => {
      const upstream = await harness.upstream((_request, socket) => {
        socket.on('error', () => {});
        socket.end(`HTTP/1.1 ${status} Whatever\r\nContent-Length: 0\r\n\r\n`);
      });
      const { port, admin, events } = await harness.watchdog(upstream.url);
      const client = harness.client(port);
      client.write(upgradeHead('/ts2021'));
      expect(await readHead(client)).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
      client.destroy();
      expect(await closeReason(events)).toBe('upstream_refused');
      const refused = logged(events.filter(({ kind }) => kind === 'upstream_refused'));
      expect(refused).toMatchObject([{ level: WARN, status, streamKind: 'control' }]);
      expect(refused[0]?.msg).toContain(`refused a control stream with ${status}`);
      expect(refused[0]?.msg).toContain(cure);
      expect((await scrape(admin)).get(`headscale_watchdog_upstream_refused_total{status="${label}"}`)).toBe(1);
    },
  );

  test('is reported once a minute for each status, and never for a relay that is switched off', () => {
    const clock = new FakeClock();
    const events: WatchdogEvent[] = [];
    const refused = new RefusedUpgrades(clock, (event) => events.push(event));
    const { stream } = new Bench().opens(ALICE);
    const told = (): readonly string[] => logged(events.splice(0)).map(({ msg }) => msg.slice(0, 47));
    const of = (status: number): string => `Headscale refused a control stream with ${status}, so`;
    for (const status of [405, 405, 500, 405]) refused.note(stream, status);
    expect(told()).toEqual([of(405), of(500)]);
    clock.advance(59_999);
    refused.note(stream, 405);
    expect(told()).toEqual([]);
    clock.advance(1);
    for (const status of [405, 405]) refused.note(stream, status);
    for (let i = 0; i < 3; i++) refused.note({ ...stream, kind: 'derp' }, 404);
    expect(told()).toEqual([of(405)]);
  });
});
