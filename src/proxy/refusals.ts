import type { Emit, RefusalReason } from '../events.ts';

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
    this.#emit({ kind: 'connection refused', because, why, address, isNews });
  };
}
