import { afterEach, describe, expect, test } from 'vitest';
import { type DemoOptions, type DemoTiming, type DemoWatchdogSetup, runDemo } from '../../src/demo/demo.ts';
import { Harness, until } from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const QUICK: DemoTiming = {
  nodes: 3,
  freezes: 1,
  everyMs: 100,
  awayMs: 50,
  refusedForMs: 400,
  acceptedWithinMs: 400,
  silentAfterMs: 1000,
};

/** Runs the demo, with a watchdog for as long as it lasts. */
function demo(options: Partial<DemoOptions> & { readonly timing: DemoTiming }) {
  const shown: string[] = [];
  const abort = new AbortController();
  const exitCode = runDemo({
    stdout: { write: (text: string) => shown.push(text) },
    ...{ colours: false, goesOn: false },
    signal: abort.signal,
    startWatchdog,
    ...options,
  });
  return { exitCode, abort, screen: () => shown.join('') };
}

async function startWatchdog({ upstream, noiseKey, silentAfterMs }: DemoWatchdogSetup) {
  const started = await harness.watchdog(upstream.href, { silentAfter: `${silentAfterMs}ms` }, noiseKey);
  return {
    listenUrl: new URL(started.url),
    adminUrl: new URL(started.admin),
    close: () => started.watchdog.close(),
  };
}

/** No watchdog at all: the nodes go to the control server as before. */
async function startNothing({ upstream }: DemoWatchdogSetup) {
  return { listenUrl: upstream, adminUrl: upstream, close: async () => {} };
}

describe('runDemo', () => {
  test('compares the results without and with the watchdog, and exits with 0', async () => {
    const { exitCode, screen } = demo({ timing: { ...QUICK, acceptedWithinMs: 5000 } });
    expect(await exitCode).toBe(0);
    expect(screen()).toMatch(/is still refused after 0\.\d s and \d+ tries/);
    expect(screen()).toMatch(/is accepted \d\.\d s after its comeback/);
    expect(screen()).toMatch(/accepted again +0 +1\n/);
    expect(screen()).not.toContain('\u001b');
    // The URL comes first, and what to do next last.
    expect(screen()).toMatch(/status page, until the demo ends: http:.*\n+1\. Without the watchdog[\s\S]*README\.md/);
  });

  test('if the watchdog does not help, it exits with 1', async () => {
    const { exitCode, screen } = demo({ timing: QUICK, startWatchdog: startNothing });
    expect(await exitCode).toBe(1);
    expect(screen()).toMatch(/accepted again +0 +0\n/);
  });

  test('if it is to go on: stays up after the comparison, and ends when interrupted', async () => {
    const { exitCode, abort, screen } = demo({ timing: QUICK, startWatchdog: startNothing, goesOn: true });
    await until(() => screen().includes('The demo goes on until you press Ctrl-C'), 'the comparison');
    expect(screen()).toMatch(/headscale-watchdog nodes --admin 127\.0\.0\.1:\d+/);
    const freezesSoFar = screen().split('freezes:').length;
    await until(() => screen().split('freezes:').length > freezesSoFar, 'another freeze');
    abort.abort();
    expect(await exitCode).toBe(1);
  });

  test('interrupted before the comparison: leaves nothing behind, and exits with 130', async () => {
    const { exitCode, abort, screen } = demo({ timing: QUICK });
    await until(() => screen().includes('comes back on a new connection'), 'a comeback');
    abort.abort();
    expect(await exitCode).toBe(130);
    expect(screen()).not.toContain('Compared');
  });
});
