import type { HandedHistory, HistoryEntry } from '../history/history.ts';
import type { HandedMessages } from '../notify/delivery.ts';
import type { Notifier } from '../notify/notifier.ts';
import type { StreamAcceptor } from '../pipeline/stream-acceptor.ts';
import type { Replicas } from '../replicas/replicas.ts';
import type { Takeover } from '../takeover/takeover.ts';
import type { MetricsState } from '../telemetry/continued-metrics.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import type { HandedState } from './handover.ts';
import type { KeptHistory, LaterHistory } from './history.ts';

/** No message of a hand-over has more entries than this. */
const MOST_AT_ONCE = 500;

interface HandedStatesOptions {
  readonly metrics: Metrics;
  readonly kept: Pick<KeptHistory, 'history' | 'takeLater' | 'addLater'>;
  readonly acceptor: StreamAcceptor;
  readonly takeover: Takeover;
  readonly replicas: Pick<Replicas, 'members'> | undefined;
  readonly notifier: Pick<Notifier, 'handed' | 'take'>;
}

/** What a new process goes on with besides streams: what was counted, what has happened, which handshakes were seen, which machine keys two machines may use, which other replicas there are, and which notifications wait. */
export function handedStates({
  metrics,
  kept,
  acceptor,
  takeover,
  replicas,
  notifier,
}: HandedStatesOptions): readonly HandedState[] {
  return [
    {
      part: 'metrics',
      isRepeated: true,
      write: async (isElsewhere) => [await metrics.counted(isElsewhere)],
      read: (state) => metrics.continueFrom(state as MetricsState),
    },
    historyState(kept),
    {
      part: 'handshakes',
      isRepeated: false,
      write: async () => chunks(acceptor.handshakes.seen()),
      read: (state) => acceptor.handshakes.haveSeen(state as readonly string[]),
    },
    {
      part: 'suspects',
      isRepeated: false,
      write: async () => chunks(takeover.duplicates.remembered()),
      read: (state) => takeover.duplicates.remember(state as readonly unknown[]),
    },
    {
      part: 'replicas',
      isRepeated: false,
      write: async () => [replicas?.members.names ?? []],
      read(state) {
        for (const name of state as readonly string[]) replicas?.members.heardFrom(name);
      },
    },
    {
      part: 'notifications',
      isRepeated: false,
      // If nothing waits, that is said, too.
      write: async () =>
        notifier.handed().flatMap(([notesOf, all]) => [[], ...chunks(all)].map((messages) => [notesOf, messages])),
      read: (state) => notifier.take(state as HandedMessages),
    },
  ];
}

type HistoryPiece = Pick<HandedHistory, 'entries'> | Omit<HandedHistory, 'entries'> | { readonly later: LaterHistory };

function historyState({ history, takeLater, addLater }: HandedStatesOptions['kept']): HandedState {
  const entries: HistoryEntry[] = [];
  return {
    part: 'history',
    isRepeated: false,
    async write(): Promise<readonly HistoryPiece[]> {
      const { entries: all, ...rest } = history.everything();
      return [...chunks(all).map((each) => ({ entries: each })), rest];
    },
    later(): readonly HistoryPiece[] {
      const later = takeLater();
      return later.entries.length + later.lines.length === 0 ? [] : [{ later }];
    },
    read(state) {
      const piece = state as HistoryPiece;
      if ('later' in piece) addLater(piece.later);
      else if ('entries' in piece) entries.push(...piece.entries);
      else history.takeOver({ ...piece, entries: entries.splice(0) });
    },
  };
}

function chunks<T>(all: readonly T[]): readonly (readonly T[])[] {
  const count = Math.ceil(all.length / MOST_AT_ONCE);
  return Array.from({ length: count }, (_, i) => all.slice(i * MOST_AT_ONCE, (i + 1) * MOST_AT_ONCE));
}
