import { afterEach, expect, test } from 'vitest';
import { parseNoiseKey } from '../../src/identity/noise.ts';
import type { Kernel } from '../../src/liveness/kernel.ts';
import { controlServer, simulatedNode } from '../demo/control-lab.ts';
import { fakeKernel } from '../support/fake-kernel.ts';
import { Harness, until } from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

/** A kernel that probes whom it is told to, and is answered by nobody. */
function deafKernel() {
  const { kernel } = fakeKernel();
  if (!kernel.ok) throw new Error('the fake kernel is always there');
  const fake: Kernel = kernel.kernel;
  const probes = new Map<number | undefined, number>();
  const startedAt = performance.now();
  return {
    ok: true as const,
    kernel: {
      ...fake,
      evidenceOf: (socket: Parameters<Kernel['evidenceOf']>[0]) => {
        const evidence = fake.evidenceOf(socket);
        const receivedAgoMs = 20_000 + performance.now() - startedAt;
        return evidence && { ...evidence, receivedAgoMs, unansweredProbes: probes.get(socket.remotePort) ?? 0 };
      },
      probe: (socket: Parameters<Kernel['probe']>[0]) => {
        probes.set(socket.remotePort, (probes.get(socket.remotePort) ?? 0) + 1);
      },
    },
  };
}

test('if a node comes back from the address from which it vanished, a Headscale that refuses second streams sees the old one end first', async () => {
  const { server, events } = await controlServer(harness);
  const noiseKey = parseNoiseKey(server.noiseKeyFile());
  const watchdog = await harness.watchdog(server.url.href, { hold: 'auto' }, noiseKey, { kernel: deafKernel() });
  const node = simulatedNode(harness, new URL(watchdog.url));
  node.start();
  await node.accepted();
  node.freeze();
  node.comeBack();
  const { afterMs, refusedTries } = await node.accepted();
  const told = (kind: string) => watchdog.events.filter((event) => event.kind === kind);
  expect([refusedTries, server.refusals]).toEqual([0, 0]);
  expect(told('stream_severed')).toMatchObject([{ reason: 'dead' }]);
  expect(told('stream_released')).toMatchObject([{ reason: 'old_streams_ended' }]);
  const streams = events.map(({ kind }) => kind).filter((kind) => kind.startsWith('stream'));
  expect(streams).toEqual(['stream accepted', 'stream ended', 'stream accepted']);
  await until(() => server.streams().length === 1, 'one stream is left');
  // In doubt a verdict takes 2.85 s.
  expect(afterMs).toBeGreaterThan(2800);
  if (process.env.PRINT_FIGURES)
    console.log(`in doubt: back after ${afterMs.toFixed(0)} ms, refused ${refusedTries} times`);
}, 30_000);
