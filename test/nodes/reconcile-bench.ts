import type { ReconcileMode } from '../../src/config/types.ts';
import type { ListedNodes } from '../../src/headscale/node-list.ts';
import { NodeDirectory } from '../../src/headscale/nodes.ts';
import type { MachineKey } from '../../src/identity/keys.ts';
import type { NodeInfo } from '../../src/identity/node-info.ts';
import type { Instant } from '../../src/lib/clock.ts';
import { Reconciler } from '../../src/nodes/reconcile.ts';
import { type Disagreement, type EventOf, Events, type WatchdogEvent } from '../../src/streams/events.ts';
import type { CloseReason, Stream, StreamId } from '../../src/streams/stream.ts';
import { settled } from '../headscale/directory-bench.ts';
import { FakeClock } from '../support/fake-clock.ts';

/** A stream that a test may change. */
type Open = { -readonly [Name in keyof Stream]: Stream[Name] };

/** A Headscale, a watchdog's streams and a reconciler, on a virtual clock. */
export function bench(mode: ReconcileMode = 'report') {
  const clock = new FakeClock();
  const begun = clock.now();
  const emitted: WatchdogEvent[] = [];
  const events = new Events();
  events.listen((event) => emitted.push(event));
  const streams = new Map<MachineKey, Open[]>();
  const world = {
    mode,
    nodes: [] as ListedNodes | Error,
    observed: new Set<MachineKey>(),
    /** Keys with a stream at another replica; undefined: Redis is down. */
    elsewhere: new Set<MachineKey>() as ReadonlySet<MachineKey> | undefined,
    /** What the kernel says of every client; undefined: only bytes count. */
    lastSignAgoMs: 1000,
    asked: [] as number[],
    /** What this Headscale is known for. */
    issues: new Set<Disagreement>(['shown_offline', 'deleted']),
  };
  const ended: [id: number, reason: string, atSeconds: number, key: MachineKey][] = [];
  const directory = new NodeDirectory({
    clock,
    emit: events.emit,
    list: () => {
      world.asked.push((clock.now() - begun) / 1000);
      return world.nodes instanceof Error ? Promise.reject(world.nodes) : Promise.resolve(world.nodes);
    },
  });
  const closed = (stream: Stream, reason: CloseReason = 'client_closed'): void => {
    const key = stream.machineKey as MachineKey;
    streams.set(
      key,
      (streams.get(key) ?? []).filter((each) => each !== stream),
    );
    events.emit({ kind: 'stream_closed', stream, reason, lifetimeMs: clock.now() - stream.openedAt });
  };
  const reconciler = new Reconciler({
    ...{ clock, directory, emit: events.emit },
    mode: () => world.mode,
    issueOf: (kind) => (world.issues.has(kind) ? 1234 : undefined),
    streamsOf: (key) => streams.get(key) ?? [],
    elsewhere: async () => world.elsewhere,
    lastSignAgoMs: () => world.lastSignAgoMs,
    isObserved: ({ machineKey }) => world.observed.has(machineKey as MachineKey),
    end: (stream, reason) => {
      ended.push([stream.id, reason, (clock.now() - begun) / 1000, stream.machineKey as MachineKey]);
      closed(stream, reason);
    },
  });
  events.listen(reconciler.listen);
  directory.onRefresh(() => reconciler.listed());
  let lastId = 0;
  return {
    ...{ clock, directory, reconciler, world, ended, closed },
    /** A session that Headscale speaks on. */
    opened({ machineKey }: NodeInfo, more: Partial<Stream> = {}): Open {
      const now = clock.now();
      const who = { id: ++lastId as StreamId, kind: 'control' as const, machineKey };
      const from = { address: '192.0.2.1', remoteAddress: '192.0.2.1:1000', openedAt: now, heardAt: now };
      const session = { spokenAt: now, firstRecordAt: now, bytesReceived: 1, bytesSent: 1 };
      const stream: Open = { ...who, ...from, ...session, state: { kind: 'open' }, wouldSever: undefined, ...more };
      streams.set(machineKey, [...(streams.get(machineKey) ?? []), stream]);
      events.emit({ kind: 'stream_opened', stream });
      directory.refreshFor(machineKey);
      return stream;
    },
    /** Lets time pass, second by second; each minute, Headscale sends its keepalive on every stream. */
    async pass(seconds: number): Promise<void> {
      await settled();
      for (let i = 0; i < seconds; i++) {
        clock.advance(1000);
        await settled();
        const now = clock.now();
        for (const stream of [...streams.values()].flat())
          if (stream.spokenAt !== undefined && now - stream.spokenAt >= 55_000) stream.spokenAt = now as Instant;
      }
    },
    async listing(...nodes: NodeInfo[]): Promise<void> {
      world.nodes = nodes;
      directory.start();
      await settled();
    },
    /** The disagreements told since the last call. */
    told: () =>
      emitted
        .splice(0)
        .filter((event): event is EventOf<'node_disagrees'> => event.kind === 'node_disagrees')
        .map(({ machineKey, disagreement, forMs, isEnded, stream }) => ({
          key: machineKey[0],
          disagreement,
          seconds: Math.round(forMs / 1000),
          isEnded,
          stream: stream?.id,
        })),
    wouldSever: () =>
      emitted.flatMap((event) => (event.kind === 'would_sever' ? [[event.stream.id as number, event.reason]] : [])),
    seconds: () => (clock.now() - begun) / 1000,
  };
}
