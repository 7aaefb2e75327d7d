/**
 * The nodes of `npm run pacing`, in a process of their own. Answers each message with what has happened since the one before.
 *
 *     nodes-main URL NODES AUTH-KEY
 *
 * They are the demo's simulated nodes: the real Noise handshake, a login, a map stream, and tailscaled's pauses between tries.
 * Unlike tailscaled they use nothing of their maps, and a map of 300 nodes costs them next to nothing.
 */
import { systemClock } from '../../src/clock.ts';
import { newNodeIdentity } from '../../src/demo/map-client.ts';
import { NodePresence } from '../../src/demo/node-presence.ts';

/** Since the question before. */
export interface Tally {
  /** Nodes that have got a map stream. */
  readonly back: number;
  /** From the question before to the last of them, in milliseconds. */
  readonly lastBackMs: number;
  /** Connections, and tries to make one, that failed, by what was said. */
  readonly failed: Readonly<Record<string, number>>;
}

const [url = '', count = '0', authKey = ''] = process.argv.slice(2);
let askedAt = performance.now();
let lastBackMs = 0;
let back = new Set<number>();
let failed: Record<string, number> = {};

const presences = Array.from({ length: Number(count) }, (_, i) => {
  const accepted = (): void => {
    back.add(i);
    lastBackMs = performance.now() - askedAt;
  };
  const lost = (why: string): void => {
    failed[why] = (failed[why] ?? 0) + 1;
  };
  const listener = { accepted, lost, refused: () => lost('an empty 200') };
  return new NodePresence(newNodeIdentity(`node-${i}`, authKey), new URL(url), systemClock, listener);
});

process.on('message', async (asked: 'look' | 'begin' | 'stop') => {
  process.send?.({ back: back.size, lastBackMs, failed } satisfies Tally);
  if (asked === 'begin') [askedAt, lastBackMs, back, failed] = [performance.now(), 0, new Set(), {}];
  if (asked === 'stop') {
    await Promise.all(presences.map((presence) => presence.end()));
    process.disconnect();
  }
});
