import { beforeAll, describe, expect, it } from 'vitest';
import { ControlServer } from '../support/control-server.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { until } from '../support/wait.ts';
import { command, Watchdog } from '../support/watchdog.ts';

describe('somebody asks why a phone lost its stream', () => {
  const here = useLab();
  let server: ControlServer;
  beforeAll(async () => {
    server = await ControlServer.start(here.lab, 'refuse');
  });

  it("one command shows which stream it was, the kernel's evidence, and where the phone is now", async () => {
    const watchdog = await Watchdog.start(here.lab, server);
    const phone = new Phone(here.lab, 'asked-after');
    await phone.logIn(watchdog.url, 'any');
    const { remoteAddress: old } = await watchdog.onlyStreamFrom(phone.host.address);
    await phone.vanish();
    await phone.start();
    await until('it is back', { timeoutMs: 10_000 }, async () => {
      return (await phone.status()).BackendState === 'Running' ? true : undefined;
    });
    const { stdout, code } = await command(here.lab, 'events', '--admin', watchdog.admin, '--kind', 'stream_severed');
    process.stdout.write(`${stdout}\n`);
    expect(code).toBe(0);
    expect(stdout.trim().split('\n')).toHaveLength(1);
    expect(stdout).toContain(` from ${old} was severed: its kernel `);
    expect(stdout).toMatch(/answered none of the last \d+ probes|acknowledged nothing through \d+ retransmissions/);
    expect(stdout).toMatch(/and the node is back on stream \d+ from [\d.]+:\d+\.$/m);
    expect(stdout).toContain(`from ${phone.host.address}:`);
    await phone.shutDown();
  });
});
