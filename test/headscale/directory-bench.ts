import { NodeDirectory } from '../../src/headscale/nodes.ts';
import type { NodeInfo } from '../../src/identity/node-info.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { nodeInfo } from './node-answers.ts';

export const A = nodeInfo('a');
export const B = nodeInfo('b');
export const C = nodeInfo('c');
export const MINUTE = 60_000;

/** Lets every promise that can settle do so; no time passes. */
export const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

interface Question {
  answer(nodes: readonly NodeInfo[]): Promise<void>;
  fail(reason: string): Promise<void>;
}

/** A Headscale that answers when a test says so. */
export function bench() {
  const clock = new FakeClock();
  const begun = clock.now();
  const events: WatchdogEvent[] = [];
  const askedAt: number[] = [];
  const out: Question[] = [];
  let changes = 0;
  /** Undefined: each question waits for the test's answer. */
  const says = { nodes: undefined as readonly NodeInfo[] | Error | undefined, hasCredential: true };
  const list = (): Promise<readonly NodeInfo[] | undefined> => {
    askedAt.push((clock.now() - begun) / 1000);
    const now = says.nodes;
    if (!says.hasCredential) return Promise.resolve(undefined);
    if (now instanceof Error) return Promise.reject(now);
    if (now !== undefined) return Promise.resolve(now);
    return new Promise((resolve, reject) => {
      out.push({
        answer: (nodes) => {
          resolve(nodes);
          return settled();
        },
        fail: (reason) => {
          reject(new Error(reason));
          return settled();
        },
      });
    });
  };
  const directory = new NodeDirectory({ clock, list, emit: (event) => events.push(event) });
  directory.onChange(() => (changes += 1));
  return {
    ...{ clock, directory, events, says, out },
    /** When it has asked since the last call, in seconds from the start. */
    asked: () => askedAt.splice(0),
    changes: () => changes,
    /** Steps by seconds, so that what one answer leads to has its time too. */
    async pass(ms: number): Promise<void> {
      await settled();
      for (let left = ms; left > 0; left -= 1000) {
        clock.advance(Math.min(1000, left));
        await settled();
      }
    },
    async listing(...nodes: NodeInfo[]): Promise<void> {
      says.nodes = nodes;
      directory.start();
      await settled();
    },
    kinds: () => events.splice(0).map((event) => (event.kind === 'nodes_list_failed' ? event.detail : event.kind)),
  };
}
