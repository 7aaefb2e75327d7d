import { newNodeIdentity } from '../../src/demo/node-connection.ts';
import { NodeClient } from '../../src/demo/simulated-node.ts';
import { systemClock } from '../../src/lib/clock.ts';
/**
 * The nodes of `npm run pacing`, in a process of their own. Answers each message with what has happened since the last `begin`.
 *
 *     nodes-main URL NODES AUTH-KEY
 *
 * They are the demo's simulated nodes: the real Noise handshake, a login, a map stream, and tailscaled's pauses between tries.
 * Unlike tailscaled they use nothing of their maps, and a map of 300 nodes costs them next to nothing.
 */

/** Since `begin`. */
export interface Tally {
  /** From `begin` until each of the nodes that have got a map stream had it, in milliseconds, ascending. */
  readonly backMs: readonly number[];
  /** Connections, and tries to make one, that failed, by what was said. */
  readonly failed: Readonly<Record<string, number>>;
}

const [url = '', count = '0', authKey = ''] = process.argv.slice(2);
let askedAt = performance.now();
let back = new Map<number, number>();
let failed: Record<string, number> = {};

const presences = Array.from({ length: Number(count) }, (_, i) => {
  const accepted = (): void => void back.set(i, performance.now() - askedAt);
  const lost = (why: string): void => {
    failed[why] = (failed[why] ?? 0) + 1;
  };
  const listener = { accepted, lost, refused: () => lost('an empty 200') };
  return new NodeClient(newNodeIdentity(`node-${i}`, authKey), new URL(url), systemClock, listener);
});

process.on('message', async (asked: 'look' | 'begin' | 'stop') => {
  process.send?.({ backMs: [...back.values()].sort((a, b) => a - b), failed } satisfies Tally);
  if (asked === 'begin') [askedAt, back, failed] = [performance.now(), new Map(), {}];
  if (asked === 'stop') {
    await Promise.all(presences.map((presence) => presence.end()));
    process.disconnect();
  }
});
