import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const SILENT_AFTER_MS = 6_000;

/** The file; `patientAfter` is what a reload changes. */
function file(keyFile: string, patientAfter: string): string {
  return `
headscale-api-key-file: ${keyFile}
silent-after: 10m
nodes:
  - name: "observed-*"
    silent-after: ${SILENT_AFTER_MS}ms
    observe-only: true
  - name: "quick-?"
    silent-after: ${SILENT_AFTER_MS}ms
  - name: patient-1
    silent-after: ${patientAfter}
`;
}

describe('rules for single nodes, by name, in a --config file; Headscale 0.29.2', () => {
  const here = useLab();
  let headscale: Headscale;
  let config: string;
  let keyFile: string;
  let watchdog: Watchdog;
  beforeAll(async () => {
    headscale = await Headscale.start(here.lab, { gatherWritesMs: 10 });
    keyFile = await headscale.apiKeyFile();
    config = join(here.lab.folder('watchdog'), 'watchdog.yaml');
    writeFileSync(config, file(keyFile, '5m'));
    watchdog = await Watchdog.start(here.lab, headscale, '--config', config);
  });

  /** A phone whose name is known, and that then freezes. @returns the id of its stream. */
  async function frozen(name: string) {
    const phone = new Phone(here.lab, name);
    await phone.logIn(watchdog.url, await headscale.authKey());
    const known = async () => {
      const stream = await watchdog.onlyStreamFrom(phone.host.address);
      return stream.node === null ? undefined : stream;
    };
    const { id } = await until(`the name of ${name}`, { timeoutMs: 12_000 }, known);
    phone.freeze();
    return { id, phone, twin: new Phone(here.lab, `${name}-again`, phone) };
  }

  async function contested(...all: readonly { readonly twin: Phone }[]): Promise<void> {
    for (const { twin } of all) {
      await twin.start();
      await twin.running(10_000);
    }
  }

  it('one node is only observed, one is severed after its own silent-after, and one after a reload has changed its rule', async () => {
    const [observed, quick, patient] = [await frozen('observed-1'), await frozen('quick-1'), await frozen('patient-1')];
    await contested(observed, patient, quick);
    const severingOf = (stream: number) => () => watchdog.severings().find((each) => each.stream === stream);
    const patience = { timeoutMs: 3 * SILENT_AFTER_MS, everyMs: 20 };
    const quickly = await until('severing', patience, severingOf(quick.id));
    const spared = () => watchdog.logged('would_sever').find(({ stream }) => stream === observed.id);
    await until('what would have been severed', patience, spared);
    expect(watchdog.severings()).toHaveLength(1);

    writeFileSync(config, file(keyFile, '5s'));
    const reloadedAt = performance.now();
    const said = await watchdog.reload();
    await until('severing after the reload', patience, severingOf(patient.id));
    const reloadMs = performance.now() - reloadedAt;

    printFigures('rules of single nodes', [
      [`silent-after: ${SILENT_AFTER_MS}ms: last heard → severed`, seconds(quickly.silentMs)],
      ['reload → an open contest is judged by its new rule', seconds(reloadMs)],
      ['reload says', said.replaceAll('\n', '; ')],
    ]);
    expect(quickly.silentMs).toBeGreaterThanOrEqual(SILENT_AFTER_MS);
    expect(said).toContain('nodes: changed');
    expect(watchdog.severings().map(({ stream }) => stream)).toEqual([quick.id, patient.id]);
    expect(await watchdog.onlyStreamFrom(observed.phone.host.address)).toMatchObject({ id: observed.id });
    expect((await watchdog.metrics()).sum('would_sever_total')).toBe(1);
    expect(watchdog.errors()).toEqual([]);
  });
});
