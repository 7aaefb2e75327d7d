import { expect } from 'vitest';
import type { StreamView } from '../../../src/admin/views.ts';
import type { Headscale } from './headscale.ts';
import type { Lab } from './lab.ts';
import { Phone } from './phone.ts';
import type { Watchdog } from './watchdog.ts';

/** A healthy phone, whose stream must be the same when all is over. */
export class Bystander {
  readonly #watchdog: Watchdog;
  readonly #phone: Phone;
  readonly #stream: StreamView;

  private constructor(watchdog: Watchdog, phone: Phone, stream: StreamView) {
    this.#watchdog = watchdog;
    this.#phone = phone;
    this.#stream = stream;
  }

  /** @param url where it finds the watchdog; another proxy's where there is one. */
  static async logIn(
    lab: Lab,
    headscale: Headscale,
    watchdog: Watchdog,
    name: string,
    url = watchdog.url,
  ): Promise<Bystander> {
    const phone = new Phone(lab, name);
    await phone.logIn(url, await headscale.authKey());
    return new Bystander(watchdog, phone, await watchdog.onlyStreamFrom(phone.host.address));
  }

  async expectUntouched(): Promise<StreamView> {
    const stream = await this.#watchdog.onlyStreamFrom(this.#phone.host.address);
    expect(stream).toMatchObject({ id: this.#stream.id, state: 'open' });
    return stream;
  }
}

/** Expects that so many streams were ended for being gone, and none for anything else. */
export async function expectGone(watchdog: Watchdog, streams: number): Promise<void> {
  const metrics = await watchdog.metrics();
  expect(metrics.sum('streams_closed_total', 'reason="gone"')).toBe(streams);
  expect(watchdog.severings().map(({ reason }) => reason)).toEqual(Array(streams).fill('gone'));
  expect(metrics.streamsUnaccountedFor).toBe(0);
  expect(watchdog.errors()).toEqual([]);
}
