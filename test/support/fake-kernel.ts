import type { KernelOrNot } from '../../src/liveness/kernel.ts';
import type { KernelEvidence } from '../../src/streams/stream.ts';

const QUIET: KernelEvidence = {
  ...{ unackedSegments: 0, unsentBytes: 0, ackedBytes: 0, retransmits: 0, unansweredProbes: 0 },
  ...{ receivedAgoMs: 20_000, rttMs: 1, rttvarMs: 1 },
};

/** A kernel that says of each client, by its port, what a test wants it to say. */
export function fakeKernel() {
  const dead = new Set<number | undefined>();
  /** Those that answer a probe. */
  const alive = new Set<number | undefined>();
  const calls: string[] = [];
  const kernel: KernelOrNot = {
    ok: true,
    kernel: {
      evidenceOf: ({ remotePort }) => {
        if (dead.has(remotePort)) return { ...QUIET, unackedSegments: 1, retransmits: 5 };
        const answered = alive.has(remotePort) && calls.includes(`probe ${remotePort}`);
        return answered ? { ...QUIET, receivedAgoMs: 0 } : QUIET;
      },
      // Without a user timeout it is a connection that is no stream.
      applyTimeouts: ({ remotePort }, { userTimeoutMs, idleMs }) => {
        if (userTimeoutMs > 0) calls.push(`order ${remotePort} ${userTimeoutMs} ${idleMs}`);
      },
      setUserTimeout: () => {},
      trimMemory: () => {},
      probe: ({ remotePort }) => void calls.push(`probe ${remotePort}`),
    },
  };
  return { kernel, dead, alive, calls };
}
