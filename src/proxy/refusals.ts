import type { Clock, Instant } from '../lib/clock.ts';
import type { Emit, RefusalReason } from '../streams/events.ts';
import type { Stream } from '../streams/stream.ts';

/** How many addresses are remembered before all are forgotten and reported again. */
const MOST_REMEMBERED = 1000;

/** Reports connections that are refused before or at their first request. Each address and reason is news once. */
export class Refusals {
  readonly #reported = new Set<string>();
  readonly #emit: Emit;

  constructor(emit: Emit) {
    this.#emit = emit;
  }

  readonly note = (because: RefusalReason, why: string, address: string): void => {
    const who = `${because} ${address}`;
    const isNews = !this.#reported.has(who);
    if (this.#reported.size >= MOST_REMEMBERED) this.#reported.clear();
    this.#reported.add(who);
    this.#emit({ kind: 'connection_refused', reason: because, detail: why, address, isNews });
  };
}

const REPORT_AGAIN_AFTER_MS = 60_000;

/** Reports upgrades that Headscale refuses. Each status is news once a minute, so that one bad client does not hide other causes. */
export class RefusedUpgrades {
  readonly #clock: Clock;
  readonly #emit: Emit;
  readonly #reportedAt = new Map<string, Instant>();

  constructor(clock: Clock, emit: Emit) {
    this.#clock = clock;
    this.#emit = emit;
  }

  readonly note = ({ kind: streamKind, remoteAddress }: Stream, status: number): void => {
    const now = this.#clock.now();
    const what = `${streamKind} ${status}`;
    const isNews = now - (this.#reportedAt.get(what) ?? Number.NEGATIVE_INFINITY) >= REPORT_AGAIN_AFTER_MS;
    if (isNews) this.#reportedAt.set(what, now);
    this.#emit({ kind: 'upstream_refused', streamKind, status, remoteAddress, isNews });
  };
}
