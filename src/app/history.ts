import { randomBytes } from 'node:crypto';
import type { PresenceHistory } from '../admin/availability-list.ts';
import type { NodeDirectory } from '../headscale/nodes.ts';
import { Attendance } from '../history/attendance.ts';
import { type FoundEvents, History, type HistoryQuery, historyBounds } from '../history/history.ts';
import { KEPT_MS, PresenceLog } from '../history/presence-log.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import type { Events } from '../streams/events.ts';
import type { LiveConfig } from './live-config.ts';

interface KeptHistoryOptions {
  readonly clock: Clock;
  readonly events: Events;
  readonly directory: NodeDirectory;
  readonly live: LiveConfig;
}

/** What happened, and when nodes were connected. */
export interface KeptHistory {
  readonly history: History;
  readonly presence: PresenceHistory;
  /** The events that match. */
  find(query: HistoryQuery): Promise<FoundEvents>;
  close(): Promise<void>;
}

const FORGET_EVERY_MS = 3_600_000;

/** Begins to remember what happens. */
export function openHistory({ clock, events, directory, live }: KeptHistoryOptions): KeptHistory {
  const now = (): number => clock.dateOf(clock.now()).getTime();
  const isListed = (key: Parameters<NodeDirectory['nodeOf']>[0]): boolean => directory.nodeOf(key) !== undefined;
  const history = new History(
    clock,
    {
      nameOf: (key) => directory.nodeOf(key)?.name,
      // Until Headscale has listed its nodes, every key may be a node's.
      isNode: (key) => !directory.loaded || isListed(key),
    },
    historyBounds(live.config.limits.history),
  );
  const run = randomBytes(4).toString('hex');
  const log = new PresenceLog(run);
  const attendance = new Attendance({
    ...{ clock, run, log },
    nodes: {
      isListed: () => directory.loaded,
      isNode: isListed,
      keys: () => directory.all().map(({ machineKey }) => machineKey),
    },
    noted: () => {},
  });
  events.listen(history.listen);
  events.listen(attendance.listen);
  directory.onRefresh(() => attendance.listed());
  let timer: Timer | undefined;
  const forget = (): void => {
    log.forgetBefore(now() - KEPT_MS, (key) => !directory.loaded || isListed(key));
    timer = clock.after(FORGET_EVERY_MS, forget);
  };
  forget();
  return {
    history,
    presence: {
      get knownSince() {
        return log.knownSince;
      },
      keys: () => log.keys(),
      has: (key) => log.has(key),
      periods: (key, since, until) => log.periods(key, since, until, attendance.watchedUntil()),
    },
    async find(query) {
      const { knownSince } = history;
      return { entries: history.find(query), knownSince, fromFile: false };
    },
    async close() {
      timer?.cancel();
      attendance.end();
    },
  };
}
