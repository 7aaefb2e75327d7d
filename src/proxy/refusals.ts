import type { Clock, Instant } from '../lib/clock.ts';
import type { Emit, RefusalReason } from '../streams/events.ts';
import type { Stream } from '../streams/stream.ts';

/** How many addresses are remembered: whoever comes from more of them than these is told of once more. */
const MOST_REMEMBERED = 1000;

/** Tells of connections that are closed before their first request, and which of them are news. */
export class Refusals {
  readonly #told = new Set<string>();
  readonly #emit: Emit;

  constructor(emit: Emit) {
    this.#emit = emit;
  }

  readonly note = (because: RefusalReason, why: string, address: string): void => {
    const who = `${because} ${address}`;
    const isNews = !this.#told.has(who);
    if (this.#told.size >= MOST_REMEMBERED) this.#told.clear();
    this.#told.add(who);
    this.#emit({ kind: 'connection_refused', reason: because, detail: why, address, isNews });
  };
}

const TOLD_AGAIN_AFTER_MS = 60_000;

/** Tells of upgrades that Headscale refuses. A status is news once a minute, so that one bad client does not hide another cause. */
export class RefusedUpgrades {
  readonly #clock: Clock;
  readonly #emit: Emit;
  readonly #toldAt = new Map<string, Instant>();

  constructor(clock: Clock, emit: Emit) {
    this.#clock = clock;
    this.#emit = emit;
  }

  readonly note = ({ kind: streamKind, remoteAddress }: Stream, status: number): void => {
    const now = this.#clock.now();
    const what = `${streamKind} ${status}`;
    const isNews = now - (this.#toldAt.get(what) ?? Number.NEGATIVE_INFINITY) >= TOLD_AGAIN_AFTER_MS;
    if (isNews) this.#toldAt.set(what, now);
    this.#emit({ kind: 'upstream_refused', streamKind, status, remoteAddress, isNews });
  };
}
