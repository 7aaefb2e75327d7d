import { beforeAll, describe, expect, it } from 'vitest';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale, USER } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { delay, until } from '../support/wait.ts';
import { command, Watchdog } from '../support/watchdog.ts';

/** A node that is just logging in is listed after five seconds at most; what follows takes two lists, and longer on a busy machine. */
const SHOWN_WITHIN_MS = 60_000;
/** Without a stream that opens, Headscale is asked every five minutes only. */
const LISTED_WITHIN_MS = 15_000;

describe('presence, with Headscale 0.29.2', () => {
  const here = useLab();
  let headscale: Headscale;
  let keyFile: string;
  beforeAll(async () => {
    headscale = await Headscale.start(here.lab);
    keyFile = await headscale.apiKeyFile();
  });

  const start = (reconcile: string) =>
    Watchdog.start(here.lab, headscale, '--headscale-api-key-file', keyFile, '--reconcile', reconcile);

  /** Has the watchdog ask Headscale: a node comes. */
  async function ask(watchdog: Watchdog, name: string): Promise<Phone> {
    const other = new Phone(here.lab, name);
    await other.logIn(watchdog.url, await headscale.authKey());
    return other;
  }

  it('shows a node as connected and online with what Headscale lists, and as offline once it is away', async () => {
    const watchdog = await start('report');
    const phone = new Phone(here.lab, 'phone');
    await phone.logIn(watchdog.url, await headscale.authKey());
    const running = performance.now();
    const isOnline = async () => {
      const found = await watchdog.node('phone').catch(() => undefined);
      return found?.state === 'connected' && found.shownOnline === true ? found : undefined;
    };
    const node = await until('the phone is online', { timeoutMs: SHOWN_WITHIN_MS }, isOnline);
    const onlineMs = performance.now() - running;
    expect(node).toMatchObject({
      ...{ name: 'phone', user: USER, state: 'connected', disagreement: null, isEphemeral: false, keyExpiresAt: null },
      ...{ addresses: ['100.64.0.1'], evidence: { source: 'direct' }, streams: [{ state: 'open' }] },
    });
    // tailscaled 1.102.3
    expect(node.capabilityVersion).toBeGreaterThan(100);
    expect(node.remoteAddress).toContain(phone.host.address);
    expect(await watchdog.health('phone')).toBe(200);
    expect(await watchdog.health('nobody')).toBe(404);

    await phone.shutDown();
    const left = performance.now();
    await until('its stream has ended', { timeoutMs: 10_000 }, async () =>
      (await watchdog.health('phone')) === 503 ? true : undefined,
    );
    const offlineMs = performance.now() - left;
    expect(await watchdog.node('phone')).toMatchObject({ state: 'offline', connectedSince: null, streams: [] });
    printFigures('presence of a node, Headscale 0.29.2', [
      ['Running → shown as connected here and online there', seconds(onlineMs)],
      ['tailscaled ended → 503', seconds(offlineMs)],
    ]);
    expect(watchdog.logged('node_disagrees')).toEqual([]);
    expect(watchdog.logged('internal_error')).toEqual([]);
  });

  it('shows a node whose key has expired as expired, and keeps its stream', async () => {
    const watchdog = await start('heal');
    const phone = new Phone(here.lab, 'expiring');
    await phone.logIn(watchdog.url, await headscale.authKey());
    await headscale.expire(await headscale.node('expiring'));
    await ask(watchdog, 'asks-for-expired');
    await until('it is expired', { timeoutMs: LISTED_WITHIN_MS }, async () =>
      (await watchdog.node('expiring')).state === 'expired' ? true : undefined,
    );
    expect(await watchdog.health('expiring')).toBe(503);
    await delay(40_000);
    expect(watchdog.logged('node_disagrees')).toEqual([]);
    expect(watchdog.severings()).toEqual([]);

    // Why it is left alone: its client is back at once, without a valid key, and Headscale takes it.
    const { id } = await watchdog.onlyStreamFrom(phone.host.address);
    const { code } = await command(here.lab, 'sever', String(id), '--admin', watchdog.admin, '--yes');
    expect(code).toBe(0);
    const back = await until('it is back', { timeoutMs: 10_000, everyMs: 20 }, async () => {
      const [stream] = await watchdog.streamsFrom(phone.host.address);
      return stream !== undefined && stream.id !== id && stream.upstreamLastHeardAt !== null ? stream : undefined;
    });
    const ended = watchdog.logged('stream_closed').find(({ stream }) => stream === id);
    printFigures('an expired node, Headscale 0.29.2', [
      ['severed by an operator → back', seconds(Date.parse(back.openedAt) - Date.parse(String(ended?.time)))],
    ]);
    await delay(15_000);
    expect((await headscale.node('expiring')).online).toBe(true);
    expect((await phone.status()).BackendState).toBe('NeedsLogin');
  });

  it('report: a deleted node whose stream stays open is told, and its stream stays', async () => {
    const watchdog = await start('report');
    const phone = new Phone(here.lab, 'told');
    await phone.logIn(watchdog.url, await headscale.authKey());
    await until('it is listed', { timeoutMs: SHOWN_WITHIN_MS }, async () =>
      (await watchdog.node('told').catch(() => undefined))?.state === 'connected' ? true : undefined,
    );
    await headscale.delete(await headscale.node('told'));
    await ask(watchdog, 'asks-for-told');
    const told = await until(
      'it is told',
      { timeoutMs: 2 * LISTED_WITHIN_MS },
      () => watchdog.logged('node_disagrees')[0],
    );
    expect(told).toMatchObject({ reason: 'deleted', isEnded: false, code: 'HSW_NODE_DISAGREES' });
    expect(told.msg).toMatch(
      /^told was deleted in Headscale, but its stream \d+ from .* is still open \(Headscale's issue 3410\)\. Sever it/,
    );
    expect(await watchdog.onlyStreamFrom(phone.host.address)).toMatchObject({ state: 'open' });
    expect((await watchdog.nodes()).find(({ name }) => name === 'told')).toMatchObject({ state: 'deleted' });
  });

  it('heal: the stream of a deleted node is ended, and no other', async () => {
    const watchdog = await start('heal');
    const phone = new Phone(here.lab, 'doomed');
    await phone.logIn(watchdog.url, await headscale.authKey());
    await until('it is listed', { timeoutMs: SHOWN_WITHIN_MS }, async () =>
      (await watchdog.node('doomed').catch(() => undefined))?.state === 'connected' ? true : undefined,
    );
    await headscale.delete(await headscale.node('doomed'));
    const deleted = performance.now();
    await ask(watchdog, 'asks-for-doomed');
    const ended = await until(
      'its stream is ended',
      { timeoutMs: 2 * LISTED_WITHIN_MS },
      () => watchdog.severings()[0],
    );
    printFigures('a deleted node, Headscale 0.29.2', [
      ['deleted → its stream ended, with another node that comes at once', seconds(performance.now() - deleted)],
    ]);
    expect(ended.reason).toBe('node_deleted');
    expect(ended.remoteAddress).toContain(phone.host.address);
    await delay(30_000);
    expect(watchdog.severings()).toHaveLength(1);
    expect(await watchdog.health('asks-for-doomed')).toBe(200);
  });
});
