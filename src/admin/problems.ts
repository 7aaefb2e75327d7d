import { type Clock, isoTime } from '../lib/clock.ts';
import type { ErrorCode } from '../lib/errors.ts';
import type { Limit, WatchdogEvent } from '../streams/events.ts';
import { describeEvent, problemCodeOf } from '../telemetry/event-table.ts';
import type { ProblemKind, StandingProblem } from './views.ts';

/** Something that is wrong now. */
export interface Finding {
  readonly kind: ProblemKind;
  /** Which one, if there can be several of a kind. */
  readonly of?: string;
  /** `info` is what somebody should know but need not fix. */
  readonly level: StandingProblem['level'];
  readonly code: ErrorCode | null;
  readonly sentence: string;
  readonly advice: string;
  /** Milliseconds of the Unix epoch; undefined: since it was found first. */
  readonly since?: number;
}

interface ProblemsOptions {
  readonly clock: Clock;
  /** What is wrong, as far as the state of the watchdog shows it. */
  find(): readonly Finding[];
}

/** A limit that nothing has exceeded for this long is no problem any more. */
const LIMIT_STANDS_MS = 10 * 60_000;
const SEVERITIES: readonly StandingProblem['level'][] = ['error', 'warn', 'info'];

/** Events that show that a problem has begun or ended. */
const TELLING: ReadonlySet<WatchdogEvent['kind']> = new Set<WatchdogEvent['kind']>([
  ...(['upstream_up', 'upstream_down', 'upstream_silent', 'upstream_not_headscale', 'noise_key_checked'] as const),
  ...(['machine_key_duplicated', 'redis_up', 'redis_down', 'settings_reloaded', 'key_file_reloaded'] as const),
  ...(['proxy_not_trusted', 'client_addresses_hidden', 'upgrade_header_lost', 'drain_started'] as const),
  ...(['history_file_failed', 'history_file_recovered'] as const),
]);

/** Knows what is wrong and since when: some of it from the state of the watchdog, and some from events alone. */
export class Problems {
  readonly #options: ProblemsOptions;
  /** When each problem was found first, while it stands. */
  readonly #foundAt = new Map<string, number>();
  /** What events began and no event has ended. */
  readonly #begun = new Map<string, Finding & { readonly since: number }>();
  readonly #limits = new Map<Limit, Finding & { readonly since: number; readonly lastAt: number }>();

  constructor(options: ProblemsOptions) {
    this.#options = options;
  }

  readonly listen = (event: WatchdogEvent): void => {
    switch (event.kind) {
      case 'limit_reached':
        this.#limitReached(event.limit, event);
        break;
      case 'nodes_list_failed':
        this.#begin(
          'nodes_list_failed',
          '',
          event,
          'Check the API key or the OAuth client, and that Headscale answers.',
        );
        break;
      case 'nodes_listed':
        this.#begun.delete(idOf('nodes_list_failed', ''));
        break;
      case 'settings_reload_failed':
        this.#begin('settings_reload_failed', '', event, 'Correct the settings and reload them.');
        break;
      case 'settings_reloaded':
        this.#begun.delete(idOf('settings_reload_failed', ''));
        break;
      case 'key_file_reload_failed':
        this.#begin('key_file_reload_failed', event.code, event, 'Correct the file: it is read again by itself.');
        break;
      case 'key_file_reloaded':
        for (const [id, { kind }] of this.#begun) if (kind === 'key_file_reload_failed') this.#begun.delete(id);
        break;
      case 'notification_delayed':
      case 'notification_dropped':
        this.#begin('notifications_failing', event.target, event, 'Check the target in notify: of the file.');
        break;
      case 'notification_sent':
        this.#begun.delete(idOf('notifications_failing', event.target));
        break;
      default:
    }
    if (TELLING.has(event.kind)) this.#note();
  };

  /** What is wrong now, the worst and then the oldest first. */
  standing(): readonly StandingProblem[] {
    const found = this.#note();
    return found
      .sort(
        (a, b) =>
          SEVERITIES.indexOf(a.level) - SEVERITIES.indexOf(b.level) || a.since - b.since || (a.kind < b.kind ? -1 : 1),
      )
      .map(({ kind, level, code, sentence, advice, since }) => ({
        ...{ kind, level, code, since: isoTime(since), sentence, advice },
      }));
  }

  #note(): (Finding & { readonly since: number })[] {
    const now = this.#now();
    for (const [limit, { lastAt }] of this.#limits) if (now - lastAt >= LIMIT_STANDS_MS) this.#limits.delete(limit);
    const found = this.#options.find();
    const ids = new Set(found.map(({ kind, of = '' }) => idOf(kind, of)));
    for (const id of this.#foundAt.keys()) if (!ids.has(id)) this.#foundAt.delete(id);
    for (const id of ids) if (!this.#foundAt.has(id)) this.#foundAt.set(id, now);
    return [
      ...found.map((each) => ({
        ...each,
        since: each.since ?? this.#foundAt.get(idOf(each.kind, each.of ?? '')) ?? now,
      })),
      ...this.#begun.values(),
      ...this.#limits.values(),
    ];
  }

  /** A failure that is reported again keeps its beginning. */
  #begin(kind: ProblemKind, of: string, event: WatchdogEvent, advice: string): void {
    const since = this.#begun.get(idOf(kind, of))?.since ?? this.#now();
    this.#begun.set(idOf(kind, of), { ...findingOf(event), kind, of, advice, since });
  }

  #limitReached(limit: Limit, event: WatchdogEvent): void {
    const now = this.#now();
    const before = this.#limits.get(limit);
    const stands = before !== undefined && now - before.lastAt < LIMIT_STANDS_MS;
    const advice = 'If these are your own nodes, raise the limit. If not, nothing needs to be done.';
    this.#limits.set(limit, {
      ...{ ...findingOf(event), kind: 'limit_reached', of: limit, advice },
      ...{ since: stands ? before.since : now, lastAt: now },
    });
  }

  #now(): number {
    const { clock } = this.#options;
    return clock.dateOf(clock.now()).getTime();
  }
}

function idOf(kind: ProblemKind, of: string): string {
  return `${kind} ${of}`;
}

function findingOf(event: WatchdogEvent): Pick<Finding, 'level' | 'code' | 'sentence'> {
  return { level: 'warn', code: problemCodeOf(event) ?? null, sentence: describeEvent(event, () => undefined) };
}
