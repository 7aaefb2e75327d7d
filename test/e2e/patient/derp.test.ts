import { createHash, randomFillSync } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { certificateFor, listenWithTls } from '../support/certificate.ts';
import { printFigures, seconds } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { until } from '../support/wait.ts';
import { Watchdog } from '../support/watchdog.ts';

const FILE_BYTES = 50_000_000;
const TIMES = ['--probe-idle', '5s', '--gone-after', '15s'];
const GONE_WITHIN_MS = 25_000;

function sha256(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

describe("Headscale 0.29.2's embedded relay, behind the watchdog", () => {
  const here = useLab();

  it('two clients that cannot reach each other send a file through it; a client that vanishes is closed there too', async () => {
    const { lab } = here;
    const certificate = await certificateFor(lab);
    const port = lab.port();
    const url = `https://${lab.server.address}:${port}`;
    const headscale = await Headscale.start(lab, { gatherWritesMs: 10, relayAt: url });
    const watchdog = await Watchdog.start(lab, headscale, '--listen', listenWithTls(lab, port, certificate), ...TIMES);
    const [sender, receiver] = [new Phone(lab, 'sender'), new Phone(lab, 'receiver')];
    for (const phone of [sender, receiver]) {
      await phone.start();
      await lab.network.setApart(phone.host);
      await phone.logIn(url, await headscale.authKey());
    }
    const relayed = async () => (await watchdog.streams()).filter(({ kind }) => kind === 'derp');
    await until('both at the relay', { timeoutMs: 15_000 }, async () =>
      (await relayed()).length === 2 ? true : undefined,
    );

    const pong = await until('a pong', { timeoutMs: 20_000 }, () =>
      sender.command('ping', '--c', '1', '--timeout', '3s', '--until-direct=false', 'receiver'),
    );
    const folder = lab.folder('files');
    const [file, inbox] = [join(folder, 'file'), join(folder, 'inbox')];
    writeFileSync(file, randomFillSync(Buffer.alloc(FILE_BYTES)));
    mkdirSync(inbox);
    const started = performance.now();
    await sender.command('file', 'cp', file, 'receiver:');
    await receiver.command('file', 'get', '--wait', inbox);
    const tookMs = performance.now() - started;
    const through = (await relayed()).map(({ bytesReceived }) => bytesReceived);

    const vanishedAt = await receiver.vanish();
    await until('its relay stream gone', { timeoutMs: GONE_WITHIN_MS + 10_000 }, async () =>
      (await relayed()).length === 1 ? true : undefined,
    );
    const goneMs = performance.now() - vanishedAt;
    const metrics = await watchdog.metrics();
    printFigures("Headscale 0.29.2's embedded relay, behind the watchdog", [
      ['tailscale ping', pong.trim().split('\n').at(-1) ?? ''],
      [`a file of ${FILE_BYTES / 1e6} MB`, `${seconds(tookMs)}, ${(FILE_BYTES / 1e3 / tookMs).toFixed(0)} MB/s`],
      ['bytes received on the two relay streams', through.join(', ')],
      [`vanished → its relay stream ended, ${TIMES.join(' ')}`, seconds(goneMs)],
    ]);
    expect(pong).toMatch(/via DERP\(headscale\)/);
    expect(sha256(join(inbox, 'file'))).toBe(sha256(file));
    expect(Math.max(...through)).toBeGreaterThan(FILE_BYTES);
    expect(goneMs).toBeLessThanOrEqual(GONE_WITHIN_MS);
    expect(metrics.sum('streams_closed_total', 'kind="derp",reason="gone"')).toBe(1);
    expect(metrics.sum('contests_total')).toBe(0);
    expect(watchdog.errors()).toEqual([]);
    await sender.shutDown();
  });
});
