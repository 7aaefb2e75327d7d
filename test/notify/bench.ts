import { setImmediate as turn } from 'node:timers/promises';
import { loadConfig } from '../../src/config/load.ts';
import type { Config } from '../../src/config/types.ts';
import { Notes } from '../../src/history/records.ts';
import type { MachineKey, NodeKey } from '../../src/identity/keys.ts';
import type { NodeInfo } from '../../src/identity/node-info.ts';
import { plus } from '../../src/lib/clock.ts';
import { Notifier } from '../../src/notify/notifier.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import type { Stream, StreamId } from '../../src/streams/stream.ts';
import { NOTHING_MORE } from '../headscale/node-answers.ts';
import { FakeClock } from '../support/fake-clock.ts';

export const keyOf = (number: number): MachineKey => number.toString(16).padStart(64, '0') as MachineKey;

export function nodeOf(number: number, more: Partial<NodeInfo> = {}): NodeInfo {
  const nodeKey = keyOf(number + 1_000_000) as string as NodeKey;
  return {
    ...{
      ...NOTHING_MORE,
      machineKey: keyOf(number),
      nodeKey,
      id: String(number),
      name: `node-${number}`,
      user: 'alice',
    },
    ...more,
  };
}

/** Lets everything run that waits for promises only. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 5; i++) await turn();
}

export interface Received {
  readonly url: string;
  readonly type: string;
  readonly text: string;
  readonly data: {
    readonly node?: { readonly name: string };
    readonly nodes?: readonly object[];
    readonly count?: number;
  };
}

/** A notifier with virtual time, whose receiver takes everything unless `answer` says otherwise. */
export function notifierBench(
  text = 'notify: [{ url: http://r.example/a }]',
  listed: readonly NodeInfo[] | null = [],
  notes = new Notes(() => {}, false),
) {
  const clock = new FakeClock();
  const events: WatchdogEvent[] = [];
  const received: Received[] = [];
  const world = {
    config: loadConfig({ headscaleApiKeyFile: '/a' }, { path: 'w.yaml', text }) as Config,
    listed: listed ?? undefined,
    status: 200,
    elsewhere: undefined as ReadonlySet<MachineKey> | undefined,
    isFirst: true,
  };
  let closed = 0;
  const notifier = new Notifier({
    ...{ clock, emit: (event) => events.push(event), random: () => 1, live: world, notes },
    keys: { notifySecretOf: () => undefined },
    directory: {
      get loaded() {
        return world.listed !== undefined;
      },
      nodeOf: (key) => world.listed?.find(({ machineKey }) => machineKey === key),
      all: () => world.listed ?? [],
    },
    poster: {
      async post(url, { body }) {
        if (world.status < 300) {
          const { type, data } = JSON.parse(body) as { type: string; data: Received['data'] & { text: string } };
          received.push({ url: url.href, type, text: data.text, data });
        }
        return { status: world.status, retryAfter: undefined };
      },
      async close() {
        closed += 1;
      },
    },
    replicas: {
      get isFirst() {
        return world.isFirst;
      },
      remoteKeys: async () => world.elsewhere ?? new Set(),
    },
  });
  let lastId = 0;
  const open = (number: number, isSession = true): Stream => {
    const stream: Stream = {
      ...{ id: ++lastId as StreamId, kind: 'control', machineKey: keyOf(number), address: '192.0.2.1' },
      ...{ remoteAddress: '192.0.2.1:1', openedAt: clock.now(), heardAt: clock.now(), firstRecordAt: undefined },
      ...{ spokenAt: isSession ? plus(clock.now(), 0) : undefined, bytesReceived: 0, bytesSent: 0 },
      ...{ state: { kind: 'open' }, wouldSever: undefined },
    };
    notifier.listen({ kind: 'stream_opened', stream });
    return stream;
  };
  const close = (stream: Stream): void =>
    notifier.listen({ kind: 'stream_closed', stream, reason: 'gone', lifetimeMs: clock.now() - stream.openedAt });
  /** Lets time pass second by second, as promises need turns in between. */
  const pass = async (ms: number): Promise<void> => {
    await settle();
    for (let left = ms; left > 0; left -= 1000) {
      clock.advance(Math.min(left, 1000));
      await settle();
    }
  };
  const down = (): void => notifier.listen({ kind: 'upstream_down', upstream: 'http://h', detail: 'ECONNREFUSED' });
  const up = (): void => notifier.listen({ kind: 'upstream_up', upstream: 'http://h', version: 'v0.29.2' });
  const types = (): string[] => received.map(({ type }) => type);
  return { clock, events, received, world, notifier, open, close, pass, down, up, types, closed: () => closed };
}
